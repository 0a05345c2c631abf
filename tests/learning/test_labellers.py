"""What the few-label benchmark compares guided clustering with does what its papers say."""

import numpy as np
import pytest

from benchmarks._labellers import (
    Views,
    _rank_order_links,
    by_guided,
    by_head,
    by_kmeans,
    by_rank_order,
    by_sinkhorn,
    precision_at_half,
)
from mien.learning.clustering import unit
from tests.learning.test_clustering import SETTINGS, blobs

CLASSES = 3


def planted(spread, seed=0):
    """Views of three even blobs with 30 labelled faces each, a head that knows nothing; truth."""
    z, truth = blobs([1 / 3] * CLASSES, count=600, spread=spread, seed=seed)
    anchors, labels = blobs([1 / 3] * CLASSES, count=90, spread=spread, seed=seed + 1)
    even = np.full(CLASSES, 1 / CLASSES, np.float32)
    head = np.full((len(z), CLASSES), 1 / CLASSES, np.float32)
    return Views(z, head, even, anchors, labels, SETTINGS, seed), truth


@pytest.mark.parametrize(
    ("labeller", "reached"),
    [(by_kmeans, 1.0), (by_sinkhorn, 1.0), (by_guided, 1.0), (by_rank_order, 0.25)],
)
def test_finds_planted_groups_that_the_head_does_not_see(labeller, reached):
    views, truth = planted(spread=0.05)
    posterior, prior = labeller(views)
    np.testing.assert_allclose(posterior.sum(axis=1), 1, rtol=1e-4)
    np.testing.assert_allclose(prior.sum(), 1, rtol=1e-5)
    sure = posterior.max(axis=1) > 0.5  # the nearest tenth of the links reaches not every face
    assert sure.mean() >= reached
    assert (posterior.argmax(axis=1) == truth)[sure].mean() > 0.99


def test_head_is_corrected_to_the_prior():
    views, _ = planted(spread=0.05)
    labels = np.repeat([0, 1, 2], [54, 27, 9])  # and the head expects even shares
    tilted = Views(
        views.z, views.head, views.head_prior, views.anchors, labels,
        SETTINGS.model_copy(update={"prior_steps": 0}), 0,
    )  # fmt: skip
    posterior, prior = by_head(tilted)
    expected = 0.95 * np.array([0.6, 0.3, 0.1]) + 0.05 / 3
    np.testing.assert_allclose(prior, expected, rtol=1e-5)
    np.testing.assert_allclose(posterior[0], expected, rtol=1e-5)


def test_rank_order_distance_is_that_of_the_paper():
    """Zhu, Wen & Sun (2011), equations 1 and 2, written out pair by pair."""
    neighbours = 6
    points = unit(np.random.default_rng(3).normal(size=(50, 4)).astype(np.float32))
    order = np.argsort(-(points @ points.T), axis=1, kind="stable")[:, : neighbours + 1]
    places = [{int(face): place for place, face in enumerate(row)} for row in order]

    def one_way(a, b):
        return sum(
            places[b].get(int(face), neighbours + 1) for face in order[a][: places[a][b] + 1]
        )

    expected = {
        (a, b): (one_way(a, b) + one_way(b, a)) / min(places[a][b], places[b][a])
        for a in range(50)
        for b in range(a + 1, 50)
        if b in places[a] and a in places[b]
    }
    first, second, distance = _rank_order_links(points, neighbours)
    found = {
        (min(a, b), max(a, b)): d
        for a, b, d in zip(first.tolist(), second.tolist(), distance.tolist(), strict=True)
    }
    assert len(first) == len(found) == len(expected) > 20
    assert found == pytest.approx(expected)


def test_precision_at_half_by_hand():
    truth = np.array([0, 0, 0, 0, 1, 1])
    surest = np.array([0.9, 0.2, 0.8, 0.1, 0.7, 0.3])  # of expression 0
    posterior = np.stack([surest, 1 - surest], axis=1)
    # of 0 the two surest are faces 0 and 2, both right; of 1 the one surest is face 3, a 0
    assert precision_at_half(posterior, truth) == [1.0, 0.0]
