"""What people read of a window."""

import re
from dataclasses import replace
from html import escape

import matplotlib.pyplot as plt
import numpy as np
import pytest

from mien.monitoring.log import read_window
from mien.monitoring.report import (
    _make_project,
    add_to_workspace,
    as_markdown,
    draw_picture,
    make_report,
    save_page,
)
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


def test_the_page_agrees_with_the_verdict(log, reference, settings, tmp_path):
    """Evidently's own tests mark the face size, too, and call so few columns no drift."""
    log.add(draw(300, np.random.default_rng(1), brightness=2.0, width=0.3))
    window = read_window(log.root, {}, reference)
    verdict = replace(judge(window, reference, settings, 0), model="<b>model")
    assert verdict.status == "drift"
    save_page(tmp_path / "page.html", make_report(window, reference, verdict, 7), verdict, 7)
    page = (tmp_path / "page.html").read_text()

    assert "<title>Window 7: drift – Mien</title>" in page
    header = page[page.index("<header") : page.index("</header>")]
    assert page.index("<body>") < page.index(header) < page.index('<div id="root_')
    for text in ("Window 7: drift", verdict.reason, "<b>model", *map(tell, verdict.drifted)):
        assert escape(text) in header
    assert "<b>model" not in header
    assert header.count('<tr class="yes">') == len(verdict.drifted) >= 2

    assert "Dataset Drift" not in page
    marks = re.findall(r"""Drift in column '(\w+)'", "label": "Data drift (not )?detected""", page)
    columns = {"expression", *reference.numbers}
    assert {name: not spared for name, spared in marks} == {
        each.name: each.drifted for each in verdict.findings if each.name in columns
    }
    assert len(marks) == len(columns)


def test_a_page_of_faces_that_are_too_few_to_compare(log, reference, settings, tmp_path):
    log.add_without_face(200)
    log.add(draw(3, np.random.default_rng(1)))
    window = read_window(log.root, {}, reference)
    verdict = judge(window, reference, settings, 0)
    assert [each.name for each in verdict.findings] == [NO_FACE]
    save_page(tmp_path / "page.html", make_report(window, reference, verdict, 1), verdict, 1)
    assert "Drift in column" not in (tmp_path / "page.html").read_text()


def test_evidently_shows_the_verdicts_effects(log, reference, settings, tmp_path):
    """In a project that an earlier version has made, too."""
    from evidently.ui.storage.local.base import LocalState

    state = LocalState(str(tmp_path))
    project = _make_project(tmp_path)
    dashboard = state.read_dashboard(project)
    effects = dashboard.panels[1].copy()
    assert effects.title == "Effect in each column, 0 to 1"
    dashboard.panels[1].title = "Distance to the reference, by Evidently's defaults"
    dashboard.panels[1].values = []
    state.write_dashboard(project, dashboard)

    log.add(draw(300, np.random.default_rng(1), brightness=2.0))
    window = read_window(log.root, {}, reference)
    verdict = judge(window, reference, settings, 0)
    add_to_workspace(tmp_path, make_report(window, reference, verdict, 1), 1)
    assert state.read_dashboard(project).panels[1] == effects

    (snapshot,) = state.list_snapshots(project)
    shown = {
        (metric.params["column"], metric.params["method"]): result.value
        for result in state.read_snapshot(project, snapshot).metric_results.values()
        if (metric := result.metric_value_location.metric).params["type"].endswith(":ValueDrift")
    }
    wanted = {each.name: each.effect for each in verdict.findings}
    for value in effects.values:
        labels = value.metric_labels
        assert shown[labels["column"], labels["method"]] == wanted[labels["column"]]

    (tmp_path / str(project) / "dashboard.json").write_text('{"tabs": [')  # the disk was full
    add_to_workspace(tmp_path, make_report(window, reference, verdict, 2), 2)
    assert len(state.list_snapshots(project)) == 2
