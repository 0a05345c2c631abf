"""Ways to label unlabelled faces from a network's embeddings, for ``few_labels.py`` to compare.

A *labeller* sees what one network says of the faces (`Views`) and gives each unlabelled one
probabilities of the expressions. Guided clustering is the pipeline's own; with the others it is
compared.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mien.learning import clustering as guided
from mien.learning.clustering import Array, Labels
from mien.learning.embedding import embed_with_mirror
from mien.learning.joint import JointData
from mien.learning.training import class_log_prior
from mien.model.accnn import FaceNetwork
from mien.params.learning import ClusterSettings


@dataclass(frozen=True)
class Views:
    """What a labeller sees: embeddings and head of the unlabelled faces, the labelled ones."""

    z: Array
    head: Array
    head_prior: Array
    anchors: Array
    labels: Labels
    settings: ClusterSettings
    seed: int

    @property
    def classes(self) -> int:
        """Number of expressions."""
        return self.head.shape[1]

    def prior(self) -> Array:
        """Estimated shares of the expressions."""
        shares = np.bincount(self.labels, minlength=self.classes) / len(self.labels)
        return guided.estimate_prior(
            self.head, self.head_prior, shares.astype(np.float32), self.settings.prior_steps
        )

    def centred(self) -> tuple[Array, Array]:
        """Unit embeddings of the unlabelled and the labelled faces, about the former's mean."""
        centre = self.z.mean(axis=0)
        return guided.unit(self.z - centre), guided.unit(self.anchors - centre)


def view(model: FaceNetwork, data: JointData, settings: ClusterSettings, seed: int) -> Views:
    """What a labeller sees of ``model``: all faces embedded, as they are and mirrored."""
    ours = embed_with_mirror(model, data.faces, data.labelled.rows)
    theirs = embed_with_mirror(model, data.faces, data.unlabelled)
    classes = theirs.logits.shape[1]
    shares = class_log_prior(data.labelled.labels, classes, 1 - settings.class_balance)
    return Views(
        theirs.embeddings,
        theirs.probabilities,
        shares.softmax(dim=0).numpy(),
        ours.embeddings,
        data.labelled.labels,
        settings,
        seed,
    )


Labeller = Callable[[Views], tuple[Array, Array]]
"""Posterior of each unlabelled face ``[U, C]`` and the prior ``[C]``."""


def by_head(views: Views) -> tuple[Array, Array]:
    """The head's probabilities, corrected to the estimated prior."""
    prior = views.prior()
    return guided.normalise(views.head * (prior / views.head_prior)), prior


def by_guided(
    views: Views, parts: tuple[str, ...] = ("clusters", "neighbours", "head")
) -> tuple[Array, Array]:
    """Guided clustering, with these of the three sources of its posterior."""
    found = guided.guided_clustering(
        views.z, views.head, views.anchors, views.labels, views.head_prior, views.settings,
        views.seed,
    )  # fmt: skip
    if len(parts) == 3:
        return found.posterior, found.prior
    z, anchors = views.centred()
    sources = []
    if "clusters" in parts:
        sources.append(_by_votes(z, anchors, views, found.prototypes, found.prior))
    if "neighbours" in parts:
        sources.append(
            np.concatenate(
                [
                    guided.neighbour_votes(
                        z[part], anchors, views.labels, found.prior, views.settings
                    )
                    for part in guided.chunks(len(z), views.settings.chunk)
                ]
            )
        )
    if "head" in parts:
        sources.append(guided.normalise(views.head * (found.prior / views.head_prior)))
    return guided.combine(sources), found.prior


def without(part: str) -> Labeller:
    """Guided clustering whose posterior leaves one source out."""
    kept = tuple(each for each in ("clusters", "neighbours", "head") if each != part)
    return lambda views: by_guided(views, kept)


def by_kmeans(views: Views) -> tuple[Array, Array]:
    """k-means on the unlabelled faces, as many clusters as guided clustering has."""
    settings, prior = views.settings, views.prior()
    z, anchors = views.centred()
    count = views.classes * settings.prototypes_per_expression + settings.free_prototypes
    vectors = guided.kmeans(z, count, views.seed)
    prototypes = guided.Prototypes(vectors, np.full(count, guided.FREE), np.ones(count, np.float32))
    return _by_votes(z, anchors, views, prototypes, prior), prior


def by_sinkhorn(views: Views) -> tuple[Array, Array]:
    """Prototypes whose clusters are forced to equal parts."""
    even = np.full(views.classes, 1 / views.classes, np.float32)
    settings = views.settings.model_copy(update={"free_prototypes": 0, "prior_strength": 1000.0})
    z, anchors = views.centred()
    prototypes = guided.initial_prototypes(
        z, anchors, views.labels, views.classes, settings, views.seed
    )
    for _ in range(settings.iterations):
        prototypes = guided.update(z, anchors, views.labels, prototypes, even, settings)
    return _by_votes(z, anchors, views, prototypes, even), even


def by_rank_order(views: Views, neighbours: int = 20) -> tuple[Array, Array]:
    """Rank-order clustering (Zhu, Wen & Sun 2011): the nearest tenth of the links join faces.

    Without the bound on the links almost all faces end in one cluster. Labelled faces are clustered
    with the others and vote; a cluster without voters shows the prior.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    prior = views.prior()
    points = np.concatenate(views.centred())
    first, second, distance = _rank_order_links(points, neighbours)
    near = distance <= np.quantile(distance, 0.1)
    links = coo_matrix((near[near], (first[near], second[near])), (len(points), len(points)))
    count, group = connected_components(links, directed=False)
    own, voters = group[: len(views.z)], group[len(views.z) :]
    counts = np.bincount(views.labels, minlength=views.classes)
    votes = np.zeros((count, views.classes), np.float32)
    weight = (prior / np.maximum(counts, 1))[views.labels] * len(views.labels)
    np.add.at(votes, (voters, views.labels), weight)
    return guided.normalise(votes + prior)[own].astype(np.float32), prior


def _rank_order_links(points: Array, neighbours: int) -> tuple[Labels, Labels, Array]:
    """Pairs that are in each other's list of ``neighbours``, and their rank-order distance.

    ``(Σ_{i ≤ O_a(b)} O_b(f_a(i)) + Σ_{i ≤ O_b(a)} O_a(f_b(i))) / min(O_a(b), O_b(a))``, where
    ``O_a(x)`` is the place of x among a's neighbours (``neighbours`` + 1 where it is not there) and
    ``f_a(i)`` the face at place i; a itself has place 0.
    """
    lists = np.concatenate(
        [_nearest(points[part] @ points.T, neighbours) for part in guided.chunks(len(points), 1024)]
    )
    size = neighbours + 1
    firsts, seconds, distances = [], [], []
    for place in range(1, size):  # all pairs (a, its face at this place) at once
        a, b = np.arange(len(points)), lists[:, place]
        match = lists[b] == a[:, None]
        keep = match.any(axis=1) & (a < b)
        a, b, back = a[keep], b[keep], match[keep].argmax(axis=1)
        there = _places(lists[a], lists[b])[:, : place + 1].sum(axis=1)
        here = _places(lists[b], lists[a])
        here = np.where(np.arange(size) <= back[:, None], here, 0).sum(axis=1)
        firsts.append(a)
        seconds.append(b)
        distances.append((there + here) / np.minimum(place, back))
    return np.concatenate(firsts), np.concatenate(seconds), np.concatenate(distances)


def _nearest(similarity: Array, neighbours: int) -> Labels:
    top = np.argpartition(-similarity, neighbours, axis=1)[:, : neighbours + 1]
    order = np.argsort(-np.take_along_axis(similarity, top, axis=1), axis=1, kind="stable")
    return np.take_along_axis(top, order, axis=1)


def _places(faces: Labels, lists: Labels) -> Labels:
    """The place of each of ``faces`` ``[n, m]`` in its row of ``lists`` ``[n, m]``; m if absent."""
    same = faces[:, :, None] == lists[:, None, :]
    return np.where(same.any(axis=2), same.argmax(axis=2), lists.shape[1])


def _by_votes(
    z: Array, anchors: Array, views: Views, prototypes: guided.Prototypes, prior: Array
) -> Array:
    shows, _ = guided.map_clusters(anchors, views.labels, prototypes, prior, views.settings)
    parts = []
    for part in guided.chunks(len(z), views.settings.chunk):
        assignment = guided.assign(z[part], prototypes, views.settings)
        parts.append(assignment[:, :-1] @ shows + assignment[:, -1:] * prior)
    return np.concatenate(parts)


def precision_at_half(posterior: Array, truth: Labels) -> list[float]:
    """Precision of each expression's surest faces, half as many as there truly are, ``[C]``.

    Args:
        posterior: ``[n, C]`` of faces whose truth is known.
        truth: ``[n]``.
    """
    result = []
    for expression in range(posterior.shape[1]):
        count = int((truth == expression).sum()) // 2
        surest = np.argsort(-posterior[:, expression], kind="stable")[:count]
        result.append(float((truth[surest] == expression).mean()))
    return result
