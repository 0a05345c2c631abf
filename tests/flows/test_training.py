"""The training flow on a tiny pipeline of shell commands, with one Prefect server for all tests."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from flows.training import training
from mien.pipeline import open_pipeline
from mien.results import summary


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[str]:
    with prefect_test_harness():
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


def test_the_results_are_an_artifact(chain):
    figures = {"accuracy": 0.5, "macro_f1": 0.25, "mean_class_accuracy": 0.5, "ece": 0.1}
    better = figures | {"accuracy": 0.625}
    (chain.root / "metrics").mkdir()
    (chain.root / "metrics" / "evaluate.json").write_text(
        json.dumps({"faces": {"pretrained": figures, "final": better}})
    )
    training(chain.root, stages=["zero"])
    with get_client(sync_client=True) as client:
        response = client._client.post("/artifacts/filter", json={}).json()
    (table,) = [artifact["data"] for artifact in response if artifact["key"] == "training-results"]
    assert table == summary(chain.root)
    assert "| faces    | accuracy " in table


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
