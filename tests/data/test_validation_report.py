"""The summary page of a validation, on a phone and to a screen reader."""

import re

import pandas as pd
import pytest

from mien.data.validation import Check, Offence
from mien.data.validation_report import render_page
from tests.browser import CHROMIUM, open_page

LONGEST = (
    "At least 5 labelled training faces for each expression (validate.min_faces_per_expression)"
)


@pytest.fixture(scope="module")
def written() -> str:
    examples = (Offence("mine/3.png", "hapy"),)
    checks = [
        Check(LONGEST, True, 1_234_567, 0, 0.0, (), "expect_one"),
        Check("Labels are known expressions", False, 60, 1, 0.01, examples, "expect_another"),
    ]
    faces = pd.DataFrame({"source": ["mine"] * 2, "split": ["train", "none"], "label": ["sad", ""]})
    aside = pd.DataFrame(
        {"source": ["mine"], "path": ["0.png"], "kind": "unreadable", "reason": "x"}
    )
    return render_page(checks, faces, aside, ["happy", "sad"])


def test_every_heading_of_a_column_says_so(written):
    headings = re.findall(r"<th\b([^>]*)>([^<]*)", written)
    assert len(headings) == 2 + 5 + 5 + 3
    assert all('scope="col"' in attributes and text for attributes, text in headings)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_phone_shows_every_check(written, tmp_path):
    """Their titles were cut at the edge of the screen."""
    (tmp_path / "index.html").write_text(written, encoding="utf-8")
    with open_page((tmp_path / "index.html").as_uri(), tmp_path, "--hide-scrollbars") as page:
        page.wait("document.readyState === 'complete' && document.querySelector('main')")
        page.call(
            "Emulation.setDeviceMetricsOverride",
            width=360,
            height=700,
            deviceScaleFactor=1,
            mobile=False,
        )
        page.wait("innerWidth === 360")
        assert page.value("document.documentElement.scrollWidth") == 360
        rows = "[...document.querySelectorAll('h2 + .card tbody tr')]"
        rows += f".filter(each => each.textContent.includes({LONGEST!r}))"
        right = "map(each => each.children[1].getBoundingClientRect().right)"
        assert 0 < page.value(f"Math.max(...{rows}.{right})") <= 360 - 12
