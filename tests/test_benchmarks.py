"""What the benchmarks' scripts note beside the figures that they read."""

import importlib
import subprocess
from pathlib import Path

import pytest

from mien.files import write_json, write_text

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
    return module


def test_only_a_run_that_was_not_stopped_is_timed(pipeline, tmp_path):
    whole = pipeline.run("default", None, 0, bound=False)
    assert whole["seconds"] >= 0
    again = pipeline.run("default", None, 0, bound=False)
    assert again["seconds"] == whole["seconds"]

    (tmp_path / "default-1").mkdir()  # what one that was stopped has left
    assert "seconds" not in pipeline.run("default", None, 1, bound=False)


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
