"""`_batched_service` in one process, without batching across requests."""

from pathlib import Path
from typing import Any

import bentoml
from _batched_service import PACKAGE, read

from mien.data.dataset import to_input
from mien.serving.package import load_package


@bentoml.service(name="plain", workers=1, logging={"access": {"enabled": False}})
class Plain:
    """Decodes and classifies."""

    def __init__(self) -> None:
        package = load_package(PACKAGE)
        self.session, self.size = package.session, package.image_size

    @bentoml.api  # type: ignore[untyped-decorator]  # not typed
    def predict(self, images: list[Path]) -> dict[str, Any]:
        """Probabilities of each picture."""
        (found,) = self.session.run(["probabilities"], {"faces": to_input(read(images, self.size))})
        return {"faces": found.tolist()}
