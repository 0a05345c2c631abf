"""Measures against numbers worked out by hand, and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from mien.evaluation.metrics import (
    accuracy_at,
    area_under_risk_coverage,
    bin_reliability,
    count_confusion,
    expected_calibration_error,
    negative_log_likelihood,
    score_classes,
    score_overall,
    trace_selective,
)

TRUTH = np.array([0, 0, 0, 0, 1, 1, 2, 2])
PREDICTED = np.array([0, 0, 0, 1, 1, 2, 2, 0])


def test_confusion_by_hand():
    expected = [[3, 1, 0], [0, 1, 1], [1, 0, 1]]
    assert count_confusion(TRUTH, PREDICTED, 3).tolist() == expected


def test_scores_by_hand():
    confusion = count_confusion(TRUTH, PREDICTED, 3)
    overall, classes = score_overall(confusion), score_classes(confusion)
    assert overall.accuracy == pytest.approx(5 / 8)
    assert overall.mean_class_accuracy == pytest.approx((3 / 4 + 1 / 2 + 1 / 2) / 3)
    assert overall.macro_f1 == pytest.approx((6 / 8 + 2 / 4 + 2 / 4) / 3)
    assert classes.precision == pytest.approx([3 / 4, 1 / 2, 1 / 2])
    assert classes.recall == pytest.approx([3 / 4, 1 / 2, 1 / 2])
    assert classes.faces.tolist() == [4, 2, 2]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
def test_scores_agree_with_scikit_learn(pairs):
    truth, predicted = np.array(pairs).T
    overall = score_overall(count_confusion(truth, predicted, 5))
    present = np.unique(truth)
    assert overall.accuracy == pytest.approx(sk.accuracy_score(truth, predicted))
    recall = sk.recall_score(truth, predicted, labels=present, average="macro", zero_division=0)
    assert overall.mean_class_accuracy == pytest.approx(recall)
    f1 = sk.f1_score(truth, predicted, labels=present, average="macro", zero_division=0)
    assert overall.macro_f1 == pytest.approx(f1)


def test_what_is_not_defined_is_nan():
    classes = score_classes(count_confusion(np.array([0, 0]), np.array([0, 1]), 3))
    assert np.isnan(classes.recall).tolist() == [False, True, True]
    assert np.isnan(classes.precision).tolist() == [False, False, True]
    assert np.isnan(classes.f1).tolist() == [False, True, True]


def test_scores_of_many_confusions_at_once():
    one, other = count_confusion(TRUTH, PREDICTED, 3), count_confusion(TRUTH, TRUTH, 3)
    both = score_overall(np.stack([one, other]))
    assert both.accuracy.tolist() == [5 / 8, 1]
    assert both.macro_f1[0] == pytest.approx(score_overall(one).macro_f1)


def test_calibration_error_by_hand():
    # Two bins: [0, 0.5) holds 0.2 and 0.4, one of them right; [0.5, 1] holds 0.9, 1.0, 1.0.
    confidence = np.array([0.2, 0.4, 0.9, 1.0, 1.0])
    correct = np.array([True, False, True, True, False])
    bins = bin_reliability(confidence, correct, 2)
    assert bins.count.tolist() == [2, 3]
    assert bins.confidence == pytest.approx([0.3, 2.9 / 3])
    assert bins.accuracy == pytest.approx([0.5, 2 / 3])
    expected = 2 / 5 * 0.2 + 3 / 5 * (2.9 / 3 - 2 / 3)
    assert expected_calibration_error(bins) == pytest.approx(expected)


def test_empty_bins_are_nan_and_count_nothing():
    bins = bin_reliability(np.array([1.0]), np.array([True]), 15)
    assert bins.count.sum() == 1
    assert np.isnan(bins.accuracy).sum() == 14
    assert expected_calibration_error(bins) == 0


def test_negative_log_likelihood_agrees_with_scikit_learn():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
    truth = np.array([0, 2, 2])
    expected = sk.log_loss(truth, probabilities, labels=[0, 1, 2])
    assert negative_log_likelihood(probabilities, truth) == pytest.approx(expected)


def test_a_certain_mistake_is_not_infinite():
    assert np.isfinite(negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1])))


def test_selective_accuracy_by_hand():
    confidence = np.array([0.5, 0.9, 0.7, 0.6])
    correct = np.array([True, True, False, False])
    curve = trace_selective(confidence, correct)
    assert curve.threshold.tolist() == [0.9, 0.7, 0.6, 0.5]
    assert curve.accuracy == pytest.approx([1, 1 / 2, 1 / 3, 2 / 4])
    assert accuracy_at(curve, 0.25) == 1
    assert accuracy_at(curve, 0.3) == 0.5
    assert accuracy_at(curve, 1.0) == 0.5
    assert area_under_risk_coverage(curve) == pytest.approx((0 + 1 / 2 + 2 / 3 + 1 / 2) / 4)


def test_faces_of_equal_confidence_do_not_count_by_their_order():
    """Test faces lie sorted by expression: of a model that always says the first all come first."""
    confidence, right = (
        np.array([0.9, 0.5, 0.5, 0.5, 0.5]),
        np.array([False, True, True, True, False]),
    )
    expected = [0, 0.75 / 2, 1.5 / 3, 2.25 / 4, 3 / 5]
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0]):
        curve = trace_selective(confidence[order], right[order])
        assert curve.accuracy == pytest.approx(expected)
        assert curve.threshold.tolist() == [0.9, 0.5, 0.5, 0.5, 0.5]


def test_coverage_is_not_fooled_by_rounding():
    curve = trace_selective(np.linspace(1, 0, 10), np.array([True] * 7 + [False] * 3))
    assert accuracy_at(curve, 0.7) == 1
