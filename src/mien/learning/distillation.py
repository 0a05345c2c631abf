"""Learning from the labels and from other networks (Hinton, Vinyals & Dean 2015)."""

from collections.abc import Callable, Sequence
from functools import partial

import lightning_fabric
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mien.data.augmentation import Augmentation
from mien.data.dataset import Faces, LabelledRows, Rows, to_tensor
from mien.errors import MienError
from mien.learning.checkpoint import Checkpoint
from mien.learning.training import SupervisedTask, generator
from mien.model.accnn import ACCNN, FaceNetwork
from mien.model.losses import balanced_cross_entropy
from mien.model.weights import Trained
from mien.params.learning import TrainingSettings

Adviser = Callable[[Rows, Tensor, Tensor], Tensor]
"""What others say of a step's faces, ``[B, C]``, rows sum to 1; given the faces' places among the
labelled ones ``[B]``, the views that the network is shown ``[B, 1, S, S]``, and ``log_prior``
``[C]``, which they are to allow for."""

Voice = Callable[[Tensor], Tensor]
"""What a trained network says of views ``[B, 1, S, S]``: probabilities ``[B, C]``."""

_CHUNK = 256
"""Faces shown at once to the networks of a refinery."""


class AdvisedTask(SupervisedTask[ACCNN]):
    """``(1 − w)`` times the cross-entropy with the labels, ``w`` times that with what others say.

    A label is one person's word on a face on which people disagree; other networks' probabilities
    carry that doubt.

    Args:
        adviser: `larger_networks` or `refined`.
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
        adviser: Adviser,
        weight: float,
    ) -> None:
        super().__init__(net, faces, labelled, settings, augmentation)
        self._adviser = adviser
        self.weight = weight

    def forward(self, step: int, teacher: FaceNetwork, rng: torch.Generator) -> dict[str, Tensor]:
        views, labels = self.batch(step, rng)
        logits = self.net(views)
        labels_loss = self.loss(logits, labels)
        with torch.no_grad():
            targets = self._adviser(self._batches[step], views, self.log_prior)
        distillation = balanced_cross_entropy(logits, targets, self.log_prior)
        return {
            "loss": (1 - self.weight) * labels_loss + self.weight * distillation,
            "labels": labels_loss,
            "distillation": distillation,
        }


def larger_networks(networks: Sequence[ACCNN]) -> Adviser:
    """Larger networks that see the same views of the faces.

    "Consistent teaching" (Beyer et al. 2022): what is asked of the smaller network fits what it is
    shown. Several take turns, a batch each, so that they cost no more than one; over many batches
    the smaller network learns what they say on average.

    Args:
        networks: trained on the same labels with the same ``class_balance``; they are not changed.
    """
    # in a closure, for they are no part of what is learned, checkpointed or put in training mode
    larger = [each.eval().requires_grad_(False) for each in networks]

    def advise(chosen: Rows, views: Tensor, log_prior: Tensor) -> Tensor:
        # by what the batch holds, so that a run that was killed and goes on hears the same
        said: Tensor = larger[int(chosen[0]) % len(larger)].to(views.device)(views)
        return (said + log_prior).softmax(dim=1)

    return advise


def refined(labels: Tensor) -> Adviser:
    """Labels refined once, before the training (Bagherinezhad et al. 2018).

    What several networks say of several views costs nothing while the network learns, however
    large they are and however long it takes.

    Args:
        labels: of each labelled face, ``[n, C]``; see `refined_labels`.
    """
    return lambda chosen, views, log_prior: labels[torch.from_numpy(chosen).to(labels.device)]


def refined_labels(
    voices: Sequence[Voice],
    faces: Faces,
    labelled: LabelledRows,
    *,
    augmentation: Augmentation,
    views: int,
    seed: int,
    fabric: lightning_fabric.Fabric,
    checkpoint: Checkpoint,
) -> Tensor:
    """What trained networks say of each labelled face, the mean over strong views: ``[n, C]``.

    Args:
        voices: of the networks, on the fabric's device; all see the same views.
        faces: the store, uint8 ``[N, S, S]``.
        labelled: ``n`` of its rows.
        augmentation: what the views are drawn with.
        views: of each face.
        seed: of what is drawn.
        checkpoint: keeps what was said of each view; a run that was killed goes on there.
    """
    chunks = np.array_split(np.arange(len(labelled)), -(-len(labelled) // _CHUNK))

    def look(view: int) -> dict[str, Tensor]:
        title, rng = f"refining labels, view {view + 1}/{views}", generator(seed, view)
        said = []
        with torch.inference_mode(), fabric.autocast():
            for chunk in tqdm(chunks, title, leave=False, disable=None):
                shown = to_tensor(faces[labelled.rows[chunk]], fabric.device)
                shown = augmentation.strong(shown, rng)
                said.append(torch.stack([voice(shown) for voice in voices]).mean(dim=0).cpu())
        print(title, flush=True)  # what a log shows of it; the bar is for terminals
        return {"said": torch.cat(said)}

    told = [checkpoint.once(f"view_{view}", partial(look, view))["said"] for view in range(views)]
    return torch.stack(told).mean(dim=0)


def shipped_voice(
    network: Trained, expressions: Sequence[str], image_size: int, log_prior: Tensor
) -> Voice:
    """That of a network that ships, for ``expressions`` of its own in any order.

    Args:
        log_prior: ``[C]``, of the faces that it is asked of, on the device that it is to run on.

    Raises:
        MienError: it does not know an expression, or faces of this size.
    """
    known = network.expressions
    if missing := [name for name in expressions if name not in known]:
        raise MienError(
            f"pretrain.refinery.networks: they know {', '.join(known)}, not {', '.join(missing)}; "
            "set it to []"
        )
    if network.image_size != image_size:  # of faces twice as large they get two of three wrong
        raise MienError(
            f"pretrain.refinery.networks: they know faces of {network.image_size} pixels, and "
            f"prepare.image_size is {image_size}; set it to []"
        )
    columns = [known.index(name) for name in expressions]
    model = network.model.to(log_prior.device)
    return lambda views: (model(views)[:, columns].float() + log_prior).softmax(dim=1)
