"""Kept faces: which are held out, and the reference that a renewed model gets from those."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mien.data.manifest import measure
from mien.errors import MienError
from mien.monitoring.kept import IMAGES, list_kept, renew_reference
from mien.monitoring.log import read_window
from mien.monitoring.reference import read_reference
from mien.monitoring.verdict import judge
from mien.serving.classifier import Classifier
from mien.serving.package import load_package
from tests.serving.conftest import draw_faces, package  # noqa: F401  (a fixture)


class Service:
    """Classifies faces and leaves what the service leaves: log rows and kept faces."""

    def __init__(self, logs: Path, folder: Path) -> None:
        self.logs, self.classifier = logs, Classifier(load_package(folder))
        (logs / "predictions" / "data").mkdir(parents=True)
        (logs / IMAGES).mkdir(parents=True)
        self.requests = 0

    def answer(self, faces: np.ndarray, hour: int, keep: bool = True) -> None:
        found = self.classifier.classify(faces)
        rows = measure(faces).drop(columns="phash").to_dict("records")
        with (self.logs / "predictions" / "data" / "data.1.log").open("a") as log:
            for face, row, answer, z in zip(
                faces, rows, found.answers, found.components, strict=True
            ):
                self.requests += 1
                name = f"{self.requests:06d}-0.png"
                if keep:
                    Image.fromarray(face).save(self.logs / IMAGES / name)
                row |= {
                    "time": f"2026-03-01T{hour:02d}:{self.requests % 60:02d}:00+00:00",
                    "model": self.classifier.package.version,
                    "faces": 1, "face": 0, "width": 90, "height": 160,
                    "expression": answer.expression, "confidence": answer.confidence,
                    "image": name if keep else None,
                    **{f"component_{i + 1}": float(value) for i, value in enumerate(z)},
                }  # fmt: skip
                log.write(json.dumps(row) + "\n")


@pytest.fixture
def service(tmp_path, package) -> Service:  # noqa: F811
    return Service(tmp_path / "logs", package)


def dark(count: int, seed: int) -> np.ndarray:
    return (draw_faces(count, seed) * 0.3).astype(np.uint8)


def test_a_face_stays_on_its_side(tmp_path):
    assert list_kept(tmp_path) == ([], [])
    folder = tmp_path / IMAGES
    folder.mkdir(parents=True)
    for number in range(400):
        (folder / f"{number}.png").write_bytes(b"")
    learned, held_out = list_kept(tmp_path)
    assert len(learned) + len(held_out) == 400
    assert not set(learned) & set(held_out)
    assert 70 < len(held_out) < 130
    for path in learned[:200]:
        path.unlink()
    (folder / "more.png").write_bytes(b"")
    assert set(list_kept(tmp_path)[1]) - {folder / "more.png"} == set(held_out)


def test_what_a_model_was_renewed_for_is_no_drift_any_more(service, package, tmp_path, settings):  # noqa: F811
    service.answer(draw_faces(200, 1), hour=8)
    service.answer(dark(600, 2), hour=9)
    with (service.logs / "predictions" / "data" / "data.1.log").open("a") as log:
        log.write('{"time": "2026-03-01T09:00:0')  # torn
    # listed, and gone when it is opened, as where the service has just removed it
    (service.logs / "predictions" / "data" / "data.4.log").symlink_to("gone")
    since = "2026-03-01T09"
    count = renew_reference(tmp_path, package, service.logs, since, least=100, most=900)
    rows = {f"{number:06d}-0.png" for number in range(201, 801)}
    assert count == len(rows & {path.name for path in list_kept(service.logs)[1]})
    before, after = read_reference(package), read_reference(package, tmp_path)
    assert (after.version, list(after.faces)) == (before.version, list(before.faces))
    assert (after.faces["face_size"] == 120).all()  # of the sent pictures, √(90 · 160)

    mark = read_window(service.logs, {}, after).mark
    service.logs.joinpath("predictions/data/data.1.log").rename(
        service.logs / "predictions/data/data.1.log.old"
    )
    service.answer(dark(300, 3), hour=10, keep=False)
    window = read_window(service.logs, mark, after)
    assert len(window.faces) == 300
    assert judge(window, before, settings, 0).status == "drift"
    assert judge(window, after, settings, 0).status == "ok"


def test_too_few_gone_and_broken_faces(service, package, tmp_path):  # noqa: F811
    service.answer(dark(40, 4), hour=9)
    arguments = (tmp_path, package, service.logs, "")
    held_out = list_kept(service.logs)[1]
    assert renew_reference(*arguments, least=len(held_out) + 1, most=900) == 0
    assert not (tmp_path / "monitoring").exists()
    with (service.logs / "predictions" / "data" / "data.1.log").open("a") as log:
        row = {"image": held_out[2].name, "time": "2026", "width": float("inf"), "height": 9}
        log.write(json.dumps(row) + "\n")
    held_out[0].write_bytes(b"no picture")
    held_out[1].unlink()
    assert renew_reference(*arguments, least=1, most=900) == len(held_out) - 2
    assert renew_reference(*arguments, least=1, most=3) == 3
    (renewed,) = (tmp_path / "monitoring" / "references").iterdir()
    renewed.write_bytes(b"torn")
    with pytest.raises(MienError, match=rf"{renewed}: .* without this file the packaged one"):
        read_reference(package, tmp_path)
    assert renew_reference(tmp_path, package, tmp_path / "none", "", least=1, most=3) == 0
    assert renew_reference(tmp_path, package, service.logs, "2027", least=1, most=3) == 0
