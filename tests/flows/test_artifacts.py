"""What is read out of a stage's lines and metrics."""

from flows.artifacts import failing_rows, shows_no_people, verdict
from mien.data.validation import Check, Offence
from mien.stages.validate import complaint


def check(title: str, *offences: Offence, failing: int = 1) -> Check:
    return Check(title, False, 1200, failing, 0.0, offences, "expect")


def test_failing_rows_are_what_the_stage_itself_prints():
    checks = [
        check("Labels are known expressions", Offence("fer/a.png", "hapy"), failing=1100),
        check("There are faces"),
    ]
    printed = "\n".join(["2 of 25 checks failed", *map(complaint, checks), "all of it: index.html"])
    known = {"check": "Labels are known expressions", "failing": "1,100", "seen": "1,200"}
    assert list(failing_rows(printed.splitlines())) == [
        {**known, "row": "fer/a.png", "value": "hapy"},
        {"check": "There are faces", "failing": "1", "seen": "1,200", "row": "", "value": ""},
    ]
    assert list(failing_rows(["cluster: error: no faces", "exited with 1"])) == []


def test_the_verdict_in_words():
    passed = {"success": True, "faces": 8870, "checks": 25, "failed": {}}
    assert verdict(passed) == "**Passed**: all 25 checks of 8,870 faces."
    failed = passed | {"success": False, "failed": {"There are faces": 3}}
    assert verdict(failed) == (
        "**Failed**: 1 of 25 checks of 8,870 faces.\n\n- There are faces: 3 rows break this"
    )


def test_faces_are_nobodys_only_where_all_are_drawn(tmp_path):
    def shows(*kinds: str) -> bool:
        sources = ", ".join(f"{{kind: {kind}}}" for kind in kinds)
        (tmp_path / "params.yaml").write_text(f"prepare: {{sources: [{sources}]}}")
        return shows_no_people(tmp_path)

    assert shows("synthetic", "synthetic")
    assert not shows("synthetic", "lfw")
    assert not shows()
