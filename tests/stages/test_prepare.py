"""The stage `prepare` on made-up folders."""

import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mien.data.manifest import read_manifest, read_quarantine
from mien.data.sources.reading import read_faces
from mien.errors import MienError
from mien.params import Params, load_params
from mien.params.faces import PrepareSettings
from mien.stages.prepare import main

EXPRESSIONS = ["happy", "sad"]
OUTS = {
    "manifest": "manifest.parquet",
    "faces": "faces.npy",
    "quarantine": "quarantine.parquet",
    "report": "report",
    "metrics": "metrics.json",
}


def face(seed: int) -> Image.Image:
    """Smooth noise: no two look alike, and compression leaves it alike."""
    rough = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)
    return Image.fromarray(rough).resize((48, 48), Image.Resampling.BICUBIC)


def source(name: str, **settings: Any) -> dict[str, Any]:
    common = {"name": name, "kind": "image_folder", "path": name, "role": "labelled"}
    return common | {"folders": "expression"} | settings


@pytest.fixture
def params(root: Path) -> Params:
    whole = load_params(root / "params.yaml")
    compute = whole.compute.model_copy(update={"workers": 1})
    return whole.model_copy(update={"expressions": EXPRESSIONS, "compute": compute})


def run(params: Params, folder: Path, sources: list[dict[str, Any]], bits: int = 4) -> None:
    prepare = PrepareSettings.model_validate(
        {"data": folder / "data", "image_size": 48, "near_duplicate_bits": bits, "sources": sources}
    )
    outs = {name: folder / "out" / path for name, path in OUTS.items()}
    main(params.model_copy(update={"prepare": prepare}), **outs)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Labelled, test and unlabelled pictures, with each kind of trouble planted once."""
    root = tmp_path / "data"
    for expression, start in (("happy", 0), ("sad", 100)):
        for part, first in (("train", start), ("held", start + 50)):
            (root / part / expression).mkdir(parents=True)
            for i in range(first, first + 6):
                face(i).save(root / part / expression / f"{i}.png")
    (root / "crowd").mkdir()
    for i in range(200, 210):
        face(i).save(root / "crowd" / f"{i}.png")
    face(52).save(root / "train" / "happy" / "copy.png")
    face(152).save(root / "crowd" / "near.jpg", quality=70)
    face(53).save(root / "held" / "happy" / "same.png")
    (root / "crowd" / "broken.png").write_bytes(b"\x89PNG")
    return tmp_path


SOURCES = [
    source("train"),
    source("held", role="test"),
    source("crowd", role="unlabelled", folders="nothing"),
]


def test_everything_is_kept_or_set_aside_with_a_reason(params: Params, data: Path) -> None:
    run(params, data, SOURCES)
    manifest = read_manifest(data / "out" / "manifest.parquet")
    faces = np.load(data / "out" / "faces.npy", mmap_mode="r")
    aside = read_quarantine(data / "out" / "quarantine.parquet")
    assert faces.shape == (len(manifest), 48, 48)
    assert faces.dtype == np.uint8
    assert manifest["row"].tolist() == list(range(len(manifest)))
    assert manifest["face_id"].is_unique
    assert dict(zip(aside["path"], aside["kind"], strict=True)) == {
        "broken.png": "unreadable",
        "happy/copy.png": "duplicate",
        "near.jpg": "near_duplicate",
    }
    for row, path in zip(manifest["row"], manifest["path"], strict=True):
        if path[-7:-4].isdigit():
            assert np.array_equal(faces[row], np.asarray(face(int(path[-7:-4]))))
    assert manifest["split"].value_counts().to_dict() == {"test": 13, "train": 12, "none": 10}
    assert manifest["face_id"].str.endswith("-2").sum() == 1  # the copy within the test set
    metrics = json.loads((data / "out" / "metrics.json").read_text())
    assert metrics["faces"] == 35
    assert metrics["expressions"] == {"happy": 6, "sad": 6}
    assert metrics["quarantine"]["near_duplicate"] == 1
    assert metrics["sources"] == {"train": 12, "held": 13, "crowd": 10}
    report = {path.name for path in (data / "out" / "report").iterdir()}
    assert report == {"train.png", "held.png", "crowd.png", "counts.csv", "quarantine.csv"}


def test_it_is_deterministic(params: Params, data: Path) -> None:
    run(params, data, SOURCES)
    shutil.move(data / "out", data / "first")
    run(params, data, SOURCES)
    for name in OUTS.values():
        if (data / "out" / name).is_file():
            assert (data / "out" / name).read_bytes() == (data / "first" / name).read_bytes()


def test_an_expression_without_example_is_named(params: Params, data: Path) -> None:
    shutil.rmtree(data / "data" / "train" / "sad")
    with pytest.raises(MienError, match="'sad' in the sources \\(train, held, crowd\\)"):
        run(params, data, SOURCES)
    assert not (data / "out").exists()


def test_an_expression_with_broken_pictures_only_is_named(params: Params, data: Path) -> None:
    for path in (data / "data" / "train" / "sad").iterdir():
        path.write_bytes(b"")
    with pytest.raises(
        MienError, match=r"'sad' .* 6 that .* train/sad/100\.png: the file is empty"
    ):
        run(params, data, SOURCES)
    assert list((data / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ([0], r"no labelled training face .* 13 that are there can't be used; train/happy/0\.png"),
        ([1], r"no test face .* 13 that are there can't be used; held/happy/50\.png"),
        ([2], r"no unlabelled face .* 12 that are there can't be used; crowd/200\.png"),
        ([0, 1, 2], r"no labelled training face .* train/happy/0\.png"),
    ],
)
def test_pictures_without_a_face_are_not_said_to_be_missing(
    params: Params, data: Path, which: list[int], message: str
) -> None:
    """It was advised to add a source that was there."""
    sources = [
        {**each, "faces": "detect"} if i in which else each for i, each in enumerate(SOURCES)
    ]
    with pytest.raises(MienError, match=message + ": no face was found"):
        run(params, data, sources)


def test_no_labels_at_all(params: Params, data: Path) -> None:
    with pytest.raises(MienError, match="no labelled training face in the sources"):
        run(params, data, SOURCES[1:])
    same = [SOURCES[0], source("held", path="train", role="test"), SOURCES[2]]
    with pytest.raises(
        MienError, match=r"no labelled .* 13 that .* train/\S+: the same pixels as held/"
    ):
        run(params, data, same)


def test_no_test_face_is_told_before_anything_is_learned(params: Params, data: Path) -> None:
    crowd = SOURCES[2]
    with pytest.raises(MienError, match=r"no test face .*\(train, crowd\); test_share is 0"):
        run(params, data, [SOURCES[0], crowd])
    people = source("train", kind="csv", path="one.csv", test_share=0.15, validation_share=0.15)
    del people["folders"]
    rows = [f"train/{name}/{i}.png,{name},anna" for name, i in (("happy", 0), ("sad", 100))]
    (data / "data" / "one.csv").write_text("\n".join(["path,label,identity", *rows]))
    with pytest.raises(MienError, match=r"'train' has too few people .* test_share of 0\.15"):
        run(params, data, [people, crowd])
    for path in (data / "data" / "held").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(MienError, match=r"no test face .* held/happy/50\.png: the file is empty"):
        run(params, data, SOURCES)


def test_no_unlabelled_face_is_told_before_anything_is_learned(params: Params, data: Path) -> None:
    with pytest.raises(MienError, match=r"no unlabelled face in the sources \(train, held\); add"):
        run(params, data, SOURCES[:2])
    same = source("same", path="train", role="unlabelled", folders="nothing")
    with pytest.raises(
        MienError, match=r"no unlabelled face .* 13 that .* same/\S+: the same pixels"
    ):
        run(params, data, [*SOURCES[:2], same])


def test_pictures_that_come_while_others_are_read_are_told(
    params: Params, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were left out, and DVC took them for read ever after."""

    def read(*arguments: Any) -> Any:
        face(300).save(data / "data" / "crowd" / "late.png")
        return read_faces(*arguments)

    monkeypatch.setattr("mien.stages.prepare.read_faces", read)
    with pytest.raises(MienError, match="source 'crowd': pictures came or went"):
        run(params, data, SOURCES)
    monkeypatch.undo()
    run(params, data, SOURCES)
    assert "late.png" in set(read_manifest(data / "out" / "manifest.parquet")["path"])


def test_a_disk_too_small_is_told_before_reading(
    params: Params, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1000))
    with pytest.raises(MienError, match="MiB are needed"):
        run(params, data, SOURCES)
    assert list((data / "out").iterdir()) == []


def test_near_duplicates_can_be_let_in(params: Params, data: Path) -> None:
    run(params, data, SOURCES, bits=-1)
    assert "near.jpg" in set(read_manifest(data / "out" / "manifest.parquet")["path"])
