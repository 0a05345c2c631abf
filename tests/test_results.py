"""The table that ends a run."""

from pathlib import Path

from mien.files import write_json, write_text
from mien.results import summary

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
| faces    | calibration error (ECE) |      12.0% |  5.0% |   -7.0 |

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


def test_nothing_measured_is_an_empty_summary(tmp_path: Path):
    assert summary(tmp_path) == ""
