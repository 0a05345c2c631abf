"""Stage `cluster`: joint learning. Guided clustering labels the unlabelled faces while the network
learns from those labels, in rounds, until the clusters settle.

The network is the AC-CNN; where asked for, larger networks learn beside it or in its place, all
label the faces together, and the AC-CNN learns from what they say in the stage `finetune`. So may
a face-recognition network that has learned the labelled faces in the stage `pretrain`.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from mien.data.augmentation import Augmentation
from mien.data.dataset import labelled_rows, open_faces, training_rows, unlabelled_rows
from mien.data.manifest import people, read_manifest
from mien.errors import MienError
from mien.evaluation.curves import write_curves
from mien.evaluation.pictures import write_contact_sheet
from mien.files import replacing_file, write_json
from mien.learning.checkpoint import Checkpoint, training_code
from mien.learning.clustering import FREE, Array, unit
from mien.learning.embedding import accuracy_on
from mien.learning.joint import ClusteredFaces, ClusterTask, JointData, agreement, cluster_faces
from mien.learning.pseudo_labels import POSTERIOR
from mien.learning.recognition import WEIGHTS as RECOGNITION
from mien.learning.recognition import load_recognition, say
from mien.learning.training import History, fit, make_fabric
from mien.model.accnn import ACCNN
from mien.model.weights import load_networks, load_weights, save_weights
from mien.params import Params
from mien.stages._run import run_stage


def main(
    params: Params,
    *,
    manifest: Path,
    faces: Path,
    pretrained: Path,
    larger: Path,
    recognition: Path,
    checkpoints: Path,
    weights: Path,
    assignments: Path,
    curves: Path,
    report: Path,
    metrics: Path,
) -> None:
    """Cluster the unlabelled faces, guided by the labelled ones, while the network learns."""
    table, store = read_manifest(manifest), open_faces(faces)
    validation = labelled_rows(table, params.expressions, "validation")
    data = JointData(store, training_rows(table, params.expressions), unlabelled_rows(table))
    if not len(data.unlabelled):
        raise MienError("no unlabelled faces: give a source with role 'unlabelled'")
    trained = load_weights(pretrained)
    settings = params.cluster
    asked = "recognition" in settings.networks
    ships = [RECOGNITION] if asked else []  # its lower layers, which nothing here has learned
    run = Checkpoint.of(
        checkpoints,
        params.model_dump(include={"seed", "expressions", "augmentation", "cluster"}),
        [manifest, faces, pretrained, larger, recognition, *ships, *training_code(__file__)],
    )
    augmentation, fabric = Augmentation(params.augmentation), make_fabric(params.compute)

    def learn(
        network: ACCNN, checkpoint: Checkpoint, title: str, seed: int
    ) -> tuple[ACCNN, ClusteredFaces, History]:
        """The network after joint learning, what it says of the faces, and each round's figures."""
        task = ClusterTask(network, data, settings, augmentation, seed)
        fitted = fit(
            task,
            settings,
            epochs=settings.rounds * settings.epochs,
            seed=seed,
            fabric=fabric,
            checkpoint=checkpoint,
            validate=lambda net: accuracy_on(net, store, validation),
            title=title,
        )
        found = cluster_faces(fitted.model.to(fabric.device), data, settings, seed)
        final_nmi = agreement(task.clusters.cpu().numpy(), found.clustering.cluster)
        return fitted.model, found, by_round(fitted.history, final_nmi)

    def draw(name: str, history: History, title: str) -> None:
        write_curves(report / f"{name}.csv", report / f"{name}.svg", history, title)

    model = trained.model  # where others learn in its place it goes on from where it was
    several: list[tuple[ClusteredFaces, History]] = []
    if "accnn" in settings.networks:
        model, said, figures = learn(model, run, "cluster", params.seed)
        several.append((said, figures))
    networks = load_networks(larger) if "larger" in settings.networks else []
    for number, each in enumerate(networks, 1):
        name, title = f"larger_{number}", f"cluster, larger network {number}/{len(networks)}"
        _, said, figures = learn(each.model, run.part(name), title, params.seed + number - 1)
        draw(name, figures, "Joint learning")
        several.append((said, figures))
    posteriors = [said.clustering.posterior for said, _ in several]
    recogniser = load_recognition(recognition) if asked else None
    if recogniser:
        posteriors.append(
            say(
                recogniser,
                store,
                data.unlabelled,
                fabric=fabric,
                checkpoint=run.part("recognition"),
            )
        )
    (first, rounds), *_ = several
    found = with_posterior(first, np.mean(posteriors, axis=0))

    save_weights(weights, model, trained.expressions, trained.image_size)
    unlabelled = table[table["role"] == "unlabelled"]
    rows = assignment_table(unlabelled, found, params.expressions)
    with replacing_file(assignments) as temporary:
        rows.to_parquet(temporary, index=False)
    write_curves(curves, report / "curves.svg", rounds, "Joint learning")
    draw_prototypes(report / "prototypes.png", rows, found, store, params.expressions)
    write_json(
        metrics,
        {
            "network": settings.leader,
            "unlabelled_faces": len(rows),
            "prototypes": len(found.clustering.prototypes.vectors),
            "dustbin_share": float((rows["cluster"] == FREE).mean()),
            "estimated_prior": dict(
                zip(params.expressions, found.clustering.prior.tolist(), strict=True)
            ),
            **agreements(rows, unlabelled),
            **rounds[-1],
        },
    )
    run.clear_all()


def with_posterior(found: ClusteredFaces, posterior: Array) -> ClusteredFaces:
    """The clustering with the posterior ``[U, C]`` that all networks have together."""
    return replace(found, clustering=replace(found.clustering, posterior=posterior))


def assignment_table(
    unlabelled: pd.DataFrame, found: ClusteredFaces, expressions: list[str]
) -> pd.DataFrame:
    """One row for each unlabelled face: its cluster and what that says of its expression."""
    clustering = found.clustering
    columns = {POSTERIOR + name: clustering.posterior[:, i] for i, name in enumerate(expressions)}
    best = clustering.posterior.argmax(axis=1)
    return pd.DataFrame(
        {
            "face_id": unlabelled["face_id"].to_numpy(),
            "row": unlabelled["row"].to_numpy(),
            "cluster": clustering.cluster,
            "expression": np.asarray(expressions, dtype=object)[best],
            **columns,
            "purity": clustering.purity,
            "density": clustering.density,
            "flip_agrees": found.flip_agrees,
        }
    )


def by_round(history: History, final_nmi: float) -> History:
    """The last epoch of each round; ``nmi`` compares a round's clusters with the next one's."""
    last = {int(record["round"]): record for record in history}
    agreed = [record["nmi"] for record in history if "nmi" in record] + [final_nmi]
    unwanted = {"epoch", "round", "nmi"}
    return [
        {"round": number, "nmi": nmi} | {k: v for k, v in record.items() if k not in unwanted}
        for (number, record), nmi in zip(last.items(), agreed, strict=True)
    ]


def agreements(rows: pd.DataFrame, unlabelled: pd.DataFrame) -> dict[str, float]:
    """How much the clusters tell of expressions and of people, where those are known (NMI).

    Faces of one person lie close together: clusters that follow people are of no use.
    """
    truths = {"expression_nmi": unlabelled["true_label"], "identity_nmi": people(unlabelled)}
    result = {}
    for name, true in truths.items():
        known = true.notna().to_numpy()
        if known.any():
            truth = true[known].astype("category").cat.codes.to_numpy()
            result[name] = agreement(truth, rows["cluster"].to_numpy()[known])
    return result


def draw_prototypes(
    path: Path, rows: pd.DataFrame, found: ClusteredFaces, store: np.ndarray, expressions: list[str]
) -> None:
    """Contact sheet: of each prototype's cluster the nearest faces, and how many it holds."""
    embeddings = found.embedded.embeddings
    z = unit(embeddings - embeddings.mean(axis=0))
    places, clusters = rows["row"].to_numpy(), rows["cluster"].to_numpy()
    sheet = []
    prototypes = found.clustering.prototypes
    for index, expression in enumerate(prototypes.expressions):
        held = np.flatnonzero(clusters == index)
        nearest = held[np.argsort(-(z[held] @ prototypes.vectors[index]), kind="stable")[:16]]
        name = "free" if expression == FREE else expressions[expression]
        count = f"{len(held):,} face{'s' if len(held) != 1 else ''}"
        sheet.append((f"{name} #{index}\n{count}", store[places[nearest]]))
    write_contact_sheet(path, sheet, columns=16)


if __name__ == "__main__":
    run_stage(main)
