"""From face crops to what they show: the one path of the service and the command line."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mien.data import faces as pictures
from mien.data.dataset import to_input
from mien.data.faces import Grey, Spend
from mien.errors import MienError
from mien.serving.answers import Box, FaceAnswer
from mien.serving.detector import Detector
from mien.serving.package import Package

FAMILIAR = 0.995
"""Share of the reference's own faces that count as familiar."""
_NEIGHBOUR = 5
_AT_ONCE = 256
"""Faces that the network is given at once: `small` takes 0.3 MiB for each."""


@dataclass(frozen=True)
class Crop:
    """A face at the network's size, and how large it was in the sent picture (pixels)."""

    pixels: Grey
    width: int
    height: int
    box: Box | None = None
    """Where it was found."""


@dataclass(frozen=True)
class Classified:
    """What was made of a batch of faces."""

    answers: list[FaceAnswer]
    components: NDArray[np.float32]
    """``[n, k]``: the embeddings on the package's projection."""

    @classmethod
    def join(cls, parts: list["Classified"]) -> "Classified":
        """Batches of faces, one after the other; at least one."""
        answers = [answer for part in parts for answer in part.answers]
        return cls(answers, np.concatenate([part.components for part in parts]))


def read_crop(data: bytes, size: int, spend: Spend | None = None) -> Crop:
    """A picture that is a face already, as ``prepare`` reads it: the square in its middle.

    Raises:
        PictureError: it can't be decoded, or ``spend`` raises it.
    """
    picture = pictures.decode_picture(data, spend)
    box = pictures.centre(picture)
    return Crop(pictures.resize(pictures.crop(picture, box), size), box.side, box.side)


def find_crops(data: bytes, size: int, detect: Detector) -> tuple[list[Crop], tuple[int, int]]:
    """The faces of a photo, cropped as ``prepare`` crops them, the largest first; perhaps none.

    Returns:
        ``(crops, (width, height))``; the size is that of the upright picture.

    Raises:
        PictureError: it can't be decoded.
    """
    picture = pictures.decode_picture(data)
    height, width = picture.shape
    crops = [
        Crop(
            pictures.resize(pictures.crop(picture, box), size),
            box.side,
            box.side,
            _visible(box, width, height),
        )
        for box in detect(picture)
    ]
    return crops, (width, height)


def _visible(box: pictures.Box, width: int, height: int) -> Box:
    """The part that lies in the picture."""
    x, y = max(box.x, 0), max(box.y, 0)
    right, bottom = min(box.x + box.side, width), min(box.y + box.side, height)
    return Box(x=x, y=y, width=right - x, height=bottom - y)


class Classifier:
    """A packaged network with its two ways to abstain.

    A face is *unsure* where its confidence lies below the threshold that calibration set, and
    *unfamiliar* where its embedding is farther from the reference than 99.5% of the reference's
    faces are from the rest of it: the distance to the fifth nearest, in whitened principal
    components (Sun et al., Out-of-Distribution Detection with Deep Nearest Neighbors, ICML 2022).
    """

    def __init__(self, package: Package) -> None:
        self.package = package
        self._scale = package.reference.std(axis=0) + 1e-6
        self._points = package.reference / self._scale
        self._squares = np.square(self._points).sum(axis=1)
        self._limit = self._farthest_familiar()

    def classify(self, faces: NDArray[np.uint8]) -> Classified:
        """What each of ``[n, S, S]`` faces shows.

        Raises:
            MienError: they are no uint8 array of that shape.
        """
        _check(faces, self.package.image_size)
        starts = range(0, max(len(faces), 1), _AT_ONCE)
        return Classified.join([self._classify(faces[at : at + _AT_ONCE]) for at in starts])

    def _classify(self, faces: NDArray[np.uint8]) -> Classified:
        package = self.package
        probabilities, embeddings = package.session.run(
            ["probabilities", "embedding"], {"faces": to_input(faces)}
        )
        components = (embeddings - package.mean) @ package.components.T
        far = self._far(components / self._scale)
        answers = [
            self._answer(row, bool(strange))
            for row, strange in zip(probabilities.tolist(), far, strict=True)
        ]
        return Classified(answers, components)

    def _answer(self, probabilities: list[float], strange: bool) -> FaceAnswer:
        names = self.package.expressions
        confidence = min(max(probabilities), 1.0)  # float32 may round above 1
        unsure = confidence < self.package.threshold
        return FaceAnswer(
            expression=names[probabilities.index(max(probabilities))],
            confidence=confidence,
            probabilities=dict(zip(names, probabilities, strict=True)),
            abstains=strange or unsure,
            reason="unfamiliar" if strange else "unsure" if unsure else None,
        )

    def _farthest_familiar(self) -> float:
        """Square of the distance up to which a face is familiar; any is where there are few."""
        if len(self._points) <= _NEIGHBOUR:
            return np.inf
        # each face of the reference is its own nearest one: pass over it
        nearest = np.partition(self._distances(self._points), _NEIGHBOUR, axis=1)[:, _NEIGHBOUR]
        return float(np.quantile(nearest, FAMILIAR))

    def _far(self, points: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Whether fewer than five of the reference are near each whitened point, ``[n]``."""
        if np.isinf(self._limit):
            return np.zeros(len(points), np.bool_)
        # counting those within the limit is faster than finding the fifth
        return np.count_nonzero(self._distances(points) <= self._limit, axis=1) < _NEIGHBOUR

    def _distances(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Squared distance ``[n, reference]`` of each whitened point to each reference face."""
        squares = np.square(points).sum(axis=1, keepdims=True) - 2 * points @ self._points.T
        squares += self._squares
        return squares


def _check(faces: object, size: int) -> None:
    given = type(faces).__name__
    if isinstance(faces, np.ndarray):
        if faces.dtype == np.uint8 and faces.shape[1:] == (size, size):
            return
        given = f"{faces.dtype} {list(faces.shape)}"
    raise MienError(f"faces: expected grey levels, a uint8 array [n, {size}, {size}], not {given}")
