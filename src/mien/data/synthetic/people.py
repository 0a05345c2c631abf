"""Who a synthetic face belongs to: all that stays when the expression changes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mien.data.synthetic import difficulty
from mien.data.synthetic.canvas import TEXTURES
from mien.data.synthetic.draws import Draws, Floats

HAIR_STYLES = ("short", "fringe", "long", "bald", "parted")
BEARDS = ("none", "stubble", "moustache", "full")


@dataclass(frozen=True)
class People:
    """Traits of n people, each of shape [n, 1, 1].

    Lengths are in half sides of the picture of a frontal face of mean size: its crop spans -1 … 1,
    x to the right and y down. Grey levels are reflectances, 0 to 1.
    """

    head_width: Floats
    crown: Floats
    chin: Floats
    jaw_taper: Floats
    eye_x: Floats
    eye_y: Floats
    eye_width: Floats
    eye_opening: Floats
    eye_tilt: Floats
    iris: Floats
    lid_crease: Floats
    brow_y: Floats
    brow_slope: Floats
    brow_arch: Floats
    brow_length: Floats
    brow_thickness: Floats
    nose_length: Floats
    nose_width: Floats
    nose_depth: Floats
    mouth_y: Floats
    mouth_width: Floats
    mouth_lift: Floats
    upper_lip: Floats
    lower_lip: Floats
    cheeks: Floats
    age: Floats
    """0 to 1: depth of the lines that stay."""
    skin: Floats
    hair: Floats
    lips: Floats
    hairline: Floats
    part: Floats
    style: NDArray[np.int64]
    beard: NDArray[np.int64]
    makeup: Floats
    glasses: Floats
    """Grey level of the frame; negative: no glasses."""
    glasses_size: Floats
    texture: NDArray[np.int64]


def people(identities: Sequence[str], seed: int) -> People:
    """The people of these names; the same name is always the same person."""
    draws = Draws([f"person/{name}" for name in identities], seed)
    bias = difficulty.RESTING_BIAS
    female = draws.chance(0.5)
    skin = draws.uniform(0.30, 0.85)
    age = draws.uniform() ** 2
    grey = age * draws.uniform() > 0.35
    hair = np.where(grey, draws.uniform(0.55, 0.85), draws.uniform(0.04, 0.5) * np.sqrt(skin))
    style = np.where(
        female,
        np.array([1, 2, 2, 4, 4, 0])[draws.choice(6)],
        np.array([0, 0, 0, 1, 3, 4])[draws.choice(6)],
    )
    beard = np.where(female, 0, np.array([0, 0, 0, 1, 1, 2, 3])[draws.choice(7)])
    makeup = np.where(female, draws.uniform(), 0).astype(np.float32)
    with_glasses = draws.chance(0.18)
    return People(
        head_width=draws.normal(0.75, 0.05),
        crown=draws.normal(1.12, 0.06),
        chin=draws.normal(0.92, 0.05),
        jaw_taper=draws.normal(0.50, 0.18) + np.float32(0.15) * female,
        eye_x=draws.normal(0.325, 0.022),
        eye_y=draws.normal(-0.14, 0.03),
        eye_width=draws.normal(0.150, 0.012),
        eye_opening=draws.normal(1.0, 0.16 * bias),
        eye_tilt=draws.normal(-0.05, 0.10),
        iris=draws.uniform(0.05, 0.40),
        lid_crease=draws.uniform(0.0, 0.6),
        brow_y=draws.normal(-0.345, 0.035 * bias),
        brow_slope=draws.normal(0.0, 0.035 * bias),
        brow_arch=draws.normal(0.035, 0.022),
        brow_length=draws.normal(0.200, 0.018),
        brow_thickness=draws.normal(0.036, 0.010) - np.float32(0.008) * female,
        nose_length=draws.normal(0.24, 0.03),
        nose_width=draws.normal(0.125, 0.018),
        nose_depth=draws.normal(0.16, 0.04),
        mouth_y=draws.normal(0.50, 0.03),
        mouth_width=draws.normal(0.255, 0.025),
        mouth_lift=draws.normal(0.0, 0.022 * bias),
        upper_lip=draws.normal(0.050, 0.013),
        lower_lip=draws.normal(0.068, 0.015),
        cheeks=draws.normal(0.5, 0.2),
        age=age.astype(np.float32),
        skin=skin,
        hair=hair.astype(np.float32),
        lips=np.where(female, draws.uniform(0.45, 0.85), draws.uniform(0.7, 0.95)).astype(
            np.float32
        ),
        hairline=draws.normal(-0.66, 0.07),
        part=draws.normal(0.0, 0.3),
        style=style,
        beard=beard,
        makeup=makeup,
        glasses=np.where(with_glasses, draws.uniform(0.02, 0.45), -1).astype(np.float32),
        glasses_size=draws.normal(1.0, 0.1),
        texture=draws.choice(TEXTURES),
    )
