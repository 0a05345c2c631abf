"""Figures of the evaluation report, as SVG text that follows the reader's light or dark theme."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mien.evaluation.metrics import Integers, Reliability, SelectiveCurve

INK, FAINT, GRID = "#1f2328", "#6b7280", "#d8dce2"
FIRST, SECOND = "#c2662d", "#2f6fbd"
"""Colours of the pretrained and of the final model; told apart by colour-blind readers, too."""

CELLS = ("#c2662e", "#2f6fbe")
"""Of confusion matrices' cells: all but the same, and alike under both themes, whose inks are both
read on them."""

DARK = {INK: "#e6e8eb", FAINT: "#9aa4b2", GRID: "#3a424d", FIRST: "#f0a26b", SECOND: "#6ea8ee"}
"""What each colour becomes under a dark theme."""

_TITLES = {
    "nmi": "NMI with the next round",
    "labelled": "loss: labelled faces",
    "labels": "loss: labelled faces",
    "pseudo": "loss: pseudo-labels",
    "consistency": "loss: consistency",
    "center": "loss: center",
    "island": "loss: island",
    "distillation": "loss: distillation",
    "invariance": "loss: invariance",
    "variance": "loss: variance",
    "covariance": "loss: covariance",
}
"""Of learning curves whose columns do not say what they are."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mien",
    "text.parse_math": False,  # an expression's name may hold two dollar signs
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": FAINT,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "legend.frameon": False,
    "lines.linewidth": 2,
}

_PERCENT = PercentFormatter(xmax=1, decimals=0)


def draw_confusions(confusions: Mapping[str, Integers], expressions: Sequence[str]) -> str:
    """Confusion matrices side by side; a cell's shade and percentage are its share of the row.

    Args:
        confusions: model name to counts ``[C, C]``, rows are true expressions.
        expressions: the ``C`` names.
    """
    classes = len(expressions)
    side = max(2.8, 0.52 * classes + 0.6)
    colours = dict(zip(confusions, CELLS, strict=False))

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, len(confusions), squeeze=False)[0]
        for axis, (model, confusion) in zip(axes, confusions.items(), strict=True):
            _fill_confusion(axis, confusion, expressions, colours[model])
            axis.set_title(model)
            axis.set_xlabel("predicted")
        axes[0].set_ylabel("actual")

    return _svg(draw, (side * len(confusions) + 0.8, side + 0.5))


def _fill_confusion(
    axis: Axes, confusion: Integers, expressions: Sequence[str], colour: str
) -> None:
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    for (row, column), share in np.ndenumerate(shares):
        axis.add_patch(
            Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, color=colour, alpha=0.75 * share)
        )
        count = int(confusion[row, column])
        axis.text(column, row - 0.14, f"{count}", ha="center", va="center", fontsize=8.5,
                  color=INK if count else FAINT)  # fmt: skip
        if count:
            axis.text(column, row + 0.22, f"{share:.0%}", ha="center", va="center", fontsize=6.5)
    ticks = range(len(expressions))
    axis.set_xticks(ticks, labels=expressions, rotation=35, ha="right", rotation_mode="anchor")
    axis.set_yticks(ticks, labels=expressions)
    axis.set(xlim=(-0.5, len(expressions) - 0.5), ylim=(len(expressions) - 0.5, -0.5))
    axis.set_aspect("equal")
    axis.grid(False)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def draw_reliability(reliabilities: Mapping[str, Reliability], eces: Mapping[str, float]) -> str:
    """Reliability diagrams: accuracy against confidence; the area of a dot grows with its faces."""

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        for (model, bins), colour in zip(reliabilities.items(), (FIRST, SECOND), strict=False):
            filled = bins.count > 0
            x, y = bins.confidence[filled], bins.accuracy[filled]
            share = bins.count[filled] / bins.count.sum()
            axis.plot(x, y, color=colour, label=f"{model} (ECE {eces[model]:.1%})")
            axis.scatter(x, y, s=8 + 300 * share, color=colour, alpha=0.55, linewidths=0)
        axis.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy")
        axis.set_aspect("equal")
        axis.xaxis.set_major_formatter(_PERCENT)
        axis.yaxis.set_major_formatter(_PERCENT)
        axis.legend(loc="upper left")

    return _svg(draw, (4.3, 4.1))


def draw_selective(curves: Mapping[str, SelectiveCurve]) -> str:
    """Accuracy on the most confident faces against the share of faces answered."""

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        lowest = 1.0
        for (model, curve), colour in zip(curves.items(), (FIRST, SECOND), strict=False):
            # Under 2% of the faces the curve is the luck of a few.
            shown = thin(curve, 200, at_least=0.02)
            axis.plot(curve.coverage[shown], curve.accuracy[shown], color=colour, label=model)
            lowest = min(lowest, float(curve.accuracy[shown].min()))
        axis.set(xlim=(0, 1), ylim=(max(0, lowest - 0.05), 1.01))
        axis.set(xlabel="share of faces answered (coverage)", ylabel="accuracy on those")
        axis.xaxis.set_major_formatter(_PERCENT)
        axis.yaxis.set_major_formatter(_PERCENT)
        axis.legend(loc="best")

    return _svg(draw, (4.7, 4.1))


def thin(curve: SelectiveCurve, points: int, at_least: float = 0.0) -> Integers:
    """Indices of at most ``points`` evenly spread points of a curve, with its end."""
    faces = len(curve.coverage)
    start = min(max(int(np.ceil(at_least * faces)), 1), faces) - 1
    return np.unique(np.linspace(start, faces - 1, min(points, faces)).astype(int))


def curve_title(column: str) -> str:
    """What a column of learning curves is called where people read it."""
    return _TITLES.get(column, column.replace("_", " "))


def draw_learning(curves: pd.DataFrame, title: str) -> str:
    """One panel for each column of a stage's learning curves; the first column is the time axis."""
    time, *columns = map(str, curves.columns)
    across = min(len(columns), 4)
    down = -(-len(columns) // across)

    def draw(figure: Figure) -> None:
        figure.suptitle(title, fontsize=10, fontweight="bold", color=INK, x=0.01, ha="left")
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for axis, column in zip(panels, columns, strict=False):
            axis.plot(curves[time], curves[column], color=SECOND, marker="o", markersize=3)
            axis.set_title(curve_title(column), fontsize=9, fontweight="normal")
            axis.set_xlabel(time)
            axis.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
            axis.yaxis.set_major_locator(MaxNLocator(nbins=5))
        for axis in panels[len(columns) :]:
            axis.set_visible(False)

    return _svg(draw, (max(2.6 * across, 3.2), 2.2 * down + 0.3))


def _svg(draw: Any, size: tuple[float, float]) -> str:
    """SVG of a figure of ``size`` inches; the same input gives the same text."""
    with rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    # Presentation is overridden by attribute selectors, so that the file stays plain SVG for
    # viewers that know no style sheets.
    rules = "".join(
        f'[style*="{name}: {light}"]{{{name}:{dark}!important}}'
        for light, dark in DARK.items()
        for name in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    head, tag, tail = text.getvalue().partition("<defs>")
    return f"{head}{style}{tag}{tail}"
