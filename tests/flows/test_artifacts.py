"""What is read out of a stage's metrics."""

from flows.artifacts import failing_rows, shows_no_people, verdict

FAILED = {
    "success": False,
    "faces": 8870,
    "checks": 25,
    "failed": {
        "Labels are known expressions": {
            "failing": 1100,
            "seen": 1200,
            "rows": [{"where": "fer/a.png", "value": "hapy"}],
        },
        "There are faces": {"failing": 1, "seen": 1, "rows": []},
    },
}


def test_failing_rows_stand_beside_the_check_that_they_break():
    assert list(failing_rows(FAILED)) == [
        {
            "check": "Labels are known expressions",
            "failing": 1100,
            "seen": 1200,
            "row": "fer/a.png",
            "value": "hapy",
        },
        {"check": "There are faces", "failing": 1, "seen": 1, "row": "", "value": ""},
    ]


def test_the_verdict_in_words():
    passed = {"success": True, "faces": 8870, "checks": 25, "failed": {}}
    assert verdict(passed) == "**Passed**: all 25 checks of 8,870 faces."
    assert verdict(FAILED) == (
        "**Failed**: 2 of 25 checks of 8,870 faces.\n\n"
        "- Labels are known expressions: 1,100 of 1,200 rows break this\n"
        "- There are faces: 1 of 1 rows break this"
    )


def test_faces_are_nobodys_only_where_all_are_drawn(tmp_path):
    def shows(*kinds: str) -> bool:
        sources = ", ".join(f"{{kind: {kind}}}" for kind in kinds)
        (tmp_path / "params.yaml").write_text(f"prepare: {{sources: [{sources}]}}")
        return shows_no_people(tmp_path)

    assert shows("synthetic", "synthetic")
    assert not shows("synthetic", "lfw")
    assert not shows()
