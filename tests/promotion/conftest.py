"""Drawn faces, and workspaces that hold them beside a package."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from mien.data.manifest import measure, write_manifest
from mien.files import hash_file
from mien.params import load_params
from mien.params.service import PromotionSettings
from mien.promotion.gate import HeldOut
from tests.promotion.linear import EXPRESSIONS, PER_EXPRESSION, SIDE, make_package, pattern


@pytest.fixture(scope="session")
def drawn() -> HeldOut:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), PER_EXPRESSION)
    light = np.stack([pattern(each) for each in labels])
    noise = rng.normal(0, 20, light.shape)
    faces = np.clip(110 + 24 * light + noise, 0, 255).astype(np.uint8)
    return HeldOut("drawn", faces, [EXPRESSIONS[each] for each in labels])


@pytest.fixture(scope="session")
def settings(root) -> PromotionSettings:
    return load_params(root / "params.yaml").promotion


@pytest.fixture
def workspace(tmp_path, root, drawn):
    """Makes workspaces that hold a package, test faces and what DVC knows of them."""

    def make(name: str, weights: np.ndarray | None) -> Path:
        folder = tmp_path / name
        prepared = folder / "data" / "prepared"
        prepared.mkdir(parents=True)
        values = yaml.safe_load((root / "params.yaml").read_text())
        values["expressions"] = EXPRESSIONS
        values["promotion"]["max_ece"] = 0.5
        (folder / "params.yaml").write_text(yaml.safe_dump(values))
        np.save(prepared / "faces.npy", drawn.faces)
        table = measure(drawn.faces).assign(
            face_id=[f"{i:016x}" for i in range(len(drawn.faces))],
            source="drawn", path=[str(i) for i in range(len(drawn.faces))],
            role="test", split="test", label=drawn.labels, true_label=None, identity=None,
            width=SIDE, height=SIDE, row=np.arange(len(drawn.faces)),
        )  # fmt: skip
        write_manifest(prepared / "manifest.parquet", pd.DataFrame(table))
        md5 = hash_file(prepared / "faces.npy", "md5")
        outs = [{"path": "data/prepared/faces.npy", "md5": md5}]
        read = {"params.yaml": {"seed": values["seed"], "pretrain": values["pretrain"]}}
        stages = {
            "prepare": {"cmd": "x", "params": read, "outs": outs},
            "package": {"cmd": "x", "deps": outs},
        }
        (folder / "dvc.lock").write_text(yaml.safe_dump({"stages": stages}))
        if weights is not None:
            make_package(folder / "models" / "package", weights)
        return folder

    return make
