"""Planted faults on a real server and worker: the next scheduled run recovers by itself, and no
stage trains on.

The stage counts to forty and keeps its count outside its output, as the learning stages keep their
checkpoints; ``starts.txt`` says from where each try went on.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import yaml

from mien.pipeline import environment
from tests.monitoring.rows import Log, draw, make_package

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
    wait_for_four(house, chain)
    return run


def wait_for_four(house, chain) -> None:
    count = chain.root / ".mien" / "count"
    house.until(lambda: count.is_file() and int(count.read_text() or 0) >= 4, 90)


def starts(chain) -> list[int]:
    return [int(line) for line in (chain.root / "starts.txt").read_text().split()]


def assert_no_orphan(house, chain) -> None:
    stage = int((chain.root / "pid.txt").read_text())
    house.until(lambda: not psutil.pid_exists(stage), 20)
    count = (chain.root / ".mien" / "count").read_text()
    time.sleep(1)
    assert (chain.root / ".mien" / "count").read_text() == count


def assert_recovers(house, chain) -> None:
    run = house.by_schedule(workspace=str(chain.root))
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


def test_a_run_by_hand_that_is_killed_is_found_by_its_silence(house, counting, tmp_path, root):
    """It stood as *Running* for ever. One whose end has another name has not fallen silent."""
    shutil.copy(root / "params.yaml", tmp_path)
    make_package(tmp_path / "models" / "package")
    Log(tmp_path / "logs").add(draw(120, np.random.default_rng(0)))
    ended = house.wait(house.start("monitoring/hourly", workspace=str(tmp_path)))
    assert ended["state"]["name"] == "No drift"
    command = [sys.executable, "-m", "flows.training", "--workspace", str(counting.root)]
    process = subprocess.Popen(
        command,
        cwd=Path(__file__).parents[2],
        env=house.environment | {"PREFECT_API_URL": house.api},
    )
    wait_for_four(house, counting)
    process.kill()
    process.wait()
    assert_no_orphan(house, counting)
    found = house.post("flow_runs/filter", flow_runs={"state": {"type": {"any_": ["RUNNING"]}}})
    (run,) = (each for each in found if each["parameters"]["workspace"] == str(counting.root))
    dead = house.wait(run["id"], seconds=240)
    assert dead["state_type"] == "CRASHED"
    assert "No sign of life" in dead["state"]["message"]

    def acted() -> str:
        what = {"event": {"prefix": ["prefect.automation.action."]}}
        return json.dumps(house.post("events/filter", filter=what))

    house.until(lambda: run["id"] in acted(), 30)
    assert ended["id"] not in acted()
    assert_recovers(house, counting)


def test_the_server_restarts_in_mid_stage(house, counting):
    run = started(house, counting)
    house.child("server").terminate()
    assert house.wait(run, seconds=150)["state_type"] == "COMPLETED"
    assert starts(counting) == [0]
    again = house.by_schedule(workspace=str(counting.root))
    assert again["name"] == "nothing changed"


def test_a_server_that_restarts_knows_who_holds_a_place(house):
    """Prefect ends a run whose place it has forgotten, when the run renews it: each 225 s."""
    limits = "v2/concurrency_limits"
    house.post(f"{limits}/", name="place", limit=1)
    lease = house.post(f"{limits}/increment-with-lease", names=["place"], slots=1)["lease_id"]
    server = house.child("server")
    server.terminate()
    server.wait(60)
    house.post(f"{limits}/leases/{lease}/renew", lease_duration=60)


def test_a_second_run_waits_for_the_first(house, counting):
    first = started(house, counting)
    second = house.start(workspace=str(counting.root))
    house.until(lambda: house.run(second)["state_name"] == "AwaitingConcurrencySlot", 60)
    assert house.wait(first)["state_type"] == "COMPLETED"
    assert house.wait(second, seconds=150)["name"] == "nothing changed"
    assert starts(counting) == [0]


@pytest.mark.parametrize("torn", [False, True])
def test_locks_left_behind(house, chain, torn):
    """Every kind of lock, of a process that is gone: ours, DVC's own, and its list of them."""
    with subprocess.Popen(["true"]) as gone:
        pass
    (chain.root / ".mien").mkdir()
    (chain.root / ".mien" / "run.lock").write_text(f"{gone.pid}\n")
    (chain.root / ".dvc" / "tmp").mkdir()
    (chain.root / ".dvc" / "tmp" / "lock").write_text(f" {gone.pid}\n")
    holder = {"pid": gone.pid, "cmd": "dvc repro zero"}
    left = json.dumps({"write": {str(chain.root / "zero.txt"): holder}, "read": {}})
    (chain.root / ".dvc" / "tmp" / "rwlock").write_text(left[:20] if torn else left)
    run = house.by_schedule(workspace=str(chain.root))
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert chain.ran() == ["zero", "middle", "after"]


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
        assert_no_orphan(house, counting)
        filler.unlink()
        assert_recovers(house, counting)
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
        "check": "At least 4 labelled training faces for each expression "
        "(validate.min_faces_per_expression)",
        "failing": 7,
        "seen": 7,
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


def assert_fails_at_once(house, cause: str, **parameters) -> None:
    """Before any task, with the cause in the state and in the first line of the flow's own."""
    run = house.wait(house.start(**parameters))
    assert run["state_type"] == "FAILED"
    assert cause in run["state"]["message"]
    assert house.tasks(run["id"]) == []

    def own_lines() -> list[str]:
        lines = house.lines(run["id"])
        begun = [i for i, line in enumerate(lines) if line.startswith("Beginning flow run")]
        after = lines[begun[0] + 1 :] if begun else []  # lines come in batches
        return [line for line in after if not line.startswith("View at")]

    house.until(own_lines, 20)
    assert cause in own_lines()[0]


def test_bad_input_fails_at_once_with_its_cause(house, chain, tmp_path):
    where = {"workspace": str(chain.root)}
    assert_fails_at_once(house, "not a workspace", workspace=str(tmp_path / "nowhere"))
    assert_fails_at_once(house, "no such stage: middel", stages=["middel"], **where)
    assert_fails_at_once(house, "overrides: ", overrides={"middle.epochs": 7}, **where)
    assert_fails_at_once(house, "no default remote", push=True, **where)
    (chain.root / "dvc.lock").write_text("<<<<<<< HEAD\n")
    assert_fails_at_once(house, "dvc.lock", **where)
    (chain.root / "dvc.lock").unlink()
    assert chain.ran() == []


@pytest.mark.parametrize(
    ("lock", "cause"),
    [
        (".mien/run.lock", "another run is at work here"),
        (".dvc/tmp/lock", "Unable to acquire lock"),
    ],
)
def test_a_locked_workspace_is_told_at_once(house, chain, lock, cause):
    """By another run of ours, and by a DVC command that somebody started by hand."""
    path = chain.root / lock
    path.parent.mkdir()
    with subprocess.Popen(["flock", "--no-fork", path, "sleep", "60"]) as holder:
        assert_fails_at_once(house, cause, workspace=str(chain.root))
        holder.terminate()


def test_a_dvc_command_started_by_hand_is_told_at_once_and_killed_leaves_no_lock(house, counting):
    counting.change("zero", cmd=COUNT.replace("40", "400"))
    (counting.root / ".mien").mkdir()
    command = {"cwd": counting.root, "env": environment(), "start_new_session": True}
    with subprocess.Popen(["dvc", "repro"], **command) as by_hand:
        house.until(lambda: (counting.root / ".mien" / "count").is_file(), 60)
        assert_fails_at_once(house, "dvc repro) is at work here", workspace=str(counting.root))
        os.killpg(by_hand.pid, signal.SIGKILL)
    assert_no_orphan(house, counting)
    counting.change("zero", cmd=COUNT)
    run = house.by_schedule(workspace=str(counting.root))
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert starts(counting)[1] >= 4


def test_an_output_edited_by_hand_is_told_at_once(house, chain):
    assert house.wait(house.start(workspace=str(chain.root)))["state_type"] == "COMPLETED"
    (chain.root / "middle.txt").unlink()
    (chain.root / "middle.txt").write_text("mine\n")
    assert_fails_at_once(house, "middle.txt: changed by hand", workspace=str(chain.root))


def test_parameters_of_the_wrong_type_are_refused_by_the_server(house, chain):
    for wrong in ({"overrides": "epochs=3"}, {"force": "perhaps"}, {"stage_hours": -1}):
        with pytest.raises(httpx.HTTPStatusError) as refused:
            house.start(workspace=str(chain.root), **wrong)
        assert refused.value.response.status_code in (409, 422)
        assert next(iter(wrong)) in refused.value.response.text
