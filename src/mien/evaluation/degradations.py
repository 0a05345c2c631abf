"""Ways in which pictures are worse than a test set's, each in three strengths.

A change takes grey faces ``[n, S, S]``, uint8, and returns as many.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.data.dataset import Faces

Change = Callable[[Faces], Faces]


def _each(change: Change) -> Change:
    """One by one, for in floats all faces of a large test set would take eight times their bytes,
    several times over."""
    return lambda faces: np.stack([change(face) for face in faces])


def _clip(values: NDArray[np.floating]) -> Faces:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def darken(factor: float) -> Change:
    """Less light."""
    return _each(lambda face: _clip(face * factor))


def brighten(gamma: float) -> Change:
    """Over-exposed."""
    return _each(lambda face: _clip(255 * (face / 255) ** gamma))


def flatten(factor: float) -> Change:
    """Less contrast, as through haze."""
    return _each(lambda face: _clip(128 + factor * (face.astype(np.float32) - 128)))


def blur(sigma: float) -> Change:
    """Out of focus; ``sigma`` is in pixels of a 48×48 face."""
    return _each(
        lambda face: np.asarray(cv2.GaussianBlur(face, (0, 0), sigma * face.shape[0] / 48))
    )


def noise(deviation: float) -> Change:
    """A sensor in the dark; grey levels."""

    def change(faces: Faces) -> Faces:
        rng = np.random.default_rng(len(faces))
        return _each(lambda face: _clip(face + deviation * rng.standard_normal(face.shape)))(faces)

    return change


def compress(quality: float) -> Change:
    """JPEG."""

    def change(face: Faces) -> Faces:
        code = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
        return np.asarray(cv2.imdecode(code, cv2.IMREAD_GRAYSCALE))

    return _each(change)


def _turned(degrees: float, factor: float) -> Change:
    def change(face: Faces) -> Faces:
        side = face.shape[0]
        middle = (side - 1) / 2
        matrix = cv2.getRotationMatrix2D((middle, middle), degrees, factor)
        warped = cv2.warpAffine(face, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(warped)

    return _each(change)


def zoom(factor: float) -> Change:
    """Another crop: over 1 is tighter, under 1 wider."""
    return _turned(0, factor)


def rotate(degrees: float) -> Change:
    """A camera that hangs askew."""
    return _turned(degrees, 1)


def cover(share: float) -> Change:
    """Masks: the lower part of the face is one tone."""

    def change(faces: Faces) -> Faces:
        covered = faces.copy()
        start = round(faces.shape[1] * (1 - share))
        covered[:, start:] = 200
        return covered

    return change


DEGRADATIONS: dict[str, dict[str, Change]] = {
    kind: dict(zip(("slight", "clear", "strong"), map(change, amounts), strict=True))
    for kind, change, amounts in (
        ("darker", darken, (0.85, 0.65, 0.4)),
        ("over-exposed", brighten, (0.85, 0.65, 0.45)),
        ("less contrast", flatten, (0.85, 0.65, 0.4)),
        ("blurred", blur, (0.5, 0.9, 1.6)),
        ("noisy", noise, (4, 10, 20)),
        ("compressed", compress, (40, 20, 8)),
        ("wider crop", zoom, (0.93, 0.8, 0.65)),
        ("rotated", rotate, (6, 14, 25)),
        ("masked", cover, (0.08, 0.2, 0.35)),
    )
}
"""By kind and strength."""
