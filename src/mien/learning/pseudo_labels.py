"""Which faces get the expression that clustering found for them, and how right that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.data.dataset import indices
from mien.learning.clustering import Array, balanced, margin
from mien.params import OTHER
from mien.params.learning import RelabelSettings

POSTERIOR = "posterior_"
"""Prefix of the columns that hold each expression's posterior in the assignment table."""


@dataclass(frozen=True)
class PseudoLabels:
    """For N faces: the likeliest expression ``[N]``, which are accepted ``[N]``, weights ``[N]``
    (0 where rejected), and the least posterior that was accepted for each expression ``[C]`` (1
    where none was)."""

    labels: NDArray[np.int64]
    accepted: NDArray[np.bool_]
    weights: Array
    thresholds: NDArray[np.float64]


def accept(
    assignments: pd.DataFrame, expressions: Sequence[str], settings: RelabelSettings
) -> PseudoLabels:
    """Accept the best faces of each expression.

    A rare expression is seldom the likeliest one, however many faces the posteriors expect to show
    it in all. So the ``class_balance``-th power of their mean is first taken out of all posteriors
    (`balanced`).

    A face must pass every floor: posterior, margin, purity of its cluster, density of its
    neighbourhood, agreement of its mirror image. Of each expression at most the share ``coverage``
    of its faces is then kept, those with the highest posterior, so that frequent expressions do not
    swamp rare ones as they would under one threshold for all. A kept face weighs its posterior.

    Args:
        assignments: the table that the stage `cluster` leaves.
    """
    posterior = assignments[[POSTERIOR + name for name in expressions]].to_numpy(np.float32)
    posterior = balanced(posterior, posterior.mean(axis=0), settings.class_balance)
    labels = posterior.argmax(axis=1)
    best = posterior.max(axis=1)
    passed = (
        (best >= settings.min_posterior)
        & (margin(posterior) >= settings.min_margin)
        & (assignments["purity"].to_numpy() >= settings.min_purity)
    )
    if settings.max_sparse_share > 0:
        density = assignments["density"].to_numpy()
        passed &= density >= np.quantile(density, settings.max_sparse_share)
    if settings.require_flip_agreement:
        passed &= assignments["flip_agrees"].to_numpy()

    accepted = np.zeros(len(labels), bool)
    thresholds = np.ones(len(expressions))
    for expression in range(len(expressions)):
        own = np.flatnonzero(labels == expression)
        passing = own[passed[own]]
        # rounded first, for 0.29 of 100 is a little under 29 in floating point
        count = min(len(passing), int(round(settings.coverage * len(own), 9)))
        kept = passing[np.argsort(-best[passing], kind="stable")[:count]]
        accepted[kept] = True
        if count:
            thresholds[expression] = best[kept[-1]]
    return PseudoLabels(labels, accepted, np.where(accepted, best, np.float32(0)), thresholds)


def audit(
    pseudo: PseudoLabels, truth: "pd.Series[str]", expressions: Sequence[str]
) -> dict[str, Any]:
    """How many faces were accepted and, where the truth is known, how many of them rightly.

    Args:
        pseudo: labels of N faces.
        truth: their true expression ``[N]``; `OTHER` for none of the listed ones; null if unknown.

    Returns:
        ``coverage``, ``precision``, ``accepted``, ``faces``, ``audited`` (accepted faces of known
        truth), ``expressions`` (for each: candidates, accepted, threshold, precision, recall) and
        ``confusion`` (accepted faces by true expression and pseudo-label). Null where unknown.
    """
    known = truth.notna().to_numpy()
    true = indices(truth, expressions)  # -1 for OTHER
    right = pseudo.labels == true
    judged = pseudo.accepted & known
    rows: dict[str, Any] = {}
    for index, name in enumerate(expressions):
        own = pseudo.labels == index
        of_it = known & (true == index)
        rows[name] = {
            "candidates": int(own.sum()),
            "accepted": int((own & pseudo.accepted).sum()),
            "threshold": float(pseudo.thresholds[index]),
            "precision": _share(right, judged & own),
            "recall": _share(right & pseudo.accepted, of_it),
        }
    names = [*expressions, OTHER]
    table: dict[str, Mapping[str, int]] = {}
    for index, name in enumerate(names):
        of_it = judged & (true == (index if name != OTHER else -1))
        counts = np.bincount(pseudo.labels[of_it], minlength=len(expressions))
        if of_it.any():
            table[name] = dict(zip(expressions, counts.tolist(), strict=True))
    return {
        "coverage": float(pseudo.accepted.mean()),
        "precision": _share(right, judged),
        "accepted": int(pseudo.accepted.sum()),
        "faces": len(pseudo.accepted),
        "audited": int(judged.sum()),
        "expressions": rows,
        "confusion": table or None,
    }


def _share(of: NDArray[np.bool_], among: NDArray[np.bool_]) -> float | None:
    return float(of[among].mean()) if among.any() else None
