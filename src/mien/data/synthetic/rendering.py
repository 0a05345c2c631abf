"""From the names of faces to their pictures."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mien.data.synthetic import difficulty
from mien.data.synthetic.canvas import Canvas, texture
from mien.data.synthetic.conditions import capture, occlude, sensor, view
from mien.data.synthetic.drawing import paint_face, paint_glasses
from mien.data.synthetic.draws import Draws, Floats
from mien.data.synthetic.expressions import PROTOTYPES, activations
from mien.data.synthetic.geometry import shape
from mien.data.synthetic.head import background, paint_behind, paint_head, pose, shade
from mien.data.synthetic.people import people
from mien.errors import MienError

_BATCH = 4
"""Faces drawn at once: few enough for the cache, many enough to share the calls."""


def render(
    paths: Sequence[str], expressions: Sequence[str], *, seed: int, size: int = 48
) -> NDArray[np.uint8]:
    """Draw faces.

    A face's pixels depend on its own path, expression, ``seed`` and ``size`` only: any split of a
    table into chunks, in any order and process, gives the same pictures.

    Args:
        paths: names from `synthetic_table`: ``part/person/number``. The person decides the
            identity, the whole path everything else (pose, light, intensity, noise, …).
        expressions: what each face shows: its label, or its true label; ``other`` is known, too.
        seed: the source's seed.
        size: side of the pictures in pixels, 24 to 224.

    Returns:
        Grey levels, [len(paths), size, size].

    Raises:
        MienError: an unknown expression, or a size out of range.
    """
    unknown = sorted(set(expressions) - set(PROTOTYPES))
    if unknown:
        raise MienError(
            f"synthetic faces can't show {', '.join(unknown)}: choose from {', '.join(PROTOTYPES)}"
        )
    if not 24 <= size <= 224:
        raise MienError(f"synthetic faces are 24 to 224 pixels wide, not {size}: mend image_size")
    result = np.empty((len(paths), size, size), np.uint8)
    for start in range(0, len(paths), _BATCH):
        batch = slice(start, start + _BATCH)
        result[batch] = _render_batch(paths[batch], expressions[batch], seed, size)
    return result


def _render_batch(
    paths: Sequence[str], expressions: Sequence[str], seed: int, size: int
) -> NDArray[np.uint8]:
    draws = Draws(paths, seed)
    who = people([path.split("/")[1] for path in paths], seed)
    form = shape(who, activations(expressions, draws))
    seen = view(draws)
    camera = sensor(draws)
    sunglasses = draws.chance(difficulty.SUNGLASSES_SHARE).astype(np.float32)

    oversampling = 2 if size <= 96 else 1
    side = size * oversampling
    head = pose(who, form, seen, side)
    bare_skin = who.skin * (1 + 0.045 * texture(who.texture, side))
    canvas = Canvas(head.face_x, head.face_y, bare_skin)
    paint_face(canvas, who, form, seen.gaze, seen.tan_yaw)
    paint_glasses(canvas, who, sunglasses)

    light = shade(head, seen, canvas.bump)
    picture = background(head, seen)
    paint_behind(picture, head, who, form, seen, light)
    paint_head(picture, head, who, canvas.tone, light)
    cloth = texture(seen.background_texture ^ 1, side)
    occlude(picture, head.x, head.y, who.skin, cloth, draws)
    return capture(_reduce(picture, oversampling), camera, paths, seed)


def _reduce(picture: Floats, factor: int) -> Floats:
    """Mean of each factor × factor block."""
    total = sum(picture[:, i::factor, j::factor] for i in range(factor) for j in range(factor))
    return np.asarray(total / factor**2, np.float32)
