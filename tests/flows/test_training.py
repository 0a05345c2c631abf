"""The training flow on a tiny pipeline of shell commands, with one Prefect server for all tests."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

import flows.training
from flows.training import training
from mien.pipeline import open_pipeline
from mien.results import previous_run, summary


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[str]:
    with prefect_test_harness(server_startup_timeout=180):
        yield PREFECT_API_URL.value()


def task_states(flow_run_id) -> list[tuple[str, str]]:
    """Name and state of each task, in the order in which they started."""
    with get_client(sync_client=True) as client:
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
        tasks = client.read_task_runs(flow_run_filter=chosen)
    return [(run.name, run.state.name) for run in sorted(tasks, key=lambda run: run.start_time)]


def test_the_graphs_order_then_all_cached_then_one_by_force(chain):
    first = training(chain.root, return_state=True)
    assert first.is_completed()
    assert chain.ran() == ["zero", "middle", "after"]
    assert task_states(first.state_details.flow_run_id) == [
        ("zero", "Completed"),
        ("middle", "Completed"),
        ("after", "Completed"),
    ]

    second = training(chain.root, return_state=True)
    assert second.is_completed()
    assert chain.ran() == []
    assert task_states(second.state_details.flow_run_id) == [
        ("zero", "Cached"),
        ("middle", "Cached"),
        ("after", "Cached"),
    ]

    forced = training(chain.root, stages=["middle"], force=True, return_state=True)
    assert forced.is_completed()
    assert chain.ran() == ["middle"]


def test_a_failing_stage_fails_the_flow_with_its_words_and_stops_it(chain):
    chain.change("middle", cmd="echo middle >> ran.txt; echo 'middle: error: row 7'; exit 1")
    state = training(chain.root, return_state=True)
    assert state.is_failed()
    assert "stage 'middle' failed" in state.message
    assert "middle: error: row 7" in state.message
    assert chain.ran() == ["zero", "middle"]
    assert task_states(state.state_details.flow_run_id) == [
        ("zero", "Completed"),
        ("middle", "Failed"),
    ]


def test_an_unknown_stage_is_named(chain):
    state = training(chain.root, stages=["middel"], return_state=True)
    assert state.is_failed()
    assert "no such stage: middel" in state.message
    assert "zero, middle, after" in state.message


def test_a_second_run_is_refused(chain):
    with open_pipeline(chain.root):
        state = training(chain.root, return_state=True)
    assert state.is_failed()
    assert "another run is at work here" in state.message
    assert chain.ran() == []


def artifacts() -> dict[str, Any]:
    """The newest artifact of each key."""
    with get_client(sync_client=True) as client:
        found = client._client.post("/artifacts/latest/filter", json={}).json()
    return {artifact["key"]: artifact["data"] for artifact in found}


def name_of(state) -> str:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(state.state_details.flow_run_id).name


def test_a_runs_name_says_what_changed(chain):
    assert name_of(training(chain.root, return_state=True)) == "first run"
    assert name_of(training(chain.root, return_state=True)) == "nothing changed"
    chain.set(middle=2)
    chain.change("after", cmd="echo after >> ran.txt; tac middle.txt > after.txt")
    assert name_of(training(chain.root, return_state=True)) == "middle=2, command of after"
    (chain.root / "zero.txt").unlink()
    assert name_of(training(chain.root, return_state=True)) == "restore zero"
    chain.change("zero", cmd="echo 1 > zero.txt; exit 1")
    training(chain.root, return_state=True)
    assert name_of(training(chain.root, return_state=True)) == "zero goes on, command of zero"


def test_an_override_is_a_lasting_checked_setting(settled):
    before = (settled.root / "params.yaml").read_text()
    state = training(settled.root, overrides={"relabel.coverage": 0.5}, return_state=True)
    assert name_of(state) == "relabel.coverage=0.5"
    assert settled.ran() == ["relabel"]
    after = (settled.root / "params.yaml").read_text()
    assert [line for line in after.splitlines() if line not in before.splitlines()] == [
        "  coverage: 0.5               # of each expression's faces, best first"
    ]

    for wrong, said in {
        "relabel.covrage": "relabel.covrage",
        "relabel.coverage.x": "relabel.coverage",
        "relabel": "relabel",
    }.items():
        state = training(settled.root, overrides={wrong: 7}, return_state=True)
        assert state.is_failed()
        assert f"overrides: {said}" in state.message
    assert (settled.root / "params.yaml").read_text() == after
    assert settled.ran() == []


@pytest.fixture
def settled(chain, root):
    """The project's own settings, of which one stage reads a section; up to date."""
    (chain.root / "params.yaml").write_text((root / "params.yaml").read_text())
    chain.stages = {
        "relabel": {
            "cmd": "echo relabel >> ran.txt; echo > out.txt",
            "params": ["relabel"],
            "outs": ["out.txt"],
        }
    }
    chain.change("relabel")
    assert training(chain.root, return_state=True).is_completed()
    assert chain.ran() == ["relabel"]
    return chain


def test_an_output_edited_by_hand_is_not_lost(chain):
    training(chain.root)
    (chain.root / "middle.txt").unlink()
    (chain.root / "middle.txt").write_text("mine\n")
    state = training(chain.root, return_state=True)
    assert state.is_failed()
    assert "middle.txt: changed by hand" in state.message
    assert (chain.root / "middle.txt").read_text() == "mine\n"
    assert training(chain.root, force=True, return_state=True).is_completed()


def test_files_with_conflicts_are_named(chain):
    training(chain.root)
    lock = chain.root / "dvc.lock"
    good = lock.read_text()
    lock.write_text(f"<<<<<<< HEAD\n{good}")
    state = training(chain.root, return_state=True)
    assert state.is_failed()
    assert "dvc.lock" in state.message
    lock.write_text(good)
    (chain.root / "dvc.yaml").write_text("stages: [")
    state = training(chain.root, return_state=True)
    assert state.is_failed()
    assert "dvc.yaml" in state.message


def test_a_time_limit_ends_the_stage_and_all_its_processes(chain):
    chain.change("zero", cmd="while true; do date >> ticks.txt; sleep 0.1; done")
    state = training(chain.root, stage_hours=0.001, return_state=True)
    assert state.is_failed()
    assert state.message == "stage 'zero' took longer than 0.001 h and was ended"
    ((_, name),) = task_states(state.state_details.flow_run_id)
    assert name == "TimedOut"
    assert_silent(chain.root / "ticks.txt")


def assert_silent(path: Path) -> None:
    size = path.stat().st_size
    time.sleep(0.5)
    assert path.stat().st_size == size


def test_a_killed_stage_is_tried_again_and_a_failed_one_is_not(chain, monkeypatch):
    monkeypatch.setattr(flows.training, "RETRY_DELAYS", [0, 0])
    count = "echo zero >> ran.txt; echo 0 > zero.txt; "
    chain.change("zero", cmd=f"{count} test $(wc -l < ran.txt) -ge 3 || kill -9 $$")
    assert training(chain.root, stages=["zero"], return_state=True).is_completed()
    assert chain.ran() == ["zero"] * 3
    chain.change("zero", cmd=f"{count} exit 1")
    assert training(chain.root, stages=["zero"], return_state=True).is_failed()
    assert chain.ran() == ["zero"]


def test_push_then_pull_in_another_workspace_runs_nothing(chain, tmp_path):
    config = "[core]\n    no_scm = True\n    remote = team\n['remote \"team\"']\n"
    (chain.root / ".dvc" / "config").write_text(f"{config}    url = {tmp_path / 'team'}\n")
    assert training(chain.root, push=True, return_state=True).is_completed()
    other = tmp_path / "other"
    (other / ".dvc").mkdir(parents=True)
    for name in ("dvc.yaml", "dvc.lock", "params.yaml", ".dvc/config"):
        shutil.copy(chain.root / name, other / name)
    state = training(other, pull=True, return_state=True)
    assert [name for _, name in task_states(state.state_details.flow_run_id)][1:] == ["Cached"] * 3
    assert (other / "after.txt").read_text() == "0\n"
    assert not (other / "ran.txt").exists()


def test_a_missing_remote_is_told_at_once(chain):
    state = training(chain.root, pull=True, return_state=True)
    assert state.is_failed()
    assert "no default remote" in state.message
    assert task_states(state.state_details.flow_run_id) == []
    assert chain.ran() == []


def test_no_server(chain):
    process = command(chain.root, "http://127.0.0.1:9/api")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "no Prefect server answers at http://127.0.0.1:9/api" in output


def test_the_results_are_an_artifact(chain):
    figures = {"accuracy": 0.5, "macro_f1": 0.25, "mean_class_accuracy": 0.5, "ece": 0.1}
    better = figures | {"accuracy": 0.625}
    (chain.root / "metrics").mkdir()
    (chain.root / "metrics" / "evaluate.json").write_text(
        json.dumps({"faces": {"pretrained": figures, "final": better}})
    )
    training(chain.root, stages=["zero"])
    table = artifacts()["training-results"]
    assert table.startswith(summary(chain.root))
    assert "| faces    | accuracy " in table
    assert "No previous run to compare with." in table
    assert "No champion to compare with." in table

    chain.set(zero=2)
    training(chain.root, stages=["zero"])
    table = artifacts()["training-results"]
    assert "Previous run: first run" in table
    assert re.search(r"\| zero +\| 2 +\| +1 \|", table)


def test_figures_of_earlier_models_are_no_results_of_a_run_of_some_stages(chain):
    chain.stages["evaluate"] = chain.stages.pop("after")
    chain.change("evaluate")
    training(chain.root)
    (chain.root / "metrics").mkdir()
    (chain.root / "metrics" / "evaluate.json").write_text("{}")
    (chain.root / "metrics" / "relabel.json").write_text('{"coverage": 0.5}')
    training(chain.root)
    before = previous_run(chain.root)
    assert before.settings["middle"] == 1
    chain.set(middle=2)
    chain.change("middle", cmd="echo middle >> ran.txt; echo 2 > middle.txt")
    assert training(chain.root, stages=["middle"], return_state=True).is_completed()
    assert previous_run(chain.root) == before
    training(chain.root)
    assert previous_run(chain.root).settings["middle"] == 2


def command(root: Path, server: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flows.training", "--workspace", root],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PREFECT_API_URL": server},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_failure_is_the_commands_exit_status(chain, server):
    chain.change("zero", cmd="echo 'zero: error: no faces'; exit 1")
    process = command(chain.root, server)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "training: error: stage 'zero' failed:\nzero: error: no faces\n" in output


def test_a_killed_flow_leaves_no_stage_behind(chain, server):
    ticks = chain.root / "ticks.txt"
    chain.change("zero", cmd="while true; do date >> ticks.txt; sleep 0.1; done")
    process = command(chain.root, server)
    deadline = time.monotonic() + 60
    while not ticks.is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode != 0
    size = ticks.stat().st_size
    time.sleep(0.5)
    assert ticks.stat().st_size == size
