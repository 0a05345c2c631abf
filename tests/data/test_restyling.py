"""Restyling: what was done to some people's faces is measured, and done to other people's."""

import cv2
import numpy as np
import pytest

from mien.data.restyling import measure_look, restyle
from mien.data.synthetic import render

SIDE = 32


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    paths = [f"test/person-{number // 2:05d}/{number:06d}" for number in range(360)]
    shown = [("happy", "sad", "neutral", "surprise")[number % 4] for number in range(360)]
    return render(paths, shown, seed=3, size=SIDE)


def zoomed(faces: np.ndarray, factor: float) -> np.ndarray:
    middle = (SIDE - 1) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), 0, factor)
    border = cv2.BORDER_REPLICATE
    return np.stack([cv2.warpAffine(f, matrix, (SIDE, SIDE), borderMode=border) for f in faces])


def drifted(faces: np.ndarray, zoom: float, blur: float, light: float) -> np.ndarray:
    soft = [cv2.GaussianBlur(f, (0, 0), blur) if blur else f for f in zoomed(faces, zoom)]
    return np.rint(np.stack(soft) * light).astype(np.uint8)


def alike(a: np.ndarray, b: np.ndarray) -> float:
    pairs = zip(a, b, strict=True)
    return float(np.mean([np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in pairs]))


@pytest.mark.parametrize(
    ("zoom", "blur", "light"), [(1.25, 0.8, 0.5), (0.8, 0.6, 0.9), (1.0, 1.2, 1.0)]
)
def test_what_was_done_to_others_is_found_and_done(faces, zoom, blur, light):
    known, others = faces[:180], faces[180:]
    look = measure_look(known, drifted(others, zoom, blur, light))
    assert look.framing[0, 0] == pytest.approx(1 / zoom, abs=0.04)
    assert look.framing[1, 1] == pytest.approx(1 / zoom, abs=0.04)
    half = SIDE // 4  # a quarter of a cycle a pixel
    expected = np.exp(-2 * np.pi**2 * blur**2 / 16)
    assert look.focus[0, half] == pytest.approx(expected, abs=0.2)

    true, made = drifted(known, zoom, blur, light), restyle(known, look, np.random.default_rng(0))
    assert (made.dtype, made.shape) == (np.uint8, known.shape)
    assert alike(true, made) > 0.96
    assert alike(true, made) > alike(true, known)
    assert made.mean() == pytest.approx(true.mean(), rel=0.05)
    assert f"size ×{zoom:.1f}"[:7] in str(look)


def test_the_same_look_changes_little(faces):
    look = measure_look(faces[:180], faces[180:])
    made = restyle(faces[:180], look, np.random.default_rng(0))
    assert alike(faces[:180], made) > 0.95


def test_flat_faces_do_no_harm(faces):
    flat = np.full((5, SIDE, SIDE), 90, np.uint8)
    to_flat = restyle(faces[:4], measure_look(faces, flat), np.random.default_rng(0))
    assert np.abs(to_flat.astype(int) - 90).max() <= 1
    from_flat = restyle(flat, measure_look(flat, faces), np.random.default_rng(0))
    assert from_flat.shape == flat.shape


def test_it_can_be_repeated(faces):
    look = measure_look(faces[:180], drifted(faces[180:], 1.1, 0.5, 0.7))
    first, second = (restyle(faces[:20], look, np.random.default_rng(4)) for _ in range(2))
    assert np.array_equal(first, second)
