"""A start without labels: VICReg on all training faces (Bardes, Ponce & LeCun, ICLR 2022).

Two strong views of each face shall have like embeddings, while every dimension keeps its spread
and no two dimensions say the same (docs/method.md, section 2). A batch is compared with itself
only in its covariance, so there are no negatives, no queue and no second network, and batches of
64 to 256 faces are enough.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mien.data.augmentation import Augmentation
from mien.data.dataset import Faces, LabelledRows, Rows, evenly
from mien.learning.embedding import embed_faces
from mien.learning.training import StartTask
from mien.model.accnn import ACCNN, FaceNetwork
from mien.params.learning import SelfSupervisedSettings


class Terms(NamedTuple):
    """The three terms of VICReg, each a number ≥ 0."""

    invariance: Tensor
    variance: Tensor
    covariance: Tensor


def vicreg(first: Tensor, second: Tensor) -> Terms:
    """The terms for projections of two views ``[B, P]`` of the same B ≥ 2 faces.

    ``invariance = Σ_i ‖z_i − z'_i‖² / (B P)``; of each view ``variance = 1/P Σ_d max(0, 1 − σ_d)``
    with ``σ_d = √(Var_d + 10⁻⁴)``, and ``covariance = 1/P Σ_{d≠e} Cov_{de}²``, variances and
    covariances over B − 1; the two views' terms are averaged (variance) and added (covariance), as
    in the authors' code.
    """
    variances, covariances = [], []
    for z in (first, second):
        centred = z - z.mean(dim=0)
        covariance = centred.T @ centred / (len(z) - 1)
        deviations = (covariance.diagonal() + 1e-4).sqrt()
        variances.append(torch.relu(1 - deviations).mean())
        off_diagonal = covariance.square().sum() - covariance.diagonal().square().sum()
        covariances.append(off_diagonal / z.shape[1])
    return Terms(
        functional.mse_loss(first, second),
        torch.stack(variances).mean(),
        torch.stack(covariances).sum(),
    )


class Projector(nn.Sequential):
    """``[B, D]`` to ``[B, P]``, two hidden layers; used in this training only.

    Invariance to the views throws away what they change; the layers before it keep more of that.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        layers: list[nn.Module] = []
        for width in (inputs, outputs):
            linear = nn.Linear(width, outputs, bias=False)
            layers += [linear, nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
        super().__init__(*layers, nn.Linear(outputs, outputs, bias=False))


class SelfSupervisedTask(StartTask):
    """VICReg on two strong views of each face."""

    settings: SelfSupervisedSettings

    def __init__(
        self,
        net: ACCNN,
        faces: Faces,
        labelled: LabelledRows,
        rows: Rows,
        settings: SelfSupervisedSettings,
        augmentation: Augmentation,
    ) -> None:
        super().__init__(net, faces, labelled, rows, settings, augmentation)
        self.projector = Projector(net.embedding_size, settings.projection)

    def forward(self, step: int, teacher: FaceNetwork, rng: torch.Generator) -> dict[str, Tensor]:
        settings = self.settings
        _, faces = self.batch(step)
        views = [self.augmentation.strong(faces, rng) for _ in range(2)]
        first, second = self.projector(self.net.embed(torch.cat(views))).float().chunk(2)
        with torch.autocast(faces.device.type, enabled=False):  # squared covariances need 32 bits
            terms = vicreg(first, second)
        weighted = {
            "invariance": settings.invariance_weight * terms.invariance,
            "variance": settings.variance_weight * terms.variance,
            "covariance": settings.covariance_weight * terms.covariance,
        }
        return {"loss": torch.stack(list(weighted.values())).sum(), **weighted}


def effective_rank(model: ACCNN, faces: Faces, rows: Rows, most: int = 1000) -> dict[str, float]:
    """How many dimensions the embeddings of (some of) ``rows`` use: near 1 when collapsed.

    ``exp(H(σ / Σσ))`` of the singular values of the centred embeddings (Garrido et al., RankMe,
    2023): a measure of the training that needs no label.
    """
    embeddings = embed_faces(model, faces, evenly(rows, most)).embeddings
    values = np.linalg.svd(embeddings - embeddings.mean(axis=0), compute_uv=False)
    if not values.sum():
        return {"effective_rank": 1.0}
    shares = values[values > 0] / values.sum()
    return {"effective_rank": float(np.exp(-(shares * np.log(shares)).sum()))}
