"""What people read of a window."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from mien.monitoring.log import read_window
from mien.monitoring.report import as_markdown, draw_picture
from mien.monitoring.statistics import DOMAIN, NO_FACE, Finding
from mien.monitoring.verdict import Verdict, judge, tell
from tests.monitoring.rows import draw


def finding(name, reference, window, **others) -> Finding:
    return Finding(name, "group", "test", reference, window, effect=0.25, p=0.0, **others)


def row(each: Finding) -> list[str]:
    """Its cells in the table of a verdict."""
    text = as_markdown(Verdict("drift", "", "model", 1, 1, 1, findings=[each]), 1)
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {each.name} |")]
    return line.strip("| ").split(" | ")


@pytest.mark.parametrize(
    ("name", "reference", "window", "cells", "told"),
    [
        (NO_FACE, 0.1, 0.35, ["limit 0.1", "0.35"], "no face 0.35 (limit 0.1, effect 0.25)"),
        (DOMAIN, 0.5, 0.9905, ["AUC 0.5", "0.991"], f"{DOMAIN} AUC 0.5 → 0.991 (effect 0.25)"),
        (
            "component_1",
            -8.042e-08,
            0.01329,
            ["0", "0.013"],
            "component_1 0 → 0.013 (effect 0.25)",
        ),
        (
            "sharpness",
            12345.6,
            523.14,
            ["12346", "523.1"],
            "sharpness 12346 → 523.1 (effect 0.25)",
        ),
        ("expression", None, None, ["", ""], "expression (effect 0.25)"),
    ],
)
def test_what_is_compared_stands_there(name, reference, window, cells, told):
    each = finding(name, reference, window)
    assert row(each)[3:5] == cells
    assert tell(each) == told


@pytest.mark.parametrize(
    ("p", "cell"), [(0.0, "<0.0001"), (9e-245, "<0.0001"), (0.00012, "0.00012"), (1.0, "1")]
)
def test_no_p_is_nought(p, cell):
    assert row(finding("contrast", 1.0, 2.0, p_adjusted=p, drifted=True))[6] == cell


def test_one_is_singular():
    one = as_markdown(Verdict("ok", "", "m", 1, 1, 1, skipped={"of another model version": 1}), 1)
    two = as_markdown(Verdict("ok", "", "m", 2, 2, 2, skipped={"of another model version": 2}), 1)
    assert "1 face in 1 picture (1 face resembles nothing" in one
    assert "1 row of another" in one
    assert "2 faces in 2 pictures (2 faces resemble nothing" in two
    assert "2 rows of another" in two


def test_axes_say_what_they_show(log, reference, settings, monkeypatch):
    log.add(draw(300, np.random.default_rng(1), brightness=2.0))
    window = read_window(log.root, {}, reference)
    shown = []
    monkeypatch.setattr(plt, "close", shown.append)
    draw_picture(window, reference, judge(window, reference, settings, 0))
    expression, brightness, *others = shown[0].axes
    assert expression.get_title().startswith("expression (effect 0.")
    assert expression.get_ylabel() == "share of the faces"
    assert brightness.get_title().startswith("brightness (effect 0.")
    assert brightness.get_xlabel() == "mean grey level, 0 to 255"
    assert all(axis.get_xlabel() for axis in others)
    monkeypatch.undo()
    plt.close(shown[0])
