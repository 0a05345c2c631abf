"""The figures can be read under both themes, and say what they show."""

import re

import numpy as np
import pandas as pd
import pytest

from mien.evaluation.plots import DARK, FAINT, INK, draw_confusions, draw_learning

CARDS = {"light": "#ffffff", "dark": "#1a1f26"}
"""What the report's figures stand on."""


def channels(colour: str) -> np.ndarray:
    """Red, green and blue of ``#rrggbb``, 0 to 1."""
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def luminance(rgb: np.ndarray) -> float:
    """WCAG 2.2's relative luminance."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(first: np.ndarray, second: np.ndarray) -> float:
    darker, lighter = sorted([luminance(first), luminance(second)])
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("theme", CARDS)
def test_every_cell_of_a_confusion_matrix_can_be_read(theme):
    """Light ink stood on light cells under a dark theme: 2.7 where WCAG AA asks for 4.5."""

    def shown(colour: str) -> np.ndarray:
        return channels(DARK.get(colour, colour) if theme == "dark" else colour)

    share = np.arange(0, 101, 4)
    confusion = np.zeros((len(share), len(share)), int)
    confusion[:, 0], confusion[:, 1] = share, 100 - share
    names = [f"n{i}" for i in range(len(share))]
    svg = draw_confusions({"pretrained": confusion, "final": confusion}, names)
    card = channels(CARDS[theme])
    cells = set(re.findall(r'style="fill: (#\w{6}); opacity: ([\d.]+); stroke', svg))
    assert len(cells) == 2 * (len(share) - 1)  # one of no faces is not drawn
    for colour, opacity in cells:
        behind = float(opacity) * shown(colour) + (1 - float(opacity)) * card
        assert contrast(shown(INK), behind) >= 4.5, (colour, opacity)
    inks = set(re.findall(r'<text style="[^"]*fill: (#\w{6})', svg))
    assert inks <= {INK, FAINT}
    assert contrast(shown(FAINT), card) >= 4.5  # a count of 0, where a cell has no colour


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_learning_curves_say_what_they_show():
    columns = ["epoch", "nmi", "loss", "labelled", "pseudo", "center", "validation_accuracy"]
    curves = pd.DataFrame([[1, 0.5, 3, 1, 1, 1, 0.4], [2, 0.7, 2, 1, 0.5, 0.5, 0.6]])
    shown = texts(draw_learning(curves.set_axis(columns, axis=1), "cluster"))
    titles = ["NMI with the next round", "loss", "loss: labelled faces", "loss: pseudo-labels"]
    assert {*titles, "loss: center", "validation accuracy"} <= set(shown)
    assert not {"nmi", "labelled", "pseudo", "center"} & set(shown)


def test_one_epoch_is_epoch_1():
    """Its axis went from 0.950 to 1.050."""
    curves = pd.DataFrame({"epoch": [1], "loss": [7.3]})
    before_the_label = texts(draw_learning(curves, "pretrain"))
    assert before_the_label[: before_the_label.index("epoch")] == ["1"]
