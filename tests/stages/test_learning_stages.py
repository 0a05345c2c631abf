"""What the stages cluster, relabel and finetune hand on to each other, by hand."""

import numpy as np
import pandas as pd
import pytest

from mien.learning.pseudo_labels import PseudoLabels
from mien.stages.cluster import agreements, by_round
from mien.stages.finetune import expected_shares, posteriors, targets
from mien.stages.relabel import summary, updated_set

NAMES = ["happy", "sad"]


def manifest():
    return pd.DataFrame(
        {
            "face_id": list("abcde"),
            "row": range(5),
            "split": ["train", "validation", "none", "none", "none"],
            "label": ["happy", "sad", None, None, None],
        }
    )


def updated():
    rows = pd.DataFrame({"face_id": list("cde"), "row": [2, 3, 4]})
    pseudo = PseudoLabels(
        np.array([1, 0, 0]), np.array([True, False, True]), np.array([0.9, 0, 0.6]), np.ones(2)
    )
    return updated_set(manifest(), rows, pseudo, NAMES)


def test_updated_set_is_the_training_labels_and_the_accepted_faces():
    table = updated()
    assert table["face_id"].tolist() == ["a", "c", "e"]  # not the validation face, not the rejected
    assert table["label"].tolist() == ["happy", "sad", "happy"]
    assert table["weight"].tolist() == [1.0, 0.9, 0.6]
    assert table["origin"].tolist() == ["labelled", "pseudo", "pseudo"]


def test_targets_find_their_faces_whatever_the_order():
    one_hot, weights = targets(updated(), np.array([4, 3, 2]), NAMES)
    np.testing.assert_array_equal(one_hot, [[1, 0], [0, 0], [0, 1]])
    np.testing.assert_allclose(weights, [0.6, 0, 0.9])


def test_an_expression_of_which_no_face_is_accepted_keeps_its_share():
    """Guesses were once aligned to the accepted faces alone: what passed no floor was unlearned."""
    rows = pd.DataFrame(
        {
            "row": [2, 3, 4],
            "posterior_sad": [0.4, 0.2, 0.3],
            "posterior_happy": [0.6, 0.8, 0.7],
        }
    )
    said = posteriors(rows, np.array([4, 3, 2]), NAMES)
    np.testing.assert_allclose(said, [[0.7, 0.3], [0.8, 0.2], [0.6, 0.4]], rtol=1e-6)
    np.testing.assert_allclose(expected_shares(said), [0.7, 0.3], rtol=1e-6)


def test_rounds_take_their_last_epoch_and_the_agreement_with_the_next():
    history = [
        {"epoch": 1, "round": 1, "loss": 3.0},
        {"epoch": 2, "round": 1, "loss": 2.0},
        {"epoch": 3, "round": 2, "nmi": 0.5, "loss": 1.5},
        {"epoch": 4, "round": 2, "loss": 1.0},
    ]
    assert by_round(history, 0.9) == [
        {"round": 1, "nmi": 0.5, "loss": 2.0},
        {"round": 2, "nmi": 0.9, "loss": 1.0},
    ]


def test_agreement_with_people_and_expressions_where_they_are_known():
    rows = pd.DataFrame({"cluster": [0, 0, 1, 1]})
    known = pd.DataFrame(
        {"true_label": ["happy", "happy", "sad", None], "identity": [None, None, None, None]}
    )
    found = agreements(rows, known)
    assert found == {"expression_nmi": pytest.approx(1.0)}


def test_summary_leaves_out_what_is_not_known():
    figures = {"accepted": 3, "faces": 4, "precision": None}
    assert summary(figures) == "relabel: 3 of 4 faces accepted"
    assert "75.0%" in summary(figures | {"precision": 0.75})
