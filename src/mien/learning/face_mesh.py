"""Where a face's landmarks lie: MediaPipe Face Mesh, 468 points in three dimensions.

Kartynnik, Ablavatski, Grishchenko and Grundmann: *Real-time Facial Surface Geometry from Monocular
Video on Mobile GPUs* (2019). Google's weights (Apache 2.0, `face_mesh.LICENSE`) lie beside this
file as ONNX, as ``docs/face_mesh.py`` made them of the ``mediapipe`` wheel. No label of an
expression has gone into them.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.data.dataset import Faces

WEIGHTS = Path(__file__).with_name("face_mesh.onnx")

_SIDE = 192
"""Pixels, of the crops that the network reads."""
_MARGIN = 1 / 6
"""On each side, as a share of the face's, at the first look: the network is used to so much."""
_ROOM = 1.5
"""Side of the crop at the second look, as a share of the side of the square around the points."""
_STEEPEST = 0.7
"""Radians. Where the eyes say that a face lies more than that on its side they were not found."""
_CHUNK = 16
"""Crops at once: of many more the network's maps leave the cache."""
_LEFT_EYE, _RIGHT_EYE = 33, 263
"""Their outer corners, as the picture shows them."""

Points = NDArray[np.float32]


@dataclass(frozen=True)
class Landmarks:
    """``points`` float32 ``[B, 468, 3]`` in pixels, to a turn and a scale; ``found`` ``[B]``."""

    points: Points
    found: NDArray[np.bool_]


class FaceMesh:
    """The network in ONNX Runtime.

    Args:
        threads: CPU threads; 0 means all cores.
    """

    def __init__(self, threads: int = 1) -> None:
        from mien.model.runtime import open_session  # what is seldom asked for need not be loaded

        self._session = open_session(WEIGHTS, threads)
        pairs = self._session.get_modelmeta().custom_metadata_map["mirror"]
        self.mirror: NDArray[np.int64] = np.array(pairs.split(), np.int64)
        """Which landmark each one is in the mirrored face, ``[468]``."""

    def __call__(self, faces: Faces) -> Landmarks:
        """Landmarks of cropped faces, uint8 ``[B, S, S]``.

        It looks twice: the second time at the crop that the first look's points ask for, upright.
        """
        side = faces.shape[-1]
        scale = _SIDE / (side * (1 + 2 * _MARGIN))
        shift = _MARGIN * side * scale
        first = np.array([[scale, 0, shift], [0, scale, shift]], np.float32)
        points, _ = self._look([_crop(face, first) for face in faces])
        where = (points[:, :, :2] - shift) / scale
        points, score = self._look(
            [_crop(face, _upright(seen, side)) for face, seen in zip(faces, where, strict=True)]
        )
        return Landmarks(points, score > 0)

    def _look(self, crops: list[NDArray[np.uint8]]) -> tuple[Points, NDArray[np.float32]]:
        told = []
        for start in range(0, len(crops), _CHUNK):
            grey = np.stack(crops[start : start + _CHUNK])[:, None].astype(np.float32)
            inputs = {"faces": np.repeat(grey / np.float32(255), 3, axis=1)}
            told.append(self._session.run(["landmarks", "score"], inputs))
        points, scores = zip(*told, strict=True)
        return np.concatenate(points), np.concatenate(scores)


def _crop(face: Faces, matrix: NDArray[np.float32]) -> NDArray[np.uint8]:
    crop: NDArray[np.uint8] = cv2.warpAffine(
        face,
        matrix,
        (_SIDE, _SIDE),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return crop


def _upright(points: Points, side: int) -> NDArray[np.float32]:
    """From the face's pixels to those of a crop in which its landmarks ``[468, 2]`` stand level."""
    across = points[_RIGHT_EYE] - points[_LEFT_EYE]
    angle = np.arctan2(across[1], across[0])
    if abs(angle) > _STEEPEST:
        angle = 0.0
    low, high = points.min(axis=0), points.max(axis=0)
    room = np.clip(_ROOM * (high - low).max(), side / 1.2, side * 1.9)
    cosine, sine = np.cos(angle) * _SIDE / room, np.sin(angle) * _SIDE / room
    turn = np.array([[cosine, sine], [-sine, cosine]])
    shift = _SIDE / 2 - turn @ ((low + high) / 2)
    return np.column_stack([turn, shift]).astype(np.float32)
