"""What the benchmarks' scripts note beside the figures that they read."""

import importlib
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from scipy.ndimage import gaussian_filter

from mien.data.manifest import read_manifest, write_manifest
from mien.files import write_json, write_text
from mien.learning.pseudo_labels import POSTERIOR
from mien.params import load_params
from mien.workspace import complete_params
from tests.stages.conftest import SMALL, fill

ROOT = Path(__file__).parents[1]
MEASURES = {"accuracy": 0.5, "macro_f1": 0.5, "mean_class_accuracy": 0.5, "ece": 0.1}


@pytest.fixture
def pipeline(tmp_path, monkeypatch):
    """`benchmarks/pipeline.py`, whose runs write the same figures each time."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("pipeline")
    monkeypatch.setattr(module, "workspace", lambda name, seed: tmp_path / f"{name}-{seed}")

    def run(command, **_):
        out = Path(command[command.index("--out") + 1])
        write_text(out / "params.yaml", "seed: 0\n")
        measures = {"pretrained": MEASURES, "final": MEASURES, "comparison": {}}
        write_json(out / "metrics" / "evaluate.json", {"drawn": measures})
        audit = {"coverage": 0.5, "precision": 0.5, "expressions": {}}
        write_json(out / "metrics" / "relabel.json", audit)
        write_json(out / "metrics" / "cluster.json", {})

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(module, "precisions", lambda out: {})
    return module


def test_only_a_run_that_was_not_stopped_is_timed(pipeline, tmp_path):
    whole = pipeline.run("default", None, 0, bound=False)
    assert whole["seconds"] >= 0
    again = pipeline.run("default", None, 0, bound=False)
    assert again["seconds"] == whole["seconds"]

    (tmp_path / "default-1").mkdir()  # what one that was stopped has left
    assert "seconds" not in pipeline.run("default", None, 1, bound=False)


def test_precision_at_half_is_of_the_faces_whose_truth_is_known(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("pipeline")
    write_text(tmp_path / "params.yaml", yaml.safe_dump(complete_params(SMALL)))
    params = load_params(tmp_path / "params.yaml")
    prepared, names = tmp_path / "data/prepared", params.expressions
    prepared.mkdir(parents=True)
    fill(prepared, params)
    table = read_manifest(prepared / "manifest.parquet")
    hidden = table.index[table["role"].eq("unlabelled")]  # 25 faces; of 21 the truth is known
    table.loc[hidden[:21], "true_label"] = [names[number % 7] for number in range(21)]
    write_manifest(prepared / "manifest.parquet", table)
    (tmp_path / "models").mkdir()
    (prepared / "pretrain.safetensors").rename(tmp_path / "models/pretrain.safetensors")

    # each expression has three such faces, so that one counts; all are found but the first's,
    # and the faces that nobody knows are called surer than any
    posterior = np.full((25, 7), 2.0)
    posterior[:21] = np.tile(np.eye(7), (3, 1))
    posterior[[0, 7, 14], 0], posterior[1, 0] = 0.2, 0.9
    columns = dict(zip([POSTERIOR + name for name in names], posterior.T, strict=True))
    rows = pd.DataFrame({"face_id": table.loc[hidden, "face_id"], **columns})
    (tmp_path / "data/cluster").mkdir()
    rows[::-1].to_parquet(tmp_path / "data/cluster/assignments.parquet")

    found = module.precisions(tmp_path)
    assert found["cluster"] == dict(zip(names, [0.0, *[1.0] * 6], strict=True))
    assert list(found["head"]) == names


def test_other_seeds_stay_unless_their_settings_were_others(pipeline, tmp_path, capsys):
    learning = {name: {} for name in pipeline.LEARNING}
    before = learning | {"cluster": {"epochs": 2, "gone": 1}, "promotion": {"min_accuracy": 0.5}}
    write_json(tmp_path / "kept.json", {"settings": before, "runs": [{"seed": 0}, {"seed": 3}]})
    now = before | {"cluster": {"epochs": 2, "network": "accnn"}, "promotion": {}}
    assert set(pipeline.earlier_runs(tmp_path / "kept.json", now)) == {0, 3}
    assert pipeline.earlier_runs(tmp_path / "none.json", now) == {}
    assert pipeline.earlier_runs(tmp_path / "kept.json", now | {"cluster": {"epochs": 3}}) == {}
    assert "these settings were others: cluster" in capsys.readouterr().out


def test_a_run_in_a_fresh_clone_takes_no_other_from_the_committed_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    results = importlib.import_module("_results")
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    ours = [{"arm": "b", "draw": 0, "test": 0.2}]
    assert results.with_earlier(ours, "some", ("arm", "draw")) == ours
    theirs = [{"arm": "b", "draw": draw, "test": 0.1} for draw in (0, 1)]
    write_json(tmp_path / "some.json", {"runs": [*theirs, {"arm": "a", "draw": 5, "test": 0.3}]})
    found = results.with_earlier(iter(ours), "some", ("arm", "draw"))
    assert [(run["arm"], run["draw"], run["test"]) for run in found] == [
        ("a", 5, 0.3), ("b", 0, 0.2), ("b", 1, 0.1)
    ]  # fmt: skip


def test_faces_of_fer2013_that_come_in_two_splits_are_found(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    fer2013 = importlib.import_module("_fer2013")
    noise = np.random.default_rng(0).normal(size=(5, 48, 48))
    shapes = np.array([gaussian_filter(each, 3) for each in noise])
    a, b, c, d, e = (128 + 60 * shapes / shapes.std()).clip(0, 255).astype(np.uint8)
    pictures = {
        "test/happy/PrivateTest_1.png": a,
        "test/happy/PrivateTest_2.png": b,
        "test/sad/PrivateTest_3.png": c,
        "test/sad/PublicTest_4.png": a,
        "train/happy/Training_5.png": a,
        "train/happy/Training_6.png": d,
        "train/happy/Training_7.png": d,
        "train/sad/Training_8.png": b // 2 + 40,  # darker, and paler
        "train/sad/Training_9.png": e,
    }
    with zipfile.ZipFile(tmp_path / "fer2013.zip", "w") as archive:
        for path, pixels in pictures.items():
            with archive.open(path, "w") as file:
                Image.fromarray(pixels).save(file, "png")
    table, faces = fer2013.read_official(tmp_path, ["happy", "sad"])
    assert table["path"].tolist() == list(pictures)
    assert (faces[table["row"]] == np.array(list(pictures.values()))).all()
    left = {path.rpartition("_")[2][0] for path in fer2013.without_copies(table, faces)["path"]}
    assert left == set("12369")
    assert fer2013.has_copy(table, faces, "test").tolist() == [True, True, False]
    assert fer2013.has_copy(table, faces, "validation").tolist() == [True]

    right = np.array([True, True, False])
    assert fer2013.by_copies(right, np.array([True, False, False])) == {
        "accuracy": 2 / 3, "accuracy_copied": 1.0, "accuracy_not_copied": 0.5
    }  # fmt: skip
