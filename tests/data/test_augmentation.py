"""Augmentation: what must stay, what must change, and that it can be repeated."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.data.augmentation import Augmentation, add_noise, blur, erase, move, relight
from mien.params.learning import AugmentationSettings

NONE = AugmentationSettings(rotate=0, scale=0, shift=0, light=0, blur=0, noise=0, erase=0, strong=1)
SOME = AugmentationSettings(
    rotate=15, scale=0.1, shift=0.1, light=0.3, blur=0.05, noise=0.1, erase=0.4, strong=1.5
)


VIEWS = ("weak", "strong")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def faces(count=8, side=24):
    return torch.rand(count, 1, side, side, generator=rng(7))


def test_nothing_asked_gives_the_face_or_its_mirror():
    given_faces = faces(32)
    views = Augmentation(NONE).weak(given_faces, rng())
    same = (views - given_faces).abs().amax(dim=(1, 2, 3)) < 1e-3
    mirrored = (views - given_faces.flip(-1)).abs().amax(dim=(1, 2, 3)) < 1e-3
    assert (same | mirrored).all()
    assert same.any()
    assert mirrored.any()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([16, 24, 48]))
def test_views_keep_shape_and_range_and_repeat(seed, side):
    augmentation = Augmentation(SOME)
    given_faces = faces(side=side)
    for view in (getattr(augmentation, kind) for kind in VIEWS):
        first, second = view(given_faces, rng(seed)), view(given_faces, rng(seed))
        assert first.shape == given_faces.shape
        assert first.min() >= 0
        assert first.max() <= 1
        assert torch.equal(first, second)


def test_mixed_precision_leaves_the_views_as_they_are():
    given_faces = faces()
    with torch.autocast("cpu", torch.bfloat16):
        views = [getattr(Augmentation(SOME), kind)(given_faces, rng()) for kind in VIEWS]
    for kind, view in zip(VIEWS, views, strict=True):
        assert torch.equal(view, getattr(Augmentation(SOME), kind)(given_faces, rng()))


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="compares a GPU with the CPU, and there is none"
)
def test_a_gpu_gives_the_same_views_but_for_the_noise():
    augmentation = Augmentation(SOME.model_copy(update={"noise": 0.0}))
    given_faces = faces()
    for kind in VIEWS:
        view = getattr(augmentation, kind)
        there = view(given_faces.cuda(), rng()).cpu()
        torch.testing.assert_close(there, view(given_faces, rng()), atol=1e-3, rtol=0)
    noisy = [Augmentation(SOME).strong(given_faces.cuda(), rng()) for _ in range(2)]
    assert torch.equal(*noisy)


def test_draws_differ_between_faces_and_between_calls():
    one_face = faces(1).repeat(4, 1, 1, 1)
    generator = rng()
    first = Augmentation(SOME).weak(one_face, generator)
    second = Augmentation(SOME).weak(one_face, generator)
    assert (first[0] - first[1]).abs().max() > 0.01
    assert (first[0] - second[0]).abs().max() > 0.01


def test_a_quarter_turn_is_a_quarter_turn():
    face = torch.zeros(1, 1, 16, 16)
    face[0, 0, 2, :] = 1  # a bar near the top
    turned = torch.cat(
        [move(face, rotate=math.pi / 2, scale=0, shift=0, rng=rng(s)) for s in range(400)]
    )
    upright = turned[:, 0, :, 2].sum(dim=1) + turned[:, 0, :, -3].sum(dim=1)
    assert upright.max() > 14  # some draw turned the bar to stand at a side


def test_shift_moves_by_a_share_of_the_side():
    face = torch.zeros(200, 1, 20, 20)
    face[:, :, 10, 10] = 1
    moved = move(face, rotate=0, scale=0, shift=0.25, rng=rng())
    place = moved.flatten(1).argmax(dim=1)
    rows = place // 20
    assert rows.max() - 10 <= 5
    assert 10 - rows.min() <= 5
    assert rows.max() >= 14
    assert rows.min() <= 6


def test_erase_takes_a_square_of_the_asked_side():
    white = torch.ones(300, 1, 20, 20)
    gone = (erase(white, 0.4, rng()) == 0.5).sum(dim=(1, 2, 3))
    assert gone.max() in (64, 72, 81)  # 8×8, or a pixel more where it lies off the raster
    assert gone.min() < 40  # some stick out


def test_blur_spreads_a_point_as_far_as_asked():
    faces = torch.zeros(400, 1, 21, 21)
    faces[:, :, 10, 10] = 1
    blurred = blur(faces, 0.1, rng())
    assert torch.allclose(blurred.sum(dim=(1, 2, 3)), torch.ones(400), atol=1e-3)
    rows = blurred.sum(dim=(1, 3))
    deviation = (rows * (torch.arange(21) - 10).square()).sum(dim=1).sqrt()
    assert 0.65 < (deviation < 0.01).float().mean() < 0.85  # three in four stay as they are
    assert 2.0 < deviation.max() < 2.2  # 0.1 of 21 pixels
    assert torch.allclose(rows, blurred.sum(dim=(1, 2)), atol=1e-6)  # as far across as down


def test_blur_leaves_an_even_face_as_it_is():
    even = torch.full((16, 1, 12, 12), 0.3)
    assert torch.allclose(blur(even, 0.2, rng()), even, atol=1e-6)  # its borders, too


def test_noise_is_as_large_as_asked_and_in_a_quarter_of_the_faces():
    grey = torch.full((400, 1, 24, 24), 0.5)
    noisy = add_noise(grey, 0.1, rng())
    deviation = noisy.std(dim=(1, 2, 3))
    assert 0.65 < (deviation < 1e-6).float().mean() < 0.85
    assert 0.09 < deviation.max() < 0.11
    assert (noisy.mean(dim=(1, 2, 3)) - 0.5).abs().max() < 0.02


def test_views_without_blur_and_noise_draw_nothing_for_them():
    plain = SOME.model_copy(update={"blur": 0.0, "noise": 0.0})
    with_noise = SOME.model_copy(update={"blur": 0.0, "noise": 1e-9})
    first = Augmentation(plain).strong(faces(), rng())
    assert not torch.equal(first, Augmentation(with_noise).strong(faces(), rng()))
    generator = rng()
    moved = move(
        faces(), rotate=math.radians(15) * 1.5, scale=0.1 * 1.5, shift=0.1 * 1.5, rng=generator
    )
    assert torch.equal(first, erase(relight(moved, 0.3 * 1.5, generator), 0.4, generator))


def test_relight_keeps_black_and_white_apart():
    ramp = torch.linspace(0, 1, 24).expand(6, 1, 24, 24)
    lit = relight(ramp, 0.3, rng())
    assert (lit.diff(dim=-1) >= -1e-6).all()  # light never turns dark into bright
