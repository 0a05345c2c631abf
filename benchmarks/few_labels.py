"""What the unlabelled faces are worth: ways to use them, from the same start and as many steps.

    python benchmarks/few_labels.py --data ../shared/datasets
    python benchmarks/few_labels.py --data ../shared/datasets --arms guided fixmatch --draws 0 1
    python benchmarks/few_labels.py --data ../shared/datasets --labels 0.01 0.25
    python benchmarks/few_labels.py --params configs/nano.yaml --params configs/random.yaml --data …

A *draw* decides the labelled faces of FER2013, the network's first weights and the batches. Each
draw is prepared and pretrained as ``configs/fer2013-lfw.yaml`` says, with each ``--params`` laid
over it; every arm goes on from those weights, labelling the unlabelled faces anew after each round:

====================  ==============================================================================
supervised            the labelled faces only
head                  the network's own head, with the estimated prior
fixmatch              FixMatch (Sohn et al. 2020) with distribution alignment: certain guesses only
fixmatch-finetune     the same at the learning rate of ``finetune``; the others have ``cluster``'s
consistency           the combined loss's own consistency alone: soft guesses, nothing clustered
kmeans                k-means without guidance; labelled faces vote for what a cluster shows
sinkhorn              prototypes with equal parts (SeLa, SwAV), mapped by votes
rank_order            rank-order clustering (Zhu et al. 2011), mapped by votes
guided                expression-guided clustering
combined              guided clustering and the combined loss (consistency, center, island)
combined-no-…         the same without one of its parts
====================  ==============================================================================

Every arm's result is kept as soon as it is there, in ``runs/benchmarks/few_labels/``, and an arm
that was stopped goes on from its checkpoint. Writes ``benchmarks/results/few_labels.json`` and, of
more than one share of labels, ``few_labels.svg`` from whatever has been run, here or for the file
that lies there already; with ``--params`` their names have those files' at the end
(``few_labels_nano_random``).
"""

import argparse
import functools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import _labellers
import numpy as np
import pandas as pd
import torch
from _labellers import (
    Labeller,
    by_guided,
    by_head,
    by_kmeans,
    by_rank_order,
    by_sinkhorn,
    precision_at_half,
    view,
    without,
)
from _results import FOLDER, device_name, machine, mean_and_std, with_earlier, write_result

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
from mien.files import read_json, replacing_file, write_json
from mien.learning.checkpoint import Checkpoint, training_code
from mien.learning.clustering import Array
from mien.learning.embedding import accuracy_on, embed_faces
from mien.learning.joint import JointData, JointTask
from mien.learning.training import SupervisedTask, fit, make_fabric
from mien.model.accnn import ACCNN, FaceNetwork
from mien.model.weights import load_weights
from mien.params import Params, load_params
from mien.params.learning import ClusterSettings
from mien.pipeline import open_pipeline
from mien.workspace import complete_params, make_workspace
from mien.yaml_files import merge, read_yaml

ROOT = FOLDER.parents[1]
RUNS = ROOT / "runs" / "benchmarks"


@dataclass(frozen=True)
class Arm:
    """A labeller (None: labelled faces only) and which terms of the combined loss are on."""

    labeller: Labeller | None
    pseudo: bool = True
    consistency: bool = False
    metric: bool = False
    change: dict[str, Any] | None = None
    rate: Literal["cluster", "finetune"] = "cluster"
    """The stage whose learning rate it has."""


FIXMATCH = {"consistency_temperature": 0.0, "consistency_threshold": 0.7, "consistency_weight": 1.0}
"""Certain guesses where sure enough. Of 0.7 and 1, 0.7 and 3, 0.5 and 1, the first gave the best
validation accuracy with ``nano`` and ``short`` (53.3, 52.9, 53.1%). The 0.95 of the paper is out of
reach here: label smoothing teaches the network to be at most 0.91 sure."""

ARMS = {
    "supervised": Arm(None),
    "head": Arm(by_head),
    "fixmatch": Arm(by_head, pseudo=False, consistency=True, change=FIXMATCH),
    "fixmatch-finetune": Arm(
        by_head, pseudo=False, consistency=True, change=FIXMATCH, rate="finetune"
    ),
    "consistency": Arm(by_head, pseudo=False, consistency=True),
    "kmeans": Arm(by_kmeans),
    "sinkhorn": Arm(by_sinkhorn),
    "rank_order": Arm(by_rank_order),
    "guided": Arm(by_guided),
    "combined": Arm(by_guided, consistency=True, metric=True),
    "combined-no-clusters": Arm(without("clusters"), consistency=True, metric=True),
    "combined-no-neighbours": Arm(without("neighbours"), consistency=True, metric=True),
    "combined-no-head": Arm(without("head"), consistency=True, metric=True),
    "combined-no-free": Arm(
        by_guided, consistency=True, metric=True, change={"free_prototypes": 0}
    ),
    "combined-no-consistency": Arm(by_guided, metric=True),
    "combined-no-metric": Arm(by_guided, consistency=True),
}


class ArmTask(JointTask):
    """Joint learning whose targets come from an arm's labeller, anew in each round."""

    def __init__(
        self,
        net: ACCNN,
        data: JointData,
        settings: ClusterSettings,
        augmentation: Augmentation,
        labeller: Labeller,
        seed: int,
    ) -> None:
        super().__init__(net, data, settings, augmentation)
        self.labeller, self.rounds, self.seed = labeller, settings, seed

    def begin_epoch(
        self, epoch: int, steps: int, teacher: FaceNetwork, rng: torch.Generator
    ) -> dict[str, float]:
        if epoch % self.rounds.epochs == 0:
            posterior, prior = self.labeller(view(teacher, self.data, self.rounds, self.seed))
            top: Array = np.partition(posterior, -2, axis=1)[:, -2:]
            self.set_targets(posterior, top[:, 1] - top[:, 0], prior)
        return super().begin_epoch(epoch, steps, teacher, rng)


def prepare(out: Path, overlays: list[Path], data: Path, share: float, draw: int) -> None:
    """Make ``out`` a workspace with one draw's faces and pretrained weights."""
    layers = [ROOT / "configs" / "fer2013-lfw.yaml", *overlays]
    settings = complete_params(functools.reduce(merge, map(read_yaml, layers)))
    fer2013, lfw = settings["prepare"]["sources"]
    sources = [fer2013 | {"label_share": share, "seed": draw}, lfw]
    changes = {"seed": draw, "prepare": {"data": str(data.resolve()), "sources": sources}}
    if share < 0.02:  # of 28,709 labels 1 in 100 leaves two or three disgusted faces
        changes["validate"] = {"min_faces_per_expression": 1}
    make_workspace(out, merge(settings, changes))
    with open_pipeline(out) as pipeline:
        for stage in ("prepare", "validate", "pretrain"):
            if not pipeline.is_current(stage):
                pipeline.run(stage, lambda line: print(f"  {line}", flush=True))


def run_arm(out: Path, name: str) -> dict[str, Any]:
    """Train one arm on one draw, or read what it gave before."""
    result = out / ".mien" / "arms" / f"{name}.json"
    params = load_params(out / "params.yaml")
    settings = arm_settings(params, ARMS[name])
    start = out / "models" / "pretrain.safetensors"
    key = {"arm": name, "seed": params.seed, **settings.model_dump()}
    code = training_code(_labellers.__file__)
    checkpoint = Checkpoint.of(result.parent, key, [start, *code])
    stem = checkpoint.path.stem
    if result.is_file() and (kept := read_json(result))["key"] == stem:
        return dict(kept)
    table = read_manifest(out / "data" / "prepared" / "manifest.parquet")
    store = open_faces(out / "data" / "prepared" / "faces.npy")
    labelled = training_rows(table, params.expressions)
    data = JointData(store, labelled, unlabelled_rows(table))
    splits = {
        each: labelled_rows(table, params.expressions, each) for each in ("validation", "test")
    }
    net, augmentation = load_weights(start).model, Augmentation(params.augmentation)
    hidden = table[table["role"] == "unlabelled"]["true_label"]
    fabric = make_fabric(params.compute)
    figures: dict[str, Any] = {
        "key": stem,
        "device": device_name(fabric.device),
        "pretrained": _accuracies(net, store, splits),
    }
    arm = ARMS[name]
    known = hidden.notna().to_numpy()
    truth = indices(hidden[known], params.expressions)

    def precision(model: ACCNN) -> list[float] | None:
        """Of the arm's own labels; with all the labels used, there is no truth about the others."""
        if not arm.labeller or not known.any():
            return None
        posterior, _ = arm.labeller(view(model, data, settings, params.seed))
        return precision_at_half(posterior[known], truth)

    figures["precision_at_start"] = precision(net)
    net.requires_grad_(True)
    task = (
        ArmTask(net, data, settings, augmentation, arm.labeller, params.seed)
        if arm.labeller
        else SupervisedTask(net, store, labelled, settings, augmentation)
    )
    fitted = fit(
        task,
        settings,
        epochs=settings.rounds * settings.epochs,
        seed=params.seed,
        fabric=fabric,
        checkpoint=checkpoint,
        validate=lambda model: accuracy_on(model, store, splits["validation"]),
        title=f"{out.name} {name}",
    )
    figures["precision_at_end"] = precision(fitted.model)
    figures |= _accuracies(fitted.model, store, splits)
    write_json(result, figures)
    checkpoint.clear()
    return figures


def arm_settings(params: Params, arm: Arm) -> ClusterSettings:
    """The settings of ``cluster``, for the whole rounds next to what it and ``finetune`` take."""
    cluster, finetune = params.cluster, params.finetune
    off = {
        "pseudo_weight": arm.pseudo,
        "consistency_weight": arm.consistency,
        "center_weight": arm.metric,
        "island_weight": arm.metric,
    }
    weights = {term: getattr(finetune, term) if on else 0.0 for term, on in off.items()}
    rounds = cluster.rounds + round(finetune.epochs / cluster.epochs)
    rate = (finetune if arm.rate == "finetune" else cluster).learning_rate
    changes = {"rounds": rounds, "learning_rate": rate, **weights, **(arm.change or {})}
    return cluster.model_copy(update=changes)


def _accuracies(model: ACCNN, store: np.ndarray, splits: dict[str, LabelledRows]) -> dict[str, Any]:
    mirrored = {}
    for split, rows in splits.items():
        plain = embed_faces(model, store, rows.rows).logits
        both = plain + embed_faces(model, store, rows.rows, flip=True).logits
        mirrored[split] = float((plain.argmax(axis=1) == rows.labels).mean())
        mirrored[f"{split}_flip"] = float((both.argmax(axis=1) == rows.labels).mean())
    return mirrored


def summarise(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation of the test accuracy of each arm and share of labels."""
    groups: dict[tuple[float, str], list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        groups[run["labels"], run["arm"]].append(run)
    rows = []
    for (labels, arm), own in sorted(groups.items()):
        row: dict[str, Any] = {"labels": labels, "arm": arm, "draws": len(own)}
        for measure in ("test", "test_flip", "validation"):
            values = [run[measure] for run in own]
            row[measure], row[f"{measure}_std"] = mean_and_std(values)
        rows.append(row)
    return rows


def draw_curves(path: Path, rows: list[dict[str, Any]]) -> None:
    """Test accuracy against the share of labels, a line for each arm that has several."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    table = pd.DataFrame(rows)
    for arm, own in table.groupby("arm", sort=False):
        if len(own) == 1:
            continue
        spread = own["test_std"].astype(float).fillna(0)
        axes.errorbar(own["labels"], own["test"], yerr=spread, marker="o", capsize=3, label=arm)
    axes.set(xscale="log", xlabel="share of FER2013's labels", ylabel="accuracy on PrivateTest")
    shares = sorted(table["labels"].unique())
    axes.set_xticks(shares, [f"{100 * share:g}%" for share in shares])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:.1%}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    with replacing_file(path) as temporary:
        figure.savefig(temporary, format="svg")


def collect(folder: Path) -> Iterator[dict[str, Any]]:
    """Every arm's result that lies in ``folder``."""
    for path in folder.glob("*/.mien/arms/*.json"):
        share, _, draw = path.parents[2].name.rpartition("-")
        yield {"labels": float(share), "draw": int(draw), "arm": path.stem} | read_json(path)


def main() -> None:
    """Run what was asked for and write all that there is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "raw")
    parser.add_argument("--labels", type=float, nargs="+", default=[0.1], metavar="SHARE")
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument(
        "--params",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="YAML laid over configs/fer2013-lfw.yaml; may be given again, the last one wins",
    )
    options = parser.parse_args()
    name = "_".join(["few_labels", *(path.stem for path in options.params)])
    for share in options.labels:
        for draw in options.draws:
            out = RUNS / name / f"{share:g}-{draw}"
            prepare(out, options.params, options.data, share, draw)
            for arm in options.arms:
                figures = run_arm(out, arm)
                print(f"{share:g} draw {draw} {arm}: validation {figures['validation']:.1%}")
    runs = with_earlier(collect(RUNS / name), name, ("labels", "draw", "arm"))
    rows = summarise(runs)
    for row in rows:
        spread = f" ± {row['test_std']:.1%}" if row["test_std"] is not None else ""
        print(f"{row['labels']:<6g} {row['arm']:24} {row['test']:.1%}{spread} ({row['draws']})")
    write_result(name, {"machine": machine(), "summary": rows, "runs": runs})
    if len({row["labels"] for row in rows}) > 1:  # one share makes no curve
        draw_curves(FOLDER / f"{name}.svg", rows)


if __name__ == "__main__":
    main()
