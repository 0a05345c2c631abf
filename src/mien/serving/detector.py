"""How faces are found in a photo.

By default as ``prepare`` finds them, with the cascade that OpenCV ships. Operators who have a file
of YuNet (Wu, Peng and Yu: *YuNet: A Tiny Millisecond-level Face Detector*, Machine Intelligence
Research 2023), which finds turned and covered faces, too, name it in ``MIEN_YUNET``.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mien.data.faces import Box, Grey, NoFaceError, find_faces, shrink, square_boxes
from mien.errors import MienError

Detector = Callable[[Grey], list[Box]]
"""From a picture to square boxes around its faces, the largest first; none is an empty list."""

_SCORE = 0.8


def make_detector(folder: Path = Path()) -> Detector:
    """The detector that ``MIEN_YUNET`` names (a path from ``folder``), or else the cascade.

    Raises:
        MienError: the file is missing, or OpenCV can't run it as YuNet.
    """
    named = os.environ.get("MIEN_YUNET")
    return YuNet(folder / named) if named else _with_cascade


def _with_cascade(picture: Grey) -> list[Box]:
    try:
        return find_faces(picture)
    except NoFaceError:
        return []


class YuNet:
    """OpenCV's ``FaceDetectorYN`` with a file that is handed in; one network a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        if not self._path.is_file():
            raise MienError(f"MIEN_YUNET={path}: no such file")
        self._thread = threading.local()
        try:
            self(np.zeros((64, 64), np.uint8))
        except cv2.error as error:
            reason = str(error.err).strip() or error.code
            raise MienError(
                f"MIEN_YUNET={path}: OpenCV {cv2.__version__} can't run it as YuNet ({reason})"
            ) from None

    def __call__(self, picture: Grey) -> list[Box]:
        """See `Detector`."""
        small, scale = shrink(picture)
        network = self._network()
        network.setInputSize(small.shape[::-1])
        _, found = network.detect(cv2.cvtColor(small, cv2.COLOR_GRAY2BGR))
        return [] if found is None else square_boxes(found[:, :4] / scale)

    def _network(self) -> Any:
        if not hasattr(self._thread, "network"):
            self._thread.network = cv2.FaceDetectorYN.create(
                str(self._path), "", (64, 64), score_threshold=_SCORE
            )
        return self._thread.network
