"""Confidence that means what it says: a temperature, and the confidence below which to abstain."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import beta

from mien.evaluation.metrics import (
    Booleans,
    Floats,
    Integers,
    bin_reliability,
    expected_calibration_error,
    trace_selective,
)

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.1, 10.0
BINS = 15
MIN_ANSWERED = 20
"""A risk measured on fewer answered faces than this is not believed."""


@dataclass(frozen=True)
class Abstention:
    """Below which confidence to give no answer, and what it cost on the faces it was chosen on."""

    threshold: float
    """In [0, 1]; a face whose largest probability lies below it gets no answer."""
    coverage: float
    """Share of faces answered."""
    risk: float
    """Share of wrong answers among them."""
    risk_bound: float
    """Upper 95% bound of the risk (Clopper-Pearson); a little low, as the threshold was chosen by
    the same faces."""
    reached: bool
    """Whether the risk asked for was reached, on these faces."""


def fit_temperature(logits: Floats, truth: Integers) -> float:
    """The temperature ``T`` that minimises the negative log-likelihood of ``softmax(logits / T)``.

    Bounded to [0.1, 10]: where every face is right the likelihood grows without end as ``T → 0``.
    The likelihood is unimodal in ``log T``.
    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.

    Args:
        logits: ``[n, C]`` of faces that the network was not trained on, ``n ≥ 1``.
        truth: ``[n]`` true expressions.
    """
    faces = np.arange(len(truth))

    def loss(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) / np.exp(log_temperature)
        return float(-log_softmax(scaled, axis=1)[faces, truth].mean())

    bounds = (np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def choose_abstention(confidence: Floats, correct: Booleans, risk: float) -> Abstention:
    """The largest coverage whose share of wrong answers is at most ``risk``.

    Only coverages of at least 20 faces (or of all, where there are fewer) are looked at. Where none
    reaches the risk, the one with the least risk is taken.

    Args:
        confidence: ``[n]`` calibrated confidence of held-out faces, ``n ≥ 1``.
        correct: ``[n]`` whether each was right.
        risk: allowed share of wrong answers, in [0, 1].
    """
    curve = trace_selective(confidence, correct)
    faces = len(confidence)
    risks = 1 - curve.accuracy
    # Faces of equal confidence are answered together: only the last of them is a real choice.
    last_of_ties = np.append(curve.threshold[:-1] > curve.threshold[1:], True)
    allowed = last_of_ties & (np.arange(1, faces + 1) >= min(MIN_ANSWERED, faces))
    candidates = np.flatnonzero(allowed)
    reaching = candidates[risks[candidates] <= risk + 1e-12]
    chosen = int(reaching[-1] if len(reaching) else candidates[np.argmin(risks[candidates])])
    answered, wrong = chosen + 1, round(float(risks[chosen]) * (chosen + 1))
    return Abstention(
        # Midway to the next face, so that rounding elsewhere does not change who is answered.
        threshold=float(curve.threshold[chosen:][:2].mean()) if answered < faces else 0.0,
        coverage=answered / faces,
        risk=float(risks[chosen]),
        risk_bound=1.0 if wrong == answered else float(beta.ppf(0.95, wrong + 1, answered - wrong)),
        reached=bool(len(reaching)),
    )


@dataclass(frozen=True)
class Calibration:
    """What was fitted on the validation faces, and what it did to them."""

    faces: int
    temperature: float
    ece_before: float
    ece_after: float
    abstention: Abstention


def calibrate(logits: Floats, truth: Integers, risk: float) -> Calibration | None:
    """Temperature and abstention from held-out faces; None where there are none.

    The errors before and after are measured on the same faces that the one temperature was fitted
    on, in 15 bins.

    Args:
        logits: ``[n, C]``.
        truth: ``[n]`` true expressions.
        risk: share of wrong answers allowed among those given.
    """
    if not len(truth):
        return None
    temperature = fit_temperature(logits, truth)
    correct = logits.argmax(axis=1) == truth
    before, after = (
        softmax(logits.astype(np.float64) / t, axis=1).max(axis=1) for t in (1.0, temperature)
    )
    return Calibration(
        faces=len(truth),
        temperature=temperature,
        ece_before=expected_calibration_error(bin_reliability(before, correct, BINS)),
        ece_after=expected_calibration_error(bin_reliability(after, correct, BINS)),
        abstention=choose_abstention(after, correct, risk),
    )
