"""The stage `validate` on data with planted faults."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from mien.data.manifest import measure, write_manifest, write_quarantine
from mien.errors import MienError
from mien.params import Params, load_params
from mien.stages.validate import main

EXPRESSIONS = ["happy", "sad"]
COUNT = 60


def _faces() -> np.ndarray:
    smooth = gaussian_filter(np.random.default_rng(0).normal(size=(COUNT, 48, 48)), (0, 3, 3))
    return (128 + smooth / smooth.std() * 40).clip(0, 255).astype(np.uint8)


def _manifest(faces: np.ndarray) -> pd.DataFrame:
    """20 training, 10 validation, 10 test and 20 unlabelled faces; two of each person."""
    split = np.repeat(["train", "validation", "test", "none"], [20, 10, 10, 20])
    known = split != "none"
    label = np.where(known, np.tile(EXPRESSIONS, COUNT // 2), None)
    table = pd.DataFrame(
        {
            "face_id": [f"{i:016x}" for i in range(COUNT)],
            "source": "mine",
            "path": [f"{i}.png" for i in range(COUNT)],
            "role": np.select(
                [split == "none", split == "test"], ["unlabelled", "test"], "labelled"
            ),
            "split": split,
            "label": label,
            "true_label": np.where(known, None, "happy"),
            "identity": [f"p{i // 2}" for i in range(COUNT)],
            "width": 48,
            "height": 48,
            "row": range(COUNT),
        }
    )
    return pd.concat([table, measure(faces)], axis=1)


NOTHING = pd.DataFrame(columns=["source", "path", "kind", "reason"])


def run(root: Path, out: Path, manifest: pd.DataFrame, faces: np.ndarray, aside=NOTHING) -> Path:
    params: Params = load_params(root / "params.yaml").model_copy(
        update={"expressions": EXPRESSIONS}
    )
    write_manifest(out / "manifest.parquet", manifest)
    write_quarantine(out / "quarantine.parquet", aside)
    np.save(out / "faces.npy", faces)
    main(
        params,
        manifest=out / "manifest.parquet",
        faces=out / "faces.npy",
        quarantine=out / "quarantine.parquet",
        report=out / "report",
        verdict=out / "verdict.json",
    )
    return out / "report"


def test_sound_data_pass(root: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    faces = _faces()
    monkeypatch.chdir(tmp_path)
    report = run(root, Path(), _manifest(faces), faces)
    assert f"see {tmp_path / 'report' / 'index.html'}\n" in capsys.readouterr().out
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert verdict["success"] is True
    assert verdict["failed"] == {}
    page = (report / "index.html").read_text()
    assert "The data are sound" in page
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert links == ["data_docs/index.html"]  # opens offline
    assert (report / links[0]).is_file()


def test_every_planted_fault_is_found_and_told(root: Path, tmp_path: Path) -> None:
    faces = _faces()
    faces[25] = (faces[1] * 0.9 + 5).astype(np.uint8)  # validation repeats a training face
    manifest = _manifest(faces)
    manifest.loc[3, "label"] = "hapy"
    manifest.loc[4, "label"] = None
    manifest.loc[50, "label"] = "sad"
    manifest.loc[51, "true_label"] = "hungry"
    manifest.loc[7, ["split", "identity"]] = ["training", None]
    manifest.loc[6, "face_id"] = manifest.loc[5, "face_id"]
    manifest.loc[31, "face_id"] = manifest.loc[8, "face_id"] + "-2"
    manifest.loc[32, "identity"] = manifest.loc[10, "identity"]
    manifest.loc[12, "path"] = manifest.loc[13, "path"]
    manifest.loc[[14, 15], "brightness"] = 3.5
    manifest.loc[[16, 17], "contrast"] = 1.25
    manifest.loc[manifest["label"].eq("sad") & manifest["split"].eq("train"), "label"] = "happy"
    kinds = ["unreadable", "no_face", "duplicate"]
    aside = pd.DataFrame(
        {"source": "mine", "path": [f"bad{i}.png" for i in range(3)], "kind": kinds, "reason": "x"}
    )
    with pytest.raises(MienError) as caught:
        run(root, tmp_path, manifest, faces, aside)
    message = str(caught.value)
    for title, failing, row, value in [
        ("Labels are known expressions", 1, "3.png", "hapy"),
        ("Every training, validation and test face has a label", 1, "4.png", None),
        ("No unlabelled face has a label", 1, "50.png", "sad"),
        ("True labels are known expressions, or other", 1, "51.png", "hungry"),
        ("split is train, validation, test or none", 1, "7.png", "training"),
        ("No two faces have the same face_id", 2, "5.png", "0000000000000005"),
        ("No two faces have the same source and path", 2, "13.png", None),
        ("No picture is on two sides of a split", 2, "8.png", "8 in test, train"),
        ("No person is on two sides of a split", 3, "10.png", "mine/p5 in test, train"),
        ("No training or unlabelled face nearly repeats", 1, "1.png", "mine/25.png"),
        ("(validate.brightness)", 2, "14.png", "3.5"),
        ("(validate.min_contrast)", 2, "16.png", "1.25"),
        ("(validate.min_faces_per_expression)", 1, "sad", "0"),
        ("(validate.max_quarantine_share)", 2, "bad0.png", "unreadable"),
    ]:
        found = re.search(rf"- [^\n]*{re.escape(title)}[^\n]*(\n    [^\n]*)+", message)
        assert found, f"{title} is not told:\n{message}"
        assert f": {failing} of " in found[0], found[0]
        assert row in found[0]
        assert value is None or value in found[0], found[0]
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert verdict["success"] is False
    assert len(verdict["failed"]) == message.count("\n- ")
    assert verdict["failed"]["Labels are known expressions"] == {
        "failing": 1,
        "seen": 60,
        "rows": [{"where": "mine/3.png", "value": "hapy"}],
    }
    page = (tmp_path / "report" / "index.html").read_text()  # readable although it failed
    assert "not fit for training" in page
    assert "hapy" in page


def test_the_same_name_in_two_sources_is_two_people(root: Path, tmp_path: Path) -> None:
    faces = _faces()
    manifest = _manifest(faces)
    manifest.loc[30:39, "source"] = "other"
    manifest.loc[30:39, "identity"] = "p1"
    run(root, tmp_path, manifest, faces)


def test_pictures_are_counted_and_not_the_faces_in_them(root: Path, tmp_path: Path) -> None:
    faces = _faces()
    manifest = _manifest(faces)
    lines = [f"faces.csv#{i + 2}" for i in range(40)]  # as FER2013's are named
    manifest["path"] = lines + [f"crowd.jpg#{i + 1}" for i in range(20)]
    aside = pd.DataFrame([["mine", "empty.jpg", "no_face", "none"]], columns=list(NOTHING))
    with pytest.raises(MienError, match=r"show no face .* 1 of 42 rows break this"):
        run(root, tmp_path, manifest, faces, aside)


def test_a_few_may_be_out_of_range(root: Path, tmp_path: Path) -> None:
    faces = _faces()
    manifest = _manifest(faces)
    manifest.loc[14, "brightness"] = 3.5  # 1 of 60 is under 2%
    run(root, tmp_path, manifest, faces)
