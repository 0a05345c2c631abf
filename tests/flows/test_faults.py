"""Planted faults on a real server and worker: the next run recovers, and no stage trains on.

The stage counts to forty and keeps its count outside its output, as the learning stages keep their
checkpoints; ``starts.txt`` says from where each try went on.
"""

import os
import shutil
import subprocess
import time

import psutil
import pytest
import yaml

pytestmark = pytest.mark.slow

COUNT = (  # DVC runs each line by itself
    "n=$(cat .mien/count 2>/dev/null || echo 0); echo $n >> starts.txt; echo $$ > pid.txt; "
    "while [ $n -lt 40 ]; do n=$((n + 1)); "
    "echo $n > .mien/next && mv .mien/next .mien/count || exit 1; "
    "echo counted $n; sleep 0.25; done; echo $n > zero.txt; rm .mien/count"
)


@pytest.fixture
def counting(chain):
    chain.change("zero", cmd=COUNT)
    return chain


def started(house, chain) -> str:
    """A run whose stage has counted to four."""
    run = house.start(workspace=str(chain.root))
    count = chain.root / ".mien" / "count"
    house.until(lambda: count.is_file() and int(count.read_text() or 0) >= 4, 90)
    return run


def starts(chain) -> list[int]:
    return [int(line) for line in (chain.root / "starts.txt").read_text().split()]


def assert_no_orphan(house, chain) -> None:
    stage = int((chain.root / "pid.txt").read_text())
    house.until(lambda: not psutil.pid_exists(stage), 20)
    count = (chain.root / ".mien" / "count").read_text()
    time.sleep(1)
    assert (chain.root / ".mien" / "count").read_text() == count


def assert_recovers(house, chain) -> None:
    run = house.wait(house.start(workspace=str(chain.root)))
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert run["name"].startswith("zero goes on")
    first, second = starts(chain)
    assert (first, (chain.root / "after.txt").read_text()) == (0, "40\n")
    assert second >= 4


def test_cancelled_from_the_ui(house, counting):
    run = started(house, counting)
    house.post(f"flow_runs/{run}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})
    assert house.wait(run)["state_type"] == "CANCELLED"
    assert_no_orphan(house, counting)
    assert_recovers(house, counting)


def test_a_worker_killed_outright(house, counting):
    run = started(house, counting)
    house.child("worker").kill()
    assert_no_orphan(house, counting)
    assert house.wait(run)["state_type"] == "CRASHED"
    assert_recovers(house, counting)  # `make ui` has started the next worker


def test_worker_flow_and_stage_killed_at_once_are_found_by_their_silence(house, counting):
    """As when the machine loses power: nobody is left to report anything."""
    run = started(house, counting)
    worker = house.child("worker")
    for process in (worker, *worker.children(recursive=True)):
        process.kill()
    assert_no_orphan(house, counting)
    assert house.run(run)["state_type"] == "RUNNING"
    dead = house.wait(run, seconds=240)
    assert dead["state_type"] == "CRASHED"
    assert "No sign of life" in dead["state"]["message"]
    assert_recovers(house, counting)


def test_the_server_restarts_in_mid_stage(house, counting):
    run = started(house, counting)
    house.child("server").terminate()
    assert house.wait(run, seconds=150)["state_type"] == "COMPLETED"
    assert starts(counting) == [0]
    again = house.wait(house.start(workspace=str(counting.root)))
    assert again["name"] == "nothing changed"


def test_a_second_run_waits_for_the_first(house, counting):
    first = started(house, counting)
    second = house.start(workspace=str(counting.root))
    house.until(lambda: house.run(second)["state_name"] == "AwaitingConcurrencySlot", 60)
    assert house.wait(first)["state_type"] == "COMPLETED"
    assert house.wait(second, seconds=150)["name"] == "nothing changed"
    assert starts(counting) == [0]


def test_a_locked_workspace_is_told_at_once(house, counting):
    lock = counting.root / ".mien" / "run.lock"
    lock.parent.mkdir(exist_ok=True)
    with subprocess.Popen(["flock", lock, "sleep", "60"]) as holder:
        run = house.wait(house.start(workspace=str(counting.root)))
        holder.terminate()
    assert run["state_type"] == "FAILED"
    assert "another run is at work here" in run["state"]["message"]
    # Six lines are Prefect's own: submitted, pull steps, begun.
    house.until(lambda: any("another run" in line for line in house.lines(run["id"])[:8]), 20)


def test_a_disk_that_fills_up(house, counting, tmp_path):
    """A small file system of its own; root alone may mount one."""
    small = tmp_path / "small"
    small.mkdir()
    options = ["-t", "tmpfs", "-o", "size=2m", "tmpfs", small]
    if os.geteuid() or subprocess.run(["mount", *options], check=False).returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        shutil.copytree(counting.root, small / "chain", symlinks=True)
        counting.root = small / "chain"
        run = started(house, counting)
        filler = small / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(1024))
        assert house.wait(run)["state_type"] == "FAILED"
        house.until(lambda: any("No space left" in line for line in house.lines(run)), 20)
        filler.unlink()
        again = house.wait(house.start(workspace=str(counting.root)))
        assert again["state_type"] == "COMPLETED", again["state"]["message"]
        assert (counting.root / "after.txt").read_text() == "40\n"
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_a_failed_validation_shows_its_rows(house, tmp_path, root):
    """The project's own first two stages, on fewer faces than its settings ask for."""
    workspace = tmp_path / "faces"
    (workspace / ".dvc").mkdir(parents=True)
    (workspace / ".dvc" / "config").write_text("[core]\n    no_scm = True\n")
    settings = yaml.safe_load((root / "params.yaml").read_text())
    sizes = {"labelled": 21, "validation": 7, "test": 7, "unlabelled": 20}
    settings["prepare"]["sources"] = [{"name": "tiny", "kind": "synthetic", **sizes}]
    settings["validate"]["min_faces_per_expression"] = 4
    (workspace / "params.yaml").write_text(yaml.safe_dump(settings))
    (workspace / "data" / "raw").mkdir(parents=True)
    (workspace / "src").symlink_to(root / "src")
    pipeline = yaml.safe_load((root / "dvc.yaml").read_text())
    stages = {name: pipeline["stages"][name] for name in ("prepare", "validate")}
    for stage in stages.values():
        stage["deps"] = [dep for dep in stage["deps"] if not dep.startswith("src/")]
    (workspace / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))

    run = house.wait(house.start(workspace=str(workspace)), seconds=240)
    assert run["state_type"] == "FAILED"
    assert "At least 4 labelled training faces" in run["state"]["message"]
    assert house.tasks(run["id"]) == [("prepare", "Completed"), ("validate", "Failed")]
    artifacts = house.artifacts(run["id"])
    rows = yaml.safe_load(artifacts["validate-failing-rows"])
    assert {row["row"] for row in rows} <= set(settings["expressions"])
    assert rows[0] == {
        "check": "At least 4 labelled training faces for each expression",
        "failing": "7",
        "seen": "7",
        "row": "angry",
        "value": "3",
    }
    assert artifacts["validate-verdict"].startswith("**Failed**: 1 of")
    assert artifacts["prepare-tiny"].startswith("data:image/jpeg;base64,")

    mended = house.wait(
        house.start(workspace=str(workspace), overrides={"validate.min_faces_per_expression": 3}),
        seconds=240,
    )
    assert mended["state_type"] == "COMPLETED"
    assert "validate.min_faces_per_expression=3" in mended["name"]
    assert house.tasks(mended["id"]) == [("prepare", "Cached"), ("validate", "Completed")]


def test_a_folder_that_is_no_workspace(house, tmp_path):
    run = house.wait(house.start(workspace=str(tmp_path / "nowhere")))
    assert run["state_type"] == "FAILED"
    assert "not a workspace" in run["state"]["message"]
