"""FER2013 as published, and which of its faces come twice across its splits."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.data.dataset import Faces
from mien.data.duplicates import near_duplicates, settle_copies
from mien.data.sources import list_source
from mien.data.sources.fer2013 import SIDE
from mien.data.sources.reading import read_faces
from mien.params.faces import Fer2013Source
from mien.workspace import default_params


def read_official(data: Path, expressions: Sequence[str]) -> tuple[pd.DataFrame, Faces]:
    """All 35,887 pictures, none set aside: the manifest's columns, and the faces by ``row``.

    Args:
        data: the folder of ``fer2013.zip``.
    """
    source = Fer2013Source(
        name="fer2013", kind="fer2013", path=Path("fer2013.zip"), label_share=1.0, seed=0
    )
    listing = list_source(source, data, expressions)
    with tempfile.TemporaryFile() as raw:
        table, faults = read_faces({source.name: listing}, SIDE, 0, raw)
        assert faults.empty, faults
        raw.seek(0)
        faces = np.frombuffer(raw.read(), np.uint8).reshape(-1, SIDE, SIDE)
    return table, faces


def without_copies(table: pd.DataFrame, faces: Faces) -> pd.DataFrame:
    """What `prepare` leaves of ``table``: of each training face that comes again one, and none of
    which a validation or test face is a copy or nearly so."""
    kept, _ = settle_copies(table)
    return kept.drop(index=_near(kept, faces))


def has_copy(table: pd.DataFrame, faces: Faces, split: str) -> NDArray[np.bool_]:
    """For each face of ``split``, whether a training face is the same picture or nearly so."""
    ours, training = table[table["split"].eq(split)], table[table["split"].eq("train")]
    # a face of the split is sought among the training faces as `prepare` does it the other way
    sought = pd.concat([ours.assign(split="none"), training.assign(split="test")])
    result: NDArray[np.bool_] = ours.index.isin(_near(sought, faces))
    return result


def _near(table: pd.DataFrame, faces: Faces) -> pd.Index:
    """The training faces that nearly repeat a validation or test face, by `prepare`'s setting."""
    bits = default_params()["prepare"]["near_duplicate_bits"]
    return near_duplicates(table, faces, bits).index


def by_copies(right: NDArray[np.bool_], copied: NDArray[np.bool_]) -> dict[str, Any]:
    """Accuracy on all faces, on those with a copy among the training faces, and on the others."""
    return {
        "accuracy": float(right.mean()),
        "accuracy_copied": float(right[copied].mean()),
        "accuracy_not_copied": float(right[~copied].mean()),
    }
