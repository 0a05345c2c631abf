"""The network of the package ``fer`` behind the same framework."""

from pathlib import Path
from typing import Any

import bentoml
import cv2
import numpy as np
from _fer import FerNetwork


@bentoml.service(name="fer", workers=1, logging={"access": {"enabled": False}})
class Fer:
    """Decodes, and classifies one face after another."""

    def __init__(self) -> None:
        self.network = FerNetwork()

    @bentoml.api  # type: ignore[untyped-decorator]  # not typed
    def predict(self, images: list[Path]) -> dict[str, Any]:
        """Probabilities of each picture."""
        return {"faces": [self.classify(path.read_bytes()) for path in images]}

    def classify(self, data: bytes) -> list[float]:
        """One face's probabilities."""
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        assert picture is not None, "not a picture"
        return self.network.classify(picture)
