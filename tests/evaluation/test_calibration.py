"""Temperature and abstention on faces whose right answer is known by construction."""

import numpy as np
import pytest
from scipy.special import softmax

from mien.evaluation.calibration import (
    MAX_TEMPERATURE,
    calibrate,
    choose_abstention,
    fit_temperature,
)


def _sharpened(factor: float, faces: int = 6000) -> tuple[np.ndarray, np.ndarray]:
    """Logits ``factor`` times those that the labels were drawn from."""
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2, size=(faces, 4))
    chances = softmax(logits, axis=1).cumsum(axis=1)
    return factor * logits, (rng.random((faces, 1)) > chances).sum(axis=1)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_overconfidence(factor):
    assert fit_temperature(*_sharpened(factor)) == pytest.approx(factor, rel=0.06)


def test_calibration_error_falls():
    calibration = calibrate(*_sharpened(3.0), risk=0.1)
    assert calibration.ece_before > 0.1
    assert calibration.ece_after < 0.03
    same = calibrate(*_sharpened(1.0), risk=0.1)  # the threshold is of the calibrated confidence
    assert calibration.abstention.threshold == pytest.approx(same.abstention.threshold, abs=1e-3)


def test_all_right_and_all_wrong_stay_within_bounds():
    logits = np.eye(3) * 4
    assert 0.1 <= fit_temperature(logits, np.array([0, 1, 2])) < 0.11
    assert MAX_TEMPERATURE * 0.95 < fit_temperature(logits, np.array([1, 2, 0])) <= MAX_TEMPERATURE


def test_no_faces_is_no_calibration():
    assert calibrate(np.empty((0, 3)), np.empty(0, int), risk=0.1) is None


def test_abstention_by_hand():
    confidence = np.linspace(1, 0.01, 100)
    correct = np.arange(100) % 10 != 9  # each tenth is wrong …
    correct[50:] = False  # … and so are all below
    chosen = choose_abstention(confidence, correct, risk=0.1)
    assert (chosen.coverage, chosen.reached) == (0.5, True)
    assert chosen.threshold == pytest.approx((confidence[49] + confidence[50]) / 2)
    assert chosen.risk == pytest.approx(0.1)
    assert chosen.risk < chosen.risk_bound < 0.25
    answered = confidence >= chosen.threshold
    assert 1 - correct[answered].mean() == pytest.approx(chosen.risk)


def test_everything_is_answered_where_that_is_good_enough():
    chosen = choose_abstention(np.full(40, 0.6), np.ones(40, bool), risk=0.1)
    assert (chosen.threshold, chosen.coverage, chosen.reached) == (0.0, 1.0, True)
    assert chosen.risk_bound == pytest.approx(1 - 0.05 ** (1 / 40))  # Clopper and Pearson's


def test_a_risk_as_large_as_is_allowed_is_allowed():
    correct = np.arange(40) < 28  # to a computer 1 - 0.7 is more than 0.3
    assert choose_abstention(np.linspace(1, 0.5, 40), correct, risk=0.3).coverage == 1


def test_a_few_right_answers_are_not_believed():
    """The risk is least at the ten surest; of at least twenty faces at twenty-five."""
    correct = np.r_[np.ones(10, bool), np.zeros(5, bool), np.ones(10, bool), np.zeros(25, bool)]
    chosen = choose_abstention(np.linspace(1, 0, 50), correct, risk=0.1)
    assert (chosen.coverage, chosen.risk, chosen.reached) == (0.5, pytest.approx(0.2), False)


def test_a_risk_out_of_reach_is_said():
    chosen = choose_abstention(np.linspace(1, 0, 50), np.zeros(50, bool), risk=0.1)
    assert (chosen.risk, chosen.risk_bound, chosen.reached) == (1.0, 1.0, False)


def test_equal_confidences_are_not_split():
    confidence = np.repeat([0.9, 0.5], 30)
    correct = np.concatenate([np.ones(40, bool), np.zeros(20, bool)])
    assert choose_abstention(confidence, correct, risk=0.1).coverage == 0.5
