"""The start from the faces' shapes: alignment by hand, codes that forget the pose, and a task that
reads no label and resumes."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mien.data.augmentation import Augmentation
from mien.data.dataset import LabelledRows
from mien.data.synthetic.rendering import render
from mien.errors import MienError
from mien.learning import face_mesh, face_shape
from mien.learning.checkpoint import Checkpoint
from mien.learning.face_shape import (
    FaceShapes,
    ShapeTask,
    align,
    face_shapes,
    shape_r2,
    shape_space,
    symmetric,
)
from mien.learning.training import fit, make_fabric
from mien.model.accnn import ACCNN
from mien.params.learning import LandmarkSettings
from tests.killing import Killed, kill, killing
from tests.learning.conftest import COMPUTE, GENTLE, MODEL, Unreadable

SETTINGS = LandmarkSettings(
    networks=["accnn"], epochs=3, steps_per_epoch=6, batch_size=16, learning_rate=0.01,
    weight_decay=0.01, ema_decay=0.8, components=4,
)  # fmt: skip
PAIRS = np.array([1, 0, 2, 3, 5, 4])
"""Of six points: two pairs, and two points in the middle."""
MEAN = np.array([[-1, 0, 0], [1, 0, 0], [0, 1, 1], [0, -1, 1], [-1, 1, -1], [1, 1, -1]], np.float32)
MEAN = (MEAN - MEAN.mean(axis=0)) / np.linalg.norm(MEAN - MEAN.mean(axis=0))


@given(
    st.floats(0.1, 10),
    st.lists(st.floats(-5, 5), min_size=3, max_size=3),
    st.lists(st.floats(-180, 180), min_size=3, max_size=3),
)
def test_place_size_and_turn_are_forgotten(size, place, angles):
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    moved = (size * MEAN @ turn.T + place).astype(np.float32)
    np.testing.assert_allclose(align(moved[None], MEAN)[0], MEAN, atol=1e-3)


def test_a_mirror_image_is_no_turn():
    lopsided = MEAN + np.array([[0.2, 0.1, 0.3], *[[0, 0, 0]] * 5], np.float32)
    mirrored = (lopsided * np.array([-1, 1, 1], np.float32))[None]
    aligned = align(mirrored, lopsided)[0]
    assert np.linalg.norm(aligned - align(lopsided[None], lopsided)[0]) > 0.1


def test_the_symmetric_part_by_hand():
    offsets = np.zeros((1, 6, 3), np.float32)
    offsets[0, 0] = [0.2, 0.4, -0.6]  # the left one of a pair
    offsets[0, 2] = [0.3, 0.5, 0.7]  # in the middle
    expected = np.zeros((1, 6, 3))
    expected[0, 0], expected[0, 1] = [0.1, 0.2, -0.3], [-0.1, 0.2, -0.3]
    expected[0, 2] = [0, 0.5, 0.7]
    np.testing.assert_allclose(symmetric(offsets, PAIRS), expected, atol=1e-7)


def shapes_with(amounts):
    """Shapes that differ in one symmetric way, the third point's height, turned at random."""
    random = np.random.default_rng(0)
    shapes = np.repeat(MEAN[None], len(amounts), axis=0)
    shapes[:, 2, 1] += amounts
    turns = Rotation.from_euler(
        "xyz", random.uniform(-30, 30, (len(amounts), 3)), degrees=True
    ).as_matrix()
    return np.einsum("bli,bji->blj", shapes, turns).astype(np.float32)


def test_the_first_component_is_how_shapes_differ():
    amounts = np.random.default_rng(1).normal(0, 0.05, 400).astype(np.float32)
    space = shape_space(shapes_with(amounts), PAIRS, 3)
    codes = space.codes(shapes_with(amounts), PAIRS)
    assert abs(np.corrcoef(codes[:, 0], amounts)[0, 1]) > 0.99
    assert codes[:, 0].std() == pytest.approx(1, abs=0.05)
    assert space.deviations[1] < space.deviations[0] / 5
    np.testing.assert_allclose(space.mean[:, 0], -space.mean[PAIRS, 0], atol=1e-6)


def test_a_mesh_gone_astray_is_cut_off():
    amounts = np.random.default_rng(1).normal(0, 0.05, 400).astype(np.float32)
    space = shape_space(shapes_with(amounts), PAIRS, 2)
    assert np.abs(space.codes(shapes_with(np.full(3, 3.0)), PAIRS)).max() == 4


@pytest.fixture(scope="module")
def faces():
    return render([f"person{i}/0" for i in range(120)], ["surprise", "happy"] * 60, seed=0)


def anew(_, make):
    return make()


@pytest.fixture(scope="module")
def shapes(faces):
    return face_shapes(faces, np.arange(100), 4, 1, anew)


def test_a_faces_code_says_its_expression(shapes):
    codes, known = shapes.codes.numpy(), shapes.found.numpy() > 0
    assert codes.shape == (100, 4)
    assert known.mean() > 0.8
    assert float(shapes.weights.mean()) == pytest.approx(1)
    assert (shapes.weights.diff() < 0).all()
    first, second = codes[::2][known[::2]], codes[1::2][known[1::2]]
    apart = np.abs(first.mean(axis=0) - second.mean(axis=0)) / codes[known].std(axis=0)
    assert apart.max() > 1


def test_a_component_weighs_as_the_root_of_how_far_shapes_go_along_it(faces, monkeypatch):
    spaces = []

    def listen(*arguments):
        spaces.append(shape_space(*arguments))
        return spaces[-1]

    monkeypatch.setattr(face_shape, "shape_space", listen)
    found = face_shapes(faces[:30], np.arange(30), 3, 1, anew)
    roots = np.sqrt(spaces[0].deviations)
    assert roots[0] > 1.2 * roots[2]
    np.testing.assert_allclose(found.weights, roots / roots.mean(), rtol=1e-5)


def test_codes_do_not_depend_on_the_faces_beside_them(faces, shapes, monkeypatch):
    monkeypatch.setattr(face_mesh, "_CHUNK", 7)
    monkeypatch.setattr(face_shape, "_BLOCK", 30)
    again = face_shapes(faces, np.arange(100), 4, 1, anew)
    torch.testing.assert_close(again.codes, shapes.codes, atol=0.01, rtol=0)
    assert torch.equal(again.found, shapes.found)


def test_a_search_that_was_killed_goes_on(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(face_shape, "_SAMPLE", 50)
    monkeypatch.setattr(face_shape, "_BLOCK", 20)
    whole = face_shapes(faces, np.arange(100), 4, 1, anew)
    looked: list[int] = []
    look = face_mesh.FaceMesh.__call__

    def looking(mesh, block):
        looked.append(len(block))
        return kill() if len(looked) == 5 else look(mesh, block)

    monkeypatch.setattr(face_mesh.FaceMesh, "__call__", looking)
    keep = Checkpoint.of(tmp_path, {}, []).once
    with pytest.raises(Killed):
        face_shapes(faces, np.arange(100), 4, 1, keep)
    assert looked == [20, 20, 10, 20, 20], "the sample, then the others"
    again = face_shapes(faces, np.arange(100), 4, 1, keep)
    assert looked[5:] == [20, 10]
    for name, tensor in vars(whole).items():
        torch.testing.assert_close(getattr(again, name), tensor, rtol=0, atol=1e-6)


def test_what_shows_no_faces_is_refused():
    noise = np.random.default_rng(0).integers(256, size=(30, 48, 48), dtype=np.uint8)
    with pytest.raises(
        MienError, match=r"in 0 of 30 faces .* set pretrain\.landmarks\.epochs to 0"
    ):
        face_shapes(noise, np.arange(30), 4, 1, anew)


def test_a_handful_of_faces_has_fewer_components(faces):
    few = face_shapes(faces[:8], np.arange(8), 48, 1, anew)
    assert few.codes.shape[1] == int(few.found.sum()) - 1
    assert torch.isfinite(few.codes).all()


def test_a_few_faces_among_other_pictures_are_too_few(faces):
    noise = np.random.default_rng(0).integers(256, size=(58, 48, 48), dtype=np.uint8)
    mixed = np.concatenate([faces[:4], noise])
    with pytest.raises(MienError, match=r"in [2-4] of 62 faces"):
        face_shapes(mixed, np.arange(62), 1, 1, anew)


def make_task(faces, shapes, settings=SETTINGS):
    torch.manual_seed(3)
    labelled = LabelledRows(np.arange(20), Unreadable())
    return ShapeTask(
        ACCNN(MODEL, 2), faces, labelled, np.arange(100), shapes, settings, Augmentation(GENTLE)
    )


def train(folder, task, *, kill_after=None):
    return fit(
        task, task.settings, epochs=task.settings.epochs, seed=0, fabric=make_fabric(COMPUTE),
        checkpoint=Checkpoint(folder / "run.safetensors"), title="test",
        validate=killing(kill_after),
    )  # fmt: skip


def test_a_network_learns_the_shapes_of_faces(tmp_path, faces, shapes):
    longer = SETTINGS.model_copy(update={"epochs": 6, "steps_per_epoch": 40, "batch_size": 32})
    task = make_task(faces, shapes, longer)
    rows = np.arange(100)
    before = shape_r2(task.net.eval(), faces, rows, shapes)["shape_r2"]
    fitted = train(tmp_path, task)
    losses = [record["loss"] for record in fitted.history]
    assert losses[-1] < 0.8 * losses[0]
    after = shape_r2(fitted.model, faces, rows, shapes)["shape_r2"]
    assert after > max(before + 0.1, 0.2)
    one = dataclasses.replace(shapes, codes=shapes.codes[:, :1], weights=torch.ones(1))
    assert -1 < shape_r2(fitted.model, faces, rows, one)["shape_r2"] < 1


def test_a_face_without_landmarks_teaches_nothing(faces, shapes):
    lost = dataclasses.replace(shapes, found=shapes.found.clone().fill_(0))
    rng = torch.Generator().manual_seed(0)
    task = make_task(faces, lost)
    task.begin_epoch(0, 6, task.net, rng)
    assert task(0, task.net, rng)["loss"].item() == 0
    some = dataclasses.replace(lost, found=lost.found.clone())
    some.found[:50] = 1
    wild = dataclasses.replace(some, codes=torch.where(some.found[:, None] > 0, some.codes, 99.0))
    losses = []
    for each in (some, wild):
        task, rng = make_task(faces, each), torch.Generator().manual_seed(0)
        task.begin_epoch(0, 6, task.net, rng)
        losses.append(task(0, task.net, rng)["loss"].item())
    assert losses[0] == losses[1] > 0


def test_the_loss_by_hand(faces):
    # a head that says 0, of codes 2 (Huber: 2 - 1/2) and 0.5 (0.5² / 2), weights 1.5 and 0.5
    codes = torch.tensor([2.0, 0.5]).repeat(100, 1)
    every_other = (torch.arange(100) % 2).float()  # the mean is of those that have landmarks
    shapes = FaceShapes(codes, every_other, torch.tensor([1.5, 0.5]))
    task = make_task(faces, shapes)
    last = task.head[-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    rng = torch.Generator().manual_seed(0)
    task.begin_epoch(0, 6, task.net, rng)
    expected = (1.5 * 1.5 + 0.5 * 0.125) / 2
    assert task(0, task.net, rng)["loss"].item() == pytest.approx(expected)


def test_killed_it_ends_with_the_same_weights(tmp_path, faces, shapes):
    whole = train(tmp_path / "whole", make_task(faces, shapes))
    with pytest.raises(Killed):
        train(tmp_path / "killed", make_task(faces, shapes), kill_after=1)
    again = train(tmp_path / "killed", make_task(faces, shapes))
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], value, rtol=0, atol=0)
