"""The whole pipeline over several seeds, beside training on all true labels.

    python benchmarks/pipeline.py default
    python benchmarks/pipeline.py fer2013-lfw --data ../shared/datasets
    python benchmarks/pipeline.py fer2013-lfw-random --data ../shared/datasets
    python benchmarks/pipeline.py fer2013-lfw-several --data ../shared/datasets
    python benchmarks/pipeline.py fer2013-lfw-recognition --data ../shared/datasets
    python benchmarks/pipeline.py fer2013-lfw-larger --data ../shared/datasets    # on a GPU

A seed decides the synthetic faces (or the draw of labelled ones), the network's first weights, the
batches and the clustering. Each seed is an ordinary ``mien run`` in ``runs/benchmarks/``, so a
benchmark that was stopped goes on. The bound *all labels* trains the same network on the labelled
and the unlabelled faces with their true labels, from random weights and for as many steps as
``finetune`` alone takes (fewer than the whole pipeline, so it may be passed); it is measured by
``--bound``. *Precision at half* is that of ``few_labels.py``: of each expression's surest faces,
half as many as there truly are, by the pretrained network's head and by what ``cluster`` left.
Writes ``benchmarks/results/pipeline-<name>.json``; other seeds that lie there already stay, unless
they were run with other settings.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from _labellers import by_head, precision_at_half, view
from _results import FOLDER, machine, mean_and_std, write_result

from mien.data.augmentation import Augmentation
from mien.data.dataset import (
    LabelledRows,
    indices,
    labelled_rows,
    open_faces,
    training_rows,
    unlabelled_rows,
)
from mien.data.manifest import read_manifest
from mien.files import hash_file, read_json, write_json
from mien.learning.checkpoint import Checkpoint
from mien.learning.embedding import accuracy_on
from mien.learning.joint import JointData
from mien.learning.pseudo_labels import POSTERIOR
from mien.learning.training import SupervisedTask, fit, make_fabric
from mien.model.accnn import ACCNN
from mien.model.weights import load_weights
from mien.params import Params, load_params
from mien.pipeline import flatten
from mien.yaml_files import read_yaml

ROOT = FOLDER.parents[1]
OVERLAYS = {
    # named, for without it a workspace of an earlier run would keep that run's settings
    "default": [ROOT / "params.yaml"],
    "fer2013-lfw": [ROOT / "configs" / "fer2013-lfw.yaml"],
    "fer2013-lfw-random": [
        ROOT / "configs" / "fer2013-lfw.yaml",
        ROOT / "configs" / "random.yaml",
    ],
    "fer2013-lfw-several": [
        ROOT / "configs" / "fer2013-lfw.yaml",
        ROOT / "configs" / "several.yaml",
    ],
    "fer2013-lfw-recognition": [
        ROOT / "configs" / "fer2013-lfw.yaml",
        ROOT / "configs" / "recognition.yaml",
    ],
    "fer2013-lfw-larger": [
        ROOT / "configs" / "fer2013-lfw.yaml",
        ROOT / "configs" / "larger.yaml",
    ],
}

LEARNING = ("expressions", "model", "augmentation", "pretrain", "cluster", "relabel", "finetune")


def main() -> None:
    """Run the seeds that were asked for and write what all of them gave."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("name", choices=list(OVERLAYS))
    parser.add_argument("--data", type=Path, help="the folder of FER2013 and LFW")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--bound", action="store_true", help="also train on all true labels")
    options = parser.parse_args()
    runs = [run(options.name, options.data, seed, options.bound) for seed in options.seeds]
    params = load_params(workspace(options.name, options.seeds[0]) / "params.yaml")
    settings = params.model_dump(mode="json", by_alias=True, exclude={"prepare", "seed"})
    title = f"pipeline-{options.name}"
    found = earlier_runs(FOLDER / f"{title}.json", settings) | {each["seed"]: each for each in runs}
    seeds = sorted(found)
    runs = [found[seed] for seed in seeds]
    write_result(
        title,
        {
            "machine": machine(),
            "seeds": seeds,
            "summary": summarise(runs),
            "runs": runs,
            "settings": settings,
        },
    )


def earlier_runs(written: Path, settings: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """By seed, the runs in ``written``; none where a setting that learning reads is another now.

    A setting that came since begins with what was done before it.
    """
    if not written.is_file():
        return {}
    kept = read_json(written)
    before, now = (
        flatten({name: each[name] for name in LEARNING}) for each in (kept["settings"], settings)
    )
    if changed := [name for name in before if name in now and before[name] != now[name]]:
        print(f"{written.name}: left out, for these settings were others: {', '.join(changed)}")
        return {}
    return {each["seed"]: each for each in kept["runs"]}


def workspace(name: str, seed: int) -> Path:
    """Where the run of one seed lies."""
    return ROOT / "runs" / "benchmarks" / f"{name}-{seed}"


def run(name: str, data: Path | None, seed: int, bound: bool) -> dict[str, Any]:
    """One ``mien run`` and its figures."""
    out = workspace(name, seed)
    sources = read_yaml(OVERLAYS[name][0])["prepare"]["sources"]
    command = [sys.executable, "-m", "mien", "run", "--out", str(out)]
    if data:
        command += ["--data", str(data)]
    for overlay in OVERLAYS[name]:
        command += ["--params", str(overlay)]
    changes = {"seed": seed, "prepare.sources": [source | {"seed": seed} for source in sources]}
    for key, value in changes.items():
        command += [
            "--set",
            f"{key}={yaml.safe_dump(value, default_flow_style=True, width=10_000)}",
        ]
    kept = out / ".mien" / "benchmark.json"  # what a repeated, cached run cannot measure again
    first = read_json(kept) if kept.is_file() else {}
    whole, started = not out.exists(), time.monotonic()
    subprocess.run(command, check=True)
    settings = hash_file(out / "params.yaml")
    if first.get("settings") != settings:
        first = {"settings": settings}
        if whole:  # one that went on, or had some stages already, took less than the pipeline does
            first["seconds"] = time.monotonic() - started
    if bound and "all_labels" not in first:
        first["all_labels"] = {"accuracy": train_on_truth(out, load_params(out / "params.yaml"))}
    write_json(kept, first)

    evaluation = read_json(out / "metrics" / "evaluate.json")
    audit = read_json(out / "metrics" / "relabel.json")
    (test_set,) = evaluation
    return {
        "seed": seed,
        **first,
        "test_set": test_set,
        "pretrained": pick(evaluation[test_set]["pretrained"]),
        "final": pick(evaluation[test_set]["final"]),
        "comparison": evaluation[test_set]["comparison"],
        "coverage": audit["coverage"],
        "precision": audit["precision"],
        "pseudo_labels": audit["expressions"],
        "precision_at_half": precisions(out),
        "clusters": read_json(out / "metrics" / "cluster.json"),
    }


def pick(measures: dict[str, Any]) -> dict[str, float]:
    """The figures that are summarised."""
    return {key: measures[key] for key in ("accuracy", "macro_f1", "mean_class_accuracy", "ece")}


def precisions(out: Path) -> dict[str, dict[str, float]]:
    """By expression, what the head knew before joint learning and what was known after it.

    Each at the same coverage: of the surest faces, half as many as truly show the expression.
    """
    params = load_params(out / "params.yaml")
    prepared, expressions = out / "data" / "prepared", params.expressions
    table = read_manifest(prepared / "manifest.parquet")
    faces, labelled = open_faces(prepared / "faces.npy"), training_rows(table, expressions)
    unlabelled = table[table["role"].eq("unlabelled")]
    known = unlabelled["true_label"].isin(expressions).to_numpy()
    truth = indices(unlabelled["true_label"][known], expressions)
    pretrained = load_weights(out / "models" / "pretrain.safetensors").model
    data = JointData(faces, labelled, unlabelled_rows(table))
    head, _ = by_head(view(pretrained, data, params.cluster, params.seed))
    rows = pd.read_parquet(out / "data" / "cluster" / "assignments.parquet").set_index("face_id")
    joint = rows.loc[unlabelled["face_id"], [POSTERIOR + name for name in expressions]].to_numpy()
    return {
        name: dict(zip(expressions, precision_at_half(posterior[known], truth), strict=True))
        for name, posterior in (("head", head), ("cluster", joint))
    }


def train_on_truth(out: Path, params: Params) -> float:
    """Test accuracy of the network trained on every training face's true label."""
    table = read_manifest(out / "data" / "prepared" / "manifest.parquet")
    store = open_faces(out / "data" / "prepared" / "faces.npy")
    train = labelled_rows(table, params.expressions, "train")
    hidden = table[table["role"].eq("unlabelled") & table["true_label"].isin(params.expressions)]
    everything = LabelledRows(
        np.concatenate([train.rows, hidden["row"].to_numpy()]),
        np.concatenate([train.labels, indices(hidden["true_label"], params.expressions)]),
    )
    settings = params.finetune.model_copy(
        update={"batch_size": params.finetune.batch_size + params.finetune.unlabelled_batch_size}
    )
    torch.manual_seed(params.seed)
    model = ACCNN(params.model, len(params.expressions))
    checkpoint = Checkpoint.of(
        out / ".mien" / "bound",
        params.model_dump(include={"seed", "expressions", "model", "augmentation", "finetune"}),
        [out / "data" / "prepared" / name for name in ("manifest.parquet", "faces.npy")],
    )
    fitted = fit(
        SupervisedTask(model, store, everything, settings, Augmentation(params.augmentation)),
        settings,
        epochs=settings.epochs,
        seed=params.seed,
        fabric=make_fabric(params.compute),
        checkpoint=checkpoint,
        validate=lambda net: {},
        title="all labels",
    )
    checkpoint.clear()
    test = labelled_rows(table, params.expressions, "test")
    return accuracy_on(fitted.model, store, test)["validation_accuracy"]


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds."""
    columns = {
        "pretrained_accuracy": [r["pretrained"]["accuracy"] for r in runs],
        "final_accuracy": [r["final"]["accuracy"] for r in runs],
        "gain": [r["final"]["accuracy"] - r["pretrained"]["accuracy"] for r in runs],
        "pretrained_macro_f1": [r["pretrained"]["macro_f1"] for r in runs],
        "final_macro_f1": [r["final"]["macro_f1"] for r in runs],
        "coverage": [r["coverage"] for r in runs],
        "precision": [r["precision"] for r in runs],
    }
    if all("all_labels" in r for r in runs):
        columns["all_labels_accuracy"] = [r["all_labels"]["accuracy"] for r in runs]
    summary = {
        key: dict(zip(("mean", "std"), mean_and_std(values), strict=True))
        for key, values in columns.items()
    }
    for key, value in summary.items():
        spread = f" ± {value['std']:.1%}" if value["std"] is not None else ""
        print(f"{key:22} {value['mean']:.1%}{spread}")
    return summary


if __name__ == "__main__":
    main()
