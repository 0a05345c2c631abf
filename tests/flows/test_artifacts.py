"""What is read out of a stage's metrics."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from prefect.settings import get_current_settings

from flows.artifacts import _data_uri, failing_rows, shows_no_people, verdict

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


def test_a_picture_fits_into_an_event(tmp_path):
    """Of a larger one Prefect only says that it refuses to publish it."""
    noise = np.random.default_rng(0).integers(0, 255, (5400, 1200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "faces.png", compress_level=1)
    uri = _data_uri(tmp_path / "faces.png")
    assert len(uri) < 0.95 * get_current_settings().server.events.maximum_size_bytes
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert picture.height / picture.width == pytest.approx(4.5, abs=0.02)
    assert picture.width > 300

    Image.fromarray(noise[:100, :200]).save(tmp_path / "small.png")
    content = base64.b64decode(_data_uri(tmp_path / "small.png").partition(",")[2])
    assert Image.open(io.BytesIO(content)).size == (200, 100)
