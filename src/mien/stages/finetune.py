"""Stage `finetune`: the combined loss on the updated training set."""

from pathlib import Path

import numpy as np
import pandas as pd

from mien.data.augmentation import Augmentation
from mien.data.dataset import (
    Rows,
    indices,
    labelled_rows,
    open_faces,
    training_rows,
    unlabelled_rows,
)
from mien.data.manifest import read_manifest
from mien.evaluation.curves import write_curves
from mien.files import write_json
from mien.learning.checkpoint import Checkpoint, training_code
from mien.learning.clustering import Array
from mien.learning.embedding import accuracy_on
from mien.learning.joint import JointData, JointTask
from mien.learning.pseudo_labels import POSTERIOR
from mien.learning.training import fit, make_fabric
from mien.model.weights import load_weights, save_weights
from mien.params import Params
from mien.stages._run import run_stage


def main(
    params: Params,
    *,
    manifest: Path,
    faces: Path,
    assignments: Path,
    training_set: Path,
    start: Path,
    checkpoints: Path,
    weights: Path,
    curves: Path,
    report: Path,
    metrics: Path,
) -> None:
    """Fine-tune the network on labelled and pseudo-labelled faces with the combined loss."""
    table, store = read_manifest(manifest), open_faces(faces)
    validation = labelled_rows(table, params.expressions, "validation")
    data = JointData(store, training_rows(table, params.expressions), unlabelled_rows(table))
    updated = pd.read_parquet(training_set)
    trained = load_weights(start)
    settings = params.finetune
    run = Checkpoint.of(
        checkpoints,
        params.model_dump(include={"seed", "expressions", "augmentation", "finetune"}),
        [manifest, faces, assignments, training_set, start, *training_code(__file__)],
    )
    task = JointTask(trained.model, data, settings, Augmentation(params.augmentation))
    said = posteriors(pd.read_parquet(assignments), data.unlabelled, params.expressions)
    task.set_targets(*targets(updated, data.unlabelled, params.expressions), expected_shares(said))
    if settings.consistency_guess == "clusters":
        task.set_guesses(said)
    fitted = fit(
        task,
        settings,
        epochs=settings.epochs,
        seed=params.seed,
        fabric=make_fabric(params.compute),
        checkpoint=run,
        validate=lambda net: accuracy_on(net, store, validation),
        title="finetune",
    )
    save_weights(weights, fitted.model, trained.expressions, trained.image_size)
    write_curves(curves, report / "curves.svg", fitted.history, "Fine-tuning")
    counts = updated["origin"].value_counts()
    write_json(
        metrics,
        {f"{origin}_faces": int(count) for origin, count in counts.items()} | fitted.history[-1],
    )
    run.clear_all()


def targets(updated: pd.DataFrame, unlabelled: Rows, expressions: list[str]) -> tuple[Array, Array]:
    """Targets ``[U, C]`` and weights ``[U]`` of the unlabelled faces.

    A rejected face has weight 0 and no expression (a row of zeros).
    """
    pseudo = updated[updated["origin"] == "pseudo"]
    place = pd.Series(np.arange(len(unlabelled)), index=unlabelled).loc[pseudo["row"]].to_numpy()
    one_hot = np.zeros((len(unlabelled), len(expressions)), np.float32)
    one_hot[place, indices(pseudo["label"], expressions)] = 1
    weights = np.zeros(len(unlabelled), np.float32)
    weights[place] = pseudo["weight"].to_numpy()
    return one_hot, weights


def posteriors(assignments: pd.DataFrame, unlabelled: Rows, expressions: list[str]) -> Array:
    """What clustering says of the unlabelled faces, ``[U, C]``."""
    columns = [POSTERIOR + name for name in expressions]
    return assignments.set_index("row").loc[unlabelled, columns].to_numpy(np.float32)


def expected_shares(posterior: Array) -> Array:
    """Shares ``[C]`` of the expressions among all unlabelled faces: the mean of the posteriors.

    Not those among the accepted faces: an expression that passes few floors is not that rare, and
    guesses that are aligned to such shares would unlearn it.
    """
    shares: Array = posterior.mean(axis=0)
    return shares


if __name__ == "__main__":
    run_stage(main)
