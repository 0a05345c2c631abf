"""The last run's figures, read from ``metrics/``, as a table for the terminal and for Prefect."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mien.files import read_json

_MEASURES = {
    "accuracy": "accuracy",
    "mean_class_accuracy": "mean-class accuracy",
    "macro_f1": "macro-F1",
    "ece": "calibration error (ECE)",
}
_HEADER = ("test set", "measure", "pretrained", "final", "change")


def summary(root: Path) -> str:
    """Markdown: pretrained against final on each test set, the pseudo-labels, the report's path.

    What has not been measured (yet) is left out.
    """
    parts = []
    if rows := list(_rows(_metrics(root, "evaluate"))):
        parts.append(_table(_HEADER, rows))
    if pseudo := _pseudo_labels(_metrics(root, "relabel")):
        parts.append(pseudo)
    if (report := root / "reports" / "evaluation" / "index.html").is_file():
        parts.append(f"Report: {report}")
    return "\n\n".join(parts)


def _rows(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for test_set, models in evaluation.items():
        for key, measure in _MEASURES.items():
            before, after = models["pretrained"].get(key), models["final"].get(key)
            change = None if before is None or after is None else after - before
            yield test_set, measure, _percent(before), _percent(after), _points(change)


def _pseudo_labels(audit: Mapping[str, Any]) -> str:
    if audit.get("coverage") is None:
        return ""
    text = f"Pseudo-labels: {_percent(audit['coverage'])} of the unlabelled faces accepted"
    if audit.get("precision") is not None:
        text += f", {_percent(audit['precision'])} of them right (of those whose truth is known)"
    return text + "."


def _metrics(root: Path, stage: str) -> dict[str, Any]:
    path = root / "metrics" / f"{stage}.json"
    return read_json(path) if path.is_file() else {}


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}%"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An aligned Markdown table; the columns after the second hold numbers."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * width if i < 2 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]

    def line(cells: Sequence[str]) -> str:
        aligned = (
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(aligned)} |"

    return "\n".join([line(header), line(rule), *map(line, rows)])
