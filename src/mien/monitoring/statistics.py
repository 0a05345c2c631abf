"""How far a window lies from the reference, statistic by statistic.

Every *effect* is between 0 (the same) and 1 (no overlap), whatever the statistic, so that one
threshold serves all: the largest distance between two cumulative distributions, the total variation
between two sets of shares, a difference of two shares, or ``2·AUC - 1`` of a classifier that tells
the two sides apart. Significance and size are asked for together: over a million rows the
slightest difference is significant, over a hundred a large one may be chance.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.monitoring.log import Window
from mien.monitoring.reference import IMAGE, Reference
from mien.params.service import MonitoringSettings

_CLASSIFIER_FACES = 2000
"""At most so many faces of each side train the domain classifier."""
_FOLDS = 4
NO_FACE, DOMAIN = "no face", "domain classifier"
"""Statistics of which ``reference`` is no mean or share."""


@dataclass(frozen=True)
class Finding:
    """One statistic, compared."""

    name: str
    """A column, ``abstention``, `NO_FACE` or `DOMAIN`."""
    group: str
    """prediction | confidence | faces found | image | embedding | together"""
    test: str
    reference: float | None
    """Mean or share there; of `NO_FACE` the limit, of `DOMAIN` the AUC that chance gives."""
    window: float | None
    effect: float
    p: float
    p_adjusted: float = 1.0
    drifted: bool = False


def compare(window: Window, reference: Reference, settings: MonitoringSettings) -> list[Finding]:
    """All statistics of a window, Holm-corrected together, the largest effects first.

    With fewer faces than ``min_faces`` only the share of photos without one is compared.
    """
    found = [*_no_face(window, settings.max_no_face_share)]
    if len(window.faces) >= settings.min_faces:
        found += [
            *_prediction(window, reference),
            *_abstention(window, reference),
            *_columns(window, reference),
            *_domain(window, reference),
        ]
    adjusted = holm(np.array([each.p for each in found]))
    judged = [
        replace(
            each,
            p_adjusted=float(p),
            drifted=bool(p < settings.significance and each.effect >= settings.min_effect),
        )
        for each, p in zip(found, adjusted, strict=True)
    ]
    return sorted(judged, key=lambda each: (not each.drifted, -each.effect))


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm's step-down adjusted p-values ``[m]`` (Scandinavian Journal of Statistics 6, 1979)."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def _prediction(window: Window, reference: Reference) -> Iterator[Finding]:
    from scipy.stats import chi2_contingency

    counts = np.array(
        [
            [int((side == name).sum()) for name in reference.expressions]
            for side in (reference.faces["expression"], window.faces["expression"])
        ]
    )
    shares = counts / counts.sum(axis=1, keepdims=True)
    used = counts[:, counts.sum(axis=0) > 0]
    p = float(chi2_contingency(used).pvalue) if used.shape[1] > 1 else 1.0
    effect = float(np.abs(shares[0] - shares[1]).sum() / 2)
    yield Finding("expression", "prediction", "chi-square", None, None, effect, p)


def _abstention(window: Window, reference: Reference) -> Iterator[Finding]:
    from scipy.stats import chi2_contingency

    unsure = [
        (side["confidence"].dropna() < reference.abstention_threshold).to_numpy()
        for side in (reference.faces, window.faces)
    ]
    if not all(map(len, unsure)):
        return
    counts = np.array([[each.sum(), (~each).sum()] for each in unsure])
    p = float(chi2_contingency(counts).pvalue) if (counts.sum(axis=0) > 0).all() else 1.0
    before, after = (float(each.mean()) for each in unsure)
    yield Finding("abstention", "confidence", "chi-square", before, after, abs(after - before), p)


def _no_face(window: Window, normal: float) -> Iterator[Finding]:
    from scipy.stats import binomtest

    if not window.photos:
        return
    share = window.photos_without_face / window.photos
    p = binomtest(window.photos_without_face, window.photos, normal, alternative="greater").pvalue
    effect = max(0.0, share - normal)
    yield Finding(NO_FACE, "faces found", "binomial", normal, share, effect, float(p))


def _columns(window: Window, reference: Reference) -> Iterator[Finding]:
    from scipy.stats import ks_2samp

    for name in reference.numbers:
        before = reference.faces[name].dropna().to_numpy()
        after = window.faces[name].dropna().to_numpy()
        if not len(before) or not len(after):
            continue
        group = "image" if name in IMAGE else "embedding"
        result = ks_2samp(before, after, method="asymp")
        yield Finding(
            name,
            "confidence" if name == "confidence" else group,
            "Kolmogorov-Smirnov",
            float(before.mean(dtype=np.float64)),
            float(after.mean(dtype=np.float64)),
            float(result.statistic),
            float(result.pvalue),
        )


def _domain(window: Window, reference: Reference) -> Iterator[Finding]:
    """Can a classifier tell the two sides apart, on faces that it was not trained on?

    A logistic regression on the columns, their squares and their products sees what no single
    column shows. Rows that lack a value are left out, and so is a column that one side lacks: a
    value put in their place would tell the sides apart. The p-value is that of the rank-sum test
    of its held-out scores.
    """
    from scipy.stats import mannwhitneyu
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    tables = (reference.faces, window.faces)
    known = [name for name in reference.numbers if all(side[name].notna().any() for side in tables)]
    sides = [_sample(side[known].dropna()) for side in tables]
    features = pd.concat(sides).to_numpy(np.float32)
    labels = np.repeat([0, 1], [len(side) for side in sides])
    if not known or min(map(len, sides)) < _FOLDS:
        return
    scores = cross_val_predict(
        make_pipeline(
            StandardScaler(),
            PolynomialFeatures(2, include_bias=False),
            StandardScaler(),
            LogisticRegression(C=0.01, class_weight="balanced", max_iter=200),
        ),
        features,
        labels,
        cv=StratifiedKFold(_FOLDS, shuffle=True, random_state=0),
        method="predict_proba",
    )[:, 1]
    test = mannwhitneyu(scores[labels == 1], scores[labels == 0], alternative="greater")
    auc = float(test.statistic) / (len(sides[0]) * len(sides[1]))
    yield Finding(
        DOMAIN,
        "together",
        "rank sum",
        0.5,
        auc,
        max(0.0, 2 * auc - 1),
        float(test.pvalue),
    )


def _sample(table: pd.DataFrame) -> pd.DataFrame:
    return table.sample(min(len(table), _CLASSIFIER_FACES), random_state=0)
