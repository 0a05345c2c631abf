"""Guided clustering against numbers worked out by hand and against planted structure."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.learning import clustering
from mien.learning.clustering import (
    FREE,
    Prototypes,
    assign,
    combine,
    estimate_prior,
    guided_clustering,
    initial_prototypes,
    map_clusters,
    margin,
    neighbour_votes,
    target_shares,
    unit,
    update,
    wilson_lower_bound,
)
from mien.params.learning import ClusterSettings

SETTINGS = ClusterSettings(
    epochs=1, steps_per_epoch=1, batch_size=1, learning_rate=0.1, weight_decay=0, ema_decay=0,
    label_smoothing=0, class_balance=0, networks=["accnn"], rounds=1, unlabelled_batch_size=1,
    labelled_view="weak", pseudo_weight=1,
    consistency_weight=0, consistency_threshold=0, consistency_temperature=0,
    center_weight=0, island_weight=0,
    prototypes_per_expression=2, free_prototypes=2, free_share=0.2, iterations=8, temperature=0.1,
    prior_steps=10, prior_strength=5, dustbin_similarity=0.2, neighbours=5, chunk=64,
)  # fmt: skip


def changed(**values):
    return SETTINGS.model_copy(update=values)


def blobs(shares, count=600, spread=0.25, seed=0, dimension=8):
    """Unit vectors about one axis for each class, in the given shares; the class of each."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(len(shares), count, p=shares)
    points = np.eye(dimension)[labels] + rng.normal(0, spread, (count, dimension))
    return unit(points.astype(np.float32)), labels


def prototypes_at(vectors, expressions):
    vectors = np.asarray(vectors, np.float32)
    return Prototypes(vectors, np.asarray(expressions), np.ones(len(vectors), np.float32))


def test_assignment_by_hand():
    # similarities 1 and 0 to the prototypes, 0.2 to the dustbin, temperature 0.1
    rows = assign(
        np.array([[1.0, 0.0]], np.float32), prototypes_at([[1, 0], [0, 1]], [0, 1]), SETTINGS
    )
    expected = np.exp([10.0, 0.0, 2.0])
    np.testing.assert_allclose(rows[0], expected / expected.sum(), rtol=1e-5)


def test_a_face_far_from_all_goes_to_the_dustbin():
    z = np.array([[0, 0, 1.0]], np.float32)
    rows = assign(z, prototypes_at([[1, 0, 0], [0, 1, 0]], [0, 1]), SETTINGS)
    assert rows[0].argmax() == 2


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(0, 1000))
def test_assignments_sum_to_one(chunk, seed):
    z, _ = blobs([0.5, 0.5], count=50, seed=seed)
    prototypes = prototypes_at(np.eye(8)[:3], [0, 1, FREE])
    rows = assign(z, prototypes, changed(chunk=chunk))
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_chunk_changes_nothing(chunk):
    z, _ = blobs([0.6, 0.3, 0.1])
    head = np.full((len(z), 3), 1 / 3, np.float32)
    anchors, labels = blobs([1 / 3] * 3, count=30, seed=1)
    even = np.full(3, 1 / 3)
    whole = guided_clustering(z, head, anchors, labels, even, changed(chunk=600), 0)
    parts = guided_clustering(z, head, anchors, labels, even, changed(chunk=chunk), 0)
    np.testing.assert_allclose(parts.posterior, whole.posterior, atol=1e-4)
    assert (parts.cluster == whole.cluster).mean() > 0.99


def test_mass_follows_the_prior_under_a_strong_pull():
    """Ambiguous faces midway between two prototypes are shared out as the prior says."""
    rng = np.random.default_rng(0)
    z = unit((np.array([[1.0, 1.0, 0.0]]) + rng.normal(0, 0.1, (500, 3))).astype(np.float32))
    anchors, labels = np.eye(3, dtype=np.float32)[:2], np.array([0, 1])
    prior = np.array([0.8, 0.2], np.float32)
    masses = {}
    for strength in (0.0, 1000.0):
        settings = changed(prior_strength=strength, dustbin_similarity=-1, temperature=1.0)
        prototypes = prototypes_at(np.eye(3)[:2], [0, 1])
        for _ in range(30):
            moved = update(z, anchors, labels, prototypes, prior, settings)
            # prototypes are held still: only the scaling is under test
            prototypes = Prototypes(prototypes.vectors, prototypes.expressions, moved.scaling)
        mass = assign(z, prototypes, settings)[:, :2].sum(axis=0)
        masses[strength] = mass[0] / mass.sum()
    assert masses[0.0] == pytest.approx(0.5, abs=0.02)
    assert masses[1000.0] == pytest.approx(0.8, abs=0.02)


def test_bound_prototypes_stay_with_their_labelled_faces():
    """Unlabelled faces of another kind pull a bound prototype half-way, and other expressions'
    labelled faces not at all."""
    z = unit(np.tile([[0.3, 1.0, 0.0]], (500, 1)).astype(np.float32))
    anchors, labels = np.array([[1.0, 0, 0], [0, 0, 1]], np.float32), np.array([0, 1])
    prototypes = prototypes_at([[1, 0, 0], [0, 0, 1]], [0, 1])
    for _ in range(20):
        prototypes = update(z, anchors, labels, prototypes, np.full(2, 0.5, np.float32), SETTINGS)
    np.testing.assert_allclose(prototypes.vectors, unit(z[:2] + anchors), atol=1e-5)


def test_a_free_prototype_without_faces_stays_finite():
    z = unit(np.tile([[1.0, 0.1, 0]], (20, 1)).astype(np.float32))
    prototypes = prototypes_at([[1, 0, 0], [-1, 0, 0]], [0, FREE])
    moved = update(z, z[:2], np.array([0, 0]), prototypes, np.ones(1, np.float32), SETTINGS)
    np.testing.assert_array_equal(moved.vectors[1], [-1, 0, 0])
    assert np.isfinite(moved.vectors).all()
    assert np.isfinite(moved.scaling).all()


def test_votes_by_hand():
    # two clusters far apart; two voters of class 0 in the first, one of class 1 in the second
    anchors = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    labels = np.array([0, 0, 1])
    prototypes = prototypes_at([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [0, 1, FREE])
    prior = np.array([0.5, 0.5], np.float32)
    probabilities, purity = map_clusters(
        anchors, labels, prototypes, prior, changed(temperature=0.01)
    )
    # weights: 0.5/2·3 = 0.75 a face of class 0, 0.5/1·3 = 1.5 of class 1; plus one prior vote
    np.testing.assert_allclose(probabilities[0], [(1.5 + 0.5) / 2.5, 0.5 / 2.5], rtol=1e-4)
    np.testing.assert_allclose(probabilities[1], [0.5 / 2.5, (1.5 + 0.5) / 2.5], rtol=1e-4)
    np.testing.assert_allclose(probabilities[2], prior, atol=1e-4)  # nobody voted: unmapped
    assert purity[2] < 1e-3 < purity[0]


def test_wilson_bound_by_hand():
    # 8 of 10 at one standard error: (0.8 + 0.05 − sqrt(0.016 + 0.0025)) / 1.1
    bound = wilson_lower_bound(np.array([8.0]), np.array([10.0]))
    assert bound[0] == pytest.approx((0.85 - np.sqrt(0.0185)) / 1.1, rel=1e-4)
    assert wilson_lower_bound(np.array([0.0]), np.array([0.0]))[0] == 0


def test_more_agreeing_votes_raise_the_bound():
    bounds = wilson_lower_bound(np.array([1.0, 4.0, 16.0]), np.array([1.0, 4.0, 16.0]))
    assert (np.diff(bounds) > 0).all()


def test_neighbours_by_hand():
    anchors = np.array([[1, 0], [0, 1]], np.float32)
    votes = neighbour_votes(
        np.array([[1.0, 0.0]], np.float32), anchors, np.array([0, 1]),
        np.array([0.5, 0.5], np.float32), changed(neighbours=2, temperature=1.0),
    )  # fmt: skip
    first = np.e / (np.e + 1)
    np.testing.assert_allclose(votes[0], [0.9 * first + 0.05, 0.9 * (1 - first) + 0.05], rtol=1e-5)


def test_neighbours_are_the_same_whatever_is_compared_at_once(monkeypatch):
    z, _ = blobs([0.5, 0.3, 0.2], count=150)
    anchors, labels = blobs([0.4, 0.3, 0.3], count=60, seed=1)
    prior = np.array([0.5, 0.3, 0.2], np.float32)
    at_once = neighbour_votes(z, anchors, labels, prior, SETTINGS)
    for similarities in (1, 1000):  # a row, and 16 rows
        monkeypatch.setattr(clustering, "_SIMILARITIES", similarities)
        votes = neighbour_votes(z, anchors, labels, prior, SETTINGS)
        np.testing.assert_allclose(votes, at_once, rtol=1e-5)


def test_free_prototypes_begin_in_the_half_far_from_the_labelled_faces():
    axes = np.eye(4, dtype=np.float32)
    near, far = np.repeat(axes[:2], 50, axis=0), np.repeat(axes[2:], 50, axis=0)
    prototypes = initial_prototypes(
        np.concatenate([near, far]), axes[:2], np.array([0, 1]), 2, changed(free_prototypes=4), 0
    )
    free = prototypes.vectors[prototypes.expressions == FREE]
    assert len(free)
    np.testing.assert_allclose(np.linalg.norm(free[:, 2:], axis=1), 1, rtol=1e-5)


def test_prior_is_found_though_the_head_expected_another():
    rng = np.random.default_rng(0)
    true = np.array([0.7, 0.2, 0.1])
    labels = rng.choice(3, 20_000, p=true)
    # a calibrated head for even shares: p(e|x) ∝ p(x|e), with an observation that is right in 70%
    seen = np.where(rng.random(20_000) < 0.7, labels, rng.integers(0, 3, 20_000))
    likelihood = 0.3 / 3 + 0.7 * np.eye(3)
    head = (likelihood / likelihood.sum(axis=0))[:, seen].T.astype(np.float32)
    even = np.full(3, 1 / 3, np.float32)
    prior = estimate_prior(head, even, even, steps=50)
    np.testing.assert_allclose(prior, 0.95 * true + 0.05 / 3, atol=0.02)


def test_one_step_of_the_prior_by_hand():
    head = np.array([[0.8, 0.2], [0.5, 0.5]], np.float32)
    prior = estimate_prior(head, np.array([0.5, 0.5]), np.array([0.25, 0.75], np.float32), steps=1)
    # 0.8·0.25 : 0.2·0.75 = 4 : 3 and 1 : 3, so the first expression's mean is (4/7 + 1/4) / 2
    first = (4 / 7 + 1 / 4) / 2
    np.testing.assert_allclose(prior, [0.95 * first + 0.025, 0.95 * (1 - first) + 0.025], rtol=1e-5)


def test_a_floor_under_a_rare_expression_does_not_inflate_its_prior():
    """Label smoothing gives every expression a floor; EM to the end gives all to the rarest."""
    labelled = np.array([0.66, 0.33, 0.01], np.float32)
    head_prior = np.sqrt(labelled) / np.sqrt(labelled).sum()
    truth = np.random.default_rng(0).choice(3, 5000, p=labelled)
    head = 0.35 / 3 + 0.65 * np.eye(3, dtype=np.float32)[truth]
    few = estimate_prior(head, head_prior, labelled, steps=1)
    many = estimate_prior(head, head_prior, labelled, steps=200)
    assert few[2] < 0.1
    assert many[2] > 0.2


def test_targets_by_hand():
    expressions = np.array([0, 0, 1, FREE, FREE])
    shares = target_shares(expressions, np.array([0.6, 0.4]), 0.2)
    np.testing.assert_allclose(shares, [0.24, 0.24, 0.32, 0.1, 0.1], rtol=1e-6)
    np.testing.assert_allclose(
        target_shares(expressions[:3], np.array([0.6, 0.4]), 0.2), [0.3, 0.3, 0.4], rtol=1e-6
    )


def test_free_prototypes_get_their_share_and_no_more():
    """They lie where the faces are, so unscaled they would take nearly all."""
    z, _ = blobs([0.5, 0.5], count=400)
    vectors = np.concatenate([np.eye(8)[:2] + 0.6, np.eye(8)[:2]])
    start = prototypes_at(unit(vectors.astype(np.float32)), [0, 1, FREE, FREE])
    anchors, labels = blobs([0.5, 0.5], count=20, seed=1)
    prior = np.full(2, 0.5, np.float32)

    def free_mass(settings):
        prototypes = start
        for _ in range(30):
            moved = update(z, anchors, labels, prototypes, prior, settings)
            prototypes = Prototypes(start.vectors, start.expressions, moved.scaling)
        return assign(z, prototypes, settings)[:, 2:4].sum() / len(z)

    assert free_mass(changed(prior_strength=0)) > 0.8
    assert free_mass(changed(prior_strength=1000)) == pytest.approx(0.2, abs=0.02)


def test_combining_by_hand():
    source = np.array([[0.5, 0.3, 0.2]], np.float32)
    np.testing.assert_allclose(combine([source] * 3), source, rtol=1e-4)
    # √(0.64 · 0.25) : √(0.36 · 0.25) = 4 : 3
    sources = [np.array([[0.64, 0.36]], np.float32), np.full((1, 2), 0.25, np.float32)]
    np.testing.assert_allclose(combine(sources), [[4 / 7, 3 / 7]], rtol=1e-4)


def test_an_expression_with_few_faces_gets_one_prototype():
    anchors, _ = blobs([1.0], count=11)
    labels = np.array([0] * 8 + [1] * 3)
    z, _ = blobs([0.5, 0.5], count=40)
    prototypes = initial_prototypes(z, anchors, labels, 2, SETTINGS, 0)
    assert (prototypes.expressions == 0).sum() == 2
    assert (prototypes.expressions == 1).sum() == 1
    assert (prototypes.expressions == FREE).sum() == 2
    np.testing.assert_allclose(np.linalg.norm(prototypes.vectors, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(("faces", "prototypes"), [(3, 1), (7, 1), (8, 2), (11, 2), (12, 3)])
def test_an_expression_gets_one_prototype_for_each_four_faces(faces, prototypes):
    anchors, _ = blobs([1.0], count=faces)
    z, _ = blobs([0.5, 0.5], count=40)
    found = initial_prototypes(
        z, anchors, np.zeros(faces, np.int64), 1, changed(prototypes_per_expression=3), 0
    )
    assert (found.expressions == 0).sum() == prototypes


def test_a_prototype_is_never_pulled_by_more_than_a_thousand():
    z = unit(np.tile([[1.0, 0.1, 0]], (4000, 1)).astype(np.float32))
    prototypes = prototypes_at([[1, 0, 0], [-1, 0, 0]], [0, FREE])
    strong = changed(prior_strength=1e6, free_share=0.9999)
    moved = update(z, z[:2], np.array([0, 0]), prototypes, np.ones(1, np.float32), strong)
    np.testing.assert_allclose(moved.scaling, [1e-3, 1e3])


def test_planted_structure_is_found_and_strangers_are_doubted():
    shares = [0.5, 0.3, 0.1, 0.1]  # the last is a kind that no label names
    z, truth = blobs(shares, count=1500, spread=0.15)
    anchors, labels = blobs([1 / 3] * 3, count=30, spread=0.15, seed=1)
    head = np.full((len(z), 3), 1 / 3, np.float32)  # the head knows nothing
    found = guided_clustering(z, head, anchors, labels, np.full(3, 1 / 3), SETTINGS, 0)
    known = truth < 3
    assert (found.posterior.argmax(axis=1) == truth)[known].mean() > 0.97
    assert found.purity[~known].mean() < 0.3 < 0.6 < found.purity[known].mean()
    doubted = margin(found.posterior)
    assert doubted[~known].mean() < doubted[known].mean() - 0.2
    assert ((found.posterior >= 0) & (found.posterior <= 1)).all()


def by_the_equations(z, head, anchors, labels, head_prior, settings):
    """Section 3 of docs/method.md written out: prior, posterior and purity.

    Only the first prototypes are taken from what is tested.
    """

    def norm(x):
        return x / x.sum(axis=-1, keepdims=True)

    classes, tau = head.shape[1], settings.temperature
    counts = np.bincount(labels, minlength=classes)
    prior = counts / len(labels)
    for _ in range(settings.prior_steps):
        prior = norm(head * prior / head_prior).mean(axis=0)
    prior = 0.95 * prior + 0.05 / classes

    z, anchors = unit(z - z.mean(axis=0)), unit(anchors - z.mean(axis=0))
    start = initial_prototypes(z, anchors, labels, classes, settings, 0)
    m, e, v = start.vectors, start.expressions, np.ones(len(start.vectors))
    free = e == FREE
    targets = np.full(len(m), settings.free_share / free.sum())
    for k in np.flatnonzero(~free):
        targets[k] = (1 - settings.free_share) * prior[e[k]] / (e == e[k]).sum()
    rho = settings.prior_strength

    def assigned(x):
        dustbin = np.full((len(x), 1), np.exp(settings.dustbin_similarity / tau))
        return norm(np.hstack([v * np.exp(x @ m.T / tau), dustbin]))

    for _ in range(settings.iterations):
        a = assigned(z)[:, :-1]
        own = e == labels[:, None]
        b = np.where(own, np.exp(anchors @ m.T / tau), 0)
        b /= b.sum(axis=1, keepdims=True)
        v = (len(z) * targets * v / a.sum(axis=0)) ** (rho / (rho + 1))
        m = unit(a.T @ z) + np.where(free[:, None], 0, unit(b.T @ anchors))
        m = unit(m)

    each = (prior / counts)[labels] * len(labels)
    votes = assigned(anchors)[:, :-1].T @ (np.eye(classes)[labels] * each[:, None])
    shown = (votes + prior) / (votes.sum(axis=1, keepdims=True) + 1)
    purity = wilson_lower_bound(votes.max(axis=1), votes.sum(axis=1))
    nearness = np.exp(z @ anchors.T / tau)
    nearness[nearness < -np.sort(-nearness, axis=1)[:, [settings.neighbours - 1]]] = 0
    views = [
        assigned(z) @ np.vstack([shown, prior]),
        0.9 * norm((nearness * each) @ np.eye(classes)[labels]) + 0.1 * prior,
        norm(head * prior / head_prior),
    ]
    return prior, norm(np.prod(views, axis=0) ** (1 / 3)), assigned(z)[:, :-1] @ purity


def test_it_does_what_its_equations_say():
    rng = np.random.default_rng(0)
    shift = 0.3 * np.ones(8, np.float32)
    z = blobs([0.5, 0.3, 0.1, 0.1], spread=0.3)[0] + shift
    anchors, labels = blobs([0.6, 0.3, 0.1], count=40, spread=0.3, seed=1)
    head = rng.dirichlet(np.ones(3), len(z)).astype(np.float32)
    given = z, head, anchors + shift, labels, np.array([0.5, 0.3, 0.2], np.float32)
    settings = changed(temperature=0.3, prior_steps=2, prior_strength=2)
    found = guided_clustering(*given, settings, 0)
    prior, posterior, purity = by_the_equations(*given, settings)
    np.testing.assert_allclose(found.prior, prior, rtol=1e-4)
    np.testing.assert_allclose(found.posterior, posterior, atol=1e-4)
    np.testing.assert_allclose(found.purity, purity, atol=1e-4)
    best = np.sort(posterior, axis=1)
    np.testing.assert_allclose(margin(found.posterior), best[:, -1] - best[:, -2], atol=1e-4)


def test_margin_is_between_the_two_likeliest():
    posterior = np.array([[0.1, 0.7, 0.2], [0.4, 0.2, 0.4]], np.float32)
    np.testing.assert_allclose(margin(posterior), [0.5, 0], atol=1e-7)


def test_the_cluster_is_the_surest_prototype_or_the_dustbin():
    z, _ = blobs([0.4, 0.3, 0.3], count=80, spread=0.5)
    anchors, labels = blobs([0.6, 0.4], count=30, spread=0.5, seed=1)
    even = np.full(2, 0.5, np.float32)
    found = guided_clustering(z, np.tile(even, (80, 1)), anchors, labels, even, SETTINGS, 0)
    centred = unit(z - z.mean(axis=0))
    rows = assign(centred, found.prototypes, SETTINGS)
    dustbin = rows[:, -1] > rows[:, :-1].max(axis=1)
    assert 0 < dustbin.sum() < 40
    np.testing.assert_array_equal(found.cluster == FREE, dustbin)
    np.testing.assert_array_equal(found.cluster[~dustbin], rows.argmax(axis=1)[~dustbin])
    nearest = (centred @ found.prototypes.vectors.T).max(axis=1)
    np.testing.assert_allclose(found.density, nearest, atol=1e-6)


def test_without_free_prototypes_it_still_works():
    z, truth = blobs([0.5, 0.5])
    anchors, labels = blobs([0.5, 0.5], count=20, seed=1)
    head = np.full((len(z), 2), 0.5, np.float32)
    found = guided_clustering(
        z, head, anchors, labels, np.array([0.5, 0.5]), changed(free_prototypes=0), 0
    )
    assert (found.posterior.argmax(axis=1) == truth).mean() > 0.95
