"""Expressions of one's own, few labels: what a start from the weights that ship is worth.

    python benchmarks/first_weights.py --data ../shared/datasets

FER2013's expressions become four that no network here knows by name: glad (happy), calm (neutral),
startled (surprise) and upset (angry, disgust, fear, sad). ``--labels`` faces of PublicTest, from
which the weights that ship have not learned, are labelled, a tenth of them for validation; LFW is
unlabelled; PrivateTest is the test. Each draw is a ``mien run`` from random first weights, one with
a start by landmarks and one from the weights of ``small``, in ``runs/benchmarks/``, with the
settings of ``configs/random.yaml`` and ``configs/short.yaml``, of ``configs/short.yaml`` alone and
of ``configs/transfer.yaml``. Beside them stands what
``small`` itself says of the test faces, its probabilities summed into the four.

Where the expressions are FER2013's own, the head of ``small`` can stay; ``heads`` says on how many
of the rest of PublicTest it and a fitted one are right, before anything is trained.

Writes ``benchmarks/results/first_weights.json``; runs that lie there already and not here stay.
"""

import argparse
import random
import subprocess
import sys
import zipfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from _results import FOLDER, machine, mean_and_std, with_earlier, write_result
from sklearn.model_selection import train_test_split

from mien.data.dataset import LabelledRows, labelled_rows, open_faces
from mien.data.faces import decode_picture
from mien.data.manifest import read_manifest
from mien.files import read_json, write_text
from mien.learning.embedding import accuracy_on, embed_faces
from mien.learning.training import class_log_prior
from mien.learning.transfer import begin_with
from mien.model.accnn import ACCNN
from mien.model.weights import load_weights, shipped_weights

ROOT = FOLDER.parents[1]
RUNS = ROOT / "runs" / "benchmarks" / "first_weights"
OVERLAYS = {
    "random": ["random.yaml", "short.yaml"],
    "landmarks": ["short.yaml"],
    "small": ["transfer.yaml"],
}
HEAD_LABELS = (100, 300, 1000)
GROUPS = {
    "glad": ["happy"],
    "calm": ["neutral"],
    "startled": ["surprise"],
    "upset": ["angry", "disgust", "fear", "sad"],
}


def main() -> None:
    """Run every draw with each start and write what they gave."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "raw")
    parser.add_argument("--labels", type=int, default=300)
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--starts", nargs="+", default=list(OVERLAYS), choices=list(OVERLAYS))
    options = parser.parse_args()
    for draw in options.draws:
        pictures = RUNS / f"{options.labels}-{draw}" / "pictures"
        export(options.data / "fer2013.zip", pictures, options.labels, draw)
        for start in options.starts:
            run(pictures.with_name(start), pictures, options.data / "lfw.zip", start, draw)
    here = map(figures, RUNS.glob("*-*/*/metrics/evaluate.json"))
    runs = with_earlier(here, "first_weights", ("labels", "draw", "start"))
    result = {
        "machine": machine(),
        "summary": summarise(runs),
        "small_itself": regrouped(pictures.with_name(options.starts[0])),
        "heads": heads(options.data / "fer2013.zip", options.draws),
        "runs": runs,
    }
    write_result("first_weights", result)


def export(archive: Path, folder: Path, labels: int, draw: int) -> None:
    """The labelled and the test faces in folders, as a user would have them."""
    if folder.is_dir():
        return
    with zipfile.ZipFile(archive) as file:
        names = [name for name in sorted(file.namelist()) if name.endswith(".jpg")]
        public = [name for name in names if "/PublicTest_" in name]
        chosen = {"labelled": random.Random(draw).sample(public, labels)}
        chosen["test"] = [name for name in names if "/PrivateTest_" in name]
        whole = folder.with_suffix(".part")
        for part, members in chosen.items():
            for name in members:
                path = whole / part / Path(name).parent.name / Path(name).name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(file.read(name))
    whole.rename(folder)


def run(out: Path, pictures: Path, lfw: Path, start: str, draw: int) -> None:
    """One ``mien run``; what is up to date does not run again."""
    shows = {shown: group for group, members in GROUPS.items() for shown in members}
    folder = {"kind": "image_folder", "folders": "expression", "label_map": shows}
    sources = [
        folder
        | {"name": "labelled", "role": "labelled", "path": str((pictures / "labelled").resolve())}
        | {"validation_share": 0.1},
        folder | {"name": "test", "role": "test", "path": str((pictures / "test").resolve())},
        {"name": "lfw", "kind": "lfw", "path": str(lfw.resolve()), "centre": 0.75},
    ]
    settings = {
        "seed": draw,
        "expressions": list(GROUPS),
        "compute": {"precision": "bf16-mixed"},
        "prepare": {"sources": sources},
    }
    path = out.with_suffix(".yaml")
    write_text(path, yaml.safe_dump(settings, sort_keys=False))
    command = [sys.executable, "-m", "mien", "run", "--out", str(out), "--params", str(path)]
    for overlay in OVERLAYS[start]:
        command += ["--params", str(ROOT / "configs" / overlay)]
    subprocess.run(command, check=True)


def figures(path: Path) -> dict[str, Any]:
    """What a run's ``metrics/evaluate.json`` says, and which run it was."""
    (measures,) = read_json(path).values()
    labels, _, draw = path.parents[2].name.partition("-")
    return {
        "labels": int(labels),
        "draw": int(draw),
        "start": path.parents[1].name,
        **{
            part: {key: measures[part][key] for key in ("accuracy", "macro_f1", "ece")}
            for part in ("pretrained", "final")
        },
    }


def regrouped(out: Path) -> dict[str, float]:
    """Accuracy of the shipped ``small``, its probabilities summed into the four expressions."""
    table = read_manifest(out / "data" / "prepared" / "manifest.parquet")
    store = open_faces(out / "data" / "prepared" / "faces.npy")
    rows = labelled_rows(table, list(GROUPS), "test")
    small = load_weights(shipped_weights("small"))
    probabilities = embed_faces(small.model, store, rows.rows).probabilities
    sums = [
        probabilities[:, [small.expressions.index(name) for name in members]].sum(axis=1)
        for members in GROUPS.values()
    ]
    return {"accuracy": float((np.stack(sums).argmax(axis=0) == rows.labels).mean())}


def heads(archive: Path, draws: list[int]) -> list[dict[str, Any]]:
    """Accuracy with the shipped head and with one that is fitted, on faces not labelled."""
    small = load_weights(shipped_weights("small"))
    with zipfile.ZipFile(archive) as file:
        names = [name for name in sorted(file.namelist()) if "/PublicTest_" in name]
        faces = np.stack([decode_picture(file.read(name)) for name in names])
    labels = np.array([small.expressions.index(Path(name).parent.name) for name in names])
    rows = []
    for count, draw in product(HEAD_LABELS, draws):
        parts = train_test_split(
            np.arange(len(labels)), train_size=count, stratify=labels, random_state=draw
        )
        known, others = (LabelledRows(part, labels[part]) for part in parts)
        log_prior = class_log_prior(known.labels, len(small.expressions), 0.5)
        row: dict[str, Any] = {"labels": count, "draw": draw}
        # under other names the shipped head is no candidate
        for head, expressions in (("chosen", small.expressions), ("fitted", tuple("abcdefg"))):
            model = ACCNN(small.settings, len(small.expressions))
            strength = begin_with(
                model, small, faces, known, expressions=expressions, log_prior=log_prior, seed=draw
            )
            row[head] = accuracy_on(model.eval(), faces, others)["validation_accuracy"]
            row[f"{head}_strength"] = strength
        rows.append(row)
    return rows


def summarise(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the draws of each number of labels and start."""
    rows = []
    for labels, start in sorted({(run["labels"], run["start"]) for run in runs}):
        own = [run for run in runs if (run["labels"], run["start"]) == (labels, start)]
        row: dict[str, Any] = {"labels": labels, "start": start, "draws": len(own)}
        for part in ("pretrained", "final"):
            for key in ("accuracy", "macro_f1"):
                values = [run[part][key] for run in own]
                row[f"{part}_{key}"], row[f"{part}_{key}_std"] = mean_and_std(values)
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
