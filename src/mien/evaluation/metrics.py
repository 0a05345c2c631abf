"""Measures of a classifier on one set of faces. Pure functions on arrays.

Shapes: ``n`` faces, ``C`` expressions. ``truth`` and ``predicted`` hold expression indices in
``0 … C-1``; ``confidence`` is the largest probability of a face. A measure that is not defined on
the given faces (the recall of an expression that has none, say) is NaN here and null in JSON.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]
Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ClassScores:
    """Measures of each expression: float64 ``[C]`` each, ``faces`` int64 ``[C]``."""

    precision: Floats
    recall: Floats
    f1: Floats
    faces: Integers


@dataclass(frozen=True)
class OverallScores:
    """Measures over all expressions; each array has the leading shape of the confusion."""

    accuracy: Floats
    mean_class_accuracy: Floats
    macro_f1: Floats


@dataclass(frozen=True)
class Reliability:
    """Bins of equal width over the confidence: ``[bins]`` each; empty bins hold NaN."""

    confidence: Floats
    accuracy: Floats
    count: Integers


@dataclass(frozen=True)
class SelectiveCurve:
    """Accuracy on the ``k`` most confident faces, for ``k = 1 … n``: ``[n]`` each."""

    coverage: Floats
    accuracy: Floats
    threshold: Floats
    """The confidence of the least confident face that is still answered."""


def count_confusion(truth: Integers, predicted: Integers, classes: int) -> Integers:
    """Confusion counts ``[C, C]``: rows are true expressions, columns predicted ones."""
    pairs = np.bincount(truth * classes + predicted, minlength=classes * classes)
    return pairs.reshape(classes, classes)


def score_classes(confusion: Integers) -> ClassScores:
    """Precision, recall and F1 of each expression from confusion counts ``[C, C]``."""
    hits = np.diagonal(confusion)
    actual, guessed = confusion.sum(axis=1), confusion.sum(axis=0)
    f1 = np.where(actual > 0, _divide(2 * hits, actual + guessed), np.nan)
    return ClassScores(_divide(hits, guessed), _divide(hits, actual), f1, actual)


def score_overall(confusion: Integers) -> OverallScores:
    """Accuracy, mean class accuracy and macro-F1 from confusion counts ``[…, C, C]``.

    The two means run over the expressions that occur in the truth: one that a test set lacks says
    nothing about the classifier.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    actual, guessed = confusion.sum(axis=-1), confusion.sum(axis=-2)
    occurs = actual > 0
    recall = np.where(occurs, _divide(hits, actual), 0)
    f1 = np.where(occurs, _divide(2 * hits, actual + guessed), 0)
    present = occurs.sum(axis=-1)
    return OverallScores(
        accuracy=_divide(hits.sum(axis=-1), actual.sum(axis=-1)),
        mean_class_accuracy=_divide(recall.sum(axis=-1), present),
        macro_f1=_divide(f1.sum(axis=-1), present),
    )


def bin_reliability(confidence: Floats, correct: Booleans, bins: int) -> Reliability:
    """Mean confidence and accuracy of the faces in each of ``bins`` equal intervals of [0, 1]."""
    index = np.clip((confidence * bins).astype(int), 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    return Reliability(
        confidence=_divide(np.bincount(index, weights=confidence, minlength=bins), count),
        accuracy=_divide(np.bincount(index, weights=correct, minlength=bins), count),
        count=count,
    )


def expected_calibration_error(reliability: Reliability) -> float:
    """ECE in [0, 1]: mean over faces of their bin's ``|accuracy - confidence|``.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    gaps = np.nan_to_num(np.abs(reliability.accuracy - reliability.confidence))
    return float(np.average(gaps, weights=reliability.count))


def negative_log_likelihood(probabilities: Floats, truth: Integers) -> float:
    """Mean of ``-log p(true expression)`` in nats; probabilities ``[n, C]`` are floored at 1e-12.

    The floor keeps one confident mistake, whose probability rounds to 0, from making the mean
    infinite.
    """
    of_truth = probabilities[np.arange(len(truth)), truth]
    return float(-np.log(np.maximum(of_truth, 1e-12)).mean())


def trace_selective(confidence: Floats, correct: Booleans) -> SelectiveCurve:
    """Accuracy as the least confident faces are left unanswered, one by one.

    Faces of equal confidence count as their mean, which is what any order of theirs gives on
    average: a test set lies sorted by expression, and that shall not decide.
    """
    confidences, group = np.unique(-confidence, return_inverse=True)
    shares = np.bincount(group, weights=correct) / np.bincount(group)
    group = np.sort(group)
    answered = np.arange(1, len(group) + 1)
    return SelectiveCurve(
        coverage=answered / len(group),
        accuracy=np.cumsum(shares[group]) / answered,
        threshold=-confidences[group],
    )


def accuracy_at(curve: SelectiveCurve, coverage: float) -> float:
    """Accuracy on the ``⌈coverage · n⌉`` most confident faces, ``coverage`` in (0, 1]."""
    faces = len(curve.coverage)
    # The rounding guards against 0.7 · 10 = 7.000000000000001, whose ceiling is 8.
    answered = int(np.ceil(np.round(coverage * faces, 9)))
    return float(curve.accuracy[max(answered, 1) - 1])


def area_under_risk_coverage(curve: SelectiveCurve) -> float:
    """AURC in [0, 1], less is better: the mean of ``1 - accuracy`` over all coverages.

    Source: Geifman, Uziel and El-Yaniv, Bias-Reduced Uncertainty Estimation for Deep Neural
    Classifiers, ICLR 2019.
    """
    return float(1 - curve.accuracy.mean())


def _divide(part: npt.NDArray[np.number], whole: npt.NDArray[np.number]) -> npt.NDArray[np.float64]:
    """``part / whole``, NaN where ``whole`` is 0."""
    result = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    return np.divide(part, whole, out=result, where=whole != 0)
