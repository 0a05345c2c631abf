"""The monitoring flow on logs in the service's form, with one Prefect server for all tests."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid5

import numpy as np
import pytest
import yaml
from evidently.ui.workspace import Workspace
from prefect.client.orchestration import get_client
from prefect.events import Event
from prefect.events.clients import PrefectEventsClient
from prefect.testing.utilities import prefect_test_harness

import flows.monitoring
from flows.monitoring import EVENT, monitoring
from mien.files import read_json, write_json
from mien.monitoring.state import alone, read_state
from tests.monitoring.rows import VERSION, Log, draw, make_package

RNG = np.random.default_rng(8)


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def place(tmp_path, root) -> SimpleNamespace:
    shutil.copy(root / "params.yaml", tmp_path)
    make_package(tmp_path / "models" / "package")
    return SimpleNamespace(root=tmp_path, log=Log(tmp_path / "logs"))


@pytest.fixture
def sent(monkeypatch) -> list[Event]:
    """The events that left, each of which goes on to the server."""
    events = []
    send = flows.monitoring.send

    async def noting(event):
        await send(event)
        events.append(event)

    monkeypatch.setattr(flows.monitoring, "send", noting)
    return events


def run(place):
    return monitoring(place.root, place.root / "logs", return_state=True)


def artifacts() -> dict[str, str]:
    with get_client(sync_client=True) as client:
        found = client._client.post("/artifacts/latest/filter", json={}).json()
    return {each["key"]: each["data"] for each in found}


def test_from_no_log_to_drift(place, sent):
    state = run(place)
    assert (state.name, state.is_completed()) == ("Waiting", True)
    assert "no prediction log yet" in state.message

    place.log.add(draw(40, RNG))
    assert "40 faces since the last window" in run(place).message
    assert read_state(place.root).mark == {}  # they wait

    place.log.add(draw(260, RNG, brightness=0.7))
    assert run(place).name == "Watch"
    assert read_state(place.root).window == 1
    assert not sent
    place.log.add(draw(300, RNG, brightness=0.7))
    state = run(place)
    assert state.name == "Drift"
    (event,) = sent
    assert event.event == EVENT
    assert event.resource.id == f"mien.model.{VERSION}"
    assert event.payload["workspace"] == str(place.root)
    assert event.payload["logs"] == str(place.root / "logs")
    assert "brightness" in event.payload["drifted"]
    assert "image" in event.payload["groups"]
    assert [each.role for each in event.related].count("flow-run") == 1

    folder = place.root / "monitoring" / "windows" / "000002"
    verdict = read_json(folder / "verdict.json")
    assert (verdict["status"], verdict["faces"]) == ("drift", 300)
    page = (folder / "page.html").read_text()
    assert "brightness" in page
    assert "<title>Window 2: drift – Mien</title>" in page
    shown = artifacts()
    assert "# Window 2: drift" in shown["monitoring-verdict"]
    assert shown["monitoring-picture"].startswith("data:image/png;base64,")
    assert "page.html" in shown["monitoring-page"]
    assert run(place).name == "Waiting"


def test_pages_of_old_windows_go_and_their_verdicts_stay(place, sent):
    values = yaml.safe_load((place.root / "params.yaml").read_text())
    values["monitoring"]["pages_kept"] = 2
    (place.root / "params.yaml").write_text(yaml.safe_dump(values))
    for _ in range(4):
        place.log.add(draw(120, RNG))
        assert run(place).is_completed()
    folder = place.root / "monitoring"
    windows = [f"{number:06d}" for number in range(1, 5)]
    for name, there in (("verdict.json", windows), ("page.html", windows[2:])):
        assert sorted(each.parent.name for each in folder.glob(f"windows/*/{name}")) == there
    assert len(list(folder.glob("evidently/*/snapshots/*.json"))) == 2

    other = Workspace.create(str(folder / "evidently")).create_project("mine")
    mine = folder / "evidently" / str(other.id) / "snapshots"
    mine.mkdir()
    (mine / f"{uuid5(other.id, '1')}.json").write_text("{}")
    (folder / "state.json").unlink()  # numbers begin anew; the log is judged once more
    assert run(place).is_completed()
    pages = {each.parent.name for each in folder.glob("windows/*/page.html")}
    assert pages == {"000001", "000004"}
    assert len(list(mine.iterdir())) == 1


def test_a_run_killed_before_its_verdict_is_safe_comes_again(place, sent, monkeypatch):
    """And one killed between the verdict and the event sends the event the next time."""
    from evidently.ui.workspace import Workspace

    place.log.add(draw(300, RNG, brightness=3.0))
    with monkeypatch.context() as patch:
        patch.setattr(flows.monitoring, "write_state", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            monitoring(place.root, place.root / "logs")
    assert read_state(place.root).window == 0
    (snapshot,) = (place.root / "monitoring" / "evidently").glob("*/snapshots/*.json")
    snapshot.write_bytes(snapshot.read_bytes()[:1000])  # killed while Evidently wrote it
    with monkeypatch.context() as patch:
        away = partial(PrefectEventsClient, "http://127.0.0.1:9/api")  # nobody listens there
        patch.setattr(flows.monitoring, "get_events_client", away)
        with pytest.raises(OSError, match="onnect"):
            monitoring(place.root, place.root / "logs")
    assert read_state(place.root).window == 1
    assert not sent
    assert run(place).name == "Waiting"
    assert len(sent) == 1
    assert sent[0].payload["window"] == 1
    assert run(place).name == "Waiting"
    assert len(sent) == 1
    workspace = Workspace(str(place.root / "monitoring" / "evidently"))
    (project,) = workspace.search_project("mien")
    titles = [panel.title for panel in workspace.get_dashboard(project.id).panels]
    assert "Faces in the last window, up to 5,000" in titles  # the page has no more
    (shown,) = workspace.list_runs(project.id)
    assert workspace.get_run(project.id, shown).metadata["window"] == "1"


def test_without_a_server_that_stays_the_event_waits(place, sent, monkeypatch):
    """The temporary one of a look by hand knows no deployment that the event could start."""
    place.log.add(draw(300, RNG, brightness=3.0))
    with monkeypatch.context() as patch:
        patch.setattr(flows.monitoring, "PREFECT_API_URL", SimpleNamespace(value=lambda: None))
        assert run(place).name == "Drift"
        assert run(place).name == "Waiting"
        assert not sent
    assert run(place).name == "Waiting"
    assert [event.payload["window"] for event in sent] == [1]
    assert read_state(place.root).pending is None


def test_an_event_that_waits_is_forgotten_once_all_is_well(place, sent, monkeypatch):
    place.log.add(draw(300, RNG, brightness=3.0))
    with monkeypatch.context() as patch:
        patch.setattr(flows.monitoring, "PREFECT_API_URL", SimpleNamespace(value=lambda: None))
        assert run(place).name == "Drift"
        place.log.add(draw(300, RNG))
        assert run(place).name == "No drift"
    assert run(place).name == "Waiting"
    assert not sent


def test_a_server_that_is_not_there_is_told(place):
    for command in ("monitoring", "retraining"):
        done = subprocess.run(
            [sys.executable, "-m", f"flows.{command}", "--workspace", place.root],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api"},
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert f"{command}: error: no Prefect server answers at http://127" in done.stderr
        assert "Traceback" not in done.stderr


def test_no_workspace_is_told_and_none_is_begun(place):
    state = monitoring(place.root / "typo", return_state=True)
    assert state.is_failed()
    assert "params.yaml: no such file" in state.message
    assert not (place.root / "typo").exists()


def test_two_at_once_a_broken_state_and_no_reference(place):
    with alone(place.root):
        assert "another monitoring run" in run(place).message
    write_json(place.root / "monitoring" / "state.json", {"what": 1})
    state = run(place)
    assert state.is_failed()
    assert "not a state of monitoring" in state.message
    (place.root / "monitoring" / "state.json").unlink()
    (place.root / "models" / "package" / "reference.parquet").unlink()
    state = run(place)
    assert state.is_failed()
    assert "there is nothing to compare the log with" in state.message


def test_a_champion_that_is_not_in_the_store(place):
    pointer = {"tag": "mien:gone", "release": "x.json", "promoted_at": "2026-03-01T09:00:00+00:00"}
    write_json(place.root / "releases" / "champion.json", pointer)
    state = run(place)
    assert state.is_failed()
    assert "mien:gone is not in the model store" in state.message
    assert "mien rollback" in state.message


def test_the_model_that_ships_is_watched_where_nothing_was_trained(place):
    shutil.rmtree(place.root / "models")
    assert run(place).name == "Waiting"


def test_the_model_that_is_named_is_watched(place, monkeypatch):
    moved = (place.root / "models" / "package").rename(place.root / "elsewhere")
    monkeypatch.setenv("MIEN_MODEL", str(moved))
    place.log.add(draw(300, RNG))
    assert run(place).name == "No drift"


def test_the_event_says_since_when(place, sent):
    place.log.add(draw(300, RNG))
    assert run(place).name == "No drift"
    place.log.add(draw(300, RNG, brightness=0.7))
    assert run(place).name == "Watch"
    began = read_state(place.root).since
    assert began == "2026-03-01T09:05:01+00:00"  # of the 301st row: the log writes one a second
    place.log.add(draw(300, RNG, brightness=0.7))
    assert run(place).name == "Drift"
    assert sent[0].payload["since"] == began
    place.log.add(draw(300, RNG))
    assert run(place).name == "No drift"
    assert read_state(place.root).since == ""


def test_another_models_bad_windows_do_not_count():
    from mien.monitoring.state import State

    state = State(4, "old", bad_windows=1, since="2026", mark={"a": 1}, pending={"id": "x"})
    assert state.watching("old") == state
    assert state.watching("new") == State(4, "new", mark={"a": 1})


def test_the_log_folder(monkeypatch):
    monkeypatch.delenv("MIEN_LOG_DIR", raising=False)
    assert flows.monitoring.log_folder(Path("/w")) == Path("/w/logs")
    monkeypatch.setenv("MIEN_LOG_DIR", "/elsewhere")
    assert flows.monitoring.log_folder(Path("/w")) == Path("/elsewhere")
