"""A batch of pictures with the coordinates of the faces in them, and the strokes that paint it.

Everything is drawn as *soft coverage*: a signed distance to a shape (negative inside), in half
sides of the picture, becomes the share of each pixel that the shape covers. All arithmetic is
elementwise over [n, height, width], so a face's pixels do not depend on its batch.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mien.data.synthetic.draws import Floats

Number = Floats | float


def square(x: Floats) -> Floats:
    """x², faster and more exact than ``x ** 2``."""
    return x * x


def smooth(x: Floats) -> Floats:
    """Smoothstep of x in [0, 1], flat outside."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def dome(x: Number, y: Number) -> Floats:
    """A smooth bump of height 1 at the origin that ends on the unit circle."""
    rest = np.maximum(1 - x * x - y * y, 0)
    return np.asarray(rest * rest, np.float32)


def bend(t: Floats, start: Floats, middle: Floats, end: Floats) -> Floats:
    """The parabola through (-1, start), (0, middle), (1, end)."""
    return middle + 0.5 * (end - start) * t + (0.5 * (end + start) - middle) * square(t)


@dataclass
class Patch:
    """A rectangle of the pictures; its arrays are views, so painting it paints the canvas.

    ``x`` and ``y`` are face coordinates (see `people.People`), ``tone`` is the reflectance and
    ``bump`` the height over the head's ellipsoid. All [n, height, width].
    """

    x: Floats
    y: Floats
    tone: Floats
    bump: Floats
    edge: float
    """Width over which an edge fades: a little more than one pixel."""

    def cover(self, distance: Floats, softness: float = 0.0) -> Floats:
        """Share of each pixel that lies inside a shape, from the signed distance to it."""
        return np.clip(0.5 - distance / (self.edge + softness), 0, 1)

    def paint(self, tone: Number, coverage: Floats) -> None:
        """Lay a tone over the patch."""
        self.tone += coverage * (tone - self.tone)

    def darken(self, amount: Floats) -> None:
        """Multiply the tone by 1 - amount."""
        self.tone *= 1 - amount

    def groove(self, distance: Floats, width: float, depth: Floats) -> None:
        """A line in the skin along the zero of ``distance``: a furrow, and a little shadow in it.

        ``depth`` is 0 to 1, and falls to 0 where the line ends.
        """
        width = max(width, 0.8 * self.edge)
        line = depth * square(np.maximum(1 - square(distance / width), 0))
        self.bump -= 0.022 * line
        self.tone *= 1 - 0.32 * line


class Canvas:
    """``tone`` and ``bump`` of n faces, and where in its face each pixel lies.

    Args:
        x, y: face coordinates of the pixels, [n, side, side].
        tone: what is painted on, [n, side, side].
    """

    def __init__(self, x: Floats, y: Floats, tone: Floats) -> None:
        self.x, self.y = x, y
        self.tone = tone
        self.bump = np.zeros_like(tone)
        self.edge = 2.4 / tone.shape[-1]
        self._columns = x.min(axis=(0, 1)), x.max(axis=(0, 1))
        self._rows = y.min(axis=(0, 2)), y.max(axis=(0, 2))

    def patch(self, left: float, right: float, top: float, bottom: float) -> Patch:
        """The pixels that may lie between these face coordinates, and some around them.

        What is painted must have no coverage outside: which other pixels belong to the patch
        depends on the batch.
        """
        columns = _overlap(*self._columns, left, right)
        rows = _overlap(*self._rows, top, bottom)
        x, y, tone, bump = (a[:, rows, columns] for a in (self.x, self.y, self.tone, self.bump))
        return Patch(x, y, tone, bump, self.edge)


def _overlap(lowest: Floats, highest: Floats, start: float, stop: float) -> slice:
    inside = np.flatnonzero((highest >= start) & (lowest <= stop))
    return slice(inside[0], inside[-1] + 1) if len(inside) else slice(0, 0)


TEXTURES = 64
"""How many grey textures there are, for skin, hair, cloth and walls."""


def texture(number: NDArray[np.int64], side: int) -> Floats:
    """Textures by number ([n, 1, 1], under `TEXTURES`): [n, side, side], mean 0, deviation 1."""
    return _textures(side)[number.ravel()]


@lru_cache(maxsize=4)
def _textures(side: int) -> Floats:
    """Value noise of several octaves: random grids, cubically interpolated and added."""
    import cv2

    random = np.random.Generator(np.random.Philox(key=7))
    result = np.zeros((TEXTURES, side, side), np.float32)
    for cells, weight in ((3, 1.0), (6, 0.7), (12, 0.5), (24, 0.4), (48, 0.3)):
        for picture in result:
            grid = random.standard_normal((cells, cells), np.float32)
            picture += weight * cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
    result -= result.mean(axis=(1, 2), keepdims=True)
    return result / result.std(axis=(1, 2), keepdims=True)
