import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.data.synthetic import difficulty, render
from mien.data.synthetic.canvas import Canvas, Patch
from mien.data.synthetic.expressions import EXPRESSIONS, PROTOTYPES
from mien.errors import MienError
from mien.params import OTHER

PLAIN: dict[str, Any] = {
    "INTENSITY": (1, 1),
    "MIXTURE_SHARE": 0,
    "ACTION_UNIT_JITTER": 0,
    "STRAY_ACTION_UNIT": 0,
    "ASYMMETRY": 0,
    "YAW": 0,
    "PITCH": 0,
    "ROLL": 0,
    "SCALE": 0,
    "SHIFT": 0,
    "OCCLUSION_SHARE": 0,
    "SUNGLASSES_SHARE": 0,
    "NOISE": (0, 0),
    "BLUR": (0.3, 0.3),
    "JPEG_SHARE": 0,
}
"""Difficulty settings without nuisances: what is left is person and expression."""


def faces(count: int) -> tuple[list[str], list[str]]:
    names = list(PROTOTYPES)
    paths = [f"test/person-{i // 3:05d}/{i:06d}" for i in range(count)]
    return paths, [names[i % len(names)] for i in range(count)]


def test_pixels_do_not_depend_on_chunks_order_or_process() -> None:
    paths, shown = faces(60)
    whole = render(paths, shown, seed=3)
    one_by_one = [
        render([path], [name], seed=3)[0] for path, name in zip(paths, shown, strict=True)
    ]
    np.testing.assert_array_equal(whole, one_by_one)
    order = np.random.default_rng(0).permutation(60)
    mixed = render([paths[i] for i in order], [shown[i] for i in order], seed=3)
    np.testing.assert_array_equal(whole[order], mixed)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        elsewhere = pool.submit(render, paths[7:20], shown[7:20], seed=3).result()
    np.testing.assert_array_equal(whole[7:20], elsewhere)


def test_patches_hold_all_that_is_painted_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    paths, shown = faces(160)
    in_patches = render(paths, shown, seed=0)

    def whole(self: Canvas, *box: float) -> Patch:
        return Patch(self.x, self.y, self.tone, self.bump, self.edge)

    monkeypatch.setattr(Canvas, "patch", whole)
    np.testing.assert_array_equal(in_patches, render(paths, shown, seed=0))


@given(
    count=st.integers(0, 9),
    size=st.integers(24, 224),
    seed=st.integers(0, 2**40),
    data=st.data(),
)
@settings(max_examples=15, deadline=None)
def test_any_size_and_count(count: int, size: int, seed: int, data: st.DataObject) -> None:
    paths, _ = faces(count)
    shown = data.draw(st.lists(st.sampled_from(list(PROTOTYPES)), min_size=count, max_size=count))
    pictures = render(paths, shown, seed=seed, size=size)
    assert pictures.dtype == np.uint8
    assert pictures.shape == (count, size, size)
    assert all(picture.std() > 5 for picture in pictures)


def test_grey_levels_use_the_range_without_saturating() -> None:
    paths, shown = faces(160)
    pictures = render(paths, shown, seed=0)
    brightness = pictures.mean(axis=(1, 2))
    assert brightness.min() > 20
    assert brightness.max() < 235
    assert ((pictures == 0) | (pictures == 255)).mean() < 0.15


def test_other_seed_draws_other_faces() -> None:
    paths, shown = faces(4)
    assert (render(paths, shown, seed=0) != render(paths, shown, seed=1)).mean() > 0.9


def mean_change(expression: str) -> np.ndarray:
    """Mean absolute difference from the neutral face in an 8 × 8 grid over the picture."""
    paths = [f"test/person-{i:05d}/0" for i in range(40)]
    with patch.multiple(difficulty, **PLAIN):
        changed = render(paths, [expression] * 40, seed=0).astype(int)
        neutral = render(paths, ["neutral"] * 40, seed=0)
    return np.abs(changed - neutral).mean(axis=0).reshape(8, 6, 8, 6).mean(axis=(1, 3))


def test_smile_changes_the_mouth_more_than_the_brows() -> None:
    change = mean_change("happy")
    mouth, brows = change[5:7, 2:6].mean(), change[1:3, 1:7].mean()
    assert mouth > 3 * brows
    assert mouth > 8


def test_anger_changes_the_brows() -> None:
    change = mean_change("angry")
    assert change[1:4, 1:7].mean() > 2 * change[0].mean()
    assert change[1:4, 1:7].mean() > 4


def test_every_expression_differs_from_neutral() -> None:
    for expression in set(EXPRESSIONS) - {"neutral"}:
        assert mean_change(expression).max() > 10, expression


def test_a_person_is_the_same_in_every_picture() -> None:
    with patch.multiple(difficulty, **PLAIN, AMBIENT=(1, 1), GAMMA=0):
        paths = [f"test/person-{person:05d}/{i}" for person in range(12) for i in range(4)]
        pictures = render(paths, ["neutral"] * 48, seed=0).astype(float)
    centre = pictures[:, 8:40, 10:38].reshape(48, -1)  # without the background
    likeness = np.corrcoef(centre)
    np.fill_diagonal(likeness, -1)
    assert (likeness.argmax(axis=1) // 4 == np.arange(48) // 4).all()


def test_unknown_expression_is_named() -> None:
    with pytest.raises(MienError, match="contempt"):
        render(["test/person-00000/0"], ["contempt"], seed=0)


@pytest.mark.parametrize("size", [23, 225])
def test_size_out_of_range(size: int) -> None:
    with pytest.raises(MienError, match=str(size)):
        render(["test/person-00000/0"], [OTHER], seed=0, size=size)


def test_speed() -> None:
    paths, shown = faces(128)
    started = time.process_time()
    render(paths, shown, seed=0)
    assert (time.process_time() - started) / 128 < 0.015  # 2.5 ms where nothing else runs
