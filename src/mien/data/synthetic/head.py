"""What carries the face: the head's form and light, its hair, neck and ears, the background."""

from dataclasses import dataclass

import numpy as np

from mien.data.synthetic.canvas import smooth, square, texture
from mien.data.synthetic.conditions import View, cosine
from mien.data.synthetic.draws import Floats
from mien.data.synthetic.geometry import Shape
from mien.data.synthetic.people import HAIR_STYLES, People

_DEPTH = np.float32(0.62)
"""How far the middle of the face stands before the axis that the head turns about."""


@dataclass(frozen=True)
class Head:
    """Where the pixels lie in n heads. Every field: [n, side, side]."""

    x: Floats
    """Right of the middle of the upright head, seen from the camera."""
    y: Floats
    outline: Floats
    """-1 in the middle of the head, 0 on its outline."""
    normal_x: Floats
    normal_y: Floats
    face_x: Floats
    """In the face itself, which turns with the head; see `people.People`."""
    face_y: Floats


def pose(who: People, shape: Shape, seen: View, side: int) -> Head:
    """Turn the heads: an ellipsoid that narrows to the chin, with the face on its surface."""
    line = ((np.arange(side, dtype=np.float32) + 0.5) * (2 / side) - 1).astype(np.float32)
    across, down = line[None, None, :] - seen.shift_x, line[None, :, None] - seen.shift_y
    sine, cos = seen.sin_roll / seen.scale, cosine(seen.sin_roll) / seen.scale
    x, y = across * cos + down * sine, down * cos - across * sine
    below = np.maximum(y, 0)
    narrowing = 1 + 0.75 * who.jaw_taper * square(below / shape.chin)
    normal_x = (x - 0.16 * seen.sin_yaw * below) * narrowing / who.head_width
    normal_y = np.where(y < 0, y / who.crown, y / shape.chin)
    outline = square(normal_x) + square(normal_y) - 1
    bulge = 0.5 - np.maximum(-outline, 0)
    return Head(
        x=x,
        y=y,
        outline=outline,
        normal_x=normal_x,
        normal_y=normal_y,
        face_x=x * cosine(seen.sin_yaw) + _DEPTH * seen.sin_yaw * bulge,
        face_y=y * cosine(seen.sin_pitch) + _DEPTH * seen.sin_pitch * bulge,
    )


def shade(head: Head, seen: View, bump: Floats) -> Floats:
    """Light on the head and the relief on it, by Lambert's law; 1 is full light."""
    step = 4 / bump.shape[-1]
    slope_x, slope_y = np.zeros_like(bump), np.zeros_like(bump)
    slope_x[:, :, 1:-1] = (bump[:, :, 2:] - bump[:, :, :-2]) / step
    slope_y[:, 1:-1] = (bump[:, 2:] - bump[:, :-2]) / step
    x, y = 0.8 * head.normal_x - 1.1 * slope_x, 0.6 * head.normal_y - 1.1 * slope_y
    z = np.sqrt(np.clip(-head.outline, 0.05, 1))
    facing = seen.light[0] * x + seen.light[1] * y + seen.light[2] * z
    facing /= np.sqrt(square(x) + square(y) + square(z))
    return seen.ambient + 1.15 * (1 - seen.ambient) * np.maximum(facing, 0)


def background(head: Head, seen: View) -> Floats:
    """A wall with a gradient: the picture that the head is painted on."""
    slope = seen.background_slope[0] * head.x + seen.background_slope[1] * head.y
    wall = texture(seen.background_texture, head.x.shape[-1])
    return np.clip(seen.background + slope + 0.07 * wall, 0, 1)


def paint_behind(
    picture: Floats, head: Head, who: People, shape: Shape, seen: View, light: Floats
) -> None:
    """The hair behind the head, the neck and the ears."""
    side = picture.shape[-1]
    edge = 4 / side
    long = who.style == HAIR_STYLES.index("long")
    width = who.head_width + np.where(long, np.float32(0.16), np.float32(0.05))
    # Long hair falls straight down from the temples.
    height = np.where(long & (head.y > -0.2), np.float32(-0.2), head.y)
    outline = square(head.x / width) + square(height / (who.crown + 0.05))
    hairy = who.style != HAIR_STYLES.index("bald")
    strands = who.hair * (1 + 0.16 * texture(who.texture, side)) * (0.35 + 0.65 * seen.ambient)
    _lay(picture, strands, hairy * smooth((1 - outline) / (3 * edge)))
    neck = smooth((0.60 * who.head_width - np.abs(head.x - 0.1 * seen.sin_yaw)) / edge)
    neck *= smooth((head.y - shape.chin + 0.3) / edge)
    _lay(picture, who.skin * 0.55 * (0.5 + 0.5 * seen.ambient), neck)
    ear = square((np.abs(head.x) - who.head_width - 0.01) / 0.075) + square((head.y - 0.02) / 0.19)
    _lay(picture, who.skin * 0.8 * light, smooth((1 - ear) / (8 * edge)) * ~long)


def paint_head(picture: Floats, head: Head, who: People, tone: Floats, light: Floats) -> None:
    """The lit face, and the hair over its rim."""
    side = picture.shape[-1]
    inside = np.clip(0.5 - 0.36 * head.outline * side / 2.4, 0, 1)
    _lay(picture, tone * light, inside)
    fringe = who.style == HAIR_STYLES.index("fringe")
    parted = who.style == HAIR_STYLES.index("parted")
    long = who.style == HAIR_STYLES.index("long")
    strands = texture(who.texture ^ 1, side)
    line = who.hairline + np.float32(0.22) * fringe + 0.03 * strands
    line += (np.float32(0.30) * parted + 0.05) * np.abs(head.face_x - who.part)
    line += (np.float32(5.5) * long + 3.5) * np.maximum(np.abs(head.face_x) - 0.50, 0)
    hairy = who.style != HAIR_STYLES.index("bald")
    coverage = hairy * smooth(0.5 - (head.face_y - line) / 0.07) * inside
    _lay(picture, who.hair * (1 + 0.16 * strands) * (0.3 + 0.7 * light), coverage)


def _lay(picture: Floats, tone: Floats, coverage: Floats) -> None:
    """Lay a tone over the picture, in place; a picture holds no more light than 1."""
    picture += coverage * (np.clip(tone, 0, 1) - picture)
