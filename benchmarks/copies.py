"""What the copies across FER2013's splits are worth to a network that learns from them.

    python benchmarks/copies.py --data ../shared/datasets
    python benchmarks/copies.py --data ../shared/datasets --sizes nano --arms official

Many pictures of FER2013 come more than once, in its training split and in those held out, too.
`prepare` keeps such copies out of training; published networks have learned from them. Both arms
go on from the weights that ship, which have not, with the same settings and for as many steps:

========  ======================================================================================
clean     on what `prepare` leaves of the training split, as all of Mien does
official  on all 28,709 faces of the training split, as published figures are made
========  ======================================================================================

and are measured on all of PrivateTest, on its faces that have a copy in the training split, and on
its other faces. An arm that was stopped goes on. Writes ``benchmarks/results/copies.json``; what
other runs have left there stays.
"""

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _fer2013 import by_copies, has_copy, read_official, without_copies
from _results import FOLDER, machine, with_earlier, write_result
from numpy.typing import NDArray

from mien.data.augmentation import Augmentation
from mien.data.dataset import Faces, labelled_rows
from mien.files import read_json, write_json
from mien.learning.checkpoint import Checkpoint, training_code
from mien.learning.embedding import accuracy_on, embed_faces
from mien.learning.training import SupervisedTask, fit, make_fabric
from mien.model.weights import load_weights, shipped_weights
from mien.params import Params, parse_params
from mien.workspace import complete_params

RUNS = FOLDER.parents[1] / "runs" / "benchmarks" / "copies"
SIZES = ("nano", "small", "base")
ARMS = ("clean", "official")
LEARNING = {"expressions", "augmentation", "pretrain"}
CHANGES = {
    "augmentation": {"strong": 1.0},
    "compute": {"precision": "bf16-mixed"},
    "pretrain": {
        "epochs": 8,
        "steps_per_epoch": 300,
        "batch_size": 96,
        "learning_rate": 0.0025,
        "ema_decay": 0.998,
        "class_balance": 0.25,
    },
}


def main() -> None:
    """Train the arms that were asked for and write all that there is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder of fer2013.zip")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    params = parse_params(complete_params(CHANGES), "params.yaml")
    archive = options.data / "fer2013.zip"
    table, faces = read_official(options.data, params.expressions)
    copied = {split: has_copy(table, faces, split) for split in ("validation", "test")}
    runs = []
    for size, arm, seed in itertools.product(options.sizes, options.arms, options.seeds):
        figures = train(size, arm, seed, params, table, faces, copied, archive)
        print(f"{size} {arm} seed {seed}: {figures}", flush=True)
        runs.append({"size": size, "arm": arm, "seed": seed, **figures})
    write_result(
        "copies",
        {
            "machine": machine(),
            "faces": {
                split: {"all": len(each), "copied": int(each.sum())}
                for split, each in copied.items()
            },
            "settings": params.model_dump(include=LEARNING),
            "runs": with_earlier(runs, "copies", ("size", "arm", "seed")),
        },
    )


def train(
    size: str,
    arm: str,
    seed: int,
    params: Params,
    table: pd.DataFrame,
    faces: Faces,
    copied: dict[str, NDArray[np.bool_]],
    archive: Path,
) -> dict[str, Any]:
    """Train one arm, or read what it gave before."""
    start = shipped_weights(size)
    key = {"arm": arm, "seed": seed, **params.model_dump(include=LEARNING)}
    checkpoint = Checkpoint.of(RUNS, key, [archive, start, *training_code()])
    result = checkpoint.path.with_suffix(".json")
    if result.is_file():
        return dict(read_json(result))
    learned = without_copies(table, faces) if arm == "clean" else table
    labelled = labelled_rows(learned, params.expressions, "train")
    validation = labelled_rows(table, params.expressions, "validation")
    network = load_weights(start).model.requires_grad_(True)
    fitted = fit(
        SupervisedTask(
            network, faces, labelled, params.pretrain, Augmentation(params.augmentation)
        ),
        params.pretrain,
        epochs=params.pretrain.epochs,
        seed=seed,
        fabric=make_fabric(params.compute),
        checkpoint=checkpoint,
        validate=lambda model: accuracy_on(model, faces, validation),
        title=f"{size} {arm}, seed {seed}",
    )
    figures: dict[str, Any] = {"labelled_faces": len(labelled)}
    for split, twice in copied.items():
        rows = labelled_rows(table, params.expressions, split)
        right = embed_faces(fitted.model, faces, rows.rows).logits.argmax(axis=1) == rows.labels
        figures[split] = by_copies(right, twice)
    write_json(result, figures)
    checkpoint.clear()
    return figures


if __name__ == "__main__":
    main()
