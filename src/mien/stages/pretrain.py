"""Stage `pretrain`: the AC-CNN learns from the labelled faces; where asked for, it first learns
from all training faces without labels, and other networks have a say beside the labels."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning_fabric
import numpy as np
import torch
from torch import Tensor

from mien.data.augmentation import Augmentation
from mien.data.dataset import (
    Faces,
    LabelledRows,
    Rows,
    labelled_rows,
    open_faces,
    training_rows,
    unlabelled_rows,
)
from mien.data.manifest import read_manifest
from mien.evaluation.curves import write_curves
from mien.files import read_json, write_json
from mien.learning.checkpoint import Checkpoint, training_code
from mien.learning.distillation import (
    AdvisedTask,
    Adviser,
    Voice,
    larger_networks,
    refined,
    refined_labels,
    shipped_voice,
)
from mien.learning.embedding import accuracy_on
from mien.learning.face_mesh import WEIGHTS as FACE_MESH
from mien.learning.face_shape import FaceShapes, ShapeTask, face_shapes, shape_r2
from mien.learning.recognition import WEIGHTS as RECOGNITION
from mien.learning.recognition import RecognitionNet, learn_labels, save_recognition
from mien.learning.self_supervised import SelfSupervisedTask, effective_rank
from mien.learning.training import (
    Fitted,
    History,
    StartTask,
    SupervisedTask,
    class_log_prior,
    fit,
    in_words,
    make_fabric,
)
from mien.learning.transfer import begin_with, mean_with_first
from mien.model.accnn import ACCNN, FaceNetwork
from mien.model.cost import count_cost
from mien.model.weights import load_weights, save_networks, save_weights, shipped_weights
from mien.params import Params
from mien.params.learning import NetworkKind, PretrainSettings
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
    settings, names, image_size = params.pretrain, tuple(params.expressions), store.shape[-1]
    decides = params.model_dump(
        include={"seed", "expressions", "model", "augmentation", "pretrain"}
    )
    run = Checkpoint.of(
        checkpoints, decides, [manifest, faces, *_ship(settings), *training_code(__file__)]
    )
    training = _Training(
        params,
        store,
        labelled,
        validation=labelled_rows(table, params.expressions, "validation"),
        everyone=np.concatenate([labelled.rows, unlabelled_rows(table)]),
        fabric=make_fabric(params.compute),
        run=run,
        report=report,
    )

    # what may be refused comes before what takes long
    voices = training.shipped_voices()
    model, figures = training.begin("accnn", "", "pretrain", params.seed)
    if settings.first_weights != "random":
        figures |= training.begin_with_shipped(model)
    recogniser: RecognitionNet | None = None
    if settings.recognition.epochs:
        taught = training.recognition_network()
        recogniser, figures["recognition"] = taught.model, taught.history[-1]
    others = training.larger_networks() if settings.larger.epochs else []
    if others:
        figures["larger"] = [_summary(each, image_size) for each in others]
    first = {name: value.clone() for name, value in model.state_dict().items()}
    task = training.task(model, training.advice(voices, recogniser, others))
    fitted = training.learn(task, run, training.accuracy, "pretrain", params.seed)
    if share := settings.first_weights_share:
        mean_with_first(fitted.model, first, share, store, labelled)
        figures |= (averaged := training.accuracy(fitted.model))
        print(f"pretrain, mean with the first weights: {in_words(averaged)}")

    save_weights(weights, fitted.model, names, image_size)
    save_networks(larger, [each.model for each in others], names, image_size)
    save_recognition(recognition, recogniser, names, image_size)
    write_curves(curves, report / "curves.svg", fitted.history, "Pretraining")
    write_json(
        metrics,
        {
            "labelled_faces": len(labelled),
            **_summary(fitted, image_size),
            **figures,
            "validated": read_json(verdict)["success"],
        },
    )
    run.clear_all()


def _ship(settings: PretrainSettings) -> list[Path]:
    """The files of Mien's own that this training reads."""
    sizes = {settings.first_weights, *settings.refinery.shipped} - {"random"}
    return [
        *(shipped_weights(size) for size in sorted(sizes)),
        *([FACE_MESH] if settings.landmarks.epochs else []),
        *([RECOGNITION] if settings.recognition.epochs else []),
    ]


@dataclass(frozen=True)
class _Training:
    """What all trainings of the stage share, and each of them.

    ``everyone`` are the rows of all training faces; ``run`` keeps what was learned so far.
    """

    params: Params
    store: Faces
    labelled: LabelledRows
    validation: LabelledRows
    everyone: Rows
    fabric: lightning_fabric.Fabric
    run: Checkpoint
    report: Path

    @property
    def settings(self) -> PretrainSettings:
        return self.params.pretrain

    @cached_property
    def augmentation(self) -> Augmentation:
        return Augmentation(self.params.augmentation)

    @cached_property
    def log_prior(self) -> Tensor:
        classes = len(self.params.expressions)
        return class_log_prior(self.labelled.labels, classes, self.settings.class_balance)

    @cached_property
    def shapes(self) -> FaceShapes:
        """Of everyone's faces."""
        components, threads = self.settings.landmarks.components, self.params.compute.threads
        return face_shapes(self.store, self.everyone, components, threads, self.run.once)

    def accuracy(self, net: FaceNetwork) -> dict[str, float]:
        return accuracy_on(net, self.store, self.validation)

    def draw(self, name: str, history: History, title: str) -> None:
        write_curves(self.report / f"{name}.csv", self.report / f"{name}.svg", history, title)

    def learn(
        self,
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
            fabric=self.fabric,
            checkpoint=checkpoint,
            validate=validate,
            title=title,
        )

    def begin(
        self, kind: NetworkKind, part: str, title: str, seed: int
    ) -> tuple[ACCNN, dict[str, Any]]:
        """A network and the figures of its start without labels, if it had one.

        What is kept and drawn of that start is named after ``part``.
        """
        params, settings, store = self.params, self.settings, self.store
        torch.manual_seed(seed)  # of its first weights
        shape = params.model if kind == "accnn" else params.larger_model
        network = ACCNN(shape, len(params.expressions))
        data = (store, self.labelled, self.everyone)
        figures: dict[str, Any] = {}

        def learn_first(
            task: StartTask, name: str, measure: Callable[[ACCNN], dict[str, float]]
        ) -> ACCNN:
            words = f"{title} without labels"
            fitted = self.learn(task, self.run.part(f"{part}{name}"), measure, words, seed)
            self.draw(f"{part}{name}", fitted.history, "Before the labels")
            figures[name] = fitted.history
            return fitted.model.requires_grad_(True)

        if settings.self_supervised.begins(kind):
            strength = settings.self_supervised.strength
            views = Augmentation(params.augmentation.model_copy(update={"strong": strength}))
            network = learn_first(
                SelfSupervisedTask(network, *data, settings.self_supervised, views),
                "self_supervised",
                lambda net: effective_rank(net, store, self.everyone),
            )
        if settings.landmarks.begins(kind):
            shapes = self.shapes
            figures["landmarks_found"] = shapes.found.mean().item()
            network = learn_first(
                ShapeTask(network, *data, shapes, settings.landmarks, self.augmentation),
                "landmarks",
                lambda net: shape_r2(net, store, self.everyone, shapes),
            )
        return network, figures

    def begin_with_shipped(self, model: ACCNN) -> dict[str, float]:
        """Give ``model`` weights that ship; how its head was fitted, if it was."""
        strength = begin_with(
            model,
            load_weights(shipped_weights(self.settings.first_weights)),
            self.store,
            self.labelled,
            expressions=self.params.expressions,
            log_prior=self.log_prior,
            seed=self.params.seed,
        )
        print(f"pretrain: the head is {'fitted anew' if strength else 'that of the weights'}")
        return {"head_strength": strength} if strength else {}

    def recognition_network(self) -> Fitted[RecognitionNet]:
        """The face-recognition network, once it has learned the labels."""
        fitted = learn_labels(
            self.store,
            self.labelled,
            len(self.params.expressions),
            self.settings.recognition,
            self.augmentation,
            seed=self.params.seed,
            fabric=self.fabric,
            checkpoint=self.run.part("recognition"),
            validate=self.accuracy,
        )
        self.draw("recognition", fitted.history, "The face-recognition network")
        return fitted

    def larger_networks(self) -> list[Fitted[ACCNN]]:
        """The larger networks, once they have learned the labels."""
        larger = self.settings.larger
        theirs = larger.model_dump(include={"epochs", "batch_size", "learning_rate"})
        settings = self.settings.model_copy(update=theirs)
        learned = []
        for number in range(1, larger.networks + 1):
            part, seed = f"larger_{number}", self.params.seed + number - 1
            title = f"pretrain, larger network {number}/{larger.networks}"
            network, _ = self.begin("larger", f"{part}_", title, seed)
            task = SupervisedTask(network, self.store, self.labelled, settings, self.augmentation)
            learned.append(self.learn(task, self.run.part(part), self.accuracy, title, seed))
            self.draw(part, learned[-1].history, title)
        return learned

    def shipped_voices(self) -> list[Voice]:
        """Of the networks that ship and refine the labels.

        Raises:
            MienError: one does not know an expression, or faces of this size.
        """
        prior, image_size = self.log_prior.to(self.fabric.device), self.store.shape[-1]
        return [
            shipped_voice(
                load_weights(shipped_weights(size)), self.params.expressions, image_size, prior
            )
            for size in self.settings.refinery.shipped
        ]

    def advice(
        self,
        voices: list[Voice],
        recogniser: RecognitionNet | None,
        others: list[Fitted[ACCNN]],
    ) -> tuple[Adviser, float] | None:
        """What the AC-CNN learns from beside the labels, and that one's weight."""
        if others:
            return larger_networks([each.model for each in others]), self.settings.larger.weight
        refinery = self.settings.refinery
        if recogniser and "recognition" in refinery.networks:
            voices = [*voices, recogniser.to(self.fabric.device).probabilities]
        if not voices:
            return None
        labels = refined_labels(
            voices,
            self.store,
            self.labelled,
            augmentation=self.augmentation,
            views=refinery.views,
            seed=self.params.seed,
            fabric=self.fabric,
            checkpoint=self.run.part("refinery"),
        )
        return refined(labels.to(self.fabric.device)), refinery.weight

    def task(self, model: ACCNN, advice: tuple[Adviser, float] | None) -> SupervisedTask[ACCNN]:
        """The training of the AC-CNN itself."""
        data = (model, self.store, self.labelled, self.settings, self.augmentation)
        if not advice:
            return SupervisedTask(*data)
        adviser, weight = advice
        return AdvisedTask(*data, adviser=adviser, weight=weight)


def _summary(fitted: Fitted[ACCNN], image_size: int) -> dict[str, float]:
    cost = count_cost(fitted.model, image_size)
    return {"parameters": cost.parameters, "macs": cost.macs, **fitted.history[-1]}


if __name__ == "__main__":
    run_stage(main)
