"""A small reference, and logs in the service's form."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mien.files import write_json
from mien.monitoring.reference import Reference, read_reference
from mien.params import MonitoringSettings, load_params
from tests.monitoring.rows import EXPRESSIONS, VERSION, draw


@pytest.fixture(scope="session")
def settings(root) -> MonitoringSettings:
    return load_params(root / "params.yaml").monitoring


@pytest.fixture(scope="session")
def package(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    faces = draw(1500, np.random.default_rng(0)).rename(columns={"expression": "predicted"})
    faces.insert(0, "face_id", "0" * 16)
    faces.to_parquet(folder / "reference.parquet")
    write_json(
        folder / "metadata.json",
        {"version": VERSION, "expressions": EXPRESSIONS, "abstention_threshold": 0.5},
    )
    return folder


@pytest.fixture(scope="session")
def reference(package) -> Reference:
    return read_reference(package)


class Log:
    """A log folder that grows as the service's does."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "predictions" / "data"
        self.requests = 0

    def path(self, worker: int = 1) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"data.{worker}.log"

    def row(self, described: dict[str, Any], **changes: Any) -> str:
        self.requests += 1
        minute, second = divmod(self.requests, 60)
        row = {
            "time": f"2026-03-01T{9 + minute // 60:02d}:{minute % 60:02d}:{second:02d}+00:00",
            "request_id": f"{self.requests:08d}",
            "route": "predict",
            "model": VERSION,
            "faces": 1,
            "face": 0,
            "abstains": False,
            "reason": None,
            **{f"probability_{name}": 0.3 for name in EXPRESSIONS},
            **described,
            "latency_ms": 3.2,
            "image": None,
            **changes,
        }
        return json.dumps(row) + "\n"

    def add(self, faces: pd.DataFrame, worker: int = 1, **changes: Any) -> None:
        with self.path(worker).open("a") as file:
            file.writelines(self.row(face, **changes) for face in faces.to_dict("records"))

    def add_without_face(self, count: int) -> None:
        nothing = dict.fromkeys(["face", "expression", "confidence", "brightness", "abstains"])
        with self.path().open("a") as file:
            file.writelines(self.row(nothing, faces=0) for _ in range(count))

    def rotate(self, day: str, worker: int = 1) -> None:
        self.path(worker).rename(self.folder / f"data.{worker}.log.{day}")


@pytest.fixture
def log(tmp_path) -> Log:
    return Log(tmp_path / "logs")
