"""From manifest and store to what the network reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.errors import MienError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Rows = NDArray[np.int64]
Faces = NDArray[np.uint8]


@dataclass(frozen=True)
class LabelledRows:
    """Store rows ``[n]`` and the expression index of each ``[n]``."""

    rows: Rows
    labels: Rows

    def __len__(self) -> int:
        return len(self.rows)


def open_faces(path: Path) -> Faces:
    """The packed store, memory-mapped: uint8 ``[N, S, S]``."""
    faces: Faces = np.load(path, mmap_mode="r")
    return faces


def labelled_rows(manifest: pd.DataFrame, expressions: Sequence[str], split: str) -> LabelledRows:
    """The faces of a split that carry a label."""
    chosen = manifest[(manifest["split"] == split) & manifest["label"].notna()]
    return LabelledRows(_rows(chosen), indices(chosen["label"], expressions))


def training_rows(manifest: pd.DataFrame, expressions: Sequence[str]) -> LabelledRows:
    """The labelled training faces; a `MienError` where there are none."""
    chosen = labelled_rows(manifest, expressions, "train")
    if not len(chosen):
        raise MienError("no labelled training faces: give a source with role 'labelled'")
    return chosen


def unlabelled_rows(manifest: pd.DataFrame) -> Rows:
    """The faces whose expression is to be found."""
    return _rows(manifest[manifest["role"] == "unlabelled"])


def evenly(rows: Rows, most: int) -> Rows:
    """At most so many of ``rows`` ``[n]``, from the first to the last at even distances."""
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)]


def indices(labels: "pd.Series[str]", expressions: Sequence[str]) -> Rows:
    """Expression names as indices into ``expressions``; -1 for any other name and for null."""
    codes = pd.Categorical(labels, categories=list(expressions)).codes
    return codes.astype(np.int64)


def to_input(faces: Faces) -> NDArray[np.float32]:
    """uint8 faces ``[B, S, S]`` as the network reads them: float32 ``[B, 1, S, S]`` in [0, 1]."""
    return faces[:, None].astype(np.float32) / np.float32(255)


def to_tensor(faces: Faces, device: "torch.device | str" = "cpu") -> "Tensor":
    """What `to_input` says, for PyTorch, which those that ask the exported network do without.

    To another device they go as bytes, a quarter of what they are there.
    """
    import torch

    if torch.device(device).type == "cpu":
        return torch.from_numpy(to_input(faces))
    return torch.from_numpy(np.ascontiguousarray(faces)).to(device)[:, None].float() / 255


def _rows(manifest: pd.DataFrame) -> Rows:
    return manifest["row"].to_numpy(dtype=np.int64)
