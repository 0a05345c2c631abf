"""Faces as the log describes them, drawn from known distributions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mien.files import write_json

VERSION, EXPRESSIONS = "0123456789abcdef", ["happy", "sad", "neutral"]


def draw(
    count: int, rng: np.random.Generator, happy: float = 1 / 3, **shift: float
) -> pd.DataFrame:
    """``shift`` moves a column by so many of its standard deviations."""
    others = (1 - happy) / 2
    table = pd.DataFrame(
        {
            "expression": rng.choice(EXPRESSIONS, count, p=[happy, others, others]),
            "confidence": rng.beta(6, 2, count),
            "brightness": rng.normal(110, 25, count),
            "contrast": rng.normal(45, 10, count),
            "sharpness": rng.gamma(3, 400, count),
            "width": rng.integers(40, 120, count),
            "height": rng.integers(40, 120, count),
            **{f"component_{i}": rng.normal(0, 5 / i, count) for i in range(1, 5)},
        }
    )
    for name, amount in shift.items():
        table[name] += amount * table[name].std()
    return table


def make_package(folder: Path) -> Path:
    """The files of a package that monitoring reads."""
    folder.mkdir(parents=True)
    faces = draw(1500, np.random.default_rng(0)).rename(columns={"expression": "predicted"})
    faces.insert(0, "face_id", "0" * 16)
    faces.to_parquet(folder / "reference.parquet")
    write_json(
        folder / "metadata.json",
        {"version": VERSION, "expressions": EXPRESSIONS, "abstention_threshold": 0.5},
    )
    return folder


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
            file.writelines(self.row(nothing, faces=0, route="analyze") for _ in range(count))

    def rotate(self, day: str, worker: int = 1) -> None:
        self.path(worker).rename(self.folder / f"data.{worker}.log.{day}")
