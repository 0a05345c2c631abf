"""Intervals that cover what they should, and McNemar's test against SciPy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from mien.evaluation.comparison import (
    Interval,
    McNemar,
    accuracy_difference,
    bootstrap_confusions,
    difference_intervals,
    mcnemar,
    percentile_interval,
    score_differences,
    score_intervals,
)
from mien.evaluation.metrics import count_confusion, score_overall


def test_resampling_keeps_the_size_of_each_expression():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(4, size=(2, 90))
    confusions = bootstrap_confusions(truth, [predicted, truth], 4, 50, rng)
    assert confusions.shape == (2, 50, 4, 4)
    assert (confusions.sum(axis=-1) == np.bincount(truth, minlength=4)).all()


def test_resampling_is_that_of_faces():
    """Mean and deviation of the resampled accuracy against faces drawn one by one."""
    rng = np.random.default_rng(1)
    truth = np.repeat([0, 1, 2], [60, 30, 10])
    predicted = np.where(rng.random(100) < 0.6, truth, rng.integers(3, size=100))
    fast = score_overall(bootstrap_confusions(truth, [predicted], 3, 4000, rng)[0])
    slow = []
    for _ in range(4000):
        drawn = np.concatenate([rng.choice(np.flatnonzero(truth == c), (truth == c).sum())
                                for c in range(3)])  # fmt: skip
        slow.append(score_overall(count_confusion(truth[drawn], predicted[drawn], 3)))
    for name in ("accuracy", "macro_f1"):
        one, other = getattr(fast, name), np.array([getattr(each, name) for each in slow])
        assert one.mean() == pytest.approx(other.mean(), abs=0.004)
        assert one.std() == pytest.approx(other.std(), rel=0.08)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(2)
    truth, covered = np.repeat([0, 1], 100), 0
    for _ in range(200):
        predicted = np.where(rng.random(200) < 0.7, truth, 1 - truth)
        interval = score_intervals(bootstrap_confusions(truth, [predicted], 2, 400, rng)[0])
        covered += interval["accuracy"].low <= 0.7 <= interval["accuracy"].high
    assert 0.89 <= covered / 200 <= 0.99


def test_differences_are_paired():
    """The same predictions twice differ by nothing, and surely so."""
    rng = np.random.default_rng(3)
    truth, predicted = rng.integers(3, size=(2, 60))
    one, other = bootstrap_confusions(truth, [predicted, predicted.copy()], 3, 100, rng)
    interval = difference_intervals(one, other)["accuracy"]
    assert (interval.low, interval.high) == (0, 0)


def test_difference_is_the_second_less_the_first():
    wrong, right = np.array([[0, 4], [4, 0]]), np.array([[4, 0], [0, 4]])
    assert score_differences(wrong, right).accuracy == 1
    assert difference_intervals(wrong[None], right[None])["accuracy"] == Interval(1, 1)


def test_an_interval_is_the_middle_95_percent():
    assert percentile_interval(np.arange(1001.0)) == Interval(25, 975)


def _models(only_first: int, only_second: int) -> tuple[np.ndarray, np.ndarray]:
    first = np.array([True] * only_first + [False] * only_second + [True, False])
    second = np.array([False] * only_first + [True] * only_second + [True, False])
    return first, second


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_agrees_with_scipy(only_first, only_second):
    result = mcnemar(*_models(only_first, only_second))
    assert (result.only_first_right, result.only_second_right) == (only_first, only_second)
    discordant = only_first + only_second
    expected = binomtest(only_first, discordant).pvalue if discordant else 1.0
    assert result.exact_p == pytest.approx(expected)
    assert 0 < result.mid_p <= result.exact_p <= 1


def test_mid_p_by_hand():
    # 1 against 5: 2 · (P(0) + ½ P(1)) of a fair coin thrown 6 times.
    assert mcnemar(*_models(1, 5)).mid_p == pytest.approx(2 * (1 + 6 / 2) / 64)
    # 2 against 2: 1 - ½ P(2) of 4 throws.
    assert mcnemar(*_models(2, 2)).mid_p == pytest.approx(1 - 6 / 16 / 2)
    assert mcnemar(*_models(0, 0)).mid_p == 1


def test_the_interval_of_an_accuracy_difference():
    """Agresti and Min's, by hand; and where both are right on the same ten faces it is no point."""
    interval = accuracy_difference(McNemar(3, 9, 1, 1), 98)  # 3.5 and 9.5 of 100
    assert interval.low == pytest.approx(0.06 - 1.95996 * math.sqrt(0.13 - 0.06**2) / 10, abs=1e-5)
    assert interval.high == pytest.approx(0.06 + 1.95996 * math.sqrt(0.13 - 0.06**2) / 10, abs=1e-5)
    same = accuracy_difference(McNemar(0, 0, 1, 1), 10)
    assert same.low == pytest.approx(-1.95996 / 12, abs=1e-5) == -same.high


@pytest.mark.parametrize("faces", [20, 100])
def test_that_interval_covers_the_truth_as_often_as_it_says(faces):
    rng = np.random.default_rng(5)
    shares = [0.12, 0.05, 0.83]
    counts = rng.multinomial(faces, shares, size=2000)
    intervals = [accuracy_difference(McNemar(a, b, 1, 1), faces) for a, b, _ in counts.tolist()]
    covered = np.mean([each.low <= -0.07 <= each.high for each in intervals])
    assert covered >= 0.93
