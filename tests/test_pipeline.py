"""`mien.pipeline` on a tiny pipeline of shell commands."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mien.errors import MienError
from mien.lock import locked
from mien.pipeline import Changes, StageFailed, environment, open_pipeline


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


def test_a_user_without_a_name(chain):
    """As in a container that runs under a number; DVC ends with a traceback there."""
    code = """
import pwd, sys
from pathlib import Path
def nobody(number): raise KeyError(number)
pwd.getpwuid = nobody
from mien.pipeline import open_pipeline
with open_pipeline(Path(sys.argv[1])) as pipeline: pipeline.changes()
"""
    names = {"LOGNAME", "USER", "LNAME", "USERNAME"}
    nameless = {key: value for key, value in os.environ.items() if key not in names}
    nameless |= {"HOME": str(chain.root)}
    subprocess.run([sys.executable, "-c", code, str(chain.root)], env=nameless, check=True)


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


@pytest.mark.parametrize("cut", [0, 20])
def test_a_lock_file_that_dvc_was_stopped_while_writing(chain, cut):
    """DVC writes it in place, and ended at what was left of it ever after."""
    bring_up_to_date(chain.root)
    chain.ran()
    lock = chain.root / "dvc.lock"
    whole = lock.read_text()
    lock.write_text(whole[:cut])
    with open_pipeline(chain.root) as pipeline, pytest.raises(MienError, match=r"dvc\.lock"):
        pipeline.stages()  # somebody's own doing is left to them
    assert lock.read_text() == whole[:cut]

    (chain.root / ".mien" / "unfinished" / "after").touch()
    bring_up_to_date(chain.root)
    assert chain.ran() == []  # DVC's cache knows what each has made
    assert lock.read_text() == whole


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


def test_a_stage_ends_with_its_killed_run_and_the_workspace_is_free_again(chain):
    """`kill -9` of the process that runs the pipeline: nobody is left to clean up behind it."""
    chain.change(
        "zero",
        cmd="trap '' TERM; date >> ticks.txt; echo started; "
        "while true; do date >> ticks.txt; sleep 0.1; done",
    )
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
        process.kill()
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        try:
            with locked(chain.root):
                break
        except MienError:
            time.sleep(0.1)
    else:
        pytest.fail("the lock did not go with its last holder")
    assert_silent(chain.root / "ticks.txt")


def test_what_has_changed_is_told_by_name_and_value(chain):
    with open_pipeline(chain.root) as pipeline:
        assert pipeline.changes()["zero"].new
    bring_up_to_date(chain.root)
    with open_pipeline(chain.root) as pipeline:
        assert pipeline.changes() == {}
        chain.set(middle=2)
        (change,) = pipeline.changes().values()
        assert change == Changes(inputs=("middle=2",), outputs=(), new=False, command=False)
        chain.change("middle", cmd="echo middle >> ran.txt; tac zero.txt > middle.txt")
        assert pipeline.changes()["middle"].command


def test_an_output_edited_by_hand_is_told_from_one_of_a_stopped_stage(chain):
    bring_up_to_date(chain.root)
    with open_pipeline(chain.root) as pipeline:
        edit(chain.root / "middle.txt")
        assert pipeline.edited(pipeline.changes()) == ["middle.txt"]
        pipeline.dvc("checkout", "--force", emit=lambda line: None)
        assert pipeline.edited(pipeline.changes()) == []

        chain.change("middle", cmd="echo half > middle.txt; exit 1")
        with pytest.raises(StageFailed):
            pipeline.run("middle", lambda line: None)
        chain.change("middle", cmd="echo middle >> ran.txt; cat zero.txt > middle.txt")
        assert pipeline.changes()["middle"].outputs == ("middle.txt",)
        assert pipeline.edited(pipeline.changes()) == []


def test_a_stopped_stage_that_dvc_brought_to_its_end_is_unfinished_no_more(chain):
    """For ever after it was said to go on, and an edit of what it left was lost."""
    bring_up_to_date(chain.root)
    chain.change("middle", cmd="exit 1")
    with pytest.raises(StageFailed):
        bring_up_to_date(chain.root)
    chain.change("middle", cmd="cat zero.txt > middle.txt")
    with open_pipeline(chain.root) as pipeline:
        assert pipeline.unfinished() == ["middle"]
        pipeline.dvc("repro", emit=lambda line: None)
    bring_up_to_date(chain.root)
    edit(chain.root / "middle.txt")
    with open_pipeline(chain.root) as pipeline:
        assert pipeline.unfinished() == []
        assert pipeline.edited(pipeline.changes()) == ["middle.txt"]


def edit(path: Path) -> None:
    """Write what is linked to the cache without touching the cache."""
    path.unlink()
    path.write_text("mine\n")


@pytest.mark.parametrize(
    ("cmd", "passing"),
    [("kill -9 $$", True), ("exit 1", False), ("exit 3", False), ("kill -11 $$", False)],
)
def test_only_a_stage_that_was_killed_is_worth_another_try(chain, cmd, passing):
    chain.change("zero", cmd=cmd)
    with open_pipeline(chain.root) as pipeline, pytest.raises(StageFailed) as caught:
        pipeline.run("zero", lambda line: None)
    assert caught.value.passing is passing


@pytest.mark.parametrize("torn", [False, True])
def test_a_lock_that_a_dead_dvc_left_is_healed(chain, torn):
    """DVC's own locks name their process; one of a process that is gone must hold nobody up."""
    with subprocess.Popen(["true"]) as gone:
        pass
    temporary = chain.root / ".dvc" / "tmp"
    temporary.mkdir()
    (temporary / "lock").write_text(f" {gone.pid}\n")
    out = str(chain.root / "zero.txt")
    left = json.dumps({"write": {out: {"pid": gone.pid, "cmd": "dvc repro zero"}}, "read": {}})
    (temporary / "rwlock").write_text(left[:20] if torn else left)
    bring_up_to_date(chain.root)
    assert chain.ran() == ["zero", "middle", "after"]


@pytest.mark.parametrize("kind", ["write", "read"])
def test_a_dvc_command_at_a_stage_is_named(chain, kind):
    code = "import time; print('up', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, "repro", "zero"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        hold(chain, kind, process.pid)
        said = pytest.raises(
            MienError, match=rf"process {process.pid} \(dvc repro zero\) is at work"
        )
        with said, open_pipeline(chain.root):
            pass
        process.kill()


def test_a_lock_whose_number_another_process_has_now_holds_nobody_up(chain):
    """As after a restart, and in a container, where numbers are small."""
    hold(chain, "write", os.getpid())
    bring_up_to_date(chain.root)
    assert chain.ran() == ["zero", "middle", "after"]


def hold(chain, kind: str, process: int) -> None:
    holder = {"pid": process, "cmd": "dvc repro zero"}
    path = str(chain.root / "zero.txt")
    held = {"write": {path: holder}} if kind == "write" else {"read": {path: [holder]}}
    (chain.root / ".dvc" / "tmp").mkdir()
    (chain.root / ".dvc" / "tmp" / "rwlock").write_text(json.dumps(held))


def test_stages_find_this_interpreter_as_python():
    found = subprocess.check_output(
        ["python", "-c", "import sys; print(sys.prefix)"], env=environment(), text=True
    )
    assert found.strip() == sys.prefix
