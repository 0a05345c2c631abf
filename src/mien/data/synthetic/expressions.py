"""Facial expressions as action units of the Facial Action Coding System (FACS).

The prototypes follow EMFACS: the combinations of action units that signal an emotion (Ekman,
Friesen & Hager, *Facial Action Coding System*, 2002; Matsumoto & Ekman, *Facial expression
analysis*, Scholarpedia 3(5):4237, 2008), each with some of its common variants.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from mien.data.synthetic import difficulty
from mien.data.synthetic.draws import Draws, Floats
from mien.params import OTHER

ACTION_UNITS = {
    1: "inner brow raiser",
    2: "outer brow raiser",
    4: "brow lowerer",
    5: "upper lid raiser",
    6: "cheek raiser",
    7: "lid tightener",
    9: "nose wrinkler",
    10: "upper lip raiser",
    12: "lip corner puller",
    15: "lip corner depressor",
    16: "lower lip depressor",
    17: "chin raiser",
    18: "lip pucker",
    20: "lip stretcher",
    23: "lip tightener",
    25: "lips part",
    26: "jaw drop",
    43: "eyes closed",
}
INDEX = {unit: index for index, unit in enumerate(ACTION_UNITS)}
"""Where an action unit stands in the arrays below."""

Prototype = Mapping[int, float]
"""Action unit → intensity, 0 to 1."""

PROTOTYPES: Mapping[str, Sequence[Prototype]] = {
    "angry": (
        {4: 1.0, 5: 0.6, 7: 0.8, 23: 1.0},
        {4: 1.0, 7: 1.0, 23: 0.8, 17: 0.6},
        {4: 1.0, 5: 0.7, 7: 0.7, 16: 0.7, 25: 0.8, 26: 0.4},
    ),
    "disgust": (
        {9: 1.0, 10: 0.6, 4: 0.3},
        {9: 0.8, 10: 1.0, 25: 0.5, 7: 0.4},
        {10: 1.0, 9: 0.7, 17: 0.7, 15: 0.3},
    ),
    "fear": (
        {1: 1.0, 2: 0.7, 4: 0.6, 5: 1.0, 20: 1.0, 25: 1.0},
        {1: 1.0, 2: 0.5, 4: 0.7, 5: 1.0, 20: 1.0, 25: 1.0, 26: 0.3},
        {1: 1.0, 2: 0.3, 4: 0.5, 5: 1.0, 20: 1.0, 16: 0.7, 25: 0.8},
    ),
    "happy": (
        {6: 0.6, 12: 1.0},
        {6: 0.8, 12: 1.0, 25: 0.8},
        {6: 1.0, 12: 1.0, 25: 1.0, 26: 0.4},
        {12: 0.8, 25: 0.3},
    ),
    "sad": (
        {1: 1.0, 4: 0.5, 15: 1.0},
        {1: 0.9, 4: 0.6, 15: 0.7, 17: 0.9},
        {1: 1.0, 15: 0.9, 43: 0.3, 17: 0.4},
    ),
    "surprise": (
        {1: 1.0, 2: 1.0, 5: 0.7, 25: 0.6, 26: 0.9},
        {1: 0.9, 2: 1.0, 5: 0.9, 25: 0.4, 26: 0.5},
        {1: 1.0, 2: 0.9, 25: 0.8, 26: 1.0},
    ),
    "neutral": ({},),
    OTHER: (
        {43: 1.0},
        {43: 1.0, 25: 0.3},
        {43: 0.9, 25: 0.9, 26: 1.0, 4: 0.3},
        {18: 1.0, 25: 0.5},
        {18: 1.0, 17: 0.5},
        {18: 0.6, 26: 0.5, 25: 0.6, 43: 0.3},
        {16: 0.8, 25: 0.7, 18: 0.4, 43: 0.3},
    ),
}
"""EMFACS prototypes; ``other`` is closed eyes, yawning, talking, whistling and the like."""

EXPRESSIONS = tuple(name for name in PROTOTYPES if name != OTHER)


def activations(expressions: Sequence[str], draws: Draws) -> Floats:
    """How strongly each muscle group of each face acts.

    A face shows one variant of its expression's prototype at some intensity, perhaps with a trace
    of a second expression, with asymmetry and with stray activity in every action unit.

    Returns:
        Shape [action units, 2 (left and right in the picture), n, 1, 1], values in [0, 1.3].
    """
    intensity = draws.uniform(*difficulty.INTENSITY)
    trace = draws.uniform(*difficulty.MIXTURE) * draws.chance(difficulty.MIXTURE_SHARE)
    second = [EXPRESSIONS[index] for index in draws.choice(len(EXPRESSIONS)).ravel()]
    shown = _variants(expressions, draws.uniform()) * np.where(
        _is(OTHER, expressions), 1, intensity
    )
    shown = np.maximum(shown, trace * _variants(second, draws.uniform()))
    tilt = draws.normal(0, difficulty.ASYMMETRY) / 2
    sides = []
    units = [
        shown[index] * draws.normal(1, difficulty.ACTION_UNIT_JITTER)
        + np.abs(draws.normal(0, difficulty.STRAY_ACTION_UNIT))
        for index in range(len(ACTION_UNITS))
    ]
    for side in (1 - tilt, 1 + tilt):
        sides.append([np.clip(unit * side, 0, 1.3) for unit in units])
    return np.array(sides, dtype=np.float32).swapaxes(0, 1)


def _variants(expressions: Sequence[str], pick: Floats) -> Floats:
    """Each face's prototype as a vector: shape [action units, n, 1, 1]."""
    result = np.zeros((len(ACTION_UNITS), len(expressions), 1, 1), np.float32)
    for face, (name, number) in enumerate(zip(expressions, pick.ravel(), strict=True)):
        variants = PROTOTYPES[name]
        for unit, intensity in variants[int(number * len(variants))].items():
            result[INDEX[unit], face] = intensity
    return result


def _is(name: str, expressions: Sequence[str]) -> np.ndarray:
    return np.array([[[expression == name]] for expression in expressions])
