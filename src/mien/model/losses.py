"""The terms of the combined loss. All take logits ``[B, C]`` or embeddings ``[B, D]``."""

import torch
from torch import Tensor, nn
from torch.nn import functional


def balanced_cross_entropy(
    logits: Tensor, targets: Tensor, log_prior: Tensor, smoothing: float = 0.0
) -> Tensor:
    """Balanced softmax (Ren et al. 2020): cross-entropy of ``logits + log_prior``.

    ``log_prior`` ``[C]`` is the log of the classes' shares in training (times its strength), so
    that rare classes are not pressed down by the frequent ones. Targets are indices ``[B]`` or
    probabilities ``[B, C]``.
    """
    return functional.cross_entropy(logits + log_prior, targets, label_smoothing=smoothing)


def weighted_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """``1/B Σ w_i H(t_i, softmax(z_i))`` with soft targets ``[B, C]`` and weights ``[B]``."""
    losses = functional.cross_entropy(logits, targets, reduction="none")
    return (losses * weights).sum() / len(logits)


class CenterLoss(nn.Module):
    """Center loss (Wen et al. 2016) with the island term (Cai et al. 2018).

    ``L_C = 1/2 Σ w_i ‖x_i − c_{y_i}‖² / Σ w_i`` pulls embeddings to the center of their expression;
    ``L_I = 1/(C(C−1)) Σ_{j≠k} (cos(c_j − c̄, c_k − c̄) + 1)`` pushes the centers apart, as seen from
    their mean c̄ (embeddings follow a ReLU, so as seen from 0 they all point the same way).
    Embeddings are scaled to unit length first, so that the network cannot win by shrinking them.

    The centers are learned by gradient with the network's own optimiser.
    """

    def __init__(self, classes: int, embedding_size: int) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.zeros(classes, embedding_size))

    @torch.no_grad()
    def start_at(self, embeddings: Tensor, labels: Tensor) -> None:
        """Put each center at the mean of its labelled faces, ``[n, D]`` and ``[n]``.

        From all zeros the island term's gradient, which grows as the centers' lengths shrink, would
        be so large that Adam's memory of it kept the centers in place for thousands of steps.
        """
        points = functional.normalize(embeddings, dim=1)
        for label in labels.unique():
            self.centers[label] = points[labels == label].mean(dim=0)

    def forward(self, embeddings: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Center and island loss for embeddings ``[B, D]``, labels ``[B]`` and weights ``[B]``."""
        points = functional.normalize(embeddings.float(), dim=1)
        squares = (points - self.centers[labels]).square().sum(dim=1)
        center = (squares * weights).sum() / (2 * weights.sum().clamp_min(1e-6))
        return center, island(self.centers)


def island(centers: Tensor) -> Tensor:
    """Mean over pairs of ``cos + 1`` of the centers ``[C, D]`` as seen from their mean; 0 to 2."""
    classes = len(centers)
    directions = functional.normalize(centers - centers.mean(dim=0), dim=1)
    cosines = directions @ directions.T
    return (cosines.sum() - cosines.diagonal().sum()) / (classes * (classes - 1)) + 1


def align(probabilities: Tensor, average: Tensor, prior: Tensor) -> Tensor:
    """Distribution alignment (Berthelot et al. 2020): ``p · prior / average``, normalised.

    ``average`` ``[C]`` is the running mean of the predictions ``[B, C]``, ``prior`` ``[C]`` the
    shares that the unlabelled faces are believed to have.
    """
    aligned = probabilities * (prior / average.clamp_min(1e-6))
    return aligned / aligned.sum(dim=1, keepdim=True)


def sharpen(probabilities: Tensor, temperature: float) -> Tensor:
    """``p^(1/T)``, normalised, of ``[B, C]``; at T = 0 all of it on the likeliest class."""
    if temperature == 0:
        likeliest = probabilities.argmax(dim=1)
        return functional.one_hot(likeliest, probabilities.shape[1]).to(probabilities.dtype)
    return (probabilities.log() / temperature).softmax(dim=1)
