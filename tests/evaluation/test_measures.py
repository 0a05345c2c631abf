"""Everything measured on a test set, also where there is hardly anything to measure."""

import json

import numpy as np
import pytest

from mien.evaluation.measures import Predictions, measure_test_set
from mien.params.service import EvaluateSettings

EXPRESSIONS = ["happy", "sad", "neutral"]
SETTINGS = EvaluateSettings(bootstrap=50, calibration_bins=15, coverages=[0.5, 1.0], mistakes=3)


def _predictions(truth: list[int], guesses: list[int], confidence: float = 0.8) -> Predictions:
    probabilities = np.full((len(truth), 3), (1 - confidence) / 2)
    probabilities[np.arange(len(truth)), guesses] = confidence
    return Predictions(np.array(truth), probabilities, probabilities, {"noisy": np.array(guesses)})


def test_by_hand():
    truth = [0, 0, 1, 1, 2]
    before = _predictions(truth, [0, 1, 1, 0, 0])
    after = _predictions(truth, [0, 0, 1, 1, 0])
    measures = measure_test_set(before, after, EXPRESSIONS, SETTINGS, seed=0)
    assert measures["pretrained"]["accuracy"] == pytest.approx(2 / 5)
    assert measures["final"]["accuracy"] == pytest.approx(4 / 5)
    assert measures["final"]["mean_class_accuracy"] == pytest.approx(2 / 3)
    assert measures["final"]["ece"] == pytest.approx(0)
    assert measures["pretrained"]["ece"] == pytest.approx(0.4)
    assert measures["final"]["expressions"]["neutral"]["recall"] == 0
    assert measures["final"]["expressions"]["neutral"]["precision"] is None
    assert set(measures["final"]["accuracy_at_coverage"]) == {"50%", "100%"}
    comparison = measures["comparison"]
    assert comparison["accuracy_difference"] == pytest.approx(2 / 5)
    assert comparison["mcnemar"]["only_second_right"] == 2
    # resampled within each expression, the second model is right on the same four of five
    assert measures["final"]["intervals"]["accuracy"] == {"low": 4 / 5, "high": 4 / 5}
    assert measures["pretrained"]["intervals"]["accuracy"]["low"] == 0
    difference = comparison["intervals"]["accuracy_difference"]
    assert difference["low"] >= 0
    assert difference["high"] == pytest.approx(4 / 5)


def test_the_surest_are_answered_first():
    probabilities = np.array([[0.2, 0.8], [0.9, 0.1], [0.55, 0.45], [0.4, 0.6]])
    said = Predictions(np.array([1, 0, 1, 0]), probabilities, probabilities[::-1], {})
    found = measure_test_set(said, said, ["happy", "sad"], SETTINGS, seed=0)["final"]
    assert found["accuracy_at_coverage"] == {"50%": 1, "100%": 1 / 2}
    assert found["aurc"] == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)
    assert found["ece"] == pytest.approx((0.2 + 0.1 + 0.55 + 0.6) / 4)  # in a bin each
    of_truth = [0.8, 0.9, 0.45, 0.4]
    assert found["negative_log_likelihood"] == pytest.approx(-np.log(of_truth).mean())


def test_accuracy_on_worse_pictures():
    probabilities = np.full((4, 3), 1 / 3)
    worse = {"noisy": np.array([0, 1, 1, 1]), "masked": np.array([2, 2, 2, 2])}
    said = Predictions(np.array([0, 1, 1, 0]), probabilities, probabilities, worse)
    measures = measure_test_set(said, said, EXPRESSIONS, SETTINGS, seed=0)
    assert measures["final"]["degraded_accuracy"] == {"noisy": 3 / 4, "masked": 0}


def test_a_coverage_of_parts_of_a_percent_keeps_its_name():
    settings = SETTINGS.model_copy(update={"coverages": [0.07, 0.955, 0.96, 0.995]})
    said = _predictions([0, 1, 2], [0, 1, 1])
    found = measure_test_set(said, said, EXPRESSIONS, settings, seed=0)["final"]
    assert list(found["accuracy_at_coverage"]) == ["7%", "95.5%", "96%", "99.5%"]


def test_the_mirror_is_averaged_in():
    probabilities = np.array([[0.6, 0.4, 0.0]])
    unsure = Predictions(np.array([1]), probabilities, np.array([[0.1, 0.9, 0.0]]), {})
    measures = measure_test_set(unsure, unsure, EXPRESSIONS, SETTINGS, seed=0)
    assert measures["final"]["accuracy"] == 0
    assert measures["final"]["flip_tta_accuracy"] == 1


def test_the_seed_decides_the_intervals():
    rng = np.random.default_rng(0)
    said = _predictions(rng.integers(3, size=40).tolist(), rng.integers(3, size=40).tolist())
    one, same, other = (
        measure_test_set(said, said, EXPRESSIONS, SETTINGS, seed)["final"]["intervals"]
        for seed in (1, 1, 2)
    )
    assert one == same != other


@pytest.mark.parametrize(
    ("truth", "guesses"),
    [
        pytest.param([1], [1], id="one face, right"),
        pytest.param([1], [2], id="one face, wrong"),
        pytest.param([0, 0, 0], [0, 1, 0], id="one expression"),
        pytest.param([0, 1, 2], [0, 1, 2], id="all right"),
        pytest.param([0, 1, 2], [1, 2, 0], id="all wrong"),
    ],
)
@pytest.mark.parametrize("confidence", [0.8, 1.0])
def test_odd_test_sets_give_json_without_nan(truth, guesses, confidence):
    said = _predictions(truth, guesses, confidence)
    measures = measure_test_set(said, said, EXPRESSIONS, SETTINGS, seed=0)
    text = json.dumps(measures, allow_nan=False)
    assert json.loads(text) == measures
    for key in ("accuracy", "macro_f1", "mean_class_accuracy", "ece"):
        assert 0 <= measures["final"][key] <= 1
