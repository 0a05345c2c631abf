"""What a model saw when it was packaged: the side that a window of the log is compared with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mien import packaging
from mien.errors import MienError
from mien.files import read_json

REFERENCES = Path("monitoring", "references")
"""Folder of a workspace with the references of renewed models, ``<version>.parquet``."""
IMAGE = ("brightness", "contrast", "sharpness", "face_size")
"""``face_size`` is the square root of the face's area in its picture, in pixels."""


@dataclass(frozen=True)
class Reference:
    """A package's drift reference."""

    version: str
    expressions: list[str]
    abstention_threshold: float
    faces: pd.DataFrame
    """``expression``, ``confidence``, the columns of `IMAGE` and ``component_1 …``."""

    @property
    def components(self) -> list[str]:
        """The columns of the embedding."""
        return _components(self.faces)

    @property
    def numbers(self) -> list[str]:
        """All columns that hold numbers."""
        return ["confidence", *IMAGE, *self.components]


def read_reference(package: Path, root: Path | None = None) -> Reference:
    """Read the drift reference of a package.

    Args:
        package: its folder.
        root: a workspace; where a renewal left a reference of this model there
            (`mien.monitoring.kept`), that one counts.

    Raises:
        MienError: a file is missing or cannot be read.
    """
    path = package / packaging.REFERENCE
    try:
        metadata: dict[str, Any] = read_json(package / packaging.METADATA)
        renewed = root / REFERENCES / f"{metadata['version']}.parquet" if root else None
        if renewed and renewed.is_file():
            path = renewed
        faces = pd.read_parquet(path)
        kept = ["confidence", *IMAGE[:3], *_components(faces)]
        table = faces[kept].astype(np.float32)
        table.insert(0, "expression", faces["predicted"])
        table.insert(5, "face_size", face_size(faces["width"], faces["height"]))
        return Reference(
            metadata["version"],
            metadata["expressions"],
            metadata["abstention_threshold"],
            table.reset_index(drop=True),
        )
    except FileNotFoundError as error:
        raise MienError(
            f"{error.filename}: no such file, so there is nothing to compare the log with; "
            "run the stage `package` again, or name another model"
        ) from None
    except (ValueError, KeyError, OSError) as error:  # pyarrow's errors are of these
        way = "" if path.parent == package else "; without this file the packaged one counts"
        raise MienError(f"{path}: this drift reference cannot be read: {error}{way}") from None


def _components(faces: pd.DataFrame) -> list[str]:
    return [str(name) for name in faces.columns if str(name).startswith("component_")]


def face_size(width: pd.Series, height: pd.Series) -> pd.Series:
    """Square root of the area, pixels, float32."""
    area = width.to_numpy(np.float64) * height.to_numpy(np.float64)
    return pd.Series(np.sqrt(area).astype(np.float32), index=width.index)
