"""Ways in which the pictures of a service change, each in three strengths."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Faces = NDArray[np.uint8]
STRENGTHS = ("slight", "clear", "strong")


def _each(change: Callable[[Faces], Faces]) -> Callable[[Faces], Faces]:
    return lambda faces: np.stack([change(face) for face in faces])


def _clip(values: NDArray[np.floating]) -> Faces:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def darken(factor: float) -> Callable[[Faces], Faces]:
    """Less light."""
    return lambda faces: _clip(faces * factor)


def brighten(gamma: float) -> Callable[[Faces], Faces]:
    """Over-exposed."""
    return lambda faces: _clip(255 * (faces / 255) ** gamma)


def flatten(factor: float) -> Callable[[Faces], Faces]:
    """Less contrast, as through haze."""
    return lambda faces: _clip(128 + factor * (faces.astype(np.float32) - 128))


def blur(sigma: float) -> Callable[[Faces], Faces]:
    """Out of focus; pixels of a 48×48 face."""
    return _each(lambda face: cv2.GaussianBlur(face, (0, 0), sigma))


def noise(deviation: float) -> Callable[[Faces], Faces]:
    """A sensor in the dark; grey levels."""

    def change(faces: Faces) -> Faces:
        rng = np.random.default_rng(len(faces))
        return _clip(faces + deviation * rng.standard_normal(faces.shape))

    return change


def compress(quality: int) -> Callable[[Faces], Faces]:
    """JPEG."""

    def change(face: Faces) -> Faces:
        code = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return np.asarray(cv2.imdecode(code, cv2.IMREAD_GRAYSCALE))

    return _each(change)


def _warp(face: Faces, matrix: NDArray[np.float64]) -> Faces:
    side = face.shape[0]
    return np.asarray(cv2.warpAffine(face, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE))


def zoom(factor: float) -> Callable[[Faces], Faces]:
    """Another crop: over 1 is tighter, under 1 wider."""

    def change(face: Faces) -> Faces:
        middle = (face.shape[0] - 1) / 2
        return _warp(face, cv2.getRotationMatrix2D((middle, middle), 0, factor))

    return _each(change)


def rotate(degrees: float) -> Callable[[Faces], Faces]:
    """A camera that hangs askew."""

    def change(face: Faces) -> Faces:
        middle = (face.shape[0] - 1) / 2
        return _warp(face, cv2.getRotationMatrix2D((middle, middle), degrees, 1))

    return _each(change)


def cover(share: float) -> Callable[[Faces], Faces]:
    """Masks: the lower part of the face is one tone."""

    def change(faces: Faces) -> Faces:
        covered = faces.copy()
        start = round(faces.shape[1] * (1 - share))
        covered[:, start:] = 200
        return covered

    return change


PIXELS: dict[str, tuple[Callable[[Faces], Faces], ...]] = {
    "darker": (darken(0.85), darken(0.65), darken(0.4)),
    "over-exposed": (brighten(0.85), brighten(0.65), brighten(0.45)),
    "less contrast": (flatten(0.85), flatten(0.65), flatten(0.4)),
    "blurred": (blur(0.5), blur(0.9), blur(1.6)),
    "noisy": (noise(4), noise(10), noise(20)),
    "compressed": (compress(40), compress(20), compress(8)),
    "wider crop": (zoom(0.93), zoom(0.8), zoom(0.65)),
    "rotated": (rotate(6), rotate(14), rotate(25)),
    "masked": (cover(0.08), cover(0.2), cover(0.35)),
}
"""Slight, clear and strong, of nine kinds; the tenth is another mix of expressions."""
MIX = (0.25, 0.5, 0.8)
"""Share of the faces that are replaced by happy ones."""
