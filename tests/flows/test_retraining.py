"""The retraining flow: its limits, the faces that it takes in, the gate, and a person's word."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.flow_runs import resume_flow_run
from prefect.states import Completed, Failed
from prefect.testing.utilities import prefect_test_harness

import flows.retraining
from flows.retraining import _as_logged, retraining, too_soon
from mien.data.sources import list_source
from mien.errors import MienError
from mien.files import read_json, write_json
from mien.lock import locked
from mien.monitoring.kept import list_kept
from mien.params import load_params
from mien.promotion import commands, releases
from tests.promotion.conftest import drawn, workspace  # noqa: F401  (fixtures)
from tests.promotion.linear import matrix

GOOD, OTHER, WRONG = matrix(), matrix(sharpness=0.6), matrix(order=(1, 0, 2))
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def trained(monkeypatch):
    """Training takes minutes; here it has been done already, in the workspace that is asked for."""
    runs = []

    @flow(name="training")
    def done(workspace):  # noqa: F811
        runs.append(workspace)
        return Completed()

    monkeypatch.setattr(flows.retraining, "training", done)
    return runs


@pytest.fixture
def renew(workspace):  # noqa: F811
    """Puts another package into a workspace, as a training there leaves one."""

    def put(root: Path, weights: np.ndarray) -> Path:
        new = workspace(f"trained-{root.name}-{len(list(root.parent.iterdir()))}", weights)
        shutil.rmtree(root / "models")
        (new / "models").rename(root / "models")
        return root

    return put


@pytest.fixture
def served(workspace, renew):  # noqa: F811
    """A workspace whose champion is good, in which another challenger lies trained."""
    root = workspace("served", GOOD)
    commands.promote(root, root)
    return renew(root, OTHER)


def hours(*ago: float) -> list[datetime]:
    return [NOW - timedelta(hours=each) for each in ago]


def test_cooldown_and_daily_limit(root):
    limits = load_params(root / "params.yaml").monitoring.model_copy(
        update={"cooldown_hours": 4, "retrainings_per_day": 2}
    )
    assert too_soon([], NOW, limits) is None
    assert "cooldown_hours" in too_soon(hours(3), NOW, limits)
    assert too_soon(hours(5), NOW, limits) is None
    assert "retrainings_per_day" in too_soon(hours(20, 5), NOW, limits)
    assert too_soon(hours(25, 5), NOW, limits) is None
    assert too_soon(hours(-8760), NOW, limits) is None  # a clock that was a year ahead
    assert "cooldown_hours" in too_soon(hours(3, 5), NOW, limits)  # one that was set back


@pytest.mark.parametrize(
    ("given", "logged"),
    [
        ("", ""),
        ("2026-03-01", "2026-03-01T00:00:00+00:00"),
        ("2026-03-01T12:00:00.5+02:00", "2026-03-01T10:00:00.500000+00:00"),
    ],
)
def test_times_are_compared_as_the_log_writes_them(given, logged):
    assert _as_logged(given) == logged


def test_what_is_no_time_starts_no_retraining(served, trained):
    root = served
    state = retraining(root, since="yesterday", return_state=True)
    assert (state.is_failed(), trained) == (True, [])
    assert "2026-03-01T12:00" in state.message
    assert retraining(root, return_state=True).name == "Promoted"  # it took nobody's turn


def test_promoted_then_skipped_then_refused(served, renew, trained):
    root = served
    state = retraining(root, reason="brightness", return_state=True)
    assert (state.name, trained) == ("Promoted", [root])
    record = releases.list_releases(root)[-1]
    assert record["cause"] == "brightness"

    state = retraining(root, return_state=True)
    assert state.name == "Skipped"
    assert "cooldown_hours" in state.message
    assert retraining(root, force=True, return_state=True).name == "Unchanged"

    renew(root, WRONG)
    before = releases.read_champion(root)
    state = retraining(root, force=True, return_state=True)
    assert (state.name, state.is_completed()) == ("Refused", True)
    assert "McNemar" in state.message
    assert releases.read_champion(root) == before


def test_without_a_champion_nothing_is_trained(workspace, trained):  # noqa: F811
    """Else a model that the gate has refused would be what the next start serves."""
    root = workspace("served", GOOD)
    state = retraining(root, force=True, return_state=True)
    assert (state.name, trained) == ("Skipped", [])
    assert "no champion" in state.message
    assert "`mien promote`" in state.message
    assert releases.list_releases(root) == []
    assert not (root / "monitoring").exists()  # it took nobody's turn


def test_a_model_that_the_environment_names_is_not_renewed(served, trained, monkeypatch):
    monkeypatch.setenv("MIEN_MODEL", "base")
    state = retraining(served, force=True, return_state=True)
    assert (state.name, trained) == ("Skipped", [])
    assert "MIEN_MODEL names base" in state.message


def test_what_is_renewed_is_what_the_champion_was_made_of(workspace, renew, trained, drawn):  # noqa: F811
    root, mine = workspace("served", WRONG), workspace("mine", GOOD)
    values = yaml.safe_load((mine / "params.yaml").read_text())
    values["prepare"]["sources"][0]["name"] = "mine"
    (mine / "params.yaml").write_text(yaml.safe_dump(values))
    commands.promote(root, mine)
    renew(mine, OTHER)
    state = retraining(root, return_state=True)
    assert (state.name, trained) == ("Promoted", [mine])  # not the root, whose model is another

    keep(root / "logs", drawn.faces[:200], hour=9)
    made = flows.retraining.gather_faces(root, mine, root / "logs")
    names = [each.name for each in load_params(made / "params.yaml").prepare.sources]
    assert (made, names) == (root / "runs" / "renewal", ["mine", "kept", "restyled"])

    moved = mine.rename(mine.with_name("moved"))
    state = retraining(root, force=True, return_state=True)
    assert state.name == "Skipped"
    assert f"{mine}: no dvc.lock" in state.message
    path = root / "releases" / releases.read_champion(root)["release"]
    assert f'"workspace" in {path}' in state.message
    record = read_json(path)
    record["evidence"]["workspace"] = "../moved"
    write_json(path, record)
    state = retraining(root, logs=root / "none", force=True, return_state=True)
    assert (state.name, trained[-1]) == ("Unchanged", moved)


def test_a_challenger_of_other_faces_is_refused(workspace, renew, trained):  # noqa: F811
    """They may be other people's: what it is worth where the champion serves, nobody has seen."""
    root = workspace("served", matrix(sharpness=0.55))
    metadata = read_json(root / "models" / "package" / "metadata.json")
    metadata["accuracy"]["fer2013"] = 0.7
    write_json(root / "models" / "package" / "metadata.json", metadata)
    commands.promote(root, root)
    state = retraining(renew(root, OTHER), return_state=True)
    assert state.name == "Refused"
    assert state.message.endswith(
        "the champion was tested on fer2013, too, of which this run has no test faces"
    )
    commands.promote(root, root)  # a person may


def test_after_a_rollback_a_person_decides_what_comes_next(served, renew, trained):
    first = releases.read_champion(served)["tag"]
    assert retraining(served, return_state=True).name == "Promoted"
    trained.clear()
    commands.rollback(served, "dark rooms", None)
    renew(served, matrix(sharpness=0.65))  # not the very model that was rolled back: one like it
    state = retraining(served, return_state=True)
    assert (state.name, trained) == ("Skipped", [])
    assert "was rolled back on 20" in state.message
    assert "(dark rooms)" in state.message
    assert releases.read_champion(served)["tag"] == first
    assert retraining(served, force=True, return_state=True).name == "Promoted"
    assert retraining(served, force=False, return_state=True).message.startswith("the last retr")


def test_a_workspace_of_other_pictures_by_now_is_not_what_made_the_champion(served, trained):
    values = yaml.safe_load((served / "params.yaml").read_text())
    values["prepare"]["sources"][0]["seed"] += 1
    (served / "params.yaml").write_text(yaml.safe_dump(values))
    state = retraining(served, return_state=True)
    assert (state.name, trained) == ("Skipped", [])
    assert "other expressions or sources than those from which mien:" in state.message


def test_faces_that_another_run_reads_are_left_alone(served, drawn):  # noqa: F811
    logs = served / "logs"
    keep(logs, drawn.faces[:200], hour=9)
    made = flows.retraining.gather_faces(served, served, logs)
    faces = served / "monitoring" / "renewal" / "restyled"
    before = sorted(faces.iterdir())
    keep(logs, (drawn.faces[200:] * 0.4).astype(np.uint8), hour=10)
    for busy in (made, served):
        with locked(busy), pytest.raises(MienError, match=f"{busy}: another run is at work here"):
            flows.retraining.gather_faces(served, served, logs)
    (served / "data" / "prepared" / "faces.npy").unlink()  # else none would be restyled
    with pytest.raises(MienError, match=r"faces.npy: not as .*dvc.lock records it"):
        flows.retraining.gather_faces(served, served, logs)
    assert sorted(faces.iterdir()) == before


def test_a_broken_list_of_turns_is_named(served, trained):
    root = served
    (root / "monitoring").mkdir()
    for text in ("[", "[1]"):
        (root / "monitoring" / "retrainings.json").write_text(text)
        state = retraining(root, return_state=True)
        assert state.is_failed()
        assert "retrainings.json: not a list of times" in state.message
    assert trained == []


def test_a_failed_training_changes_nothing(served, monkeypatch):
    @flow(name="training")
    def fails(workspace):  # noqa: F811
        return Failed(message="stage 'cluster' failed")

    before = releases.read_champion(served)
    monkeypatch.setattr(flows.retraining, "training", fails)
    state = retraining(served, return_state=True)
    assert state.is_failed()
    assert "no challenger: stage 'cluster' failed" in state.message
    assert releases.read_champion(served) == before


def keep(logs: Path, faces: np.ndarray, hour: int) -> None:
    """Leave what the service leaves of faces that it keeps."""
    images, data = logs / "predictions" / "images", logs / "predictions" / "data"
    for folder in (images, data):
        folder.mkdir(parents=True, exist_ok=True)
    with (data / "data.1.log").open("a") as log:
        for number, face in enumerate(faces):
            name = f"{hour}-{number}.png"
            Image.fromarray(face).save(images / name)
            row = {"time": f"2026-03-01T{hour:02d}:00:00+00:00", "image": name}
            log.write(json.dumps(row | {"width": 50, "height": 50}) + "\n")


def test_kept_faces_and_labelled_ones_in_their_look_join(workspace, drawn):  # noqa: F811
    root = workspace("served", GOOD)
    logs = root / "logs"
    assert flows.retraining.gather_faces(root, root, logs) == root
    keep(logs, drawn.faces[:90], hour=8)
    dark = (drawn.faces * 0.4).astype(np.uint8)
    keep(logs, dark[:200], hour=9)
    made = flows.retraining.gather_faces(root, root, logs, since="2026-03-01T08:30")
    assert made == root / "runs" / "renewal"

    params = load_params(made / "params.yaml")
    drawn_ones, kept, restyled = params.prepare.sources
    assert (drawn_ones.name, kept.role, restyled.role) == ("synthetic", "unlabelled", "labelled")
    learned, held_out = list_kept(logs)
    listings = [list_source(each, Path("/"), params.expressions) for each in (kept, restyled)]
    assert len(listings[0].table) == len(learned) == 290 - len(held_out)
    (read,) = zip(*listings[0].read(listings[0].table.head(3), 24), strict=True)
    assert all(face.pixels.shape == (24, 24) for face in read)
    table = listings[1].table
    assert table["split"].tolist().count("test") == len(drawn.faces)
    assert table["label"].value_counts().to_dict() == dict.fromkeys(drawn.labels, 120)
    (faces,) = zip(*listings[1].read(table, 24), strict=True)
    means = [face.pixels.mean() for face in faces]
    assert np.mean(means) == pytest.approx(dark.mean(), rel=0.1)  # the look of those since then
    stage = yaml.safe_load((made / "dvc.yaml").read_text())["stages"]["prepare"]
    assert {str(kept.path), str(restyled.path)} <= set(stage["deps"])

    learned[0].unlink()  # an operator deletes a face: the next renewal does without it
    flows.retraining.gather_faces(root, root, logs)
    assert learned[0].name not in Path(kept.path).read_text()


def test_without_a_known_look_nothing_is_restyled(workspace, drawn):  # noqa: F811
    root = workspace("served", GOOD)
    keep(root / "logs", drawn.faces[:60], hour=8)  # under min_faces
    made = flows.retraining.gather_faces(root, root, root / "logs")
    assert [each.name for each in load_params(made / "params.yaml").prepare.sources] == [
        "synthetic",
        "kept",
    ]


def test_the_reference_is_of_the_model_that_was_judged(served, trained, monkeypatch):
    """While a person thinks it over, another run may be at work where it was trained."""
    root = served
    values = yaml.safe_load((root / "params.yaml").read_text())
    values["promotion"] |= {"approval": "manual"}
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    versions = []

    def ask(record, settings):
        (root / "models").rename(root / "old")
        return {}

    def renew(root, package, *_, **__):
        versions.append(read_json(package / "metadata.json")["version"])
        return 0

    monkeypatch.setattr(flows.retraining, "_ask", ask)
    monkeypatch.setattr(flows.retraining, "renew_reference", renew)
    assert retraining(root, return_state=True).name == "Promoted"
    assert [f"mien:{each}" for each in versions] == [releases.read_champion(root)["tag"]]


@pytest.mark.slow
@pytest.mark.parametrize(("approve", "name"), [(True, "Promoted"), (False, "Refused")])
def test_a_person_is_asked(served, trained, approve, name):
    root = served
    values = yaml.safe_load((root / "params.yaml").read_text())
    values["promotion"] |= {"approval": "manual"}
    (root / "params.yaml").write_text(yaml.safe_dump(values))

    paused = []

    def answer() -> None:
        with get_client(sync_client=True) as client:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                for run in client.read_flow_runs():
                    if run.state and run.state.is_paused():
                        paused.append(run)
                        words = {"approve": approve, "reason": "seen"}
                        resume_flow_run(run.id, run_input=words)
                        return
                time.sleep(0.5)

    person = threading.Thread(target=answer)
    person.start()
    state = retraining(root, force=True, return_state=True)
    person.join()
    assert state.name == name
    (run,) = paused
    # a deployment's run that is paused loses its slot, and is ended when that is found out
    assert run.parent_task_run_id
    record = releases.list_releases(root)[-1]
    assert "by a person" in record["reason"] if approve else "a person refused" in record["reason"]
    assert "seen" in record["reason"]
    changed = releases.read_champion(root)["tag"] == record["challenger"]
    assert changed == approve
    assert read_json(root / "monitoring" / "retrainings.json")
