"""The evaluation report: one HTML file that needs nothing else, and its figures beside it."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from mien.evaluation import plots
from mien.evaluation.measures import Json
from mien.evaluation.rendering import percent, templates
from mien.evaluation.tables import TestSet
from mien.files import replacing_folder


@dataclass(frozen=True)
class Figure:
    """An SVG with its file name, its text alternative and the line under it."""

    name: str
    svg: str
    alt: str
    caption: str

    @property
    def address(self) -> str:
        """The picture as a ``data:`` address."""
        return _data_address(self.svg.encode(), "image/svg+xml")


def write_report(
    folder: Path,
    test_sets: Sequence[TestSet],
    *,
    expressions: Sequence[str],
    bins: int,
    learning: Mapping[str, pd.DataFrame],
    audit: Json,
    settings: str,
) -> None:
    """Write ``index.html`` and the figures as SVG files, replacing what stood in ``folder``.

    Args:
        folder: the report's folder.
        test_sets: at least one.
        expressions: names of the expressions, in the order of the models' outputs.
        bins: of the reliability diagrams.
        learning: each training stage's learning curves; the first column is the time axis.
        audit: the contents of ``metrics/relabel.json``.
        settings: of the run, as text.
    """
    figures = {each.name: draw_test_set(each, expressions, bins) for each in test_sets}
    curves = [draw_curves(stage, table) for stage, table in learning.items() if len(table)]
    page = (
        templates("html")
        .get_template("report.html")
        .render(
            test_sets=test_sets,
            expressions=expressions,
            figures=figures,
            curves=curves,
            audit=audit,
            settings=settings,
            picture=picture_address,
        )
    )
    with replacing_folder(folder) as temporary:
        (temporary / "index.html").write_text(page, encoding="utf-8")
        for figure in [*curves, *(figure for each in figures.values() for figure in each)]:
            (temporary / f"{figure.name}.svg").write_text(figure.svg, encoding="utf-8")


def draw_test_set(test_set: TestSet, expressions: Sequence[str], bins: int) -> list[Figure]:
    """Confusion matrices, reliability diagram and accuracy-coverage curve of one test set."""
    models = test_set.models
    name, measures = test_set.name, test_set.measures
    final = measures["final"]
    return [
        Figure(
            f"{name}-confusion",
            plots.draw_confusions({m: p.confusion for m, p in models.items()}, expressions),
            f"Confusion matrices of the pretrained and the final model on {name}; the final has "
            f"{percent(final['accuracy'])} of the {final['faces']} faces on its diagonal.",
            "Faces of each actual expression (rows) by predicted expression (columns): "
            "the count, and its share of the row.",
        ),
        Figure(
            f"{name}-reliability",
            plots.draw_reliability(
                {m: p.reliability(bins) for m, p in models.items()},
                {m: measures[m]["ece"] for m in models},
            ),
            f"Reliability diagram on {name}: the expected calibration error is "
            f"{percent(measures['pretrained']['ece'])} pretrained, {percent(final['ece'])} final.",
            "Accuracy of faces of like confidence, before calibration. On the dashed line "
            "confidence means what it says; a dot's area is its share of the faces.",
        ),
        Figure(
            f"{name}-selective",
            plots.draw_selective({m: p.selective for m, p in models.items()}),
            f"Accuracy against coverage on {name}: the final model's accuracy is "
            + ", ".join(
                f"{percent(accuracy)} at {coverage}"
                for coverage, accuracy in final["accuracy_at_coverage"].items()
            )
            + " coverage.",
            "Accuracy when only the most confident faces are answered.",
        ),
    ]


def draw_curves(stage: str, table: pd.DataFrame) -> Figure:
    """Learning curves of one training stage."""
    time, *columns = map(str, table.columns)
    last = ", ".join(
        f"{plots.curve_title(column)} {table[column].iloc[-1]:.3g}" for column in columns
    )
    return Figure(
        f"learning-{stage.split()[0]}",
        plots.draw_learning(table, stage),
        f"Learning curves of the {stage} stage by {time}; at its end: {last}.",
        f"At the end: {last}.",
    )


def picture_address(face: npt.NDArray[np.uint8]) -> str:
    """A grey face ``[S, S]`` as a ``data:`` address of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(face).save(buffer, format="PNG")
    return _data_address(buffer.getvalue(), "image/png")


def _data_address(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
