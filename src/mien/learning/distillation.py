"""Learning from the labels and from a larger network (Hinton, Vinyals & Dean 2015)."""

import torch
from torch import Tensor

from mien.data.augmentation import Augmentation
from mien.data.dataset import Faces, LabelledRows
from mien.learning.training import SupervisedTask, channels_last
from mien.model.accnn import ACCNN
from mien.model.losses import balanced_cross_entropy
from mien.params import TrainingSettings


class DistilledTask(SupervisedTask):
    """``(1 − w)`` times the cross-entropy with the labels, ``w`` times that with a larger network.

    Both networks see the same view of a face ("consistent teaching", Beyer et al. 2022), so that
    what is asked of the smaller one fits what it is shown. A label is one person's word on a face
    on which people disagree; the larger network's probabilities carry that doubt.

    Args:
        larger: trained on the same labels with the same ``class_balance``; it is not changed.
        weight: ``w``, 0 to 1.
    """

    def __init__(
        self,
        net: ACCNN,
        faces: Faces,
        labelled: LabelledRows,
        settings: TrainingSettings,
        augmentation: Augmentation,
        *,
        larger: ACCNN,
        weight: float,
    ) -> None:
        super().__init__(net, faces, labelled, settings, augmentation)
        # in a tuple, for it is no part of what is learned, checkpointed or put in training mode
        self._larger = (channels_last(larger).eval().requires_grad_(False),)
        self.weight = weight

    def forward(self, step: int, teacher: ACCNN, rng: torch.Generator) -> dict[str, Tensor]:
        views, labels = self.batch(step, rng)
        logits = self.net(views)
        with torch.no_grad():
            said = self._larger[0].to(views.device)(views)
        labels_loss = self.loss(logits, labels)
        targets = (said + self.log_prior).softmax(dim=1)
        distillation = balanced_cross_entropy(logits, targets, self.log_prior)
        return {
            "loss": (1 - self.weight) * labels_loss + self.weight * distillation,
            "labels": labels_loss,
            "distillation": distillation,
        }
