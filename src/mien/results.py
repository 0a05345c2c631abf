"""The last run's figures, read from ``metrics/``, as tables for the terminal and for Prefect."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from mien.files import read_json, write_json
from mien.pipeline import flatten

_MEASURES = {
    "accuracy": "accuracy",
    "mean_class_accuracy": "mean-class accuracy",
    "macro_f1": "macro-F1",
    "ece": "ECE, before calibration",
}
_REMEMBERED = Path(".mien") / "last_run.json"
_CELL = 60
"""Characters of a setting that a table shows."""
_HEADER = ("test set", "measure", "pretrained", "final", "change")


REPORT = Path("reports") / "evaluation" / "index.html"


def summary(root: Path, report: str | None = None) -> str:
    """Markdown: pretrained against final on each test set, the pseudo-labels, the report.

    What has not been measured (yet) is left out. ``report`` is the report's address, where that is
    not its path.
    """
    parts = []
    if rows := list(_rows(_metrics(root, "evaluate"))):
        parts.append(_table(_HEADER, rows))
    if pseudo := _pseudo_labels(_metrics(root, "relabel")):
        parts.append(pseudo)
    if (page := root / REPORT).is_file():
        parts.append(f"Report: {report or page}")
    return "\n\n".join(parts)


@dataclass(frozen=True)
class Run:
    """What stands for a finished run when another is compared with it."""

    name: str
    figures: dict[str, float]
    """The final model's, by ``<test set> <measure>``; shares."""
    settings: dict[str, Any]
    """By dotted name, lists whole."""


def this_run(root: Path, name: str) -> Run:
    """The run whose results lie in ``root``: settings as ``dvc.lock`` says that they were used."""
    figures = {
        f"{test_set} {measure}": models["final"][key]
        for test_set, models in _metrics(root, "evaluate").items()
        for key, measure in _MEASURES.items()
        if models["final"].get(key) is not None
    }
    lock = root / "dvc.lock"
    known = yaml.safe_load(lock.read_text(encoding="utf-8")) if lock.is_file() else {}
    settings: dict[str, Any] = {}
    for stage in known.get("stages", {}).values():
        for file in stage.get("params", {}).values():
            settings |= flatten(file)
    return Run(name, figures, settings)


def previous_run(root: Path) -> Run | None:
    """The last run that `remember` was told of; None where there is none, or it can't be read."""
    try:
        return Run(**read_json(root / _REMEMBERED))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def remember(root: Path, run: Run) -> None:
    """Keep a run for the next one's comparison."""
    write_json(root / _REMEMBERED, asdict(run))


def champion(root: Path) -> Run | None:
    """The model that is served, from its card; None where none has been promoted, the pointer can't
    be read (`mien.promotion` says so), or the model store does not hold it."""
    pointer = root / "releases" / "champion.json"
    if not pointer.is_file():
        return None
    import bentoml

    from mien.packaging import CARD

    try:
        tag = read_json(pointer)["tag"]
        card = read_json(Path(bentoml.models.get(tag).path_of(CARD)))
    except (bentoml.exceptions.BentoMLException, OSError, ValueError, KeyError, TypeError):
        return None
    figures = {
        f"{row['test_set']} {measure}": row[key]["value"]
        for row in card["results"]
        for key, measure in _MEASURES.items()
        if isinstance(row.get(key), dict)
    }
    training = dict(card["training"])
    settings = flatten(training.pop("run", {})) | flatten(training)
    # an empty list, which would be an empty field, stands as "none" in a card
    settings = {key: [] if value == "none" else value for key, value in settings.items()}
    return Run(tag, figures, settings | {"expressions": card["model"]["expressions"]})


def comparison(run: Run, others: Mapping[str, Run | None]) -> str:
    """Markdown: a run's figures beside those of others, and the settings in which they differ.

    Args:
        run: the new one.
        others: by the heading of their column; None is said to be missing.
    """
    there = {heading: other for heading, other in others.items() if other}
    parts = [f"No {heading} to compare with." for heading, other in others.items() if not other]
    parts += [f"{heading.capitalize()}: {other.name}" for heading, other in there.items()]
    if run.figures:
        rows = []
        for name, value in run.figures.items():
            cells = [name, _percent(value)]
            for other in there.values():
                old = other.figures.get(name)
                cells += [_percent(old), _points(None if old is None else value - old)]
            rows.append(cells)
        header = ["final model", "this run"]
        header += [cell for heading in there for cell in (heading, "change")]
        parts.append(_table(header, rows, words=1))
    different = [
        [key, _plain(run.settings.get(key)), *(_plain(o.settings.get(key)) for o in there.values())]
        for key in sorted(run.settings)
        if any(key in o.settings and o.settings[key] != run.settings[key] for o in there.values())
    ]
    if different:
        parts.append(_table(["setting", "this run", *there], different))
    elif there:
        parts.append("Of the settings that are known of both none differs.")
    return "\n\n".join(parts)


def _plain(value: Any) -> str:
    """A setting in a table's cell."""
    text = "–" if value is None else str(value)
    return text if len(text) <= _CELL else f"{text[:_CELL]}…"


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
    return "–" if value is None else f"{100 * value:+z.1f}"  # no -0.0


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 2) -> str:
    """An aligned Markdown table; the columns after the first ``words`` hold numbers."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * width if i < words else "-" * (width - 1) + ":" for i, width in enumerate(widths)]

    def line(cells: Sequence[str]) -> str:
        aligned = (
            cell.ljust(width) if i < words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(aligned)} |"

    return "\n".join([line(header), line(rule), *map(line, rows)])
