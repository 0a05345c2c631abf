"""A model card with a gap is refused, wherever the gap is."""

import copy

import pytest

from mien.errors import MienError
from mien.evaluation.card import (
    _told,
    check_card,
    describe_calibration,
    describe_first_weights,
    describe_limits,
    describe_results,
    find_empty,
    render_card,
)
from mien.files import read_json
from mien.params import parse_params
from mien.serving.package import SHIPPED
from mien.workspace import assignment, complete_params

CARD = {
    "model": {"name": "mien", "labels": ["happy", "sad"]},
    "results": [{"test_set": "a", "accuracy": 0.0, "reached": False}],
}


def test_a_full_card_passes():
    assert find_empty(CARD) == []
    check_card(CARD)


@pytest.mark.parametrize("gap", [None, "", "  \n", [], {}, float("nan")])
@pytest.mark.parametrize(
    ("place", "name"),
    [
        (("model",), "card.model"),
        (("model", "name"), "card.model.name"),
        (("model", "labels", 1), "card.model.labels[1]"),
        (("results", 0, "accuracy"), "card.results[0].accuracy"),
    ],
)
def test_planted_gaps_are_named(place, name, gap):
    card = copy.deepcopy(CARD)
    *way, last = place
    part = card
    for step in way:
        part = part[step]
    part[last] = gap
    assert find_empty(card) == [name]
    with pytest.raises(MienError, match=name.replace("[", r"\[")):
        check_card(card)


def test_settings_are_told_in_words():
    """Nested ones stood there as Python writes a dict, whether they took part or not."""
    settings = {
        "epochs": 8,
        "widths": [32, 64],
        "landmarks": {"epochs": 3, "networks": ["accnn", "larger"]},
        "larger": {"epochs": 0, "weight": 0.9},
        "refinery": {"networks": "none", "views": 6},
    }
    assert list(_told(settings)) == [
        "epochs 8",
        "widths [32, 64]",
        "landmarks.epochs 3",
        "landmarks.networks [accnn, larger]",
        "larger off",
        "refinery off",
    ]


@pytest.mark.parametrize("size", ["nano", "small", "base"])
def test_the_cards_that_ship_are_what_their_figures_give(size):
    folder = SHIPPED / size
    told = render_card(read_json(folder / "card.json"))
    assert told == (folder / "card.md").read_text(encoding="utf-8")


def test_no_calibration_is_said():
    described = describe_calibration(None, 0.1)
    assert "no validation faces" in described["method"]
    assert find_empty(described) == []


def test_what_a_network_had_learned_before_is_said():
    begun = complete_params(assignment("pretrain.first_weights=small"))
    assert "`small`" in describe_first_weights(parse_params(begun, "begun"))
    assert "FER2013" in describe_first_weights(parse_params(begun, "begun"))
    assert describe_first_weights(parse_params(complete_params({}), "own")) == "random"


def test_networks_that_refined_the_labels_are_named():
    """They, too, have learned from FER2013, and the data below do not say so."""
    refined = complete_params(assignment("pretrain.refinery.networks=[base, small]"))
    described = describe_first_weights(parse_params(refined, "refined"))
    assert described.startswith("random; the labels are refined by `base`, `small` that ship")
    assert "FER2013" in described


def test_the_card_names_what_the_recognition_network_has_learned_from():
    taught = {"recognition": {"epochs": 1}}
    asked = complete_params({"pretrain": taught, "cluster": {"networks": ["accnn", "recognition"]}})
    described = describe_first_weights(parse_params(asked, "asked"))
    assert described.startswith("random; ")
    assert "the unlabelled faces are labelled with a face-recognition" in described
    assert described.endswith("learned from VGGFace2, whose terms may bind these, too")
    both = complete_params(
        {
            "pretrain": taught
            | {"first_weights": "small", "refinery": {"networks": ["base", "recognition"]}}
        }
    )
    described = describe_first_weights(parse_params(both, "both"))
    assert "refined by `base` that ship" in described
    assert "the labels are refined with a face-recognition" in described
    assert "FER2013 and VGGFace2" in described


def test_each_figure_of_a_test_set_is_of_the_model_that_it_names():
    def measures(accuracy, ece):
        scores = {"accuracy": accuracy, "mean_class_accuracy": 0.4, "macro_f1": 0.3}
        interval = {"low": 0.2, "high": 0.9}
        return {
            **scores, "faces": 50, "ece": ece, "degraded_accuracy": {"noisy": accuracy - 0.1},
            "intervals": dict.fromkeys(scores, interval), "expressions": {"sad": {"recall": None}},
        }  # fmt: skip

    compared = {"mcnemar": {"mid_p": 0.03, "exact_p": 0.04}}
    sets = {"pretrained": measures(0.6, 0.11), "final": measures(0.7, 0.05)}
    (found,) = describe_results({"a": {**sets, "comparison": compared}})
    assert found["accuracy"] == {"value": 0.7, "low": 0.2, "high": 0.9}
    assert (found["pretrained_accuracy"], found["ece_before_calibration"]) == (0.6, 0.05)
    assert found["degraded_accuracy"]["noisy"] == pytest.approx(0.6)
    assert (found["mcnemar_p"], found["recall"]) == (0.03, {"sad": "no faces"})


def test_the_weakest_expression_is_named():
    results = [{"test_set": "a", "recall": {"happy": 0.9, "fear": 0.25, "sad": "no faces"}}]
    assert "Weakest on a: fear, of which it finds 25%." in describe_limits(results)
