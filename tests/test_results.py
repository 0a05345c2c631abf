"""The table that ends a run."""

from pathlib import Path

from mien.files import write_json, write_text
from mien.results import (
    Run,
    champion,
    comparison,
    previous_run,
    remember,
    summary,
    this_run,
)

PRETRAINED = {"accuracy": 0.7, "mean_class_accuracy": 0.65, "macro_f1": 0.6, "ece": 0.12}
FINAL = {"accuracy": 0.765, "mean_class_accuracy": 0.7, "macro_f1": 0.59, "ece": 0.05}


def test_the_table_by_hand(tmp_path: Path):
    write_json(
        tmp_path / "metrics/evaluate.json",
        {"faces": {"pretrained": PRETRAINED, "final": FINAL, "comparison": {"p": 0.01}}},
    )
    write_json(tmp_path / "metrics/relabel.json", {"coverage": 0.6, "precision": 0.911})
    write_text(tmp_path / "reports/evaluation/index.html", "")
    assert (
        summary(tmp_path)
        == f"""\
| test set | measure                 | pretrained | final | change |
| -------- | ----------------------- | ---------: | ----: | -----: |
| faces    | accuracy                |      70.0% | 76.5% |   +6.5 |
| faces    | mean-class accuracy     |      65.0% | 70.0% |   +5.0 |
| faces    | macro-F1                |      60.0% | 59.0% |   -1.0 |
| faces    | ECE, before calibration |      12.0% |  5.0% |   -7.0 |

Pseudo-labels: 60.0% of the unlabelled faces accepted, 91.1% of them right (of those whose truth \
is known).

Report: {tmp_path}/reports/evaluation/index.html"""
    )


def test_what_has_no_value_is_a_dash(tmp_path: Path):
    write_json(
        tmp_path / "metrics/evaluate.json",
        {"faces": {"pretrained": PRETRAINED | {"macro_f1": None}, "final": FINAL}},
    )
    write_json(tmp_path / "metrics/relabel.json", {"coverage": 0.6, "precision": None})
    text = summary(tmp_path)
    assert "| faces    | macro-F1                |          – | 59.0% |      – |" in text
    assert text.endswith("60.0% of the unlabelled faces accepted.")


def test_a_loss_that_rounds_to_nothing_has_no_sign_of_its_own(tmp_path: Path):
    close = {"faces": {"pretrained": PRETRAINED, "final": PRETRAINED | {"accuracy": 0.6996}}}
    write_json(tmp_path / "metrics/evaluate.json", close)
    line = "| faces    | accuracy                |      70.0% | 70.0% |   +0.0 |"
    assert line in summary(tmp_path)


def test_nothing_measured_is_an_empty_summary(tmp_path: Path):
    assert summary(tmp_path) == ""


def test_beside_another_run_by_hand():
    run = Run("new", {"faces accuracy": 0.75}, {"seed": 0, "relabel.coverage": 0.5})
    before = Run("old", {"faces accuracy": 0.7}, {"seed": 0, "relabel.coverage": 0.6})
    assert (
        comparison(run, {"previous run": before, "champion": None})
        == """\
No champion to compare with.

Previous run: old

| final model    | this run | previous run | change |
| -------------- | -------: | -----------: | -----: |
| faces accuracy |    75.0% |        70.0% |   +5.0 |

| setting          | this run | previous run |
| ---------------- | -------- | -----------: |
| relabel.coverage | 0.5      |          0.6 |"""
    )
    assert comparison(run, {"previous run": run}).endswith("none differs.")


def test_a_run_is_remembered_with_what_the_lock_says_of_its_settings(tmp_path: Path):
    write_json(
        tmp_path / "metrics/evaluate.json", {"faces": {"pretrained": PRETRAINED, "final": FINAL}}
    )
    write_text(
        tmp_path / "dvc.lock",
        "stages: {a: {params: {params.yaml: {seed: 1, cluster: {rounds: 4}}}}}",
    )
    run = this_run(tmp_path, "mine")
    assert run.figures["faces accuracy"] == 0.765
    assert run.settings == {"seed": 1, "cluster.rounds": 4}
    assert previous_run(tmp_path) is None
    remember(tmp_path, run)
    assert previous_run(tmp_path) == run


def test_the_champion_is_read_from_its_card_in_the_model_store(tmp_path: Path):
    import bentoml

    assert champion(tmp_path) is None
    write_json(tmp_path / "releases/champion.json", {"tag": "mien:0123abcd"})
    assert champion(tmp_path) is None  # another machine's store holds it
    (tmp_path / "releases/champion.json").write_text("<<<<<<< HEAD")
    assert champion(tmp_path) is None
    write_json(tmp_path / "releases/champion.json", {"tag": "mien:0123abcd"})
    card = {
        "results": [{"test_set": "faces", "accuracy": {"value": 0.8, "low": 0.7, "high": 0.9}}],
        "training": {"run": {"seed": 0}, "relabel": {"coverage": 0.6}},
        "model": {"expressions": ["happy", "sad"]},
    }
    with bentoml.models.create("mien:0123abcd") as model:
        write_json(Path(model.path) / "card.json", card)
    assert champion(tmp_path) == Run(
        "mien:0123abcd",
        {"faces accuracy": 0.8},
        {"seed": 0, "relabel.coverage": 0.6, "expressions": ["happy", "sad"]},
    )


def test_a_comparison_that_cannot_be_read_fails_no_run(tmp_path: Path):
    for text in ("<<<<<<< HEAD\n", "{}", "[]"):
        write_text(tmp_path / "releases/champion.json", text)
        write_text(tmp_path / ".mien/last_run.json", text)
        assert champion(tmp_path) is None
        assert previous_run(tmp_path) is None
