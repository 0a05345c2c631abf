"""Acceptance of pseudo-labels and its audit, by hand."""

import numpy as np
import pandas as pd
import pytest

from mien.learning.pseudo_labels import POSTERIOR, accept, audit
from mien.params import OTHER
from mien.params.learning import RelabelSettings

NAMES = ["happy", "sad"]
OPEN = RelabelSettings(
    coverage=1, class_balance=0, min_posterior=0, min_margin=0, min_purity=0, max_sparse_share=0,
    require_flip_agreement=False,
)  # fmt: skip


def assignments(happy, **columns):
    """Faces with these posteriors of *happy*; all else spotless unless given."""
    happy = np.asarray(happy, float)
    table = {
        POSTERIOR + "happy": happy,
        POSTERIOR + "sad": 1 - happy,
        "purity": np.ones(len(happy)),
        "density": np.ones(len(happy)),
        "flip_agrees": np.ones(len(happy), bool),
    }
    return pd.DataFrame(table | columns)


def test_all_floors_open_accepts_all():
    pseudo = accept(assignments([0.9, 0.2, 0.6]), NAMES, OPEN)
    assert pseudo.accepted.all()
    np.testing.assert_array_equal(pseudo.labels, [0, 1, 0])
    np.testing.assert_allclose(pseudo.weights, [0.9, 0.8, 0.6])
    np.testing.assert_allclose(pseudo.thresholds, [0.6, 0.8])


def test_coverage_is_of_all_faces_of_an_expression_and_not_of_those_that_pass():
    table = assignments([0.95, 0.9, 0.7, 0.7, 0.7])
    pseudo = accept(table, NAMES, OPEN.model_copy(update={"coverage": 0.5, "min_posterior": 0.8}))
    np.testing.assert_array_equal(pseudo.accepted, [True, True, False, False, False])


def test_coverage_keeps_the_best_of_each_expression_not_of_all():
    table = assignments([0.99, 0.98, 0.97, 0.96, 0.45, 0.4])  # sad is rare and unsure
    pseudo = accept(table, NAMES, OPEN.model_copy(update={"coverage": 0.5}))
    np.testing.assert_array_equal(pseudo.accepted, [True, True, False, False, False, True])


def test_coverage_is_of_all_faces_of_the_expression_not_of_those_that_pass():
    table = assignments([0.99, 0.98, 0.97, 0.6, 0.6, 0.6])
    halved = OPEN.model_copy(update={"coverage": 0.5, "min_posterior": 0.9})
    np.testing.assert_array_equal(accept(table, NAMES, halved).accepted, [True] * 3 + [False] * 3)


def test_the_best_are_those_of_the_highest_posterior():
    table = assignments([0.8, 0.9, 0.7], purity=[0.9, 0.3, 0.9])
    pseudo = accept(table, NAMES, OPEN.model_copy(update={"coverage": 0.34}))
    np.testing.assert_array_equal(pseudo.accepted, [False, True, False])


def test_coverage_loses_no_face_to_floating_point():
    table = assignments([0.9] * 100)
    pseudo = accept(table, NAMES, OPEN.model_copy(update={"coverage": 0.29}))
    assert pseudo.accepted.sum() == 29  # 0.29 * 100 = 28.999999999999996


@pytest.mark.parametrize(
    ("setting", "floor", "column", "bad"),
    [
        ("min_purity", 0.5, "purity", 0.4),
        ("require_flip_agreement", True, "flip_agrees", False),
        ("max_sparse_share", 0.05, "density", 0.1),  # a share of the faces, and no density
    ],
)
def test_each_floor_rejects_on_its_own(setting, floor, column, bad):
    table = assignments([0.9, 0.9, 0.9, 0.9])
    table.loc[2, column] = bad
    pseudo = accept(table, NAMES, OPEN.model_copy(update={setting: floor}))
    np.testing.assert_array_equal(pseudo.accepted, [True, True, False, True])
    assert pseudo.weights[2] == 0
    assert accept(table, NAMES, OPEN).accepted.all()


def test_posterior_floor():
    floor = OPEN.model_copy(update={"min_posterior": 0.6})
    pseudo = accept(assignments([0.9, 0.55, 0.6]), NAMES, floor)
    np.testing.assert_array_equal(pseudo.accepted, [True, False, True])


def test_margin_floor():
    """Between the two likeliest of all expressions: 0.8, 0.2 and 0.25."""
    floor = OPEN.model_copy(update={"min_margin": 0.25})
    table = assignments([0.9, 0.6, 0.625])
    pseudo = accept(table, NAMES, floor)
    np.testing.assert_array_equal(pseudo.accepted, [True, False, True])
    assert pseudo.weights[1] == 0
    assert accept(table, NAMES, OPEN).accepted.all()


def test_rare_expressions_are_favoured_as_far_as_is_asked():
    table = assignments([0.9, 0.9, 0.9, 0.6])  # mean 0.825: a sixth is expected to be sad
    assert not accept(table, NAMES, OPEN).labels.any()
    half = accept(table, NAMES, OPEN.model_copy(update={"class_balance": 0.5}))
    np.testing.assert_array_equal(half.labels, [0, 0, 0, 1])
    odds = 0.4 / 0.6 * np.sqrt(0.825 / 0.175)
    assert half.weights[3] == pytest.approx(odds / (1 + odds))
    odds = 0.9 / 0.1 * np.sqrt(0.175 / 0.825)
    np.testing.assert_allclose(half.weights[:3], odds / (1 + odds), rtol=1e-6)
    whole = accept(table, NAMES, OPEN.model_copy(update={"class_balance": 1}))
    odds = 0.4 / 0.6 * 0.825 / 0.175
    assert whole.weights[3] == pytest.approx(odds / (1 + odds))


def test_the_floors_are_for_the_balanced_posterior():
    table = assignments([0.9, 0.9, 0.9, 0.6])  # the last: 0.591 of sad, and a margin of 0.183
    balanced = OPEN.model_copy(update={"class_balance": 0.5})
    for floor, passes in (
        ({"min_posterior": 0.59}, True), ({"min_posterior": 0.6}, False),
        ({"min_margin": 0.18}, True), ({"min_margin": 0.19}, False),
    ):  # fmt: skip
        assert accept(table, NAMES, balanced.model_copy(update=floor)).accepted[3] == passes


def test_an_expression_that_no_face_is_thought_to_show_does_no_harm():
    balanced = OPEN.model_copy(update={"class_balance": 1})
    pseudo = accept(assignments([1.0, 1.0]), NAMES, balanced)
    np.testing.assert_array_equal(pseudo.labels, [0, 0])
    np.testing.assert_array_equal(pseudo.weights, [1, 1])


@pytest.mark.parametrize(
    ("setting", "floor", "column"),
    [
        ("min_purity", 0.25, "purity"),
        ("max_sparse_share", 0.5, "density"),  # none is sparser than another
    ],
)
def test_what_reaches_a_floor_passes(setting, floor, column):
    table = assignments([0.9, 0.8], **{column: [0.25, 0.25]})
    assert accept(table, NAMES, OPEN.model_copy(update={setting: floor})).accepted.all()


def test_an_expression_nobody_has_gets_threshold_one():
    pseudo = accept(assignments([0.9, 0.8]), NAMES, OPEN)
    assert pseudo.thresholds[1] == 1


def test_audit_by_hand():
    # accepted: happy happy happy sad; truth: happy, sad, none of them, unknown; last is rejected
    table = assignments([0.9, 0.9, 0.8, 0.1, 0.55])
    pseudo = accept(table, NAMES, OPEN.model_copy(update={"min_posterior": 0.6}))
    truth = pd.Series(["happy", "sad", OTHER, None, "happy"])
    figures = audit(pseudo, truth, NAMES)
    assert figures["coverage"] == pytest.approx(4 / 5)
    assert figures["precision"] == pytest.approx(1 / 3)  # of three that are known
    assert (figures["accepted"], figures["faces"], figures["audited"]) == (4, 5, 3)
    happy = figures["expressions"]["happy"]
    assert (happy["candidates"], happy["accepted"]) == (4, 3)
    assert happy["precision"] == pytest.approx(1 / 3)
    assert happy["recall"] == pytest.approx(1 / 2)
    assert happy["threshold"] == pytest.approx(0.8)
    assert figures["expressions"]["sad"]["threshold"] == pytest.approx(0.9)
    assert figures["expressions"]["sad"]["precision"] is None
    assert figures["confusion"] == {
        "happy": {"happy": 1, "sad": 0},
        "sad": {"happy": 1, "sad": 0},
        OTHER: {"happy": 1, "sad": 0},
    }


def test_audit_without_any_truth_says_so():
    pseudo = accept(assignments([0.9, 0.1]), NAMES, OPEN)
    figures = audit(pseudo, pd.Series([None, None], dtype=object), NAMES)
    assert figures["precision"] is None
    assert figures["confusion"] is None
    assert figures["coverage"] == 1
