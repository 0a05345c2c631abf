"""From people and muscles to the shape of a face."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mien.data.synthetic.draws import Floats
from mien.data.synthetic.expressions import INDEX
from mien.data.synthetic.people import People

MOVES: Mapping[str, Mapping[int, float]] = {
    # y is down, so a raise is negative. Lengths in half sides of the picture at full intensity.
    "brow_inner": {1: -0.145, 2: -0.030, 4: 0.105, 9: 0.055},
    "brow_middle": {1: -0.055, 2: -0.110, 4: 0.080, 9: 0.030},
    "brow_outer": {1: 0.010, 2: -0.130, 4: 0.020},
    "brow_medial": {4: 0.045, 9: 0.020},
    "frown": {4: 1.0, 9: 0.5},
    "forehead": {1: 0.7, 2: 0.7},
    "upper_lid": {5: 0.060, 7: -0.018, 6: -0.008, 4: -0.008, 9: -0.010},
    "lower_lid": {7: -0.024, 6: -0.024, 9: -0.016, 5: 0.006},
    "closed": {43: 1.0},
    "crow": {6: 1.0, 7: 0.2},
    "cheek": {6: 1.0, 12: 0.5, 9: 0.3},
    "nose_wrinkle": {9: 1.0},
    "nostril": {9: -0.045, 10: -0.020},
    "furrow": {12: 0.8, 10: 0.9, 9: 0.6, 15: 0.3, 20: 0.3, 6: 0.2},
    "corner_out": {12: 0.085, 15: -0.010, 20: 0.100, 18: -0.115, 23: -0.045, 26: -0.060},
    "corner_lift": {12: -0.130, 15: 0.105, 20: 0.025, 10: 0.015},
    "lip_raise": {10: 0.065, 9: 0.035, 17: 0.030},
    "lip_square": {10: 0.9, 16: 0.5, 9: 0.3, 20: 0.4},
    "lip_part": {25: 0.035, 26: 0.030},
    "lip_drop": {25: 0.025, 16: 0.060, 26: 0.175},
    "lip_thin": {23: 0.65, 20: 0.30, 12: 0.25, 17: 0.15, 18: -0.5, 26: 0.1},
    "upper_teeth": {12: 0.8, 10: 1.0, 25: 0.2, 9: 0.3},
    "lower_teeth": {16: 1.0, 20: 0.5},
    "chin_boss": {17: 1.0, 15: 0.3},
    "jaw": {26: 0.160, 17: -0.025},
}
"""How far each action unit moves each part of the face."""


@dataclass(frozen=True)
class Half:
    """One half of a face; x runs outwards from the middle line. Every field: [n, 1, 1]."""

    brow_inner: Floats
    brow_middle: Floats
    brow_outer: Floats
    brow_start: Floats
    brow_end: Floats
    frown: Floats
    forehead: Floats
    upper_lid: Floats
    """Height of the upper lid over the line between the corners of the eye."""
    lower_lid: Floats
    crow: Floats
    cheek: Floats
    nostril: Floats
    furrow: Floats
    corner_x: Floats
    corner_y: Floats


@dataclass(frozen=True)
class Shape:
    """A face after its muscles have moved. Every field: [n, 1, 1]."""

    left: Half
    right: Half
    nose_wrinkle: Floats
    mouth_y: Floats
    lip_square: Floats
    part_up: Floats
    part_down: Floats
    upper_lip: Floats
    lower_lip: Floats
    upper_teeth: Floats
    lower_teeth: Floats
    chin_boss: Floats
    chin: Floats


def shape(people: People, activations: Floats) -> Shape:
    """Move the resting face's parts by its action units.

    Args:
        people: n people.
        activations: [action units, 2, n, 1, 1], see `expressions.activations`.
    """
    moves = {name: _move(effects, activations) for name, effects in MOVES.items()}
    middle = {name: move.mean(axis=0) for name, move in moves.items()}
    thickness = np.clip(1 - middle["lip_thin"], 0.15, 1.6)
    return Shape(
        left=_half(people, {name: move[0] for name, move in moves.items()}),
        right=_half(people, {name: move[1] for name, move in moves.items()}),
        nose_wrinkle=middle["nose_wrinkle"],
        mouth_y=people.mouth_y - 0.6 * middle["lip_raise"],
        lip_square=np.clip(middle["lip_square"], 0, 1),
        # Lips that only begin to part stay in touch.
        part_up=np.maximum(middle["lip_part"] + 0.5 * middle["lip_raise"] - 0.012, 0),
        part_down=np.maximum(middle["lip_drop"] - 0.010, 0),
        upper_lip=people.upper_lip * thickness,
        lower_lip=people.lower_lip * thickness,
        upper_teeth=np.clip(middle["upper_teeth"], 0, 1),
        lower_teeth=np.clip(middle["lower_teeth"], 0, 1),
        chin_boss=middle["chin_boss"],
        chin=people.chin + middle["jaw"],
    )


def _move(effects: Mapping[int, float], activations: Floats) -> Floats:
    """Shape [2, n, 1, 1]. A plain sum in fixed order: equal bits whatever the batch."""
    total = np.zeros_like(activations[0])
    for unit, effect in effects.items():
        total += np.float32(effect) * activations[INDEX[unit]]
    return total


def _half(people: People, move: Mapping[str, Floats]) -> Half:
    start = people.eye_x - people.brow_length + 0.02 - move["brow_medial"]
    open_ = np.clip(1 - move["closed"], 0, 1)
    lower = np.maximum(0.045 * np.sqrt(people.eye_opening) + move["lower_lid"], 0.006)
    upper = np.maximum(0.070 * people.eye_opening + move["upper_lid"], 0.006)
    return Half(
        brow_inner=people.brow_y + people.brow_slope + move["brow_inner"],
        brow_middle=people.brow_y - people.brow_arch + move["brow_middle"],
        brow_outer=people.brow_y - people.brow_slope + move["brow_outer"],
        brow_start=start,
        brow_end=people.eye_x + people.brow_length,
        frown=move["frown"],
        forehead=move["forehead"],
        upper_lid=open_ * (upper + lower) - lower,
        lower_lid=lower,
        crow=move["crow"],
        cheek=move["cheek"],
        nostril=move["nostril"],
        furrow=move["furrow"],
        corner_x=people.mouth_width + move["corner_out"],
        corner_y=people.mouth_lift + move["corner_lift"],
    )
