"""A network that begins with what another has learned, for few labels and any expressions.

Before anything else is trained its head is a regularised logistic regression on the other's
embeddings: gradients through a head that knows nothing yet would spoil these, and a few hundred
labelled faces are soon learned by heart (LP-FT, Kumar et al. 2022). Where the other knows the
expressions, its own head, which has seen more labels, stays unless these clearly say otherwise.
What was learned may then be averaged with what the network began with.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from mien.data.dataset import Faces, LabelledRows, evenly
from mien.errors import MienError
from mien.learning.embedding import embed_with_mirror
from mien.learning.training import renew_statistics
from mien.model.accnn import ACCNN, FaceNetwork
from mien.model.weights import Trained

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse regularisation strengths to choose from, for embeddings of unit standard deviation."""
_FOLDS = 5
_FITTED = 4096
"""About so many labelled faces are enough for the head; with 26,000 it takes minutes."""
_USUAL = 1e-2
"""Where an expression has a single labelled face, so that none can be left out."""


def begin_with(
    model: ACCNN,
    trained: Trained,
    faces: Faces,
    labelled: LabelledRows,
    *,
    expressions: Sequence[str],
    log_prior: Tensor,
    seed: int,
) -> float | None:
    """Copy all but the head of ``trained`` into ``model`` and fit its head to the labelled faces.

    Where all ``expressions`` are among those of ``trained``, its head is copied instead, unless the
    labelled faces' mean log-likelihood is higher by more than its standard error under a fitted one
    that has not seen them (the one-standard-error rule, Breiman et al. 1984).

    Args:
        model: of the same settings as ``trained``, on the CPU.
        trained: the network to begin with.
        faces: the store, uint8 ``[N, S, S]``.
        labelled: each expression occurs.
        expressions: ``C`` names, in the order of the labels.
        log_prior: ``[C]``, of the balanced cross-entropy that the training goes on with; the head
            leaves it out as one that has learned by that does.
        seed: of the folds of the cross-validation that chooses the regularisation.

    Returns:
        The inverse strength of the head's regularisation; None where the other's was copied.

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

    some = of_each(labelled.labels)
    labels = labelled.labels[some]
    embeddings = embed_with_mirror(trained.model, faces, labelled.rows[some]).embeddings
    strength, left_out = best_strength(embeddings, labels, seed)
    if set(expressions) <= set(trained.expressions):
        known = [trained.expressions.index(name) for name in expressions]
        head = trained.model.head
        weight, bias = head.weight[known].detach(), head.bias[known].detach()
        logits = torch.from_numpy(embeddings) @ weight.T + bias + log_prior
        own = -cross_entropy(logits, torch.from_numpy(labels), reduction="none").numpy()
        if left_out is None or not _clearly_positive(left_out - own):
            _set_head(model, weight, bias)
            return None
    fit_head(model, embeddings, labels, strength=strength, log_prior=log_prior)
    return strength


def mean_with_first(
    model: FaceNetwork,
    first: Mapping[str, Tensor],
    share: float,
    faces: Faces,
    labelled: LabelledRows,
) -> None:
    """Make the weights of ``model`` ``share`` times its ``first`` ones and the rest its own.

    What was learned from one start lies in one basin: the mean of both ends often knows more than
    either, and keeps what the first weights know of pictures unlike the labelled ones (WiSE-FT,
    Wortsman et al. 2022). The batch norms' statistics are taken anew.

    Args:
        model: on the CPU.
        first: its state before it learned; see `torch.nn.Module.state_dict`.
        share: 0 to 1.
        faces: the store, uint8 ``[N, S, S]``.
        labelled: whose faces give the statistics.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.lerp_(first[name], share)
    renew_statistics(model, faces, labelled)


def of_each(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of about 4,096 labels ``[n]`` at most, in their order: of each as large a share, or
    enough for `best_strength`."""
    share = min(1.0, _FITTED / len(labels))
    places = [np.flatnonzero(labels == each) for each in np.unique(labels)]
    counts = [max(_FOLDS, math.ceil(share * len(each))) for each in places]
    return np.sort(np.concatenate([evenly(*each) for each in zip(places, counts, strict=True)]))


def fit_head(
    model: FaceNetwork,
    embeddings: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    strength: float,
    log_prior: Tensor,
) -> None:
    """Make the head of ``model`` a regularised logistic regression on its embeddings ``[n, D]``.

    Args:
        model: on the CPU.
        embeddings: of the labelled faces.
        labels: theirs, ``[n]``; each expression occurs.
        strength: inverse strength of the regularisation; see `best_strength`.
        log_prior: as `begin_with`'s.
    """
    scale = float(embeddings.std())
    fitted = _regression(strength).fit(embeddings / scale, labels)
    coefficients, intercepts = fitted.coef_ / scale, fitted.intercept_
    if len(intercepts) == 1:  # of two expressions scikit-learn fits the second against the first
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    _set_head(model, torch.from_numpy(coefficients), torch.from_numpy(intercepts) - log_prior)


def _set_head(model: FaceNetwork, weight: Tensor, bias: Tensor) -> None:
    with torch.no_grad():
        model.head.weight.copy_(weight)
        model.head.bias.copy_(bias)


def best_strength(
    embeddings: NDArray[np.float32], labels: NDArray[np.int64], seed: int
) -> tuple[float, NDArray[np.float64] | None]:
    """The strength under which faces left out are likeliest, and their log-likelihoods ``[n]``.

    From the strongest regularisation on, up to where it gets worse: weaker ones take ever longer.
    Where an expression has a single face, which cannot be left out, the usual strength and None.
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = min(_FOLDS, int(np.bincount(labels).min()))
    if folds < 2:
        return _USUAL, None
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
    scaled = embeddings / embeddings.std()
    best = _STRENGTHS[0], np.full(len(labels), -np.inf)
    for strength in _STRENGTHS:
        chances = cross_val_predict(
            _regression(strength), scaled, labels, cv=splits, method="predict_log_proba"
        )
        left_out = chances[np.arange(len(labels)), labels]
        if left_out.mean() < best[1].mean():
            break
        best = strength, left_out
    return best


def _clearly_positive(values: NDArray[np.float64]) -> bool:
    """Whether the mean of ``[n]`` values is more than its standard error above zero."""
    return bool(values.mean() > values.std(ddof=1) / math.sqrt(len(values)))


def _regression(strength: float) -> "LogisticRegression":
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=1000)
