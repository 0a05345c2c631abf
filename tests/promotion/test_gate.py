"""The gate on networks whose faults are set by hand."""

from dataclasses import replace

import numpy as np
import pytest

from mien.data.manifest import read_manifest, write_manifest
from mien.errors import MienError
from mien.promotion.gate import HeldOut, judge, predict, read_test_sets
from tests.promotion.linear import EXPRESSIONS, make_package, matrix, pattern

RIGHT = matrix()


def failed(judgement) -> list[str]:
    return [check.name for check in judgement.checks if not check.passed]


@pytest.fixture
def limits(settings):
    return settings.model_copy(update={"max_ece": 0.5})


def weakened(expression: int, amount: float) -> np.ndarray:
    """The right matrix, but one expression's answer is lowered."""
    weights = RIGHT.copy()
    weights[:, expression] -= amount
    return weights


def test_the_packages_probabilities_are_those_of_its_network(tmp_path, drawn):
    package = make_package(tmp_path / "one", RIGHT)
    found = predict(package, drawn.faces)
    logits = drawn.faces.reshape(len(drawn.faces), -1) / 255 @ RIGHT
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_first_model_needs_no_champion(tmp_path, drawn, limits):
    judgement = judge(make_package(tmp_path / "one", RIGHT), None, [drawn], limits)
    assert judgement.passed
    assert set(judgement.metrics["drawn"]) == {"challenger"}
    assert judgement.metrics["drawn"]["challenger"]["accuracy"] > 0.95
    megabytes = (tmp_path / "one" / "model.onnx").stat().st_size / 1e6
    exact = limits.model_copy(update={"max_size_mb": megabytes, "min_accuracy": 0.0})
    assert judge(tmp_path / "one", None, [drawn], exact).passed


def test_a_model_as_good_as_the_champion_passes(tmp_path, drawn, limits):
    one = make_package(tmp_path / "one", RIGHT)
    other = make_package(tmp_path / "other", 1.1 * RIGHT)
    judgement = judge(other, one, [drawn], limits)
    assert judgement.passed, judgement.reason
    assert judgement.metrics["drawn"]["comparison"]["accuracy_difference"] == 0


def test_a_model_that_mixes_two_expressions_up_is_refused_and_both_are_named(
    tmp_path, drawn, limits
):
    one = make_package(tmp_path / "one", RIGHT)
    other = make_package(tmp_path / "other", matrix(order=(1, 0, 2)))
    judgement = judge(other, one, [drawn], limits)
    assert not judgement.passed
    for check in ("floor", "accuracy", "McNemar", "each expression"):
        assert f"drawn: {check}" in failed(judgement)
    assert "happy 100.0% → 0.0%" in judgement.reason
    assert "neutral" not in judgement.reason.split("recall of")[1].split(";")[0]
    assert judge(one, other, [drawn], limits).passed  # a difference as large, for the better


def test_one_expression_that_loses_too_much_is_enough(tmp_path, drawn, limits):
    """Though another one gains as much, so that on the whole nothing is lost."""
    one = make_package(tmp_path / "one", weakened(1, 0.03))
    other = make_package(tmp_path / "other", weakened(2, 0.03))
    lax = limits.model_copy(update={"max_accuracy_loss": 1.0})
    judgement = judge(other, one, [drawn], lax)
    loss = judgement.metrics["drawn"]["champion"]["recall"]["neutral"]
    loss -= judgement.metrics["drawn"]["challenger"]["recall"]["neutral"]
    assert loss > lax.max_recall_loss
    assert failed(judgement) == ["drawn: each expression"]
    assert judge(other, one, [drawn], lax.model_copy(update={"max_recall_loss": loss})).passed
    less = lax.model_copy(update={"max_recall_loss": loss - 1e-3})
    assert not judge(other, one, [drawn], less).passed


@pytest.mark.parametrize(("lost", "passes"), [(1, True), (6, True), (7, False)])
def test_what_few_faces_lose_may_be_chance(tmp_path, limits, lost, passes):
    """Of ten neutral faces some are faint, and only the champion sees those: all in one direction.

    By chance that is one in 2 ** lost, of which mid-p counts half: 0.0078 for six, 0.0039 for
    seven. Under a level of 0.005 six may be chance and seven may not.
    """
    shown = np.repeat([0, 1, 2], 10)
    strength = np.array([24] * (30 - lost) + [2] * lost)
    light = np.stack([pattern(each) for each in shown])
    faces = (110 + strength[:, None, None] * light).astype(np.uint8)
    few = HeldOut("few", faces, [EXPRESSIONS[each] for each in shown])
    one = make_package(tmp_path / "one", RIGHT)
    other = make_package(tmp_path / "other", weakened(2, 0.01))
    lax = limits.model_copy(
        update={"max_accuracy_loss": 1.0, "max_recall_loss": 0.05, "significance": 0.005}
    )
    judgement = judge(other, one, [few], lax)
    (check,) = (each for each in judgement.checks if each.name == "few: each expression")
    assert f"neutral 100.0% → {10 * (10 - lost):.1f}%" in check.says
    assert check.passed == passes
    assert ("by chance" in check.says) == passes


def test_a_loss_as_large_as_is_allowed_is_allowed(tmp_path, limits):
    """Of ten neutral faces two look happy, and one is faint: recall falls from 0.8 to 0.7."""
    shown = [0] * 10 + [1] * 10 + [2] * 8 + [0] * 2
    strength = np.array([24] * 20 + [2] + [24] * 9)
    light = np.stack([pattern(each) for each in shown])
    faces = (110 + strength[:, None, None] * light).astype(np.uint8)
    ten = HeldOut("ten", faces, [EXPRESSIONS[each] for each in [0] * 10 + [1] * 10 + [2] * 10])
    one = make_package(tmp_path / "one", RIGHT)
    other = make_package(tmp_path / "other", weakened(2, 0.01))
    lax = limits.model_copy(update={"max_accuracy_loss": 0.2, "max_recall_loss": 0.1})
    judgement = judge(other, one, [ten], lax)
    assert judgement.metrics["ten"]["champion"]["recall"]["neutral"] == 0.8
    assert judgement.metrics["ten"]["challenger"]["recall"]["neutral"] == 0.7
    assert judgement.passed, judgement.reason


def test_a_few_faces_rule_no_loss_out(tmp_path, drawn, limits):
    """Of resampled faces on which both are right none is ever lost, however few they are."""
    one = make_package(tmp_path / "one", RIGHT)
    other = make_package(tmp_path / "other", 1.1 * RIGHT)
    few = HeldOut("few", drawn.faces[::10], drawn.labels[::10])
    judgement = judge(other, one, [few], limits)
    assert judgement.metrics["few"]["comparison"]["accuracy_difference"] == 0
    assert failed(judgement) == ["few: accuracy"]
    assert f"on {len(few.labels)} faces" in judgement.reason


def test_what_chance_does_to_a_calibrated_model_on_few_faces_refuses_none(tmp_path, limits):
    rng = np.random.default_rng(0)
    strict = limits.model_copy(update={"max_ece": 0.1, "min_accuracy": 0.0})
    one = make_package(tmp_path / "one", matrix(sharpness=0.01))
    strength = rng.uniform(0, 100, (64, 1, 1))
    light = np.stack([pattern(each) for each in rng.integers(3, size=64)])
    faces = (110 + strength * light).astype(np.uint8)
    # as often right as the model says
    labels = [EXPRESSIONS[rng.choice(3, p=p / p.sum())] for p in predict(one, faces).astype(float)]
    judgement = judge(one, None, [HeldOut("few", faces, labels)], strict)
    assert judgement.metrics["few"]["challenger"]["ece"] > strict.max_ece
    assert judgement.passed, judgement.reason
    assert "by chance on 64 faces" in judgement.checks[1].says
    sure = make_package(tmp_path / "sure", matrix())
    judgement = judge(sure, None, [HeldOut("few", faces, labels)], strict)
    assert failed(judgement) == ["few: calibration"]


@pytest.mark.parametrize(
    ("limit", "check"),
    [
        ({"min_accuracy": 1.0}, "drawn: floor"),
        ({"max_ece": 0.0}, "drawn: calibration"),
        ({"max_size_mb": 1e-4}, "size"),
        ({"max_latency_ms": 1e-6}, "latency"),
    ],
)
def test_each_limit_refuses(tmp_path, drawn, limits, limit, check):
    weights = RIGHT + 0.01 * np.random.default_rng(1).normal(size=RIGHT.shape)
    hard = replace(drawn, labels=[EXPRESSIONS[1]] * 20 + drawn.labels[20:])
    judgement = judge(
        make_package(tmp_path / "one", weights), None, [hard], limits.model_copy(update=limit)
    )
    assert failed(judgement) == [check]


def test_an_empty_field_in_the_challengers_card_is_named(tmp_path, drawn, limits):
    one = make_package(tmp_path / "one", RIGHT)
    card = {"model": {"version": "1", "licence": " "}}
    other = make_package(tmp_path / "other", RIGHT, card=card)
    judgement = judge(other, one, [drawn], limits)
    assert failed(judgement) == ["card"]
    assert "card.model.licence" in judgement.reason
    assert judge(one, other, [drawn], limits).passed
    (other / "card.json").unlink()
    assert failed(judge(other, one, [drawn], limits)) == ["card"]


def test_every_test_set_must_pass(tmp_path, drawn, limits):
    shifted = [EXPRESSIONS[(EXPRESSIONS.index(each) + 1) % 3] for each in drawn.labels]
    sets = [HeldOut("strange", drawn.faces, shifted), drawn]
    judgement = judge(make_package(tmp_path / "one", RIGHT), None, sets, limits)
    assert failed(judgement) == ["strange: floor", "strange: calibration"]


def test_other_expressions_cannot_be_compared(tmp_path, drawn, limits):
    other = make_package(tmp_path / "other", RIGHT)
    for number, names in enumerate((["a", "b", "c"], EXPRESSIONS[::-1])):
        one = make_package(tmp_path / str(number), RIGHT, expressions=names)
        with pytest.raises(MienError, match="cannot be compared"):
            judge(other, one, [drawn], limits)
    with pytest.raises(MienError, match="test set drawn: the challenger names no happy, neutral"):
        judge(tmp_path / "0", None, [drawn], limits)


def test_faces_of_another_size_than_the_models_are_resampled(tmp_path, drawn):
    package = make_package(tmp_path / "one", RIGHT)
    large = drawn.faces[::20].repeat(2, axis=1).repeat(2, axis=2)
    found, expected = predict(package, large), predict(package, drawn.faces[::20])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_only_test_faces_are_judged_on(workspace):
    """On faces that it has learned from any model is good."""
    prepared = workspace("a", None) / "data" / "prepared"
    table = read_manifest(prepared / "manifest.parquet")
    table.loc[:9, "split"], table.loc[10:19, "split"], table.loc[20:29, "split"] = (
        "train", "validation", "none",
    )  # fmt: skip
    table.loc[30:39, "source"] = "another"
    write_manifest(prepared / "manifest.parquet", table)
    another, drawn = read_test_sets(prepared / "manifest.parquet", prepared / "faces.npy")
    assert (another.name, len(another.labels), drawn.name) == ("another", 10, "drawn")
    np.testing.assert_array_equal(drawn.faces, np.load(prepared / "faces.npy")[40:])
    assert drawn.labels == table["label"].tolist()[40:]


def test_a_folder_that_is_no_package_is_named(tmp_path, drawn, limits):
    with pytest.raises(MienError, match=r"metadata\.json, so this is no package"):
        judge(tmp_path, None, [drawn], limits)
    package = make_package(tmp_path / "one", RIGHT)
    (package / "model.onnx").unlink()
    with pytest.raises(MienError, match=r"one: no model\.onnx; run the stage"):
        judge(package, None, [drawn], limits)
    (package / "metadata.json").write_text("{")
    with pytest.raises(MienError, match=r"metadata\.json: not JSON"):
        judge(package, None, [drawn], limits)
