"""Everything that is measured on one test set, as the values of ``metrics/evaluate.json``."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mien.evaluation.comparison import (
    bootstrap_confusions,
    difference_intervals,
    mcnemar,
    score_differences,
    score_intervals,
)
from mien.evaluation.metrics import (
    Booleans,
    Floats,
    Integers,
    Reliability,
    SelectiveCurve,
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
from mien.params.service import EvaluateSettings

Json = dict[str, Any]


@dataclass(frozen=True)
class Predictions:
    """What one model says of the faces of one test set."""

    truth: Integers
    """``[n]`` true expressions."""
    probabilities: Floats
    """``[n, C]``, rows sum to 1."""
    flipped: Floats
    """``[n, C]``, of the mirrored faces."""
    degraded: Mapping[str, Integers]
    """``[n]`` likeliest expressions of the faces as worse pictures would show them, by kind."""

    @property
    def predicted(self) -> Integers:
        """``[n]`` likeliest expressions."""
        return self.probabilities.argmax(axis=1)

    @property
    def confidence(self) -> Floats:
        """``[n]`` probability of the likeliest expression."""
        return self.probabilities.max(axis=1)

    @property
    def correct(self) -> Booleans:
        """``[n]`` whether the likeliest expression is the true one."""
        return np.asarray(self.predicted == self.truth)

    @property
    def confusion(self) -> Integers:
        """``[C, C]`` counts, rows are true expressions."""
        return count_confusion(self.truth, self.predicted, self.probabilities.shape[1])

    def reliability(self, bins: int) -> Reliability:
        """Confidence against accuracy in ``bins`` equal bins."""
        return bin_reliability(self.confidence, self.correct, bins)

    @property
    def selective(self) -> SelectiveCurve:
        """Accuracy against coverage."""
        return trace_selective(self.confidence, self.correct)


def measure_test_set(
    pretrained: Predictions,
    final: Predictions,
    expressions: Sequence[str],
    settings: EvaluateSettings,
    seed: int,
) -> Json:
    """Both models on one test set, and their comparison; undefined measures are None."""
    first, second = bootstrap_confusions(
        pretrained.truth,
        [pretrained.predicted, final.predicted],
        len(expressions),
        settings.bootstrap,
        np.random.default_rng(seed),
    )
    differences = {
        f"{name}_difference": value
        for name, value in asdict(score_differences(pretrained.confusion, final.confusion)).items()
    }
    return {
        "pretrained": _measure_model(pretrained, expressions, settings, first),
        "final": _measure_model(final, expressions, settings, second),
        "comparison": as_json(
            {
                **differences,
                "intervals": {
                    f"{name}_difference": asdict(interval)
                    for name, interval in difference_intervals(first, second).items()
                },
                "mcnemar": asdict(mcnemar(pretrained.correct, final.correct)),
            }
        ),
    }


def _measure_model(
    predictions: Predictions,
    expressions: Sequence[str],
    settings: EvaluateSettings,
    resampled: Integers,
) -> Json:
    truth, probabilities = predictions.truth, predictions.probabilities
    averaged = (probabilities + predictions.flipped) / 2
    curve = predictions.selective
    by_class = asdict(score_classes(predictions.confusion))
    return as_json(
        {
            "faces": len(truth),
            **asdict(score_overall(predictions.confusion)),
            "flip_tta_accuracy": float((averaged.argmax(axis=1) == truth).mean()),
            "degraded_accuracy": {
                kind: float((guesses == truth).mean())
                for kind, guesses in predictions.degraded.items()
            },
            "ece": expected_calibration_error(predictions.reliability(settings.calibration_bins)),
            "negative_log_likelihood": negative_log_likelihood(probabilities, truth),
            "aurc": area_under_risk_coverage(curve),
            "accuracy_at_coverage": {
                f"{100 * coverage:g}%": accuracy_at(curve, coverage)
                for coverage in settings.coverages
            },
            "intervals": {
                name: asdict(interval) for name, interval in score_intervals(resampled).items()
            },
            "expressions": {
                name: {measure: values[index] for measure, values in by_class.items()}
                for index, name in enumerate(expressions)
            },
        }
    )


def as_json(value: Any) -> Any:
    """Plain Python values, with None where a measure is NaN."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, np.generic | np.ndarray):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
