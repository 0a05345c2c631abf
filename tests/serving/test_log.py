"""Retention of the prediction log, and a share of pictures only where it is asked for."""

import json
import logging
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from mien.errors import MienError
from mien.serving.classifier import Classifier, Crop
from mien.serving.log import Answered, KeptFileHandler, PredictionLog, log_folder, sweep
from mien.serving.package import load_package

NOW = 1_800_000_000.0


@pytest.fixture
def fresh_monitor(monkeypatch):
    """BentoML keeps a monitor, and where it writes, for the whole process."""
    from bentoml._internal.monitoring import api

    monkeypatch.setattr(api, "_MONITOR_INSTANCES", {})


def put(path, size: int, days_old: float):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (NOW - days_old * 86400,) * 2)
    return path


def test_the_old_and_the_too_much_go(tmp_path):
    old = put(tmp_path / "data/data.1.log.a", 10, 31)
    picture = put(tmp_path / "images/1.png", 10, 40)
    middle = put(tmp_path / "data/data.1.log.b", 700_000, 2)
    new = put(tmp_path / "data/data.1.log.c", 700_000, 1)
    current, quiet = (
        put(tmp_path / "data/data.1.log", 10, 3),
        put(tmp_path / "data/data.2.log", 10, 60),
    )
    sweep(tmp_path, days=30, megabytes=1, now=NOW)
    assert [p.exists() for p in (old, picture, middle, new, current, quiet)] == [
        False, False, False, True, True, False,
    ]  # fmt: skip
    sweep(tmp_path, days=30, megabytes=1, now=NOW)
    assert new.exists()


def test_what_is_somebody_elses_stays(tmp_path):
    """Who has a folder `predictions` of their own may well name its parent in `MIEN_LOG_DIR`."""
    theirs = [
        put(tmp_path / name, 700_000, 60)
        for name in ("results.csv", "thesis/data.1.log", "data/faces.csv", "images/notes.txt")
    ]
    ours = put(tmp_path / "schema/schema.1.log.1", 10, 60)
    sweep(tmp_path, days=30, megabytes=1, now=NOW)
    assert all(path.exists() for path in theirs)
    assert not ours.exists()


def test_the_old_goes_while_nobody_asks_anything(tmp_path, monkeypatch, package):
    monkeypatch.setenv("MIEN_LOG_DIR", str(tmp_path))
    monkeypatch.setattr("mien.serving.log._SWEEP_SECONDS", 0.01)
    log = PredictionLog(load_package(package))
    time.sleep(0.1)
    faces = tmp_path / "predictions/images"
    new, old = put(faces / "1.png", 10, 0), put(tmp_path / "2.png", 10, 0)
    new.touch()
    os.utime(old, (time.time() - 31 * 86400,) * 2)
    old = old.replace(faces / "2.png")
    deadline = time.monotonic() + 20
    while old.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    log.close()
    assert not old.exists()
    assert new.exists()


def test_a_full_file_is_closed_and_no_row_is_lost(tmp_path, monkeypatch):
    monkeypatch.setenv("MIEN_LOG_MB", "0.01")
    path = tmp_path / "predictions/data/data.1.log"
    path.parent.mkdir(parents=True)
    handler = KeptFileHandler(str(path))
    for number in range(20):
        handler.emit(logging.makeLogRecord({"msg": f"{number:0100}", "created": time.time()}))
    handler.close()
    files = list(path.parent.iterdir())
    assert len(files) > 1
    rows = sorted(int(row) for file in files for row in file.read_text().split())
    assert rows == list(range(20))


def test_what_cannot_be_removed_keeps_neither_the_others_nor_the_row(tmp_path, monkeypatch, caplog):
    old = [put(tmp_path / f"predictions/data/data.1.log.{name}", 10, 100) for name in "abc"]
    real = Path.unlink

    def unlink(path, missing_ok=False):
        if path.suffix == ".a":
            raise PermissionError(1, "Operation not permitted")
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    path = put(tmp_path / "predictions/data/data.1.log", 5, 0)
    path.write_text("before\n")
    os.utime(path, (time.time() - 86400,) * 2)
    handler = KeptFileHandler(str(path))
    handler.emit(logging.makeLogRecord({"msg": "after", "created": time.time()}))
    handler.close()
    assert path.read_text() == "after\n"
    assert [each.exists() for each in old] == [True, False, False]
    assert "can't be removed" in caplog.text


def test_a_folder_that_is_gone_meanwhile_ends_no_sweep(tmp_path, monkeypatch):
    gone, old = tmp_path / "images", put(tmp_path / "data/data.1.log.a", 10, 100)
    put(gone / "1.png", 10, 0)
    real = os.scandir

    def scandir(path="."):
        if Path(path) == gone:
            raise FileNotFoundError(2, "No such file or directory")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    sweep(tmp_path, days=30, megabytes=1, now=NOW)
    assert not old.exists()


def test_a_file_of_another_day_is_closed(tmp_path):
    path = put(tmp_path / "predictions/data/data.1.log", 5, 0)
    handler = KeptFileHandler(str(path))
    today = logging.makeLogRecord({"msg": "x", "created": NOW + 60})
    tomorrow = logging.makeLogRecord({"msg": "x", "created": NOW + 86400})
    assert not handler.shouldRollover(today)
    assert handler.shouldRollover(tomorrow)
    handler.close()


@pytest.mark.parametrize(("share", "kept"), [("", 0), ("0", 0), ("1", 2)])
def test_pictures_are_kept_only_where_asked_for(
    tmp_path, monkeypatch, package, fresh_monitor, share, kept
):
    monkeypatch.setenv("MIEN_LOG_DIR", str(tmp_path / share))
    monkeypatch.setenv("MIEN_LOG_IMAGES", share)
    loaded = load_package(package)
    log, classifier = PredictionLog(loaded), Classifier(loaded)
    crops = [Crop(np.full((48, 48), grey, np.uint8), 48, 48) for grey in (5, 200)]
    classified = classifier.classify(np.stack([c.pixels for c in crops]))
    log.write(Answered("id", "predict", crops, classified, 3.0))
    log.close()
    lines = (log_folder() / "predictions/data/data.0.log").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["face"] for row in rows] == [0, 1]
    assert {row["request_id"] for row in rows} == {"id"}
    assert len(list(log_folder().rglob("*.png"))) == kept
    assert sum(row["image"] is not None for row in rows) == kept


def test_only_its_owner_may_read_what_is_of_people(tmp_path, monkeypatch, package, fresh_monitor):
    """But a folder that its operator has made for others, too, stays as it is."""
    monkeypatch.setenv("MIEN_LOG_DIR", str(tmp_path))
    log = PredictionLog(load_package(package))
    log.write(Answered("id", "analyze", [], None, 3.0))
    log.close()
    folder = tmp_path / "predictions"
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o750)
    log = PredictionLog(load_package(package))
    log.write(Answered("id", "analyze", [], None, 3.0))
    log.close()
    assert folder.stat().st_mode & 0o777 == 0o750


def test_a_face_that_cannot_be_kept_costs_no_row(tmp_path, monkeypatch, package, fresh_monitor):
    """A full disk left an empty picture, and the rows of all requests beside it were lost."""
    monkeypatch.setenv("MIEN_LOG_DIR", str(tmp_path))
    monkeypatch.setenv("MIEN_LOG_IMAGES", "1")

    def save(self, path):
        Path(path).touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", save)
    loaded, lost = load_package(package), []
    log = PredictionLog(loaded, lost.append)
    crop = Crop(np.full((48, 48), 5, np.uint8), 48, 48)
    classified = Classifier(loaded).classify(crop.pixels[None])
    log.write(Answered("id", "predict", [crop], classified, 3.0))
    log.close()
    (line,) = (tmp_path / "predictions/data/data.0.log").read_text().splitlines()
    assert json.loads(line)["image"] is None
    assert not lost
    assert not list((tmp_path / "predictions/images").iterdir())


def test_a_write_that_fails_ends_neither_the_service_nor_the_log(
    tmp_path, monkeypatch, package, fresh_monitor
):
    monkeypatch.setenv("MIEN_LOG_DIR", str(tmp_path))
    (tmp_path / "predictions").write_text("in the way")
    lost: list[int] = []
    log = PredictionLog(load_package(package), lost.append)
    log.write(Answered("lost", "analyze", [], None, 3.0))
    time.sleep(0.5)
    assert lost == [1]
    (tmp_path / "predictions").unlink()
    log.write(Answered("kept", "analyze", [], None, 3.0))
    log.close()
    log.close()
    (line,) = (tmp_path / "predictions/data/data.0.log").read_text().splitlines()
    assert json.loads(line)["request_id"] == "kept"


def test_a_file_that_was_removed_is_begun_anew(tmp_path):
    """Whoever must delete what is known of somebody does not stop the log of all others."""
    path = tmp_path / "predictions/data/data.1.log"
    path.parent.mkdir(parents=True)
    handler = KeptFileHandler(str(path))
    for remove in (lambda: None, path.unlink, lambda: shutil.rmtree(tmp_path)):
        remove()
        handler.emit(logging.makeLogRecord({"msg": "row", "created": time.time()}))
        assert path.read_text() == "row\n"
    handler.close()


def test_a_row_begins_a_line_where_one_was_cut_off(tmp_path):
    """By `kill -9`, or where the disk was full: the next one would be lost with it."""
    path = tmp_path / "predictions/data/data.1.log"
    path.parent.mkdir(parents=True)
    path.write_text('{"half')
    handler = KeptFileHandler(str(path))
    for _ in range(2):
        handler.emit(logging.makeLogRecord({"msg": "row", "created": time.time()}))
    with path.open("a") as file:
        file.write("ro")
    handler.emit(logging.makeLogRecord({"msg": "row", "created": time.time()}))
    handler.close()
    assert path.read_text().split("\n") == ['{"half', "row", "row", "ro", "row", ""]


def test_two_services_may_share_a_folder(tmp_path, monkeypatch):
    """One that the other has closed a file of goes on in the new one: the old may be removed."""
    monkeypatch.setenv("MIEN_LOG_MB", "0")
    path = tmp_path / "predictions/data/data.1.log"
    path.parent.mkdir(parents=True)
    one, other = KeptFileHandler(str(path)), KeptFileHandler(str(path))
    row = logging.makeLogRecord({"msg": "row", "created": time.time()})
    one.emit(row)
    one.doRollover()
    other.emit(row)
    assert path.read_text() == "row\n"
    one.close()
    other.close()


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="/dev/full, a disk that is full, is Linux's"
)
def test_a_full_disk_is_told_without_the_rows(
    tmp_path, monkeypatch, package, fresh_monitor, capfd, caplog
):
    monkeypatch.setenv("MIEN_LOG_DIR", str(tmp_path))
    path = tmp_path / "predictions/data/data.0.log"
    path.parent.mkdir(parents=True)
    path.symlink_to("/dev/full")
    monkeypatch.setattr(logging.getLogger("bentoml"), "propagate", True)
    log = PredictionLog(load_package(package))
    log.write(Answered("somebody", "analyze", [], None, 3.0))
    log.close()
    assert "rows of the prediction log are lost" in caplog.text
    assert "somebody" not in caplog.text + capfd.readouterr().err


def test_the_folder_may_have_any_name(tmp_path, monkeypatch, package, fresh_monitor):
    folder = tmp_path / """o'brien "s: #log\\"""
    monkeypatch.setenv("MIEN_LOG_DIR", str(folder))
    log = PredictionLog(load_package(package))
    log.write(Answered("kept", "analyze", [], None, 3.0))
    log.close()
    assert (folder / "predictions/data/data.0.log").read_text().count("kept") == 1


@pytest.mark.parametrize("value", ["2", "-1", "nan", "much"])
def test_a_bad_share_ends_the_start(monkeypatch, package, value):
    monkeypatch.setenv("MIEN_LOG_IMAGES", value)
    with pytest.raises(MienError, match=f"MIEN_LOG_IMAGES={value}"):
        PredictionLog(load_package(package))
