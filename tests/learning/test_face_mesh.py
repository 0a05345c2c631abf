"""Landmarks of drawn faces: where they must lie, mirrored and turned; and what is no face."""

import cv2
import numpy as np
import pytest

from mien.data.synthetic.rendering import render
from mien.learning.face_mesh import FaceMesh

UPPER_LIP, LOWER_LIP, CHIN, FOREHEAD = 13, 14, 152, 10
LEFT_EYE, RIGHT_EYE = 33, 263


@pytest.fixture(scope="module")
def mesh():
    return FaceMesh()


@pytest.fixture(scope="module")
def faces():
    return render([f"person{i}/0" for i in range(40)], ["surprise", "neutral"] * 20, seed=0)


@pytest.fixture(scope="module")
def seen(mesh, faces):
    return mesh(faces)


def test_landmarks_of_a_face_lie_where_they_must(seen):
    assert seen.points.shape == (40, 468, 3)
    assert seen.found.mean() > 0.8
    points = seen.points[seen.found]
    down = points[:, [FOREHEAD, UPPER_LIP, CHIN], 1]
    assert (np.diff(down, axis=1) > 0).all()
    assert (points[:, LEFT_EYE, 0] < points[:, RIGHT_EYE, 0]).all()
    level = np.abs(points[:, LEFT_EYE, 1] - points[:, RIGHT_EYE, 1])
    assert np.median(level) < 3  # of 192: the second look is upright


def test_a_surprised_mouth_is_open(seen):
    gap = np.linalg.norm(seen.points[:, UPPER_LIP] - seen.points[:, LOWER_LIP], axis=1)
    height = np.linalg.norm(seen.points[:, FOREHEAD] - seen.points[:, CHIN], axis=1)
    surprised, neutral = (gap / height)[::2], (gap / height)[1::2]
    assert np.median(surprised) > 2 * np.median(neutral)


def test_a_mirrored_face_has_the_landmarks_of_the_other_side(mesh, faces, seen):
    assert sorted(mesh.mirror) == list(range(468))
    np.testing.assert_array_equal(mesh.mirror[mesh.mirror], np.arange(468))
    assert mesh.mirror[LEFT_EYE] == RIGHT_EYE
    assert mesh.mirror[CHIN] == CHIN
    mirrored = mesh(np.ascontiguousarray(faces[:, :, ::-1])).points[:, mesh.mirror]
    there = seen.points[:, :, :2]
    back = np.stack([192 - mirrored[:, :, 0], mirrored[:, :, 1]], axis=2)
    apart = np.linalg.norm(back - there, axis=2).mean(axis=1)
    unpaired = np.linalg.norm(back[:, mesh.mirror] - there, axis=2).mean(axis=1)
    assert np.median(apart) < 4 < np.median(unpaired)


def test_a_face_on_its_side_by_a_little_is_seen_upright(mesh, faces, seen):
    turn = cv2.getRotationMatrix2D((23.5, 23.5), 20, 1)
    turned = mesh(
        np.stack(
            [
                cv2.warpAffine(face, turn, (48, 48), borderMode=cv2.BORDER_REPLICATE)
                for face in faces
            ]
        )
    )
    both = turned.found & seen.found
    assert both.mean() > 0.6
    apart = np.linalg.norm(turned.points - seen.points, axis=2)[both].mean(axis=1)
    assert np.median(apart) < 8


@pytest.mark.parametrize("size", [24, 96])
def test_any_size_will_do(mesh, seen, size):
    faces = render(
        [f"person{i}/0" for i in range(40)], ["surprise", "neutral"] * 20, seed=0, size=size
    )
    there = mesh(faces)
    both = there.found & seen.found
    assert both.mean() > 0.5
    assert np.median(np.linalg.norm(there.points - seen.points, axis=2)[both].mean(axis=1)) < 8


def test_noise_is_no_face(mesh):
    noise = np.random.default_rng(0).integers(256, size=(20, 48, 48), dtype=np.uint8)
    flat = np.full((1, 48, 48), 127, np.uint8)
    assert not mesh(np.concatenate([noise, flat])).found.any()
