"""A workspace as the stages before `evaluate` leave it: random faces and untrained networks."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mien.data.dataset import to_tensor
from mien.data.manifest import hash_faces, measure, read_manifest, write_manifest
from mien.files import write_json, write_text
from mien.model.accnn import ACCNN
from mien.model.weights import load_weights, save_weights
from mien.params import Params, parse_params
from mien.stages import evaluate
from mien.yaml_files import merge, read_yaml

SMALL = {
    "model": {"stem": 4, "widths": [8, 8], "blocks": [1, 1]},
    "compute": {"threads": 1},
    "prepare": {"image_size": 24},
    "evaluate": {"bootstrap": 50, "mistakes": 3},
    "package": {"parity_faces": 16, "reference_faces": 40, "components": 3},
}
AUDIT = {
    "coverage": 0.5,
    "precision": None,
    "accepted": 7,
    "expressions": {
        "happy": {"candidates": 9, "accepted": 7, "precision": None, "recall": None, "threshold": 0}
    },
    "confusion": None,
}


@pytest.fixture(scope="session")
def params(root: Path) -> Params:
    return parse_params(merge(read_yaml(root / "params.yaml"), SMALL), "tests")


@pytest.fixture
def measured(tmp_path: Path, params: Params) -> Path:
    """A folder with faces, manifest, weights, audit, curves and lock."""
    return fill(tmp_path, params)


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory, params: Params) -> Path:
    """The same after `evaluate`; to be read only."""
    folder = fill(tmp_path_factory.mktemp("evaluated"), params)
    run_evaluate(params, folder)
    return folder


def run_evaluate(params: Params, folder: Path) -> None:
    evaluate.main(
        params,
        manifest=folder / "manifest.parquet",
        faces=folder / "faces.npy",
        pretrained=folder / "pretrain.safetensors",
        final=folder / "finetune.safetensors",
        predictions=folder / "predictions.parquet",
        plots=folder / "plots/evaluate",
        curves=folder / "plots",
        audit=folder / "relabel.json",
        report=folder / "report",
        metrics=folder / "evaluate.json",
    )


def fill(folder: Path, params: Params) -> Path:
    rng = np.random.default_rng(0)
    parts = [("labelled", "train", 30), ("labelled", "validation", 30), ("test", "test", 35)]
    parts.append(("unlabelled", "none", 25))
    table = pd.DataFrame(
        [(role, split) for role, split, count in parts for _ in range(count)],
        columns=["role", "split"],
    )
    faces = rng.integers(256, size=(len(table), 24, 24), dtype=np.uint8)
    labels = np.array(params.expressions, dtype=object)[np.arange(len(table)) % 7]
    table = table.assign(
        face_id=hash_faces(faces),
        source="synthetic",
        path=[f"{index}.png" for index in range(len(table))],
        label=np.where(table["role"] == "unlabelled", None, labels),
        true_label=None,
        identity=None,
        width=24,
        height=24,
        row=np.arange(len(table)),
        **measure(faces),
    )
    write_manifest(folder / "manifest.parquet", table)
    np.save(folder / "faces.npy", faces)
    for seed, name in enumerate(["pretrain", "finetune"]):
        torch.manual_seed(seed)
        network = ACCNN(params.model, len(params.expressions)).eval()
        save_weights(folder / f"{name}.safetensors", network, tuple(params.expressions), 24)
    write_json(folder / "relabel.json", AUDIT)
    write_text(folder / "plots/pretrain.csv", "epoch,loss\n1,2.0\n2,1.0\n")
    write_text(folder / "dvc.lock", "schema: '2.0'\nstages:\n  prepare:\n    cmd: draw\n")
    return folder


def validate_by_happy_faces(folder: Path) -> None:
    """All validation faces of `fill` are happy: no network is as often right there as elsewhere."""
    table = read_manifest(folder / "manifest.parquet")
    table.loc[table["split"] == "validation", "label"] = "happy"
    write_manifest(folder / "manifest.parquet", table)


def accuracy_on_validation(folder: Path, name: str, params: Params) -> float:
    """Of the network ``name`` on the validation faces of `fill`."""
    table = read_manifest(folder / "manifest.parquet")
    held_out = table[(table["role"] == "labelled") & (table["split"] == "validation")]
    faces = np.load(folder / "faces.npy")[held_out["row"]]
    with torch.inference_mode():
        said = load_weights(folder / f"{name}.safetensors").model(to_tensor(faces)).argmax(dim=1)
    guesses = [params.expressions[each] for each in said.tolist()]
    return float((held_out["label"] == guesses).mean())


def state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a network on disk."""
    return load_weights(path).model.state_dict()


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def kept_calls(monkeypatch, module, name):
    """What ``module.name`` returns from now on, as it is called."""
    kept, function = [], getattr(module, name)

    def keep(*arguments, **named):
        kept.append(function(*arguments, **named))
        return kept[-1]

    monkeypatch.setattr(module, name, keep)
    return kept
