"""What the stages cluster, relabel and finetune hand on to each other, by hand."""

import numpy as np
import pandas as pd
import pytest

from mien.data.manifest import measure, write_manifest
from mien.files import read_json
from mien.learning.pseudo_labels import PseudoLabels
from mien.stages import relabel
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


def test_pseudo_labels_are_audited_by_their_own_faces_truth(tmp_path, params):
    """The assignments may be in another order than the manifest."""
    table = measure(np.zeros((5, 24, 24), np.uint8)).assign(
        **manifest(), source="x", path=list("abcde"), role="x", identity=None, width=24, height=24,
        true_label=[None, None, "sad", "happy", "sad"],
    )  # fmt: skip
    write_manifest(tmp_path / "manifest.parquet", table)
    np.save(tmp_path / "faces.npy", np.zeros((5, 24, 24), np.uint8))
    happy = np.array([0.9, 0.8, 0.7])
    said = dict.fromkeys((f"posterior_{name}" for name in params.expressions), 0.0)
    said |= {"posterior_happy": happy, "posterior_sad": 1 - happy}
    spotless = {"purity": 1.0, "density": 1.0, "flip_agrees": True}
    rows = pd.DataFrame({"face_id": list("dec"), "row": [3, 4, 2], **said, **spotless})
    rows.to_parquet(tmp_path / "assignments.parquet")
    lax = params.relabel.model_copy(update={"coverage": 1.0, "min_posterior": 0.75})
    relabel.main(
        params.model_copy(update={"relabel": lax}),
        manifest=tmp_path / "manifest.parquet",
        faces=tmp_path / "faces.npy",
        assignments=tmp_path / "assignments.parquet",
        training_set=tmp_path / "training_set.parquet",
        report=tmp_path / "report",
        metrics=tmp_path / "relabel.json",
    )
    figures = read_json(tmp_path / "relabel.json")
    assert (figures["accepted"], figures["precision"]) == (2, 0.5)
    assert figures["confusion"]["happy"]["happy"] == figures["confusion"]["sad"]["happy"] == 1
    chosen = pd.read_parquet(tmp_path / "training_set.parquet")
    assert chosen["face_id"].tolist() == ["a", "d", "e"]


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
        {
            "source": ["mine", "mine", "theirs", "theirs"],
            "true_label": ["happy", "happy", "sad", None],
            "identity": [None] * 4,
        }
    )
    found = agreements(rows, known)
    assert found == {"expression_nmi": pytest.approx(1.0)}
    # the first person of one source is not that of the other
    known = known.assign(identity=["1", "1", "1", "1"], true_label=None)
    assert agreements(rows, known) == {"identity_nmi": pytest.approx(1.0)}


def test_summary_leaves_out_what_is_not_known():
    figures = {"accepted": 3, "faces": 4, "precision": None}
    assert summary(figures) == "relabel: 3 of 4 faces accepted"
    assert "75.0%" in summary(figures | {"precision": 0.75})
