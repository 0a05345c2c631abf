"""What people see of a window: Evidently's page and workspace, a picture, a table."""

import base64
import io
import os
import warnings
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import pandas as pd

from mien.monitoring.log import Window
from mien.monitoring.reference import IMAGE, Reference
from mien.monitoring.statistics import Finding
from mien.monitoring.verdict import Verdict, count, read

PROJECT = "mien"
_EFFECT = "effect"
"""The name under which Evidently knows the verdict's effects."""
_EFFECTS = "Effect in each column, 0 to 1"
_EARLIER = "Distance to the reference, by Evidently's defaults"
"""The panel that had its place."""
_PAGE_FACES = 5000
"""Faces of a window on the page; all of them are judged."""


def make_report(window: Window, reference: Reference, verdict: Verdict, number: int) -> Any:
    """Evidently's snapshot of a window beside the reference."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import MeanValue, RowCount, ValueDrift

    tables = [
        side.sample(min(len(side), _PAGE_FACES), random_state=0)
        for side in (window.faces, reference.faces)
    ]
    numbers = [
        name for name in reference.numbers if all(side[name].notna().any() for side in tables)
    ]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=["expression"])
    columns = ["expression", *numbers]
    sides = [
        Dataset.from_pandas(side[columns].astype({"expression": object}), definition)
        for side in tables
    ]
    means = [MeanValue(column=name) for name in numbers if name in ("confidence", *IMAGE)]
    _teach_evidently(verdict)
    compared = [each.name for each in verdict.findings if each.name in columns]
    drifts = [ValueDrift(column=name, method=_EFFECT) for name in compared]
    report = Report(
        [RowCount(), *drifts, *means],
        metadata={
            "window": str(number),
            "model": verdict.model,
            "verdict": verdict.status,
            "reason": verdict.reason,
        },
        tags=[verdict.status],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return report.run(*sides, timestamp=_time(window.end))


def _teach_evidently(verdict: Verdict) -> None:
    """Let Evidently score and mark each column as the verdict does.

    Its own tests know neither the correction nor the least effect, and would contradict it.
    """
    from evidently.legacy.calculations.stattests import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    findings = {each.name: each for each in verdict.findings}

    def score(_: Any, column: pd.Series, *__: Any) -> tuple[float, bool]:
        finding = findings[str(column.name)]
        return finding.effect, finding.drifted

    kinds = [ColumnType.Numerical, ColumnType.Categorical]
    register_stattest(StatTest(_EFFECT, "effect, as in the verdict", kinds), score)


def save_page(path: Path, snapshot: Any, verdict: Verdict, number: int) -> None:
    """Write Evidently's page of a snapshot, with the verdict above it."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("mien.monitoring"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    title = f"Window {number}: {verdict.status}"
    header = templates.get_template("verdict.html").render(
        title=title,
        verdict=verdict,
        facts=_facts(verdict),
        remarks=_remarks(verdict),
        headings=_HEADINGS,
        rows=[(_cells(each), each.drifted) for each in verdict.findings],
        most=f"{_PAGE_FACES:,}",
    )
    page = snapshot.get_html_str(as_iframe=False)
    # The data in it are JSON, whose lines do not end like this.
    for place, what in (("<head>\n", f"<title>{title} – Mien</title>\n"), ("<body>\n", header)):
        page = page.replace(place, place + what, 1)
    path.write_text(page, encoding="utf-8")


def add_to_workspace(folder: Path, snapshot: Any, number: int) -> None:
    """Put a snapshot into the Evidently workspace in ``folder``, in the place of its window.

    What a run that was killed, or found the disk full, has left of that window is written anew;
    Evidently's own ``Workspace`` reads all snapshots each time, and ends at such a one.
    """
    from evidently.ui.storage.local.base import LocalState

    state = LocalState(str(folder))
    if project := _find_project(state):
        with suppress(ValueError):  # a torn one is Evidently's panels alone; windows are judged
            _renew_panel(state, project)
    else:
        project = _make_project(folder)
    state.write_snapshot(project, uuid5(project, str(number)), snapshot.to_snapshot_model())


def forget_pages(folder: Path, keep: int) -> None:
    """Remove page, picture and snapshot of all windows but those that were judged last.

    Args:
        folder: of monitoring, with ``windows`` and ``evidently``. Their numbers begin anew where
            somebody has removed the state of monitoring.
        keep: so many windows stay whole; of the others the verdicts stay.
    """
    from evidently.ui.storage.local.base import LocalState

    verdicts = (folder / "windows").glob("[0-9]*/verdict.json")
    old = [path.parent for path in sorted(verdicts, key=lambda path: path.stat().st_mtime)][:-keep]
    for window in old:
        for name in ("page.html", "picture.png"):
            (window / name).unlink(missing_ok=True)
    state = LocalState(str(folder / "evidently"))
    if project := _find_project(state):
        names = {uuid5(project, str(int(window.name))) for window in old}
        for snapshot in names & set(state.list_snapshots(project)):
            state.delete_snapshot(project, snapshot)


def _find_project(state: Any) -> UUID | None:
    """Ours among those of an Evidently workspace."""
    found = {state.read_project(each).name: each for each in state.list_projects()}
    return found.get(PROJECT)


def _make_project(folder: Path) -> UUID:
    """The project with its panels; its number."""
    from evidently.sdk.models import PanelMetric
    from evidently.sdk.panels import counter_panel, line_plot_panel
    from evidently.ui.workspace import Workspace

    workspace = Workspace.create(str(folder))
    project = workspace.create_project(PROJECT, "Each window of the prediction log")
    faces = [PanelMetric(metric="RowCount", legend="faces")]
    title = f"Faces in the last window, up to {_PAGE_FACES:,}"
    project.dashboard.add_panel(counter_panel(title, faces))
    panels = {
        _EFFECTS: _effects(),
        "Confidence": [_mean("confidence")],
        "Brightness and contrast": [_mean("brightness"), _mean("contrast")],
        "Sharpness": [_mean("sharpness")],
        "Face size, pixels": [_mean("face_size")],
    }
    for title, metrics in panels.items():
        project.dashboard.add_panel(line_plot_panel(title, metrics, size="half"))
    return UUID(str(project.id))


def _renew_panel(state: Any, project: UUID) -> None:
    """Where an earlier version has made the project: show effects where it showed distances."""
    dashboard = state.read_dashboard(project)
    for panel in dashboard.panels:
        if panel.title == _EARLIER:
            panel.title, panel.values = _EFFECTS, _effects()
            state.write_dashboard(project, dashboard)


def _effects() -> list[Any]:
    from evidently.sdk.models import PanelMetric

    return [
        PanelMetric(
            metric="ValueDrift", metric_labels={"column": name, "method": _EFFECT}, legend=name
        )
        for name in ("expression", "confidence", *IMAGE, "component_1", "component_2")
    ]


def _mean(column: str) -> Any:
    from evidently.sdk.models import PanelMetric

    return PanelMetric(metric="MeanValue", metric_labels={"column": column}, legend=column)


def draw_picture(window: Window, reference: Reference, verdict: Verdict) -> bytes:
    """The six statistics that differ most, in the window and in the reference: a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["text.parse_math"] = False  # expressions may have any names
    import matplotlib.pyplot as plt
    import numpy as np

    numbers = [each for each in verdict.findings if each.name in reference.numbers][:5]
    figure, axes = plt.subplots(2, 3, figsize=(10, 5.5), layout="constrained")
    sides = {"reference": reference.faces, "window": window.faces}
    colours: Any = {"reference": "0.65", "window": "tab:orange"}
    shares = pd.DataFrame(
        {
            name: side["expression"].value_counts(normalize=True).reindex(reference.expressions)
            for name, side in sides.items()
        }
    ).fillna(0)
    shares.plot.bar(ax=axes[0, 0], color=colours, width=0.8, xlabel="", legend=False)
    effects = {each.name: each for each in verdict.findings}
    axes[0, 0].set_title(_title("expression", effects.get("expression")), fontsize=10)
    for axis, finding in zip(axes.flat[1:], numbers, strict=False):
        values = {name: side[finding.name].dropna() for name, side in sides.items()}
        both = np.concatenate(list(values.values()))
        low, high = np.percentile(both, [0.5, 99.5])
        bins = np.linspace(low, high if high > low else low + 1, 31)
        for name, each in values.items():
            weights = np.full(len(each), 1 / max(1, len(each)))
            axis.hist(each, bins, weights=weights, color=colours[name], alpha=0.7, label=name)
        axis.set_title(_title(finding.name, finding), fontsize=10)
        axis.set_xlabel(_UNITS.get(finding.name, "principal component, no unit"))
    for axis in axes.flat[1 + len(numbers) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("share of the faces")
    figure.suptitle(f"{verdict.status}: {count(verdict.faces, 'face')}, model {verdict.model}")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    plt.close(figure)
    return buffer.getvalue()


_UNITS = {
    "confidence": "probability of the answer",
    "brightness": "mean grey level, 0 to 255",
    "contrast": "deviation of the grey levels",
    "sharpness": "variance of the Laplacian",
    "face_size": "pixels",
}


def _title(name: str, finding: Finding | None) -> str:
    if finding is None:
        return name
    mark = ", drifted" if finding.drifted else ""
    return f"{name} (effect {finding.effect:.2f}{mark})"


def as_data_uri(png: bytes) -> str:
    """A PNG as text for a page."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def as_markdown(verdict: Verdict, number: int) -> str:
    """The verdict in words and one table."""
    lines = [
        f"# Window {number}: {verdict.status}",
        "",
        verdict.reason,
        "",
        f"Model `{verdict.model}`, {_facts(verdict)}",
    ]
    if verdict.findings:
        lines += [
            "",
            f"| {' | '.join(_HEADINGS)} |",
            "| --- | --- | --- | ---: | ---: | ---: | ---: | --- |",
        ]
    for each in verdict.findings:
        mark = "**yes**" if each.drifted else ""
        lines.append(f"| {' | '.join([*_cells(each), mark])} |")
    for remark in _remarks(verdict):
        lines += ["", remark]
    return "\n".join(lines)


_HEADINGS = ("statistic", "group", "test", "reference", "window", "effect", "adjusted p", "drifted")


def _facts(verdict: Verdict) -> str:
    resemble = "resembles" if verdict.unfamiliar == 1 else "resemble"
    return (
        f"{count(verdict.faces, 'face')} in {count(verdict.pictures, 'picture')} "
        f"({count(verdict.unfamiliar, 'face')} {resemble} nothing that it knows), "
        f"{verdict.start or '?'} to {verdict.end or '?'}; severity {verdict.severity:.2f}, "
        f"bad windows in a row: {verdict.bad_windows}."
    )


def _cells(finding: Finding) -> list[str]:
    """Those of a row, but for the last, which says whether it drifted."""
    p = finding.p_adjusted
    return [
        *(finding.name, finding.group, finding.test, *read(finding)),
        f"{finding.effect:.3f}",
        "<0.0001" if p < 0.0001 else f"{p:.2g}",
    ]


def _remarks(verdict: Verdict) -> list[str]:
    passed_over = [
        f"Passed over: {count(rows, 'row')} {reason}." for reason, rows in verdict.skipped.items()
    ]
    return passed_over + [f"Note: {note}." for note in verdict.notes]


def _time(text: str | None) -> datetime:
    try:
        return datetime.fromisoformat(text or "")
    except ValueError:
        return datetime.now(UTC)
