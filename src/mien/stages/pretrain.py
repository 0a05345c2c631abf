"""Stage `pretrain`: the AC-CNN learns from the labelled faces; where asked for, it first learns
from all training faces without labels, and other networks have a say beside the labels."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mien.data.augmentation import Augmentation
from mien.data.dataset import labelled_rows, open_faces, training_rows, unlabelled_rows
from mien.data.manifest import read_manifest
from mien.evaluation.curves import write_curves
from mien.files import read_json, write_json
from mien.learning.checkpoint import Checkpoint, training_code
from mien.learning.distillation import (
    AdvisedTask,
    Adviser,
    larger_networks,
    refined,
    refined_labels,
    shipped_voice,
)
from mien.learning.embedding import accuracy_on
from mien.learning.face_mesh import WEIGHTS
from mien.learning.face_shape import FaceShapes, ShapeTask, face_shapes, shape_r2
from mien.learning.recognition import WEIGHTS as RECOGNITION
from mien.learning.recognition import RecognitionNet, learn_labels, save_recognition
from mien.learning.self_supervised import SelfSupervisedTask, effective_rank
from mien.learning.training import (
    Fitted,
    History,
    StartTask,
    SupervisedTask,
    channels_last,
    class_log_prior,
    fit,
    make_fabric,
)
from mien.learning.transfer import begin_with
from mien.model.accnn import ACCNN, FaceNetwork
from mien.model.cost import count_cost
from mien.model.weights import load_weights, save_networks, save_weights, shipped_weights
from mien.params import NetworkKind, Params
from mien.stages._run import run_stage


def main(
    params: Params,
    *,
    manifest: Path,
    faces: Path,
    verdict: Path,
    checkpoints: Path,
    weights: Path,
    larger: Path,
    recognition: Path,
    curves: Path,
    report: Path,
    metrics: Path,
) -> None:
    """Train the AC-CNN on the labelled faces, after a start without labels and with other networks'
    help where asked for; most of those are kept for the stage `cluster`."""
    table, store = read_manifest(manifest), open_faces(faces)
    labelled = training_rows(table, params.expressions)
    validation = labelled_rows(table, params.expressions, "validation")
    image_size = store.shape[-1]

    settings, fabric = params.pretrain, make_fabric(params.compute)
    augmentation = Augmentation(params.augmentation)
    decides = params.model_dump(
        include={"seed", "expressions", "model", "augmentation", "pretrain"}
    )
    networks = settings.larger.networks if settings.larger.epochs else 0
    refinery = [
        shipped_weights(size) for size in settings.refinery.networks if size != "recognition"
    ]
    start = None if settings.first_weights == "random" else shipped_weights(settings.first_weights)
    shipped = [*refinery, *([start] if start else [])]
    mesh = [WEIGHTS] if settings.landmarks.epochs else []
    recognises = [RECOGNITION] if settings.recognition.epochs else []
    inputs = [manifest, faces, *shipped, *mesh, *recognises, *training_code(__file__)]
    run = Checkpoint.of(checkpoints, decides, inputs)

    def learn(
        task: SupervisedTask[ACCNN] | StartTask,
        checkpoint: Checkpoint,
        validate: Callable[[ACCNN], dict[str, float]],
        title: str,
        seed: int,
    ) -> Fitted[ACCNN]:
        return fit(
            task,
            task.settings,
            epochs=task.settings.epochs,
            seed=seed,
            fabric=fabric,
            checkpoint=checkpoint,
            validate=validate,
            title=title,
        )

    everyone = np.concatenate([labelled.rows, unlabelled_rows(table)])

    def begin(kind: NetworkKind, part: str, title: str, seed: int) -> tuple[ACCNN, dict[str, Any]]:
        """A network and the figures of its start without labels, if it had one.

        What is kept and drawn of that start is named after ``part``.
        """
        torch.manual_seed(seed)  # of its first weights
        shape = params.model if kind == "accnn" else params.larger_model
        network = ACCNN(shape, len(params.expressions))
        figures: dict[str, Any] = {}

        def learn_first(
            task: StartTask, name: str, measure: Callable[[ACCNN], dict[str, float]]
        ) -> ACCNN:
            words = f"{title} without labels"
            fitted = learn(task, run.part(f"{part}{name}"), measure, words, seed)
            draw(f"{part}{name}", fitted.history, "Before the labels")
            figures[name] = fitted.history
            return fitted.model.requires_grad_(True)

        if settings.self_supervised.begins(kind):
            strength = settings.self_supervised.strength
            views = params.augmentation.model_copy(update={"strong": strength})
            network = learn_first(
                SelfSupervisedTask(
                    network,
                    store,
                    labelled,
                    everyone,
                    settings.self_supervised,
                    Augmentation(views),
                ),
                "self_supervised",
                lambda net: effective_rank(net, store, everyone),
            )
        if settings.landmarks.begins(kind):
            shapes = shapes_of_all()
            figures["landmarks_found"] = shapes.found.mean().item()
            network = learn_first(
                ShapeTask(
                    network, store, labelled, everyone, shapes, settings.landmarks, augmentation
                ),
                "landmarks",
                lambda net: shape_r2(net, store, everyone, shapes),
            )
        return network, figures

    @cache
    def shapes_of_all() -> FaceShapes:
        landmarks = settings.landmarks
        return face_shapes(store, everyone, landmarks.components, params.compute.threads, run.once)

    def draw(name: str, history: History, title: str) -> None:
        write_curves(report / f"{name}.csv", report / f"{name}.svg", history, title)

    def accuracy(net: FaceNetwork) -> dict[str, float]:
        return accuracy_on(net, store, validation)

    # what may be refused comes before what takes long
    log_prior = class_log_prior(labelled.labels, len(params.expressions), settings.class_balance)
    shipped_prior = log_prior.to(fabric.device)
    voices = [
        shipped_voice(load_weights(path), params.expressions, image_size, shipped_prior)
        for path in refinery
    ]
    model, beginnings = begin("accnn", "", "pretrain", params.seed)
    strength: float | None = None
    if start:
        strength = begin_with(
            model,
            load_weights(start),
            store,
            labelled,
            expressions=params.expressions,
            log_prior=log_prior,
            seed=params.seed,
        )
        print(f"pretrain: the head is {'fitted anew' if strength else 'that of the weights'}")

    recogniser: RecognitionNet | None = None
    told: dict[str, Any] = {}
    if settings.recognition.epochs:
        learned = learn_labels(
            store,
            labelled,
            len(params.expressions),
            settings.recognition,
            augmentation,
            seed=params.seed,
            fabric=fabric,
            checkpoint=run.part("recognition"),
            validate=accuracy,
        )
        draw("recognition", learned.history, "The face-recognition network")
        recogniser, told = learned.model, {"recognition": learned.history[-1]}
        if "recognition" in settings.refinery.networks:
            voices.append(channels_last(recogniser).to(fabric.device).probabilities)

    theirs = settings.larger.model_dump(include={"epochs", "batch_size", "learning_rate"})
    advisers: list[Fitted[ACCNN]] = []
    for number in range(1, networks + 1):
        part, seed = f"larger_{number}", params.seed + number - 1
        title = f"pretrain, larger network {number}/{networks}"
        network, _ = begin("larger", f"{part}_", title, seed)
        larger_task = SupervisedTask(
            network, store, labelled, settings.model_copy(update=theirs), augmentation
        )
        advisers.append(learn(larger_task, run.part(part), accuracy, title, seed))
        draw(part, advisers[-1].history, title)
    advice: tuple[Adviser, float] | None = None
    if voices:
        labels = refined_labels(
            voices,
            store,
            labelled,
            augmentation=augmentation,
            views=settings.refinery.views,
            seed=params.seed,
            fabric=fabric,
            checkpoint=run.part("refinery"),
        )
        advice = refined(labels.to(fabric.device)), settings.refinery.weight
    if advisers:
        advice = larger_networks([each.model for each in advisers]), settings.larger.weight

    data = (model, store, labelled, settings, augmentation)
    if advice:
        adviser, weight = advice
        task: SupervisedTask[ACCNN] = AdvisedTask(*data, adviser=adviser, weight=weight)
    else:
        task = SupervisedTask(*data)
    fitted = learn(task, run, accuracy, "pretrain", params.seed)
    names = tuple(params.expressions)
    save_weights(weights, fitted.model, names, image_size)
    save_networks(larger, [each.model for each in advisers], names, image_size)
    save_recognition(recognition, recogniser, names, image_size)
    write_curves(curves, report / "curves.svg", fitted.history, "Pretraining")
    write_json(
        metrics,
        {
            "labelled_faces": len(labelled),
            **_summary(fitted, image_size),
            **({"head_strength": strength} if strength else {}),
            **beginnings,
            **told,
            **({"larger": [_summary(each, image_size) for each in advisers]} if advisers else {}),
            "validated": read_json(verdict)["success"],
        },
    )
    run.clear_all()


def _summary(fitted: Fitted[ACCNN], image_size: int) -> dict[str, float]:
    cost = count_cost(fitted.model, image_size)
    return {"parameters": cost.parameters, "macs": cost.macs, **fitted.history[-1]}


if __name__ == "__main__":
    run_stage(main)
