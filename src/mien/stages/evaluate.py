"""Stage ``evaluate``: every test set, with the pretrained model beside the final one."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml

from mien.data.dataset import Faces, indices, open_faces
from mien.data.manifest import read_manifest
from mien.errors import MienError
from mien.evaluation.degradations import DEGRADATIONS
from mien.evaluation.measures import Predictions, measure_test_set
from mien.evaluation.report import write_report
from mien.evaluation.tables import (
    TestSet,
    find_mistakes,
    tabulate_predictions,
    tabulate_reliability,
    tabulate_selective,
    write_table,
)
from mien.files import read_json, write_json
from mien.learning.embedding import Embedded, embed_faces
from mien.model.weights import Trained, load_weights
from mien.params import Params
from mien.stages._run import run_stage

TRAINING_STAGES = ("pretrain", "cluster", "finetune")
_OF_NO_FIGURE = {"compute", "package", "promotion", "monitoring"}
"""Sections of the settings that the report leaves out: they may change without making it wrong."""


def main(
    params: Params,
    *,
    manifest: Path,
    faces: Path,
    pretrained: Path,
    final: Path,
    predictions: Path,
    plots: Path,
    curves: Path,
    audit: Path,
    report: Path,
    metrics: Path,
) -> None:
    """Measure the pretrained and the final model on every test set, and report."""
    expressions = params.expressions
    tests = find_test_sets(read_manifest(manifest), expressions)
    store = open_faces(faces)
    if params.compute.threads:
        torch.set_num_threads(params.compute.threads)
    networks = [load_trained(path, expressions) for path in (pretrained, final)]

    test_sets = []
    for name, table in tests.items():
        before, after = (predict(each, store, table, expressions) for each in networks)
        measures = measure_test_set(before, after, expressions, params.evaluate, params.seed)
        mistakes = find_mistakes(after, store, table, expressions, params.evaluate.mistakes)
        test_sets.append(TestSet(name, table, before, after, measures, mistakes))
        print(
            f"{name}: accuracy {measures['pretrained']['accuracy']:.1%} pretrained, "
            f"{measures['final']['accuracy']:.1%} final, of {len(table)} faces",
            flush=True,
        )

    bins = params.evaluate.calibration_bins
    said = tabulate_predictions(test_sets, expressions)
    write_table(predictions, said)
    finals = said.loc[said["model"].eq("final"), ["actual", "predicted", "test_set"]]
    write_table(plots / "confusion.csv", finals)
    write_table(plots / "reliability.csv", tabulate_reliability(test_sets, bins))
    write_table(plots / "selective.csv", tabulate_selective(test_sets))
    write_report(
        report,
        test_sets,
        expressions=expressions,
        bins=bins,
        learning={
            learner(stage, params): pd.read_csv(path)
            for stage in TRAINING_STAGES
            if (path := curves / f"{stage}.csv").exists()
        },
        audit=read_json(audit),
        settings=yaml.safe_dump(
            params.model_dump(mode="json", by_alias=True, exclude=_OF_NO_FIGURE),
            sort_keys=False,
            allow_unicode=True,
        ),
    )
    write_json(metrics, {each.name: each.measures for each in test_sets})
    print(f"report: {report.absolute() / 'index.html'}", flush=True)


def learner(stage: str, params: Params) -> str:
    """The stage's name, and in ``cluster`` whether it is a larger network that learned there."""
    larger = stage == "cluster" and params.cluster.leader == "larger"
    return "cluster (larger network)" if larger else stage


def find_test_sets(manifest: pd.DataFrame, expressions: list[str]) -> dict[str, pd.DataFrame]:
    """The labelled test faces of each source that has some.

    Raises:
        MienError: no source has any.
    """
    table = manifest[(manifest["role"] == "test") & manifest["label"].isin(expressions)]
    if table.empty:
        raise MienError(
            "there are no labelled test faces to evaluate on; in params.yaml, add a source with "
            "`role: test` to prepare.sources, or set test_share above 0 on a labelled source"
        )
    return {str(name): rows for name, rows in table.groupby("source", sort=True)}


def load_trained(path: Path, expressions: list[str]) -> Trained:
    """Weights that answer the configured expressions."""
    trained = load_weights(path)
    if list(trained.expressions) != expressions:
        raise MienError(
            f"{path}: trained for {', '.join(trained.expressions)}, but params.yaml lists "
            f"{', '.join(expressions)}; train again with `dvc repro`"
        )
    return trained


def predict(
    trained: Trained,
    store: Faces,
    table: pd.DataFrame,
    expressions: list[str],
) -> Predictions:
    """What a network says of a table's faces, of their mirror images, and of worse pictures."""
    faces = np.asarray(store[table["row"].to_numpy()])

    def embed(pictures: Faces, *, flip: bool = False) -> Embedded:
        return embed_faces(trained.model, pictures, np.arange(len(pictures)), flip=flip)

    return Predictions(
        truth=indices(table["label"], expressions),
        probabilities=embed(faces).probabilities,
        flipped=embed(faces, flip=True).probabilities,
        degraded={
            kind: embed(changes["clear"](faces)).logits.argmax(axis=1)
            for kind, changes in DEGRADATIONS.items()
        },
    )


if __name__ == "__main__":
    run_stage(main)
