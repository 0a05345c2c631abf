"""Labelled faces in the look of others: framed, focused and lit as those are.

When a service's pictures change, the new ones come without labels. What has changed can be measured
without any: *framing*, by laying the mean of all faces of one kind over that of the other; *focus*,
noise and haze, by the ratio of their mean amplitude spectra (the idea of Fourier domain adaptation,
Yang & Soatto, CVPR 2020, with one filter for all faces instead of a swap); *light*, by each face's
mean and deviation. Applied to labelled faces this gives labelled faces of the new look.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Faces = NDArray[np.uint8]
_SCALES = np.arange(0.6, 1.65, 0.025)
_GAIN = (0.05, 4.0)
"""Limits of the filter: what a blur has taken away cannot be brought back, only its noise."""


@dataclass(frozen=True)
class Look:
    """What makes faces of one look into another's."""

    framing: NDArray[np.float32]
    """Affine map ``[2, 3]`` from the new picture's pixels to the old one's."""
    focus: NDArray[np.float32]
    """Gain ``[S, S // 2 + 1]`` of each frequency, as `numpy.fft.rfft2` lays them out."""
    means: NDArray[np.float32]
    deviations: NDArray[np.float32]
    """Of the new look's faces, ``[n]`` each; they belong together in pairs."""

    def __str__(self) -> str:
        scale = 1 / np.sqrt(abs(np.linalg.det(self.framing[:, :2])))
        fine = self.focus[0, -1 - self.focus.shape[1] // 4]
        return (
            f"size ×{scale:.2f}, fine detail ×{fine:.2f}, "
            f"brightness {self.means.mean():.0f}, contrast {self.deviations.mean():.0f}"
        )


def measure_look(known: Faces, new: Faces) -> Look:
    """What sets ``new`` faces ``[m, S, S]`` apart from ``known`` ones ``[n, S, S]``."""
    framing = _register(_mean_face(known), _mean_face(new))
    framed = _standardised(np.stack([_warp(face, framing) for face in known]))
    spectra = [_mean_amplitude(faces) for faces in (framed, _standardised(new))]
    focus = np.clip(spectra[1] / np.maximum(spectra[0], 1e-6), *_GAIN)
    flat = new.reshape(len(new), -1).astype(np.float32)
    return Look(framing, focus.astype(np.float32), flat.mean(axis=1), flat.std(axis=1))


def restyle(faces: Faces, look: Look, rng: np.random.Generator) -> Faces:
    """Faces ``[n, S, S]`` in the new look; each gets the light of a face drawn from it."""
    warped = _standardised(np.stack([_warp(face, look.framing) for face in faces]))
    side = faces.shape[-1]
    filtered = np.fft.irfft2(np.fft.rfft2(warped) * look.focus, s=(side, side))
    chosen = rng.integers(len(look.means), size=len(faces))
    deviation, mean = (part[chosen, None, None] for part in (look.deviations, look.means))
    return np.clip(np.rint(_standardised(filtered) * deviation + mean), 0, 255).astype(np.uint8)


def _mean_face(faces: Faces) -> NDArray[np.float32]:
    """The mean of faces of equal light; expressions and people average out."""
    mean: NDArray[np.float32] = _standardised(faces).mean(axis=0).astype(np.float32)
    return mean


def _register(known: NDArray[np.float32], new: NDArray[np.float32]) -> NDArray[np.float32]:
    """The affine map under which the known mean face lies over the new one.

    The best scale about the middle starts it, since the refinement sees small changes only.
    """
    middle = (known.shape[0] - 1) / 2
    maps = [
        np.array([[1 / s, 0, middle * (1 - 1 / s)], [0, 1 / s, middle * (1 - 1 / s)]], np.float32)
        for s in _SCALES
    ]
    start = max(maps, key=lambda each: _likeness(_warp(known, each), new))
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 1e-5)
    try:
        found = cv2.findTransformECC(new, known, start.copy(), cv2.MOTION_AFFINE, criteria)[1]
    except cv2.error:  # it does not converge
        return start
    refined = np.asarray(found, np.float32)
    better = _likeness(_warp(known, refined), new) > _likeness(_warp(known, start), new)
    return refined if better else start


def _likeness(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Correlation; 0 where a picture is flat."""
    one, other = one - one.mean(), other - other.mean()
    return float((one * other).sum() / max(np.sqrt((one**2).sum() * (other**2).sum()), 1e-9))


def _warp(face: NDArray[np.generic], framing: NDArray[np.float32]) -> NDArray[np.float32]:
    side = face.shape[0]
    return np.asarray(
        cv2.warpAffine(
            face.astype(np.float32),
            framing,
            (side, side),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
    )


def _standardised(faces: NDArray[np.generic]) -> NDArray[np.float64]:
    """Each to mean 0 and deviation 1."""
    values = faces.astype(np.float64)
    values -= values.mean(axis=(1, 2), keepdims=True)
    return np.asarray(values / np.maximum(values.std(axis=(1, 2), keepdims=True), 1e-3))


def _mean_amplitude(faces: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over faces of the amplitude at each frequency.

    The window keeps the picture's edges, which do not meet, from looking like fine detail.
    """
    window = np.hanning(faces.shape[-1] + 2)[1:-1]
    return np.asarray(np.abs(np.fft.rfft2(faces * np.outer(window, window))).mean(axis=0))
