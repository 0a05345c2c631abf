"""The model card: what the model is, what it learned from, what it can do, where it must not go."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from mien.errors import MienError
from mien.evaluation.calibration import Calibration
from mien.evaluation.measures import Json
from mien.evaluation.rendering import templates
from mien.params import Params
from mien.params.learning import ModelSettings

INTENDED_USE = [
    "Research on learning facial expressions from few labels.",
    "Labelling one's own collections of face pictures, with a person checking the labels.",
    "Interfaces that answer to a posed expression of a person who knows and agrees.",
]

FORBIDDEN_USE = [
    "Inferring the emotions of people at the workplace or in education institutions: Art. 5(1)(f) "
    "of the EU AI Act (Regulation (EU) 2024/1689) prohibits it, unless the system is meant for "
    "medical or safety reasons. Classrooms, exams, job interviews and call centres are meant too.",
    "Any decision about a person: hiring, grading, insurance, credit, policing, migration, courts.",
    "Finding lies, intentions, illness or character in a face.",
    "Watching people who do not know of it or have not agreed.",
]

HIGH_RISK_DUTIES = [
    "Elsewhere in the EU, emotion recognition is high-risk (Annex III, point 1(c)). Before use, "
    "the provider needs risk management (Art. 9), data governance (Art. 10), technical "
    "documentation (Art. 11), logs (Art. 12), instructions for use (Art. 13), human oversight "
    "(Art. 14), accuracy, robustness and cybersecurity (Art. 15), conformity assessment (Art. 43).",
    "Whoever uses it must assign human oversight and keep the logs (Art. 26), and tell the people "
    "exposed to it (Art. 50(3)).",
    "Pictures of faces are personal data; the GDPR applies beside the AI Act.",
]

LIMITS = [
    "An expression is not an emotion: the model names how a face looks, not what the person feels.",
    "It judges one still picture, and knows no context, no movement and no words.",
    "The manifest records no age, sex or skin tone, so errors of groups of people are not "
    "measured; expect them to differ.",
    "It always divides its belief among the known expressions. A face that shows none of them "
    "gets one, too, unless its confidence is below the abstention threshold (unsure) or nothing in "
    "the drift reference resembles it (unfamiliar).",
    "Faces unlike those it learned from (other cameras, poses, lighting, ages) make it worse, and "
    "only the strangest of them are called unfamiliar; compare with the drift reference.",
]

NOT_MEASURED = "not measured"


def build_card(
    *,
    metadata: Json,
    model: ModelSettings,
    calibration: Calibration | None,
    cost: Json,
    manifest: pd.DataFrame,
    evaluation: Json,
    audit: Json,
    params: Params,
) -> Json:
    """The card's fields, none of them empty.

    Args:
        metadata: the package's ``metadata.json``.
        model: the network's settings.
        calibration: None where there were no validation faces.
        cost: parameters, multiply-adds, size, latency and parity of the ONNX file.
        manifest: all faces.
        evaluation: the contents of ``metrics/evaluate.json``.
        audit: the contents of ``metrics/relabel.json``.
        params: of the run.

    Raises:
        MienError: a field is empty; the message names it.
    """
    results = describe_results(evaluation)
    side, classes = metadata["image_size"], len(params.expressions)
    card = {
        "model": {
            **{key: metadata[key] for key in ("name", "version", "mien", "lock", "commit")},
            "description": "Names the facial expression of a face crop.",
            "architecture": f"AC-CNN of {model.convolution} convolutions, "
            f"stem {model.stem}, widths {model.widths}, blocks {model.blocks}",
            "first_weights": describe_first_weights(params),
            "method": "Expression-guided deep joint learning, after Fang, Zhao, Han and He, "
            "Sensors 2023, 23(16), 7148, in our reading",
            "expressions": params.expressions,
            "input": f"faces: float32 [B, 1, {side}, {side}], one grey face each, in [0, 1]",
            "output": f"probabilities [B, {classes}] ({'' if calibration else 'not '}calibrated), "
            f"logits [B, {classes}], embedding [B, {metadata['embedding_size']}]",
            "licence": "Apache-2.0; the terms of the data below may bind the weights as well",
        },
        "use": {
            "intended": INTENDED_USE,
            "forbidden": FORBIDDEN_USE,
            "high_risk_duties": HIGH_RISK_DUTIES,
        },
        "results": results,
        "calibration": describe_calibration(calibration, params.package.abstention_risk),
        "data": describe_data(manifest, params),
        "pseudo_labels": describe_pseudo_labels(audit),
        "cost": cost,
        "limits": describe_limits(results),
        "training": {
            "run": {"seed": params.seed},
            "model": model.model_dump(mode="json"),
            **{
                section: _settings(getattr(params, section).model_dump(mode="json"))
                for section in ("augmentation", "pretrain", "cluster", "relabel", "finetune")
            },
        },
    }
    check_card(card)
    return card


def describe_first_weights(params: Params) -> str:
    """What the network had learned before it saw the data below, and what others tell it of it."""
    size = params.pretrain.first_weights
    refinery = params.pretrain.refinery.shipped
    told = ["random" if size == "random" else f"those of `{size}` that ship with Mien"]
    terms = []
    if refinery:
        names = ", ".join(f"`{name}`" for name in refinery)
        told.append(f"the labels are refined by {names} that ship with Mien")
    if size != "random" or refinery:
        terms.append("FER2013")
    if params.pretrain.recognition.epochs:
        asked: dict[str, Sequence[str]] = {
            "the labels are refined": params.pretrain.refinery.networks,
            "the unlabelled faces are labelled": params.cluster.networks,
        }
        told += [
            f"{what} with a face-recognition network's help"
            for what, networks in asked.items()
            if "recognition" in networks
        ]
        terms.append("VGGFace2")
    described = "; ".join(told)
    if terms:
        described += f", learned from {' and '.join(terms)}, whose terms may bind these, too"
    return described


def describe_data(manifest: pd.DataFrame, params: Params) -> Json:
    """Faces by source, role and split, and the labels that training used."""
    kinds = {source.name: source.kind for source in params.prepare.sources}
    columns = ["source", "role", "split"]
    groups = manifest.groupby(columns, sort=True).size().reset_index(name="faces")
    used = manifest[(manifest["role"] == "labelled") & (manifest["split"] == "train")]
    counts = used["label"].value_counts()
    return {
        "sources": [
            {**row, "kind": kinds.get(row["source"], "unknown")}
            for row in groups.to_dict(orient="records")
        ],
        "labels_used": {name: int(counts.get(name, 0)) for name in params.expressions},
        "unlabelled_used": int((manifest["role"] == "unlabelled").sum()),
    }


def describe_pseudo_labels(audit: Json) -> Json:
    """The audit's figures; those that need a truth say so where there is none."""
    accepted = [row.get("accepted", 0) for row in audit.get("expressions", {}).values()]
    return {
        "accepted": sum(accepted),
        "coverage": _or(audit.get("coverage"), "no unlabelled faces"),
        "precision": _or(audit.get("precision"), f"{NOT_MEASURED}: the faces carry no truth"),
    }


def describe_results(evaluation: Json) -> list[Json]:
    """The final model's figures with their intervals, beside the pretrained accuracy."""
    return [
        {
            "test_set": name,
            "faces": measures["final"]["faces"],
            "pretrained_accuracy": measures["pretrained"]["accuracy"],
            **{
                key: {"value": measures["final"][key], **measures["final"]["intervals"][key]}
                for key in ("accuracy", "mean_class_accuracy", "macro_f1")
            },
            "degraded_accuracy": measures["final"]["degraded_accuracy"],
            "ece_before_calibration": measures["final"]["ece"],
            "mcnemar_p": measures["comparison"]["mcnemar"]["mid_p"],
            "recall": {
                expression: _or(row["recall"], "no faces")
                for expression, row in measures["final"]["expressions"].items()
            },
        }
        for name, measures in evaluation.items()
    ]


def describe_calibration(calibration: Calibration | None, risk: float) -> Json:
    """Temperature and abstention, or that there was nothing to fit them on."""
    if calibration is None:
        return {
            "method": "none: there are no validation faces, so the temperature is 1 and no "
            "answer is too unsure to be given; set validation_share on a labelled source",
            "temperature": 1.0,
        }
    abstention = calibration.abstention
    return {
        "method": f"temperature scaling on {calibration.faces} validation faces (Guo et al. 2017)",
        "temperature": calibration.temperature,
        "ece_before": calibration.ece_before,
        "ece_after": calibration.ece_after,
        "abstention": {
            "threshold": abstention.threshold,
            "allowed_risk": risk,
            "reached": abstention.reached,
            "coverage": abstention.coverage,
            "risk": abstention.risk,
            "risk_upper_95": abstention.risk_bound,
        },
    }


def describe_limits(results: Sequence[Json]) -> list[str]:
    """The standing limits, and on which expression each test set went worst."""
    weakest = []
    for result in results:
        recalls = {name: r for name, r in result["recall"].items() if not isinstance(r, str)}
        name = min(recalls, key=lambda key: recalls[key])
        weakest.append(
            f"Weakest on {result['test_set']}: {name}, of which it finds {recalls[name]:.0%}."
        )
    return [*LIMITS, *weakest]


def find_empty(value: Any, path: str = "card") -> list[str]:
    """Paths of the fields that say nothing: None, NaN, blank text, empty lists and mappings."""
    if isinstance(value, Mapping):
        inner = [find_empty(item, f"{path}.{key}") for key, item in value.items()]
    elif isinstance(value, list | tuple):
        inner = [find_empty(item, f"{path}[{index}]") for index, item in enumerate(value)]
    elif isinstance(value, str):
        return [] if value.strip() else [path]
    else:
        empty = value is None or (isinstance(value, float) and math.isnan(value))
        return [path] if empty else []
    return [found for each in inner for found in each] if inner else [path]


def check_card(card: Json) -> None:
    """Refuse a card with an empty field.

    Raises:
        MienError: names each empty field.
    """
    if empty := find_empty(card):
        raise MienError(f"the model card has empty fields: {', '.join(empty)}")


def render_card(card: Json) -> str:
    """The card as Markdown."""
    training = {section: ", ".join(_told(each)) for section, each in card["training"].items()}
    return templates("md").get_template("card.md").render(card=card, training=training)


def _told(settings: Json, above: str = "") -> Iterator[str]:
    """Settings as ``name value``; of a group of them that takes no part only that it is off."""
    for name, value in settings.items():
        if not isinstance(value, dict):
            shown = f"[{', '.join(map(str, value))}]" if isinstance(value, list) else value
            yield f"{above}{name} {shown}"
        elif value.get("epochs") == 0 or value.get("networks") == "none":
            yield f"{above}{name} off"
        else:
            yield from _told(value, f"{above}{name}.")


def _settings(values: Json) -> Json:
    """Settings with ``none`` for an empty list, which is a choice here and no empty field."""
    return {
        name: _settings(value) if isinstance(value, dict) else "none" if value == [] else value
        for name, value in values.items()
    }


def _or(value: Any, otherwise: str) -> Any:
    return otherwise if value is None else value
