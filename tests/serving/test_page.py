"""The page in a real browser, driven over Chromium's own protocol."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from PIL import ExifTags, Image

from tests.browser import CHROMIUM, Page, open_page

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.slow]


@pytest.fixture(scope="module")
def page(server, tmp_path_factory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("chromium")
    camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with open_page(server.url, folder, *camera) as page:
        page.wait("document.getElementById('card') && card.textContent.length > 10")
        yield page


def choose(page: Page, path: Path) -> None:
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])


def resize(page: Page, width: int, height: int = 600) -> None:
    page.call(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=height,
        deviceScaleFactor=1,
        mobile=False,
    )
    page.wait(f"innerWidth === {width}")


def face(expression: str = "sad", *, abstains: bool = False, x: int = 0) -> dict[str, Any]:
    """One of `/analyze`'s answer."""
    return {
        "expression": expression,
        "probabilities": {expression: 1},
        "confidence": 1,
        "abstains": abstains,
        "reason": "unsure" if abstains else None,
        "box": {"x": x, "y": 0, "width": 90, "height": 90},
    }


def show(page: Page, faces: list[dict[str, Any]], width: int = 640, height: int = 300) -> None:
    """What the page makes of an answer, with a photo that the browser can draw."""
    answer = json.dumps({"width": width, "height": height, "faces": faces})
    page.value(f"show(Object.assign(new OffscreenCanvas(9, 9), {{ close() {{}} }}), {answer})")


def press_tab(page: Page) -> str:
    for kind in ("keyDown", "keyUp"):
        page.call(
            "Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9
        )
    return page.value("document.activeElement.id || document.activeElement.tagName")


def photo(path: Path) -> Path:
    """Two drawn faces that the detector finds."""
    picture = np.full((300, 640), 150, np.uint8)
    for x in (160, 480):
        cv2.ellipse(picture, (x, 150), (80, 105), 0, 0, 360, 215, -1)
        cv2.ellipse(picture, (x, 70), (88, 60), 0, 180, 360, 60, -1)
        for side in (-32, 32):
            cv2.ellipse(picture, (x + side, 105), (22, 5), 0, 180, 360, 70, 6)
            cv2.ellipse(picture, (x + side, 125), (16, 9), 0, 0, 360, 240, -1)
            cv2.circle(picture, (x + side, 125), 8, 30, -1)
        cv2.ellipse(picture, (x, 165), (14, 8), 0, 0, 180, 150, 4)
        cv2.ellipse(picture, (x, 205), (34, 12), 0, 0, 360, 90, -1)
    picture = cv2.GaussianBlur(picture, (0, 0), 2)
    cv2.imwrite(str(path), picture)
    return path


def test_it_says_what_is_served(page, server):
    version = httpx.get(f"{server.url}/info").json()["version"]
    assert page.value("version.textContent") == f"mien:{version}"
    assert page.value("forbidden.children.length") == 1


def test_a_photo_gives_boxes_and_bars(page, server, tmp_path):
    path = photo(tmp_path / "photo.png")
    faces = httpx.post(f"{server.url}/analyze", files={"images": path.read_bytes()}).json()["faces"]
    assert faces, "the detector must find the drawn faces"
    choose(page, path)
    page.wait("/found/.test(document.getElementById('status').textContent)")
    assert page.value("document.querySelectorAll('.face').length") == len(faces)
    assert page.value("document.querySelectorAll('meter').length") == 3 * len(faces)
    shown = page.value("document.querySelector('.face h3').textContent")
    assert shown.startswith(f"1. {faces[0]['expression']}, ")
    assert page.value("canvas.width") == 640
    picture = page.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
    assert len(base64.b64decode(picture["data"])) > 10_000


@pytest.mark.parametrize("kind", ["tiff", "webp"])
def test_a_photo_that_browsers_cannot_show_is_answered(page, tmp_path, kind):
    """A WebP they show as it lies in the file, not as its EXIF says."""
    page.value("document.getElementById('status').textContent = ''")
    path, turned = photo(tmp_path / f"photo.{kind}"), Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    if kind == "webp":
        Image.open(path).save(path, exif=turned)
    choose(page, path)
    page.wait("/found/.test(document.getElementById('status').textContent)")
    assert not page.value("result.hidden")
    assert page.value("canvas.getContext('2d').getImageData(0, 0, 1, 1).data[3]") == 0
    note = " This browser cannot show the photo"
    note += "; only the boxes are drawn." if page.value("faces.children.length") else "."
    assert page.value("document.getElementById('status').textContent").endswith(note)


@pytest.mark.parametrize(
    ("abstains", "said"),
    [
        ([False], "One face was found: sad."),
        ([True], "One face was found; the model abstains (likeliest: sad)."),
        ([False, False], "2 faces were found."),
        ([False, True, False], "3 faces were found; on 1 of them the model abstains."),
        ([True, True], "2 faces were found; on all of them the model abstains."),
    ],
)
def test_what_is_announced_is_what_the_model_says(page, abstains, said):
    """Of one face it was the expression that the model would not stand for."""
    show(page, [face(abstains=each) for each in abstains])
    assert page.value("document.getElementById('status').textContent") == said


def test_no_face_has_a_way_out(page, tmp_path):
    path = tmp_path / "plain.png"
    cv2.imwrite(str(path), np.full((200, 200), 128, np.uint8))
    choose(page, path)
    page.wait("/^No face was found. .* --crop/.test(document.getElementById('status').textContent)")


def test_the_numbers_of_a_wide_photo_can_be_read_on_a_phone(page):
    """They are drawn into the photo, which is shown a tenth as large."""
    size = "parseFloat(canvas.getContext('2d').font.match(/([\\d.]+)px/)[1])"
    shown = f"{size} * canvas.clientWidth / canvas.width"
    resize(page, 1100)
    show(page, [face()], 4032, 1344)
    page.wait(f"{shown} >= 13.9")
    try:
        resize(page, 360)
        page.wait(f"canvas.clientWidth < 360 && {shown} >= 13.9")
    finally:
        page.call("Emulation.clearDeviceMetricsOverride")


@pytest.mark.parametrize("width", [360, 1100])
def test_beside_many_faces_the_photo_stays(page, width):
    resize(page, width)
    show(page, [face(x=10 * index) for index in range(40)])
    try:
        page.value("document.querySelector('.face:last-child').scrollIntoView({ block: 'end' })")
        page.wait("scrollY > 2000")
        box = page.value("canvas.getBoundingClientRect().toJSON()")
        assert 0 <= box["top"] < box["bottom"] <= 600
        middle = [box["left"] + box["width"] / 2, box["top"] + box["height"] / 2]
        assert page.value(f"document.elementFromPoint(...{middle}).id") == "canvas"
        assert box["width"] / box["height"] == pytest.approx(640 / 300, rel=0.02)
    finally:
        page.value("scrollTo(0, 0)")
        page.call("Emulation.clearDeviceMetricsOverride")


def test_the_card_is_for_people(page):
    """It was JSON with 16 digits."""
    assert page.value("card.querySelectorAll('dl dl').length") == 2
    assert page.value("card.textContent") == "modelnamemienuseforbiddenx"
    card = {"a_share": 0.6714285714285714, "small": 7.987e-6, "faces": 12345, "yes": True}
    lists = {"none": None, "widths": [32, 64], "limits": ["One. Two.", "Three."]}
    laid = page.value(f"layOut({json.dumps(card | lists)}).outerHTML")
    for name, value in {
        "a share": "0.671", "small": "0.00000799", "faces": "12,345", "yes": "yes", "none": "–",
        "widths": "32, 64",
    }.items():  # fmt: skip
        assert f"<dt>{name}</dt><dd>{value}</dd>" in laid
    assert "<ul><li>One. Two.</li><li>Three.</li></ul>" in laid


def test_a_service_that_is_silent(page, tmp_path):
    said = "The service does not answer; is it running? Try again."
    page.call("Network.setBlockedURLs", urls=["*/info", "*/analyze"])
    try:
        page.call("Page.reload")
        page.wait(f"document.getElementById('status')?.textContent === {said!r}")
        assert page.value("document.getElementById('not').hidden && forbidden.hidden")
        page.value("document.getElementById('status').textContent = ''")
        choose(page, photo(tmp_path / "photo.png"))
        page.wait(f"document.getElementById('status').textContent === {said!r}")
    finally:
        page.call("Network.setBlockedURLs", urls=[])
        page.call("Page.reload")
    page.wait("document.getElementById('card')?.textContent.length > 10")
    assert not page.value("document.getElementById('not').hidden || forbidden.hidden")


def test_the_same_photo_can_be_chosen_again(page, tmp_path):
    """Browsers tell nothing of a choice that changes nothing."""
    choose(page, photo(tmp_path / "photo.png"))
    assert page.value("document.getElementById('file').value")
    page.value("document.getElementById('file').dispatchEvent(new Event('click'))")
    assert not page.value("document.getElementById('file').value")


def test_what_is_no_photo_is_said(page, tmp_path):
    path = tmp_path / "text.png"
    path.write_text("text")
    choose(page, path)
    page.wait("/work: not a picture/.test(document.getElementById('status').textContent)")
    assert page.value("result.hidden")


def test_what_is_broken_is_said_in_words(page, tmp_path):
    """Not ``picture 0: truncated or broken (OSError)``."""
    path = photo(tmp_path / "photo.jpg")
    path.write_bytes(path.read_bytes()[:700])
    choose(page, path)
    said = "That did not work: truncated or broken"
    page.wait(f"document.getElementById('status').textContent === {said!r}")


@pytest.mark.parametrize(
    ("body", "status", "shown"),
    [
        ('{"error": "too many requests at once"}', "503", "too many requests at once"),
        ("<html>", "413", "413 Said"),
        ("<html>", "200", "200 Said"),
    ],
)
def test_a_refusal_is_said(page, tmp_path, body, status, shown):
    """Also that of a proxy, which is no JSON."""
    answer = f"new Response({body!r}, {{ status: {status}, statusText: 'Said' }})"
    page.value(f"window.theirs = fetch; fetch = async () => {answer}; version.textContent = '…'")
    try:
        page.value("about().catch(error => say('model: ' + error.message))")
        page.wait(f"document.getElementById('status').textContent === 'model: {shown}'")
        assert page.value("version.textContent") == "…"
        choose(page, photo(tmp_path / "photo.png"))
        page.wait(f"document.getElementById('status').textContent === 'That did not work: {shown}'")
    finally:
        page.value("fetch = window.theirs")


def test_the_webcam(page):
    page.value("camera.click()")
    page.wait("!shoot.hidden && video.videoWidth > 0")
    page.value("document.getElementById('status').textContent = ''; shoot.click()")
    page.wait("/found/.test(document.getElementById('status').textContent)")
    assert page.value("video.hidden")


def test_two_clicks_borrow_the_webcam_once(page):
    """Of a double click's two loans one was never given back: the webcam stayed on."""
    page.value("""
        window.lent = [], window.lend = MediaDevices.prototype.getUserMedia;
        MediaDevices.prototype.getUserMedia = async function (wanted) {
            const stream = await lend.call(this, wanted);
            lent.push(...stream.getTracks());
            return stream;
        };
        camera.click(), camera.click()
    """)
    page.wait("!shoot.hidden && video.videoWidth > 0")
    page.value("camera.click(), MediaDevices.prototype.getUserMedia = lend, 0")
    assert page.value("lent.map(track => track.readyState).join()") == "ended"


def test_without_https_it_says_why_there_is_no_webcam(page):
    """As where the service, with a key, is asked from another machine."""
    nothing = "{ configurable: true, value: undefined }"
    page.value(f"Object.defineProperty(navigator, 'mediaDevices', {nothing})")
    page.value("document.getElementById('camera').click()")
    page.wait("/can't be used: .* HTTPS/.test(document.getElementById('status').textContent)")
    page.value("delete navigator.mediaDevices")


def test_a_narrow_screen_shows_all(page):
    """The file's input is wider by itself, and so are some names of expressions."""
    probabilities = "{ thoughtful_or_absent_minded: 1 }"
    one = f"{{ expression: 'a', probabilities: {probabilities}, confidence: 1, box: {{}} }}"
    page.value(f"show(null, {{ width: 640, height: 300, faces: [{one}] }})")
    try:
        resize(page, 320)
        assert page.value("document.documentElement.scrollWidth") <= 320
        fits = "each => each.scrollWidth <= each.clientWidth"
        assert page.value(f"[...document.querySelectorAll('.row span')].every({fits})")
    finally:
        page.call("Emulation.clearDeviceMetricsOverride")


def test_the_keyboard_reaches_everything(page):
    page.value("document.activeElement.blur()")
    reached = [press_tab(page) for _ in range(6)]
    assert {"file", "camera", "SUMMARY"} <= set(reached)


def test_nothing_is_loaded_from_elsewhere_and_nothing_fails(page, server):
    page.value("1")
    asked = [
        event["params"]["request"]["url"]
        for event in page.events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert asked
    assert all(re.match(rf"{server.url}/|data:|blob:", url) for url in asked), asked
    assert not [e for e in page.events if e["method"] == "Runtime.exceptionThrown"]
