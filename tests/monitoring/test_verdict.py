"""What is called drift, and what is not."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies

from mien.monitoring.log import Window, read_window
from mien.monitoring.report import draw_picture
from mien.monitoring.statistics import holm
from mien.monitoring.verdict import judge, volume
from tests.monitoring.rows import draw


def window(table, reference, without_face: int = 0, **changes) -> Window:
    faces = table.drop(columns=["width", "height"]).assign(
        face_size=np.sqrt(table["width"] * table["height"])
    )
    faces = faces[list(reference.faces.columns)]
    pictures = len(faces) + without_face
    return Window(faces, pictures, pictures, without_face, 0, None, None, files=1, **changes)


@given(strategies.lists(strategies.floats(0, 1), min_size=1, max_size=30))
def test_holm_is_between_the_raw_p_and_bonferronis(values):
    raw = np.array(values)
    adjusted = holm(raw)
    assert (adjusted >= raw).all()
    assert (adjusted <= np.minimum(1, raw * len(raw)) + 1e-12).all()
    assert adjusted.min() == pytest.approx(min(1, raw.min() * len(raw)))


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03])), [0.03, 0.06, 0.06])


def test_undrifted_windows_are_left_alone(reference, settings):
    """24 windows of three sizes: no more findings than significance promises, and no alarm."""
    rng = np.random.default_rng(11)
    found, bad, statuses = 0, 0, []
    for number in range(24):
        rows = window(draw((100, 300, 1000)[number % 3], rng), reference)
        verdict = judge(rows, reference, settings, bad)
        bad = verdict.bad_windows
        found += bool(verdict.drifted)
        statuses.append(verdict.status)
        assert (verdict.severity > 0) == bool(verdict.drifted)
    assert found <= 1
    assert statuses.count("drift") == 0


@pytest.mark.parametrize("column", ["brightness", "confidence", "component_2", "sharpness"])
def test_the_column_that_moved_is_named_first(reference, settings, column):
    rows = draw(400, np.random.default_rng(1), **{column: 0.8})
    verdict = judge(window(rows, reference), reference, settings, 0)
    columns = [each.name for each in verdict.drifted if each.group != "together"]
    assert columns[0] == column
    assert column in verdict.reason
    assert verdict.status in ("watch", "drift")


def test_more_of_one_expression(reference, settings):
    rows = draw(400, np.random.default_rng(1), happy=0.7)
    verdict = judge(window(rows, reference), reference, settings, 1)
    assert verdict.status == "drift"
    assert [each.name for each in verdict.drifted] == ["expression"]
    assert verdict.severity == pytest.approx(0.7 - 1 / 3, abs=0.06)


def test_more_abstentions(reference, settings):
    rows = draw(400, np.random.default_rng(1))
    rows.loc[:99, "confidence"] = 0.49  # under the package's threshold of 0.5
    verdict = judge(window(rows, reference), reference, settings, 0)
    (abstention,) = [each for each in verdict.drifted if each.name == "abstention"]
    assert abstention.reference == (reference.faces["confidence"] < 0.5).mean()
    assert abstention.window == (rows["confidence"] < 0.5).mean() > 0.25
    assert abstention.effect == abstention.window - abstention.reference


def test_what_only_all_columns_together_show(reference, settings):
    rows = draw(1500, np.random.default_rng(1))
    rows["component_2"] = rows["component_1"] / 2  # each alone is as before
    verdict = judge(window(rows, reference), reference, settings, 0)
    assert [each.name for each in verdict.drifted] == ["domain classifier"]


def test_pictures_without_faces(reference, settings):
    rows = window(draw(200, np.random.default_rng(1)), reference, without_face=100)
    verdict = judge(rows, reference, settings, 0)
    assert [each.name for each in verdict.drifted] == ["no face"]


def test_a_service_that_finds_no_face_at_all_is_judged(log, reference, settings):
    log.add_without_face(150)
    verdict = judge(read_window(log.root, {}, reference), reference, settings, 0)
    assert verdict.status == "drift"
    assert verdict.reason.startswith("no face 1 (limit 0.1, effect 0.90);")


def test_photos_without_a_face_do_not_stand_in_for_faces(log, reference, settings):
    """Where some photos show nobody there are as many pictures as are needed before the faces."""
    rng = np.random.default_rng(1)
    log.add(draw(95, rng, brightness=3), route="analyze")
    log.add_without_face(5)
    verdict = judge(read_window(log.root, {}, reference), reference, settings, 1)
    assert (verdict.status, verdict.bad_windows) == ("too few", 1)
    log.add(draw(5, rng, brightness=3), route="analyze")
    verdict = judge(read_window(log.root, {}, reference), reference, settings, 1)
    assert verdict.status == "drift"
    assert "brightness" in [each.name for each in verdict.drifted]


def test_crops_say_nothing_about_the_search_for_faces(log, reference, settings):
    log.add(draw(950, np.random.default_rng(1)))
    log.add_without_face(50)
    verdict = judge(read_window(log.root, {}, reference), reference, settings, 0)
    assert [each.name for each in verdict.drifted] == ["no face"]
    assert verdict.severity == pytest.approx(0.9)


def test_two_bad_windows_or_a_very_bad_one(reference, settings):
    def verdict(amount: float, bad: int):
        rows = draw(400, np.random.default_rng(5), brightness=amount)
        return judge(window(rows, reference), reference, settings, bad)

    first = verdict(0.6, 0)
    assert (first.status, first.bad_windows) == ("watch", 1)
    assert "1 of the 2 windows" in first.reason
    second = verdict(0.6, first.bad_windows)
    assert (second.status, second.bad_windows) == ("drift", 2)
    assert "2 windows in a row" in second.reason
    assert verdict(0.0, 1).bad_windows == 0
    strong = verdict(2.5, 0)
    assert strong.status == "drift"
    assert "one window is enough" in strong.reason


def test_a_slight_but_significant_difference_is_no_drift(reference, settings):
    """Over many rows everything is significant."""
    rows = draw(50_000, np.random.default_rng(5), brightness=0.15)
    verdict = judge(window(rows, reference), reference, settings, 1)
    (brightness,) = [each for each in verdict.findings if each.name == "brightness"]
    assert not brightness.drifted
    assert brightness.p_adjusted < settings.significance
    together = holm(np.array([each.p for each in verdict.findings]))
    assert [each.p_adjusted for each in verdict.findings] == together.tolist()
    assert brightness.effect < settings.min_effect
    assert verdict.status == "ok"


def test_too_few_faces(log, reference, settings):
    log.add(draw(40, np.random.default_rng(1), brightness=3))
    verdict = judge(read_window(log.root, {}, reference), reference, settings, 1)
    assert verdict.status == "too few"
    assert "40 faces since the last window, 100 are needed" in verdict.reason
    assert verdict.bad_windows == 1


def test_a_service_that_still_has_another_model_is_told(log, reference, settings):
    """After a promotion it has until it is restarted; all there was to read was 0 faces."""
    faces = draw(150, np.random.default_rng(1))
    log.add(faces, model="another")
    verdict = judge(read_window(log.root, {}, reference), reference, settings, 0)
    assert verdict.status == "too few"
    assert f"150 are of another model than {reference.version}, which is" in verdict.reason
    assert "MIEN_MODEL" in verdict.reason
    log.add(faces[:10])  # it has: the others are from before
    verdict = judge(read_window(log.root, {}, reference), reference, settings, 0)
    assert "another model" not in verdict.reason


def test_no_log(tmp_path, reference, settings):
    verdict = judge(read_window(tmp_path, {}, reference), reference, settings, 0)
    assert verdict.status == "no log"
    assert not verdict.judged


def test_columns_that_hold_nothing_are_passed_over(log, reference, settings):
    log.add(draw(200, np.random.default_rng(1)), brightness=None, confidence=float("nan"))
    verdict = judge(read_window(log.root, {}, reference), reference, settings, 0)
    names = {each.name for each in verdict.findings}
    assert not names & {"brightness", "confidence", "abstention"}
    assert {"contrast", "domain classifier"} <= names
    assert any("brightness is missing" in note for note in verdict.notes)
    assert verdict.status == "ok"


def test_a_window_is_drawn_whatever_the_expressions_are_called(reference, settings):
    names = dict(zip(reference.expressions, ("$x$", "a$$", "<b>"), strict=True))
    odd = replace(
        reference,
        expressions=list(names.values()),
        faces=reference.faces.assign(expression=reference.faces["expression"].map(names)),
    )
    table = draw(200, np.random.default_rng(1))
    rows = window(table.assign(expression=table["expression"].map(names)), odd)
    assert draw_picture(rows, odd, judge(rows, odd, settings, 0)).startswith(b"\x89PNG")


def test_rows_that_lack_a_value_are_no_drift(log, reference, settings):
    rng = np.random.default_rng(1)
    log.add(draw(150, rng))
    log.add(draw(150, rng), width=None)
    verdict = judge(read_window(log.root, {}, reference), reference, settings, 0)
    assert verdict.status == "ok"


def test_volume_is_noted_but_no_drift(log, reference, settings):
    log.add(draw(200, np.random.default_rng(1)))
    rows = read_window(log.root, {}, reference)
    assert volume(rows) == pytest.approx(3600 * 200 / 199)
    verdict = judge(rows, reference, settings, 0, volumes=[100, 110, 90, 120, 100])
    assert verdict.status == "ok"
    assert "volume: 3618 pictures an hour, usually 100" in verdict.notes
    verdict = judge(rows, reference, settings, 0, volumes=[11_000] * 5)
    assert "volume: 3618 pictures an hour, usually 11000" in verdict.notes
    assert judge(rows, reference, settings, 0, volumes=[10_000] * 5).notes == []
