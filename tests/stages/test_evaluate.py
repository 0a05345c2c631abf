"""The stage `evaluate`, on untrained networks."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score

from mien.data.manifest import read_manifest, write_manifest
from mien.errors import MienError
from mien.evaluation.degradations import DEGRADATIONS
from mien.files import write_text
from mien.model.weights import load_weights, save_weights
from mien.stages.evaluate import find_test_sets
from tests.stages.conftest import run_evaluate


def _run(params, folder):
    run_evaluate(params, folder)
    return json.loads((folder / "evaluate.json").read_text())


def test_what_it_leaves(params, measured):
    metrics = _run(params, measured)["synthetic"]
    predictions = pd.read_parquet(measured / "predictions.parquet")
    assert len(predictions) == 2 * 35
    for model, said in predictions.groupby("model"):
        expected = accuracy_score(said["actual"], said["predicted"])
        assert metrics[model]["accuracy"] == pytest.approx(expected)
        chances = said[[f"p_{name}" for name in params.expressions]].to_numpy()
        assert chances.sum(axis=1) == pytest.approx(1)
        assert chances.max(axis=1) == pytest.approx(said["confidence"].to_numpy())
    final = predictions[predictions["model"] == "final"]

    confusion = pd.read_csv(measured / "plots/evaluate/confusion.csv")
    assert list(confusion) == ["actual", "predicted", "test_set"]
    assert confusion["predicted"].tolist() == final["predicted"].tolist()
    # DVC draws one line for each revision: a second model or test set would zigzag
    reliability = pd.read_csv(measured / "plots/evaluate/reliability.csv")
    assert list(reliability) == ["confidence", "accuracy", "count"]
    assert reliability["count"].sum() == 35
    selective = pd.read_csv(measured / "plots/evaluate/selective.csv")
    assert list(selective) == ["coverage", "accuracy"]
    assert selective["coverage"].is_monotonic_increasing
    assert selective["accuracy"].iloc[-1] == pytest.approx(metrics["final"]["accuracy"], abs=1e-6)
    page = (measured / "report/index.html").read_text(encoding="utf-8")
    assert "Test set: synthetic" in page
    assert page.count('title="') == 3  # the mistakes


def test_the_curves_of_a_larger_network_are_called_so(params, measured):
    stages = {"cluster": params.cluster.model_copy(update={"networks": ["larger"]})}
    write_text(measured / "plots/cluster.csv", "round,loss\n1,0.5\n")
    _run(params.model_copy(update=stages), measured)
    page = (measured / "report/index.html").read_text(encoding="utf-8")
    assert "Learning curves of the cluster (larger network) stage" in page


def test_each_source_is_a_test_set(params, measured):
    table = read_manifest(measured / "manifest.parquet")
    table.loc[table["row"] == 60, "source"] = "other"
    table.loc[table["row"] == 61, "label"] = None
    write_manifest(measured / "manifest.parquet", table)
    metrics = _run(params, measured)
    assert {name: each["final"]["faces"] for name, each in metrics.items()} == {
        "other": 1,
        "synthetic": 33,
    }
    reliability = pd.read_csv(measured / "plots/evaluate/reliability.csv")
    assert reliability["count"].sum() == 34
    assert reliability["confidence"].is_unique
    assert pd.read_csv(measured / "plots/evaluate/selective.csv")["coverage"].is_unique


def test_no_test_faces_says_what_to_add(params, measured):
    table = read_manifest(measured / "manifest.parquet")
    with pytest.raises(MienError, match="test_share"):
        find_test_sets(table[table["role"] != "test"], params.expressions)


def test_weights_for_other_expressions_are_refused(params, measured):
    path = measured / "finetune.safetensors"
    save_weights(path, load_weights(path).model, tuple("abcdefg"), 24)
    with pytest.raises(MienError, match="trained for a, b"):
        _run(params, measured)
    assert not (measured / "evaluate.json").exists()


def test_the_report_shows_names_and_settings_as_they_were_written(params, measured):
    names = ["müde" if name == "happy" else name for name in params.expressions]
    table = read_manifest(measured / "manifest.parquet")
    write_manifest(
        measured / "manifest.parquet", table.assign(label=table["label"].replace("happy", "müde"))
    )
    for name in ("pretrain", "finetune"):
        path = measured / f"{name}.safetensors"
        save_weights(path, load_weights(path).model, tuple(names), 24)
    _run(params.model_copy(update={"expressions": names}), measured)
    page = (measured / "report/index.html").read_text(encoding="utf-8")
    assert "- müde\n" in page


def test_the_same_input_gives_the_same_metrics(params, measured):
    assert _run(params, measured) == _run(params, measured)


def test_worse_pictures_are_judged_as_such(params, measured):
    """A store of blurred faces is right as often as the faces as they are, blurred."""
    degraded = _run(params, measured)["synthetic"]["final"]["degraded_accuracy"]
    assert list(degraded) == list(DEGRADATIONS)
    store = np.load(measured / "faces.npy")
    for kind in ("blurred", "masked"):
        np.save(measured / "faces.npy", DEGRADATIONS[kind]["clear"](store))
        assert _run(params, measured)["synthetic"]["final"]["accuracy"] == degraded[kind]


def test_flipping_flips(params, measured):
    """A store of mirrored faces swaps the two views, so the averaged accuracy stays."""
    before = _run(params, measured)["synthetic"]["final"]
    np.save(measured / "faces.npy", np.load(measured / "faces.npy")[:, :, ::-1])
    after = _run(params, measured)["synthetic"]["final"]
    assert after["flip_tta_accuracy"] == before["flip_tta_accuracy"]
    assert after["negative_log_likelihood"] != before["negative_log_likelihood"]
