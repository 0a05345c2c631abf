"""A network that begins with what another has learned, for other expressions and few labels.

Before anything else is trained its head is a regularised logistic regression on the other's
embeddings: gradients through a head that knows nothing yet would spoil these, and a few hundred
labelled faces are soon learned by heart (LP-FT, Kumar et al. 2022).
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mien.data.dataset import Faces, LabelledRows
from mien.errors import MienError
from mien.learning.embedding import embed_with_mirror
from mien.model.accnn import ACCNN
from mien.model.weights import Trained

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse regularisation strengths to choose from, for embeddings of unit standard deviation."""
_USUAL = 1e-2
"""Where an expression has a single labelled face, so that none can be left out."""


def begin_with(
    model: ACCNN,
    trained: Trained,
    faces: Faces,
    labelled: LabelledRows,
    *,
    log_prior: Tensor,
    seed: int,
) -> float:
    """Copy all but the head of ``trained`` into ``model`` and fit its head to the labelled faces.

    Args:
        model: of the same settings as ``trained``, on the CPU.
        trained: the network to begin with.
        faces: the store, uint8 ``[N, S, S]``.
        labelled: each expression occurs.
        log_prior: ``[C]``, of the balanced cross-entropy that the training goes on with; the head
            leaves it out as one that has learned by that does.
        seed: of the folds of the cross-validation that chooses the regularisation.

    Returns:
        The inverse strength of the head's regularisation.

    Raises:
        MienError: the two are networks of different settings, or for faces of different sizes.
    """
    if model.settings != trained.settings:
        ours, theirs = (each.model_dump() for each in (model.settings, trained.settings))
        needed = [f"{name}: {theirs[name]}" for name in theirs if ours[name] != theirs[name]]
        raise MienError(
            f"pretrain.first_weights: these need a model of {', '.join(needed)}; "
            "name those of its own size, or random"
        )
    if trained.image_size != faces.shape[-1]:
        raise MienError(
            f"pretrain.first_weights: these know faces of {trained.image_size} pixels; "
            f"prepare.image_size is {faces.shape[-1]}"
        )
    learned = trained.model.state_dict()
    body = {name: value for name, value in learned.items() if not name.startswith("head.")}
    model.load_state_dict(model.state_dict() | body)

    embeddings = embed_with_mirror(trained.model, faces, labelled.rows).embeddings
    scale = float(embeddings.std())
    fitted = _regression(embeddings / scale, labelled.labels, seed)
    weight, bias = fitted.coef_ / scale, fitted.intercept_
    if len(bias) == 1:  # of two expressions scikit-learn fits the second against the first
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(weight))
        model.head.bias.copy_(torch.from_numpy(bias) - log_prior)
    return float(fitted.C)


def _regression(
    embeddings: NDArray[np.floating[Any]], labels: NDArray[np.int64], seed: int
) -> "LogisticRegression":
    """Fitted with the strength that gives the best likelihood of faces left out."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    folds = min(5, int(np.bincount(labels).min()))
    if folds < 2:
        return LogisticRegression(C=_USUAL, max_iter=1000).fit(embeddings, labels)
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
    likelihood = {
        strength: cross_val_score(
            LogisticRegression(C=strength, max_iter=1000),
            embeddings,
            labels,
            cv=splits,
            scoring="neg_log_loss",
        ).mean()
        for strength in _STRENGTHS
    }
    best = max(likelihood, key=lambda strength: likelihood[strength])
    return LogisticRegression(C=best, max_iter=1000).fit(embeddings, labels)
