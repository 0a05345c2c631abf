from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from mien.data.synthetic import difficulty
from mien.data.synthetic.draws import Draws, Floats
from mien.data.synthetic.expressions import ACTION_UNITS, INDEX, PROTOTYPES, activations
from mien.data.synthetic.geometry import MOVES, shape
from mien.data.synthetic.people import people

EXACT: dict[str, Any] = {
    "INTENSITY": (1, 1),
    "MIXTURE_SHARE": 0,
    "ACTION_UNIT_JITTER": 0,
    "STRAY_ACTION_UNIT": 0,
    "ASYMMETRY": 0,
}


def acting(**units: float) -> Floats:
    """Activations of one face: ``au12=1.0``, the same on both sides."""
    result = np.zeros((len(ACTION_UNITS), 2, 1, 1, 1), np.float32)
    for name, intensity in units.items():
        result[INDEX[int(name.removeprefix("au"))]] = intensity
    return result


def test_prototypes_and_moves_name_known_action_units() -> None:
    for variants in PROTOTYPES.values():
        for variant in variants:
            assert variant.keys() <= ACTION_UNITS.keys()
            assert all(0 < intensity <= 1 for intensity in variant.values())
    moved = {unit for effects in MOVES.values() for unit in effects}
    assert moved == ACTION_UNITS.keys()


def test_without_variation_a_face_shows_one_variant_of_its_prototype() -> None:
    names = [name for name in PROTOTYPES for _ in range(30)]
    with patch.multiple(difficulty, **EXACT):
        shown = activations(names, Draws([str(i) for i in range(len(names))], seed=0))
    np.testing.assert_array_equal(shown[:, 0], shown[:, 1])
    for face, name in enumerate(names):
        vector = {unit: shown[index, 0, face, 0, 0] for unit, index in INDEX.items()}
        active = {unit: pytest.approx(value) for unit, value in vector.items() if value}
        assert any(active == dict(variant) for variant in PROTOTYPES[name])


def test_intensity_mixture_and_asymmetry_vary() -> None:
    shown = activations(["happy"] * 300, Draws([str(i) for i in range(300)], seed=0))[..., 0, 0]
    smile = shown[INDEX[12]].mean(axis=0)
    assert smile.std() > 0.1
    assert (shown[INDEX[9]].mean(axis=0) > 0.08).any()  # traces of disgust
    assert 0.02 < np.abs(shown[INDEX[12], 0] - shown[INDEX[12], 1]).mean() < 0.4
    assert shown.min() >= 0
    assert shown.max() <= 1.3


@pytest.mark.parametrize(
    ("unit", "field", "direction"),
    [
        ("au1", "brow_inner", -1),
        ("au2", "brow_outer", -1),
        ("au4", "brow_inner", 1),
        ("au5", "upper_lid", 1),
        ("au43", "upper_lid", -1),
        ("au7", "lower_lid", -1),
        ("au12", "corner_y", -1),
        ("au12", "corner_x", 1),
        ("au15", "corner_y", 1),
        ("au18", "corner_x", -1),
        ("au20", "corner_x", 1),
    ],
)
def test_action_units_move_their_part(unit: str, field: str, direction: int) -> None:
    """y is down: a raised brow has a smaller y."""
    who = people(["someone"], seed=0)
    rest, moved = shape(who, acting()), shape(who, acting(**{unit: 1.0}))
    for side in ("left", "right"):
        change = getattr(getattr(moved, side), field) - getattr(getattr(rest, side), field)
        assert np.sign(change) == direction


def test_jaw_drop_opens_the_mouth_and_lowers_the_chin() -> None:
    who = people(["someone"], seed=0)
    rest, moved = shape(who, acting()), shape(who, acting(au26=1.0))
    assert rest.part_down == 0
    assert moved.part_down > 0.1
    assert moved.chin > rest.chin


def test_people_depend_on_name_and_seed_only() -> None:
    alone, together = people(["b"], seed=1), people(["a", "b"], seed=1)
    for trait, value in vars(together).items():
        np.testing.assert_array_equal(value[1:], getattr(alone, trait))
        assert value.dtype in (np.float32, np.int64), trait
    assert people(["b"], seed=2).eye_x != alone.eye_x
