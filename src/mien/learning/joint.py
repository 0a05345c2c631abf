"""Joint learning: from labelled faces, and from what clustering says of the others.

The combined loss of a step (docs/method.md, section 4), over a labelled batch and an unlabelled one
whose faces carry soft targets ``t_i`` with weights ``w_i`` (0 where rejected):

``L = L_labelled + λ_p Σ w_i H(t_i, p(strong x_i)) / B
+ λ_u Σ [max p̂_i ≥ θ] H(ŷ_i, p(strong x_i)) / B + λ_c L_center + λ_i L_island``

with ``p̂`` the aligned prediction of the averaged network on a weak view and ``ŷ ∝ p̂^(1/T)``, at
T = 0 its argmax (FixMatch with distribution alignment; at T > 0 UDA): rejected faces, too, have to
be consistent. Where another network has clustered the faces ``p̂`` can be what that has found.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mien.data.augmentation import Augmentation
from mien.data.dataset import Faces, LabelledRows, Rows, to_tensor
from mien.learning.clustering import Array, Clustering, balanced, guided_clustering, margin
from mien.learning.embedding import Embedded, embed_faces, embed_with_mirror
from mien.learning.training import Task, class_log_prior, shuffled
from mien.model.accnn import ACCNN, FaceNetwork
from mien.model.losses import (
    CenterLoss,
    align,
    balanced_cross_entropy,
    sharpen,
    weighted_cross_entropy,
)
from mien.params.learning import ClusterSettings, JointSettings


@dataclass(frozen=True)
class JointData:
    """The store ``[N, S, S]``, its labelled training rows and its unlabelled rows ``[U]``."""

    faces: Faces
    labelled: LabelledRows
    unlabelled: Rows


class JointTask(Task[ACCNN]):
    """The combined loss on labelled faces and on unlabelled ones with given targets."""

    targets: Tensor
    weights: Tensor
    guesses: Tensor | None
    prior: Tensor
    average: Tensor
    log_prior: Tensor

    def __init__(
        self, net: ACCNN, data: JointData, settings: JointSettings, augmentation: Augmentation
    ) -> None:
        super().__init__(net, data.faces, data.labelled)
        self.data, self.settings, self.augmentation = data, settings, augmentation
        strong = settings.labelled_view == "strong"
        self._labelled_view = augmentation.strong if strong else augmentation.weak
        classes = net.head.out_features
        count = len(data.unlabelled)
        self.metric = CenterLoss(classes, net.embedding_size)
        self.metric.start_at(self._known_embeddings(), torch.from_numpy(data.labelled.labels))
        self.register_buffer("targets", torch.zeros(count, classes))
        self.register_buffer("weights", torch.zeros(count))
        self.register_buffer("guesses", None)
        self.register_buffer("prior", torch.full((classes,), 1 / classes))
        self.register_buffer("average", torch.zeros(classes))
        log_prior = class_log_prior(data.labelled.labels, classes, settings.class_balance)
        self.register_buffer("log_prior", log_prior)

    def set_targets(self, targets: Array, weights: Array, prior: Array) -> None:
        """Give the unlabelled faces soft targets ``[U, C]``, weights ``[U]`` and shares ``[C]``."""
        self.targets.copy_(torch.from_numpy(targets))
        self.weights.copy_(torch.from_numpy(weights))
        self.prior.copy_(torch.from_numpy(prior))

    def set_guesses(self, posterior: Array) -> None:
        """Have consistency ask for what is known ``[U, C]``, not for the averaged network's guess.

        After `set_targets`, for the posteriors follow its shares, while batches are drawn with some
        of those taken out of them.
        """
        drawn = balanced(posterior, self.prior.cpu().numpy(), self.settings.class_balance)
        self.guesses = torch.from_numpy(drawn).to(self.prior.device)

    def begin_epoch(
        self, epoch: int, steps: int, teacher: FaceNetwork, rng: torch.Generator
    ) -> dict[str, float]:
        settings = self.settings
        labelled = shuffled(len(self.data.labelled), steps * settings.batch_size, rng)
        self._labelled = labelled.view(steps, -1).numpy()
        drawn = torch.multinomial(
            self._chances(), steps * settings.unlabelled_batch_size, replacement=True, generator=rng
        )
        self._unlabelled = drawn.view(steps, -1).numpy()
        return {}

    def forward(self, step: int, teacher: FaceNetwork, rng: torch.Generator) -> dict[str, Tensor]:
        settings, device = self.settings, self.prior.device
        chosen, others = self._labelled[step], self._unlabelled[step]
        labels = torch.from_numpy(self.data.labelled.labels[chosen]).to(device)
        known = self._faces(self.data.labelled.rows[chosen])
        unknown = self._faces(self.data.unlabelled[others])
        # apart, for unlabelled faces from elsewhere would bend the labelled faces' statistics
        z, ours = self.net.forward_both(self._labelled_view(known, rng))
        with keeping_statistics(self.net):
            z_others, theirs = self.net.forward_both(self.augmentation.strong(unknown, rng))
        targets, weights = self.targets[others], self.weights[others]

        terms = {
            "labelled": balanced_cross_entropy(
                ours, labels, self.log_prior, settings.label_smoothing
            )
        }
        if settings.pseudo_weight:
            terms["pseudo"] = settings.pseudo_weight * weighted_cross_entropy(
                theirs, targets, weights
            )
        if settings.consistency_weight:
            guess, counted = self._sharpened(
                self._guess(self.augmentation.weak(unknown, rng), teacher)
                if self.guesses is None
                else self.guesses[others]
            )
            terms["consistency"] = settings.consistency_weight * weighted_cross_entropy(
                theirs, guess, counted
            )
        if settings.center_weight or settings.island_weight:
            center, island = self.metric(
                torch.cat([z, z_others]),
                torch.cat([labels, targets.argmax(dim=1)]),
                torch.cat([torch.ones_like(labels, dtype=weights.dtype), weights]),
            )
            terms["center"] = settings.center_weight * center
            terms["island"] = settings.island_weight * island
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}

    def _known_embeddings(self) -> Tensor:
        self.net.eval()
        known = embed_faces(self.net, self.data.faces, self.data.labelled.rows).embeddings
        self.net.train()
        return torch.from_numpy(known)

    def _chances(self) -> Tensor:
        """Sampling weights ``[U]``: rarer expressions more often; rejected faces are one group."""
        classes = self.targets.shape[1]
        group = torch.where(self.weights > 0, self.targets.argmax(dim=1), classes)
        counts = group.bincount(minlength=classes + 1).clamp_min(1)
        counts[classes] = counts[:classes].max()  # rejected: as often as the commonest expression's
        return counts[group].cpu().double().pow(-self.settings.class_balance)  # MPS has no doubles

    def _faces(self, rows: Rows) -> Tensor:
        return to_tensor(self.data.faces[rows], self.prior.device)

    @torch.no_grad()
    def _guess(self, faces: Tensor, teacher: FaceNetwork) -> Tensor:
        """Guesses ``[B, C]`` of the averaged network, aligned to the shares that it is taught."""
        probabilities = teacher(faces).float().softmax(dim=1)
        mean = probabilities.mean(dim=0)
        if self.average.any():
            self.average.lerp_(mean, 0.01)
        else:  # from an even start, frequent expressions would win for the first hundred steps
            self.average.copy_(mean)
        return align(probabilities, self.average, self._taught())

    def _taught(self) -> Tensor:
        """Shares ``[C]`` for which the labels teach `p`: some of the prior is taken out of them."""
        taught = self.prior.pow(1 - self.settings.class_balance)
        return taught / taught.sum()

    def _sharpened(self, guess: Tensor) -> tuple[Tensor, Tensor]:
        """Guesses ``[B, C]`` as the settings want them and which are sure enough, ``[B]``."""
        sure = (guess.amax(dim=1) >= self.settings.consistency_threshold).float()
        return sharpen(guess, self.settings.consistency_temperature), sure


@contextmanager
def keeping_statistics(net: nn.Module) -> Iterator[None]:
    """Let batch norms use a batch's own statistics without remembering them."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, kept, strict=True):
            norm.momentum = momentum


class ClusterTask(JointTask):
    """Joint learning whose targets are clustered anew, with the averaged network, in each round."""

    clusters: Tensor

    def __init__(
        self,
        net: ACCNN,
        data: JointData,
        settings: ClusterSettings,
        augmentation: Augmentation,
        seed: int,
    ) -> None:
        super().__init__(net, data, settings, augmentation)
        self.cluster_settings, self.seed = settings, seed
        self.register_buffer("clusters", torch.full((len(data.unlabelled),), -1))

    def begin_epoch(
        self, epoch: int, steps: int, teacher: FaceNetwork, rng: torch.Generator
    ) -> dict[str, float]:
        record: dict[str, float] = {}
        if epoch % self.cluster_settings.epochs == 0:
            found = cluster_faces(teacher, self.data, self.cluster_settings, self.seed).clustering
            # a face counts as much as its best expression leads the next
            self.set_targets(found.posterior, margin(found.posterior), found.prior)
            clusters = torch.from_numpy(found.cluster)
            if epoch:
                record["nmi"] = agreement(self.clusters.cpu().numpy(), found.cluster)
            self.clusters.copy_(clusters)
        record["round"] = epoch // self.cluster_settings.epochs + 1
        return record | super().begin_epoch(epoch, steps, teacher, rng)


@dataclass(frozen=True)
class ClusteredFaces:
    """Clustering of the unlabelled faces, and whether the mirrored face says the same, ``[U]``."""

    clustering: Clustering
    embedded: Embedded
    flip_agrees: np.ndarray[tuple[int], np.dtype[np.bool_]]


def cluster_faces(
    model: FaceNetwork, data: JointData, settings: ClusterSettings, seed: int
) -> ClusteredFaces:
    """Embed all faces, as they are and mirrored, and cluster the mean of both."""
    plain = embed_faces(model, data.faces, data.unlabelled)
    mirrored = embed_faces(model, data.faces, data.unlabelled, flip=True)
    joined = plain.mean_with(mirrored)
    anchors = embed_with_mirror(model, data.faces, data.labelled.rows).embeddings
    classes = plain.logits.shape[1]
    shares = class_log_prior(data.labelled.labels, classes, 1 - settings.class_balance)
    clustering = guided_clustering(
        joined.embeddings,
        joined.probabilities,
        anchors,
        data.labelled.labels,
        shares.softmax(dim=0).numpy(),
        settings,
        seed,
    )
    agrees = plain.logits.argmax(axis=1) == mirrored.logits.argmax(axis=1)
    return ClusteredFaces(clustering, joined, agrees)


def agreement(before: np.ndarray, after: np.ndarray) -> float:
    """Normalised mutual information of two assignments, 0 to 1: 1 where they group alike."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(before, after))
