"""Worse pictures: worse with each strength, of the same form, and the same each time."""

import tracemalloc

import numpy as np
import pytest

from mien.data.synthetic import render
from mien.evaluation.degradations import DEGRADATIONS, blur, cover, zoom


@pytest.fixture(scope="module")
def faces():
    return render([f"person{i}/0" for i in range(6)], ["happy", "sad"] * 3, seed=0, size=48)


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_each_strength_takes_more(faces, kind):
    before = faces.copy()
    lost = []
    for change in DEGRADATIONS[kind].values():
        worse = change(faces)
        assert worse.shape == faces.shape
        assert worse.dtype == np.uint8
        assert np.array_equal(worse, change(faces))
        lost.append(np.abs(worse.astype(float) - faces).mean())
    assert list(DEGRADATIONS[kind]) == ["slight", "clear", "strong"]
    assert 0 < lost[0] < lost[1] < lost[2]
    assert np.array_equal(faces, before)


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_a_large_test_set_takes_little_memory(kind):
    faces = np.zeros((200, 48, 48), np.uint8)
    tracemalloc.start()
    DEGRADATIONS[kind]["clear"](faces)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * faces.nbytes


def test_light_and_contrast_go_the_way_that_is_said(faces):
    def measured(kind):
        return DEGRADATIONS[kind]["clear"](faces).astype(float)

    assert measured("darker").mean() < 0.7 * faces.mean()
    assert measured("over-exposed").mean() > 1.1 * faces.mean()
    assert measured("less contrast").std() < 0.7 * faces.std()


def test_blur_is_as_wide_on_faces_of_any_size():
    def spread(side: int) -> float:
        line = np.zeros((1, side, side), np.uint8)
        line[0, side // 2] = 255
        rows = blur(2.0)(line)[0, :, 0].astype(float)
        return float(np.sqrt((rows * (np.arange(side) - side // 2) ** 2).sum() / rows.sum())) / side

    assert spread(96) == pytest.approx(2 / 48, rel=0.15)
    assert spread(48) == pytest.approx(2 / 48, rel=0.15)


def test_a_wider_crop_shows_the_face_smaller():
    square = np.zeros((1, 48, 48), np.uint8)
    square[0, 14:34, 14:34] = 255
    assert (zoom(0.8)(square) > 127).sum() == pytest.approx(0.64 * 400, rel=0.1)


def test_a_mask_covers_the_lower_part():
    covered = cover(0.25)(np.zeros((1, 48, 48), np.uint8))
    assert (covered[0, 36:] == 200).all()
    assert not covered[0, :36].any()
