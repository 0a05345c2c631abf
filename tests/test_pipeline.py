"""`mien.pipeline` on a tiny pipeline of shell commands."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mien.errors import MienError
from mien.pipeline import StageFailed, environment, locked, open_pipeline


def bring_up_to_date(root: Path) -> list[str]:
    lines: list[str] = []
    with open_pipeline(root) as pipeline:
        for stage in pipeline.stages():
            if not pipeline.is_current(stage):
                pipeline.run(stage, lines.append)
    return lines


def test_exactly_what_is_out_of_date_runs_in_the_graphs_order(chain):
    bring_up_to_date(chain.root)
    assert chain.ran() == ["zero", "middle", "after"]

    bring_up_to_date(chain.root)
    assert chain.ran() == []

    chain.set(middle=2)  # it writes the same output, so that `after` stays up to date
    bring_up_to_date(chain.root)
    assert chain.ran() == ["middle"]

    (chain.root / "middle.txt").unlink()  # restored from the cache
    bring_up_to_date(chain.root)
    assert (chain.root / "middle.txt").read_text() == "0\n"
    assert chain.ran() == []

    with open_pipeline(chain.root) as pipeline:
        pipeline.run("middle", lambda line: None, force=True)
    assert chain.ran() == ["middle"]


def test_lines_come_while_the_stage_runs_and_without_dvcs_advice(chain):
    chain.change("zero", cmd='python -c "import time; print(1); time.sleep(1.5)"; echo > zero.txt')
    times: dict[str, float] = {}
    with open_pipeline(chain.root) as pipeline:
        pipeline.run("zero", lambda line: times.setdefault(line, time.monotonic()))
    assert time.monotonic() - times["1"] > 1.4
    assert list(times) == ["1"]  # nothing of DVC's own


def test_a_failing_stage_is_named_with_its_own_last_lines(chain):
    chain.change("zero", cmd="for i in $(seq 30); do echo line $i; done; exit 3")
    with open_pipeline(chain.root) as pipeline, pytest.raises(StageFailed) as caught:
        pipeline.run("zero", lambda line: None)
    lines = str(caught.value).splitlines()
    assert lines[0] == "stage 'zero' failed:"
    assert lines[1:] == [*(f"line {i}" for i in range(20, 31)), "exited with 3"]


def test_a_missing_input_is_dvcs_message(chain):
    chain.change("zero", deps=["nowhere.csv"])
    with open_pipeline(chain.root) as pipeline, pytest.raises(StageFailed, match=r"nowhere\.csv"):
        pipeline.run("zero", lambda line: None)


def test_a_broken_pipeline_file_is_named(chain):
    (chain.root / "dvc.yaml").write_text("stages: [1]")
    with open_pipeline(chain.root) as pipeline, pytest.raises(MienError, match=r"dvc\.yaml"):
        pipeline.stages()


def test_not_a_workspace(tmp_path):
    with pytest.raises(MienError, match="not a workspace"), open_pipeline(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_stage_leaves_no_process(chain):
    chain.change("zero", cmd="while true; do date >> ticks.txt; echo tick; sleep 0.1; done")
    with open_pipeline(chain.root) as pipeline, pytest.raises(KeyboardInterrupt):
        pipeline.run("zero", interrupt_on("tick"))
    assert_silent(chain.root / "ticks.txt")


def interrupt_on(word: str):
    def emit(line: str) -> None:
        if line == word:
            raise KeyboardInterrupt

    return emit


def assert_silent(path: Path) -> None:
    """Nothing writes to ``path`` any more."""
    size = path.stat().st_size
    time.sleep(0.5)
    assert path.stat().st_size == size


def test_a_second_run_is_refused_at_once_and_the_lock_heals(chain):
    refused = pytest.raises(MienError, match=f"another run .* process {os.getpid()}")
    with open_pipeline(chain.root), refused, open_pipeline(chain.root):
        pass
    with open_pipeline(chain.root):
        pass


def test_a_stage_that_outlives_its_killed_run_keeps_the_workspace_locked(chain):
    chain.change("zero", cmd="echo started; sleep 30; echo > zero.txt")
    code = (
        "import sys; from pathlib import Path; from mien.pipeline import open_pipeline\n"
        "with open_pipeline(Path(sys.argv[1])) as pipeline:\n"
        "    pipeline.run('zero', lambda line: print(line, flush=True))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, chain.root], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "started\n":
            pass
        (dvc,) = children(process.pid)
        process.kill()
    try:
        with pytest.raises(MienError, match="another run"), locked(chain.root):
            pass
    finally:
        os.killpg(dvc, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            with locked(chain.root):
                return
        except MienError:
            time.sleep(0.1)
    pytest.fail("the lock did not go with its last holder")


def children(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children()]


def test_stages_find_this_interpreter_as_python():
    found = subprocess.check_output(
        ["python", "-c", "import sys; print(sys.prefix)"], env=environment(), text=True
    )
    assert found.strip() == sys.prefix
