"""Expression-guided clustering: labelled faces guide how unlabelled ones are grouped.

Symbols (docs/method.md, section 3). Unit embeddings ``z_i`` of N unlabelled faces and of L labelled
ones with expressions ``y_j``; K unit prototypes ``m_k``, each bound to an expression ``e(k)`` or
*free*; one dustbin. A face's affinity to a prototype is ``exp(z_i · m_k / τ)``, to the dustbin
``exp(s₀ / τ)``.

1. Each expression gets prototypes by k-means over its labelled faces; free prototypes come from
   the unlabelled faces that are far from all of those.
2. Faces are assigned by entropic optimal transport whose column marginals are pulled, by a KL
   penalty of strength ρ, towards an *estimated* prior π: the unlabelled faces do not show each
   expression equally often, so equal parts (SeLa, SwAV) would be wrong.
3. Prototypes move to the mean of their faces; those of an expression stay tied half-and-half to its
   labelled faces. Steps 2 and 3 alternate.
4. Labelled faces vote for what each cluster shows; a cluster that few of them reach stays unmapped.
5. A face's posterior joins its cluster's expression, its labelled neighbours and the network's
   head.

Every pass over the faces goes chunk by chunk and keeps only sums and counts, so memory is
O(N C + (K + L) D) beside the unlabelled faces' embeddings themselves.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mien.params.learning import ClusterSettings

Array = NDArray[np.float32]
Labels = NDArray[np.int64]

FREE = -1
"""Expression of a prototype that is bound to none, and cluster of a face in the dustbin."""
_SIMILARITIES = 2**24
"""Of unlabelled to labelled faces at once: 64 MB, and three times that to sort them."""


@dataclass(frozen=True)
class Prototypes:
    """Unit vectors ``[K, D]``, their expressions (or `FREE`) ``[K]``, column scaling ``[K]``."""

    vectors: Array
    expressions: Labels
    scaling: Array


@dataclass(frozen=True)
class Clustering:
    """What guided clustering says of N faces.

    Attributes:
        cluster: nearest prototype by assignment, or `FREE` for the dustbin; ``[N]``.
        posterior: probability of each expression, ``[N, C]``.
        purity: lower bound of the share of its cluster's voters that agree, ``[N]``, 0 to 1.
        density: largest affinity to any prototype as cosine similarity, ``[N]``, -1 to 1.
        prior: estimated share of each expression among the faces, ``[C]``.
        prototypes: where the clusters lie.
    """

    cluster: Labels
    posterior: Array
    purity: Array
    density: Array
    prior: Array
    prototypes: Prototypes


def guided_clustering(
    unlabelled: Array,
    head: Array,
    labelled: Array,
    labels: Labels,
    head_prior: Array,
    settings: ClusterSettings,
    seed: int,
) -> Clustering:
    """Cluster unlabelled faces under the guidance of labelled ones.

    Args:
        unlabelled: embeddings ``[N, D]``.
        head: the network's probabilities for them, ``[N, C]``.
        labelled: embeddings ``[L, D]``.
        labels: their expressions, ``[L]``, 0 to C-1; each occurs.
        head_prior: shares of the expressions that the head was trained to expect, ``[C]``.
        settings: see `ClusterSettings`.
        seed: of k-means.
    """
    classes = head.shape[1]
    shares = np.bincount(labels, minlength=classes) / len(labels)
    prior = estimate_prior(head, head_prior, shares.astype(np.float32), settings.prior_steps)
    centre = unlabelled.mean(axis=0)
    z, anchors = unit(unlabelled - centre), unit(labelled - centre)

    prototypes = initial_prototypes(z, anchors, labels, classes, settings, seed)
    for _ in range(settings.iterations):
        prototypes = update(z, anchors, labels, prototypes, prior, settings)

    expression_of, purity_of = map_clusters(anchors, labels, prototypes, prior, settings)
    cluster = np.empty(len(z), np.int64)
    posterior = np.empty((len(z), classes), np.float32)
    purity, density = np.empty(len(z), np.float32), np.empty(len(z), np.float32)
    for part in chunks(len(z), settings.chunk):
        assignment = assign(z[part], prototypes, settings)
        inside = assignment[:, :-1]
        cluster[part] = np.where(
            assignment.argmax(axis=1) < inside.shape[1], inside.argmax(axis=1), FREE
        )
        purity[part] = inside @ purity_of
        density[part] = (z[part] @ prototypes.vectors.T).max(axis=1)
        sources = [
            inside @ expression_of + assignment[:, -1:] * prior,
            neighbour_votes(z[part], anchors, labels, prior, settings),
            normalise(head[part] * (prior / head_prior)),
        ]
        posterior[part] = combine(sources)
    return Clustering(cluster, posterior, purity, density, prior, prototypes)


def estimate_prior(head: Array, head_prior: Array, labelled: Array, steps: int) -> Array:
    """Shares of the expressions among faces with head probabilities ``[N, C]``, by a few EM steps.

    From the shares among the labelled faces, ``labelled`` ``[C]``, Saerens, Latinne & Decaestecker
    (2002) go ``π ← mean_i normalise(p_i · π / π_head)`` to the end. That is right only for a head
    whose probabilities are: any it gives too freely to a rare expression are divided by a small
    ``π_head`` and feed upon themselves. Stopped after ``steps`` the estimate stays near what is
    known (docs/method.md, section 3). A twentieth of it is spread evenly, so that no expression is
    ruled out.
    """
    ratio = head / head_prior
    prior = labelled
    for _ in range(steps):
        prior = normalise(ratio * prior).mean(axis=0)
    result: Array = (0.95 * prior + 0.05 / len(prior)).astype(np.float32)
    return result


def initial_prototypes(
    z: Array, anchors: Array, labels: Labels, classes: int, settings: ClusterSettings, seed: int
) -> Prototypes:
    """Prototypes of each expression from its labelled faces, free ones from faces far from those.

    An expression gets one prototype for each four labelled faces at most, so that none rests on a
    single face.
    """
    vectors, expressions = [], []
    for expression in range(classes):
        own = anchors[labels == expression]
        count = max(1, min(settings.prototypes_per_expression, len(own) // 4))
        vectors.append(kmeans(own, count, seed))
        expressions.append(np.full(count, expression))
    bound = np.concatenate(vectors)
    nearest = np.concatenate(
        [(z[part] @ bound.T).max(axis=1) for part in chunks(len(z), settings.chunk)]
    )
    far = z[nearest <= np.median(nearest)]
    count = min(settings.free_prototypes, len(far))
    if count:
        vectors.append(kmeans(far, count, seed))
        expressions.append(np.full(count, FREE))
    all_vectors = np.concatenate(vectors)
    return Prototypes(
        all_vectors, np.concatenate(expressions), np.ones(len(all_vectors), np.float32)
    )


def assign(z: Array, prototypes: Prototypes, settings: ClusterSettings) -> Array:
    """Assignment ``[n, K + 1]`` of faces to prototypes and, last, the dustbin; rows sum to 1.

    ``a_ik ∝ v_k exp(z_i · m_k / τ)``: for given column scalings v this is the row step of Sinkhorn.
    """
    similarity = z @ prototypes.vectors.T
    dustbin = np.full((len(z), 1), settings.dustbin_similarity, np.float32)
    logits = np.hstack([similarity, dustbin])
    logits /= settings.temperature
    logits[:, :-1] += np.log(prototypes.scaling)
    return softmax(logits)


def update(
    z: Array,
    anchors: Array,
    labels: Labels,
    prototypes: Prototypes,
    prior: Array,
    settings: ClusterSettings,
) -> Prototypes:
    """One pass over the faces: new column scalings and new prototypes.

    Scaling (unbalanced optimal transport, Chizat et al. 2018): with ``c_k`` the mass that prototype
    k got, ``v_k ← (q_k v_k / c_k)^(ρ/(ρ+1))`` for the targets ``q_k`` of `target_shares`; the
    dustbin takes what comes (v = 1).
    """
    sums = np.zeros_like(prototypes.vectors)
    mass = np.zeros(len(prototypes.vectors), np.float32)
    for part in chunks(len(z), settings.chunk):
        inside = assign(z[part], prototypes, settings)[:, :-1]
        sums += inside.T @ z[part]
        mass += inside.sum(axis=0)

    power = settings.prior_strength / (settings.prior_strength + 1)
    target = len(z) * target_shares(prototypes.expressions, prior, settings.free_share)
    scaling = (target * prototypes.scaling / np.maximum(mass, 1e-6)) ** power

    bound = prototypes.expressions != FREE
    vectors = unit(sums)
    ties = _binding(anchors, labels, prototypes, settings)
    vectors[bound] = unit(vectors[bound] + unit(ties.T @ anchors))
    empty = mass < 1e-3  # a free prototype that lost all its faces stays where it was
    vectors[empty & ~bound] = prototypes.vectors[empty & ~bound]
    return Prototypes(vectors, prototypes.expressions, np.clip(scaling, 1e-3, 1e3))


def target_shares(expressions: Labels, prior: Array, free_share: float) -> Array:
    """Share of the faces that each of K prototypes should get, ``[K]``, sum 1.

    The free prototypes share ``free_share`` evenly. The rest is divided among the expressions as
    the prior says, and evenly within each.
    """
    free = expressions == FREE
    if not free.any():
        free_share = 0.0
    counts = np.bincount(expressions[~free], minlength=len(prior))
    shares = np.full(len(expressions), free_share / max(1, free.sum()), np.float32)
    shares[~free] = (1 - free_share) * (prior / counts)[expressions[~free]]
    return shares


def map_clusters(
    anchors: Array, labels: Labels, prototypes: Prototypes, prior: Array, settings: ClusterSettings
) -> tuple[Array, Array]:
    """What each cluster shows: probabilities ``[K, C]`` and purity ``[K]``.

    Labelled faces are assigned like any other and vote, each expression with a weight that makes
    the labelled set look as if it followed the prior. One vote's worth of the prior is added
    (Dirichlet smoothing), so a cluster without voters says nothing. Purity is the Wilson lower
    bound (one standard error) of the leading expression's share of the votes.
    """
    counts = np.bincount(labels, minlength=len(prior))
    weights = (prior / np.maximum(counts, 1))[labels] * len(labels)
    ballots = np.eye(len(prior), dtype=np.float32)[labels] * weights[:, None]
    votes = assign(anchors, prototypes, settings)[:, :-1].T @ ballots
    total = votes.sum(axis=1)
    probabilities = (votes + prior) / (total + 1)[:, None]
    purity = wilson_lower_bound(votes.max(axis=1), total)
    return probabilities.astype(np.float32), purity


def wilson_lower_bound(successes: Array, trials: Array, z: float = 1.0) -> Array:
    """Lower end of Wilson's interval for a share, ``z`` standard errors wide; 0 without trials."""
    n = np.maximum(trials, 1e-6)
    share = successes / n
    centre = share + z**2 / (2 * n)
    spread = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    bound: Array = np.maximum((centre - spread) / (1 + z**2 / n), 0).astype(np.float32)
    return bound


def neighbour_votes(
    z: Array, anchors: Array, labels: Labels, prior: Array, settings: ClusterSettings
) -> Array:
    """Expression ``[n, C]`` by each face's nearest labelled faces, by similarity and prior.

    Soft nearest neighbours of PAWS (Assran et al. 2021), with the support made to follow the prior.
    """
    count = min(settings.neighbours, len(anchors))
    voices = prior / np.maximum(np.bincount(labels, minlength=len(prior)), 1)
    shown = np.eye(len(prior))
    result = np.empty((len(z), len(prior)), np.float32)
    for part in chunks(len(z), max(1, _SIMILARITIES // len(anchors))):
        similarity = z[part] @ anchors.T
        nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        weights = np.exp(np.take_along_axis(similarity, nearest, axis=1) / settings.temperature)
        weights *= voices[labels[nearest]]
        votes = np.einsum("nk,nkc->nc", weights, shown[labels[nearest]])
        # a tenth of the prior keeps an expression that no neighbour shows from being ruled out
        result[part] = 0.9 * normalise(votes) + 0.1 * prior
    return result


def combine(sources: list[Array]) -> Array:
    """Join several posteriors ``[n, C]`` that share one prior by their geometric mean.

    The sources look at the same embedding and are far from independent, and the prior counts once:
    ``π · Π (p_s / π)^(1/S)`` is ``Π p_s^(1/S)``.
    """
    evidence = sum(np.log(source + 1e-9) for source in sources) / len(sources)
    return softmax(np.asarray(evidence, np.float32))


def kmeans(points: Array, count: int, seed: int) -> Array:
    """``count`` unit centres of unit vectors (k-means on the sphere's points, then normalised)."""
    if count == 1:
        return unit(points.mean(axis=0, keepdims=True))
    if len(points) > 50_000:
        points = np.random.default_rng(seed).choice(points, 50_000, replace=False)
    from sklearn.cluster import KMeans

    fitted = KMeans(count, n_init=3, random_state=seed).fit(points)
    return unit(fitted.cluster_centers_.astype(np.float32))


def chunks(count: int, size: int) -> Iterator[slice]:
    """Slices that cover ``count`` rows, ``size`` at a time."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def unit(vectors: Array) -> Array:
    """Rows scaled to length 1; a zero row stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: Array = (vectors / np.maximum(lengths, 1e-9)).astype(np.float32)
    return result


def normalise(weights: Array) -> Array:
    """Rows scaled to sum 1."""
    result: Array = weights / np.maximum(weights.sum(axis=-1, keepdims=True), 1e-12)
    return result


def balanced(posterior: Array, shares: Array, strength: float) -> Array:
    """Posteriors ``[N, C]`` with some of the expressions' shares ``[C]`` taken out of them.

    ``q_i ∝ p_i π^(-τ)`` (logit adjustment, Menon et al. 2021): a strength τ of 0 leaves them as
    they are, with 1 all expressions count as equally frequent.
    """
    return normalise(posterior * np.power(np.maximum(shares, 1e-9), -strength))


def margin(posterior: Array) -> Array:
    """Difference of each row's two largest probabilities, ``[N]`` of ``[N, C]``."""
    top = np.partition(posterior, -2, axis=1)[:, -2:]
    result: Array = top[:, 1] - top[:, 0]
    return result


def softmax(logits: Array) -> Array:
    """Softmax of each row."""
    return normalise(np.exp(logits - logits.max(axis=1, keepdims=True)))


def _binding(
    anchors: Array, labels: Labels, prototypes: Prototypes, settings: ClusterSettings
) -> Array:
    """Shares of labelled faces in their own expression's bound prototypes, ``[L, K_bound]``."""
    bound = prototypes.expressions != FREE
    logits = anchors @ prototypes.vectors[bound].T / settings.temperature
    logits[prototypes.expressions[bound] != labels[:, None]] = -np.inf
    return softmax(logits)
