"""The report holds the numbers, names what it shows, and needs nothing from elsewhere."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest

from mien.evaluation.measures import Predictions, measure_test_set
from mien.evaluation.plots import draw_confusions
from mien.evaluation.rendering import percent, points
from mien.evaluation.report import write_report
from mien.evaluation.tables import TestSet, find_mistakes
from mien.params.service import EvaluateSettings
from tests.browser import CHROMIUM, open_page

EXPRESSIONS = ["happy", "sad", "<b>odd</b>"]
SETTINGS = EvaluateSettings(bootstrap=50, calibration_bins=15, coverages=[0.5, 1.0], mistakes=2)
AUDIT = {
    "coverage": 0.432,
    "precision": 0.876,
    "expressions": {
        "happy": {
            "accepted": 1234,
            "candidates": 2000,
            "precision": 0.9,
            "recall": None,
            "threshold": 0.77,
        }
    },
    "confusion": {"happy": {"happy": 77, "sad": 1, "<b>odd</b>": 0}},
}
NOTHING = {"coverage": None, "precision": None, "expressions": {}, "confusion": None}


def _test_set(name: str, faces: int) -> TestSet:
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=faces)
    before, after = (
        Predictions(
            truth,
            rng.dirichlet([1, 1, 1], faces),
            rng.dirichlet([1, 1, 1], faces),
            {"noisy": rng.integers(3, size=faces)},
        )
        for _ in range(2)
    )
    table = pd.DataFrame({"row": np.arange(faces), "path": [f"{i}.png" for i in range(faces)]})
    store = rng.integers(255, size=(faces, 8, 8), dtype=np.uint8)
    measures = measure_test_set(before, after, EXPRESSIONS, SETTINGS, seed=0)
    return TestSet(name, table, before, after, measures, find_mistakes(
        after, store, table, EXPRESSIONS, SETTINGS.mistakes))  # fmt: skip


def _write(folder, test_sets, audit):
    curves = pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0], "validation_accuracy": [0.3, 0.5]})
    write_report(
        folder,
        test_sets,
        expressions=EXPRESSIONS,
        bins=15,
        learning={"pretrain": curves},
        audit=audit,
        settings="seed: 4242\n",
    )
    return (folder / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports") / "evaluation"
    sets = [_test_set("first", 60), _test_set("settings", 1)]
    return folder, sets, _write(folder, sets, AUDIT)


def test_it_holds_the_numbers(written):
    _, sets, page = written
    for each in sets:
        final = each.measures["final"]
        for value in (final["accuracy"], final["macro_f1"], final["ece"]):
            assert percent(value) in page
        assert percent(final["degraded_accuracy"]["noisy"]) in page
        assert points(each.measures["comparison"]["accuracy_difference"]) in page
    assert percent(AUDIT["coverage"]) in page
    assert percent(AUDIT["precision"]) in page
    assert "1,234" in page
    assert "seed: 4242" in page


def test_it_needs_nothing_from_elsewhere(written):
    _, _, page = written
    assert all(
        address.startswith(("data:", "#"))
        for address in re.findall(r'(?:src|href)="([^"]*)"', page)
    )
    assert "<script" not in page
    assert "@import" not in page
    assert "url(" not in page


def test_every_link_leads_to_a_heading_of_its_own(written):
    """A test set called ``settings`` had the heading's address of the settings."""
    _, _, page = written
    names = re.findall(r' id="([^"]*)"', page)
    assert len(set(names)) == len(names)
    assert set(re.findall(r'href="#([^"]*)"', page)) <= set(names)


def test_every_picture_has_a_text_alternative(written):
    _, sets, page = written
    pictures = re.findall(r"<img [^>]*>", page)
    assert len(pictures) == 3 * 2 + 1 + sum(len(each.mistakes) for each in sets)
    assert all(re.search(r'alt="[^"]{10,}"', picture) for picture in pictures)


def test_names_are_escaped(written):
    _, _, page = written
    assert "<b>odd" not in page
    assert "&lt;b&gt;odd" in page


def test_a_name_with_dollar_signs_is_no_formula():
    """Matplotlib takes what stands between two of them for one, and ended at this."""
    svg = draw_confusions({"final": np.eye(2, dtype=int)}, ["a$b%$", "sad"])
    assert "a$b%$" in svg


def test_figures_lie_beside_it_as_svg(written):
    folder, _, _ = written
    names = {path.name for path in folder.glob("*.svg")}
    assert {"first-confusion.svg", "settings-selective.svg", "learning-pretrain.svg"} <= names
    for path in folder.glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_phone_shows_all(written, tmp_path):
    """The first card was wider than the screen, and figures shrank until none could read them."""
    folder, _, _ = written
    with open_page((folder / "index.html").as_uri(), tmp_path, "--hide-scrollbars") as page:
        page.wait("document.readyState === 'complete' && document.querySelector('.hero')")
        for width in (320, 360, 1400):
            page.call(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=700,
                deviceScaleFactor=1,
                mobile=False,
            )
            page.wait(f"innerWidth === {width}")
            assert page.value("document.documentElement.scrollWidth") == width
            fits = "each => each.scrollWidth <= each.clientWidth"
            parts = "[...document.querySelectorAll('.hero, .hero > :not(.scale)')]"
            assert page.value(f"{parts}.every({fits})"), width
            whole = "each => each.clientWidth === each.naturalWidth"
            pictures = "[...document.querySelectorAll('figure.card img')]"
            assert page.value(f"{pictures}.every({whole})"), width


def test_the_same_input_gives_the_same_page(written, tmp_path):
    _, sets, page = written
    assert _write(tmp_path / "again", sets, AUDIT) == page


def test_no_pseudo_labels_is_said(tmp_path):
    assert "No pseudo-labels were made" in _write(tmp_path / "r", [_test_set("a", 5)], NOTHING)


def _guesses(truth, right):
    wrong = (truth + 1) % len(EXPRESSIONS)
    probabilities = np.eye(len(EXPRESSIONS))[np.where(right, truth, wrong)]
    return Predictions(truth, probabilities, probabilities, {})


@pytest.mark.parametrize(("faces", "better"), [(1, False), (30, True)])
def test_one_face_of_an_expression_does_not_make_a_model_better(tmp_path, faces, better):
    """The bootstrap draws within an expression, so its interval of 3 faces is a point."""
    truth = np.repeat(np.arange(3), faces)
    before, after = _guesses(truth, truth > 0), _guesses(truth, truth >= 0)
    measures = measure_test_set(before, after, EXPRESSIONS, SETTINGS, seed=0)
    assert measures["comparison"]["intervals"]["accuracy_difference"]["low"] > 0
    table = pd.DataFrame({"row": np.arange(len(truth))})
    page = _write(tmp_path / "r", [TestSet("a", table, before, after, measures, [])], AUDIT)
    assert ("The final model is better" in page) == better
    assert ("can’t be told apart" in page) != better


def test_mistakes_are_the_surest_first():
    probabilities = np.array([[0.9, 0.1, 0], [0.6, 0.4, 0], [0.8, 0.2, 0], [0.99, 0.01, 0]])
    said = Predictions(np.array([1, 1, 1, 0]), probabilities, probabilities, {})
    table = pd.DataFrame({"row": [3, 2, 1, 0], "path": list("abcd")})
    store = np.arange(4, dtype=np.uint8)[:, None, None] * np.ones((1, 8, 8), np.uint8)
    found = find_mistakes(said, store, table, EXPRESSIONS, 2)
    assert [each.path for each in found] == ["a", "c"]
    assert [int(each.face[0, 0]) for each in found] == [3, 1]
    assert (found[0].actual, found[0].predicted) == ("sad", "happy")
