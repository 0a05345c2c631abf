"""Each row exactly once, whatever rotates, tears or lies."""

import os
import random
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies

from mien.errors import MienError
from mien.monitoring.log import read_window
from mien.monitoring.reference import read_reference
from tests.monitoring.rows import Log, draw

RNG = np.random.default_rng(3)


def test_no_log_yet(tmp_path, reference):
    window = read_window(tmp_path / "nowhere", {}, reference)
    assert window.files == 0
    assert len(window.faces) == 0
    assert window.mark == {}


def test_a_row_is_what_was_written(log, reference):
    faces = draw(5, RNG)
    log.add(faces, reason="unfamiliar")
    window = read_window(log.root, {}, reference)
    assert list(window.faces.columns) == list(reference.faces.columns)
    assert window.faces["expression"].tolist() == faces["expression"].tolist()
    np.testing.assert_allclose(window.faces["brightness"], faces["brightness"], rtol=1e-6)
    size = np.sqrt(faces["width"] * faces["height"])
    np.testing.assert_allclose(window.faces["face_size"], size, rtol=1e-6)
    assert (window.pictures, window.unfamiliar) == (5, 5)
    assert window.start == "2026-03-01T09:00:01+00:00"
    assert window.end == "2026-03-01T09:00:05+00:00"


@pytest.mark.parametrize(("route", "pictures"), [("analyze", 1), ("predict", 3)])
def test_several_faces_of_a_picture_and_pictures_without(log, reference, route, pictures):
    """Of ready crops each is a picture, however many a request has."""
    faces = draw(3, RNG)
    with log.path().open("a") as file:
        for number, face in enumerate(faces.to_dict("records")):
            file.write(log.row(face, route=route, faces=3, face=number))
    log.add_without_face(2)
    window = read_window(log.root, {}, reference)
    assert (len(window.faces), window.pictures) == (3, pictures + 2)
    assert (window.photos, window.photos_without_face) == (2 + (route == "analyze"), 2)


def test_photos_are_those_in_which_faces_were_sought(log, reference):
    log.add(draw(4, RNG))
    log.add(draw(3, RNG), route="analyze")
    log.add_without_face(2)
    window = read_window(log.root, {}, reference)
    assert (window.pictures, window.photos, window.photos_without_face) == (9, 5, 2)


def test_rows_come_once_over_rotation_and_several_workers(log, reference):
    faces = draw(60, RNG)
    log.add(faces[:10])
    log.add(faces[10:20], worker=2)
    first = read_window(log.root, {}, reference)
    assert len(first.faces) == 20
    log.add(faces[20:30])
    log.rotate("2026-03-01")
    log.add(faces[30:40])
    second = read_window(log.root, first.mark, reference)
    assert sorted(second.faces["confidence"]) == pytest.approx(sorted(faces["confidence"][20:40]))
    assert len(read_window(log.root, second.mark, reference).faces) == 0


def test_a_torn_last_line_waits_until_it_is_whole(log, reference):
    log.add(draw(4, RNG))
    row = log.row(draw(1, RNG).to_dict("records")[0])
    with log.path().open("a") as file:
        file.write(row[:100])
    first = read_window(log.root, {}, reference)
    assert (len(first.faces), first.skipped) == (4, {})
    with log.path().open("a") as file:
        file.write(row[100:])
    assert len(read_window(log.root, first.mark, reference).faces) == 1


def test_a_line_torn_by_a_crash_costs_only_itself(log, reference):
    log.add(draw(2, RNG))
    with log.path().open("a") as file:
        file.write(log.row(draw(1, RNG).to_dict("records")[0])[:80])  # killed; then restarted:
    log.add(draw(3, RNG))
    window = read_window(log.root, {}, reference)
    assert len(window.faces) == 4
    assert window.skipped == {"not a row of this log": 1}


def test_what_is_not_ours_is_counted(log, reference):
    faces = draw(3, RNG)
    log.add(faces, colour="blue")  # an unknown column
    log.add(faces, model="another")
    log.add(faces, expression="bored")
    log.add(faces, expression=["happy"])
    with log.path().open("ab") as file:
        file.write(b"[]\nnull\n{}\n\xff\xfe\n\n")
    window = read_window(log.root, {}, reference)
    assert len(window.faces) == 3
    assert window.skipped == {
        "of another model version": 3,
        "of an unknown expression": 6,
        "not a row of this log": 4,
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "12", True, 10**400, 1e38])
def test_a_value_that_is_no_number(log, reference, value):
    log.add(draw(3, RNG), brightness=value)
    window = read_window(log.root, {}, reference)
    assert window.faces["brightness"].isna().all()
    assert window.faces["contrast"].notna().all()


def test_clocks_that_jump_are_told_and_lose_nothing(log, reference):
    faces = draw(3, RNG)
    for time in ("2026-03-01T12:00:00+00:00", "2026-03-01T08:00:00+00:00", "noon"):
        log.add(faces, time=time)
    log.add(faces, time="2999-01-01T00:00:00+00:00")
    window = read_window(log.root, {}, reference)
    assert len(window.faces) == 12
    told = " ".join(window.notes)
    assert "went back 1 times" in told
    assert "ahead of this machine's clock" in told
    assert "time is missing or no number in 3 of 12 rows" in told


def test_a_truncated_file_and_a_copy_are_not_read_again(log, reference):
    log.add(draw(5, RNG))
    first = read_window(log.root, {}, reference)
    shutil.copy(log.path(), log.folder / "data.1.log.backup")
    assert len(read_window(log.root, first.mark, reference).faces) == 0
    first_line = log.path().read_bytes().splitlines(keepends=True)[0]
    log.path().write_bytes(first_line)
    window = read_window(log.root, first.mark, reference)
    assert len(window.faces) == 0
    assert "shorter than it was" in window.notes[0]


@settings(max_examples=25, suppress_health_check=list(HealthCheck), deadline=None)
@given(seed=strategies.integers(0, 10**6))
def test_any_history_is_read_exactly_once(tmp_path_factory, reference, seed):
    """Appending in pieces, rotating, several workers, restarts and readings, in any order."""
    rng = random.Random(seed)
    log = Log(tmp_path_factory.mktemp("logs"))
    torn = {1: "", 2: ""}
    written, seen, mark, day = 0, 0, {}, 0
    for _ in range(40):
        worker = rng.choice([1, 2])
        action = rng.choice(["append", "append", "tear", "rotate", "read"])
        if action == "append":
            row = torn[worker] or log.row(draw(1, RNG).to_dict("records")[0])
            with log.path(worker).open("a") as file:
                file.write(row)
            torn[worker], written = "", written + 1
        elif action == "tear" and not torn[worker]:
            row = log.row(draw(1, RNG).to_dict("records")[0])
            cut = rng.randrange(1, len(row))
            with log.path(worker).open("a") as file:
                file.write(row[:cut])
            torn[worker] = row[cut:]
        elif action == "rotate" and log.path(worker).exists() and not torn[worker]:
            day += 1
            log.rotate(f"day-{day}", worker)
        elif action == "read":
            window = read_window(log.root, mark, reference)
            seen += len(window.faces)
            if rng.random() < 0.3:
                seen -= len(window.faces)  # killed before the mark was kept: read again
            else:
                mark = window.mark
    seen += len(read_window(log.root, mark, reference).faces)
    assert seen == written


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_named(log, reference):
    log.add(draw(3, RNG))
    log.path().chmod(0)
    assert "data.1.log cannot be read" in read_window(log.root, {}, reference).notes[0]


def test_a_missing_reference_is_named(tmp_path):
    with pytest.raises(MienError, match=r"metadata\.json: no such file, so there is nothing"):
        read_reference(tmp_path)
