"""What adaptive batching would be: the network in a BentoML service of its own behind another.

Takes the same upload as `mien.serving` and does only what both must: decode, classify, answer. The
benchmark compares it with `_plain_service`, which does the same in one process.
"""

import os
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
from numpy.typing import NDArray

from mien.data.dataset import to_input
from mien.serving.classifier import read_crop
from mien.serving.package import load_package

PACKAGE = Path(os.environ.get("MIEN_MODEL", "."))


@bentoml.service(name="network", workers=1, logging={"access": {"enabled": False}})
class Network:
    """Probabilities of faces that came with several requests."""

    def __init__(self) -> None:
        self.session = load_package(PACKAGE).session

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)  # type: ignore[untyped-decorator]  # not typed
    def classify(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """``[n, S, S]`` to ``[n, C]``."""
        (probabilities,) = self.session.run(["probabilities"], {"faces": to_input(faces)})
        return np.asarray(probabilities)


def read(images: list[Path], size: int) -> NDArray[np.uint8]:
    """The uploaded files as faces ``[n, S, S]``."""
    return np.stack([read_crop(image.read_bytes(), size).pixels for image in images])


@bentoml.service(name="batched", workers=1, logging={"access": {"enabled": False}})
class Batched:
    """Decodes, and lets `Network` classify."""

    network = bentoml.depends(Network)

    def __init__(self) -> None:
        self.size = load_package(PACKAGE).image_size

    @bentoml.api  # type: ignore[untyped-decorator]  # not typed
    async def predict(self, images: list[Path]) -> dict[str, Any]:
        """Probabilities of each picture."""
        found = await self.network.to_async.classify(read(images, self.size))
        return {"faces": np.asarray(found).tolist()}
