"""The manifest: one row for each face in the store, and what is measured on its pixels.

The store is one uint8 array ``[N, S, S]`` in a ``.npy`` file; open it with
``np.load(path, mmap_mode="r")``. A manifest row's ``row`` is its index there.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.errors import MienError
from mien.files import replacing_file

COLUMNS: dict[str, str] = {
    "face_id": "object",  # first 16 hexadecimal digits of the SHA-256 of the pixels
    "source": "object",  # the source's name in params.yaml
    "path": "object",  # of the picture, relative to the source; `#2` is its second face
    "role": "object",  # labelled | unlabelled | test
    "split": "object",  # train | validation | test | none
    "label": "object",  # null where unknown
    "true_label": "object",  # for audits only: where a source knows what the pipeline must not
    "identity": "object",  # null where unknown
    "width": "int32",  # of the face in its original picture, pixels
    "height": "int32",
    "brightness": "float32",  # mean grey level, 0 to 255
    "contrast": "float32",  # standard deviation of the grey levels
    "sharpness": "float32",  # variance of the Laplacian
    "phash": "uint64",  # 64-bit perceptual hash
    "row": "int64",  # index into the store
}
"""The columns of ``manifest.parquet`` and their dtypes; ``object`` holds strings and None."""

QUARANTINE_COLUMNS = ("source", "path", "kind", "reason")
KINDS = (
    "unreadable",
    "no_face",
    "duplicate",
    "near_duplicate",
    "unknown_label",
    "held_out_person",
)
"""Why a picture was set aside: the values of the quarantine's ``kind``."""

_CHUNK = 4096
_PHASH_SIDE = 32
_PHASH_BITS = 8


def people(manifest: pd.DataFrame) -> "pd.Series[str]":
    """Whose face each row is, ``source/identity``; null where unknown.

    Sources name their people each for itself: those of different sources are different people.
    """
    return manifest["source"] + "/" + manifest["identity"]


def write_manifest(path: Path, manifest: pd.DataFrame) -> None:
    """Write a manifest with exactly the `COLUMNS`, in their order and dtypes, atomically."""
    table = manifest.loc[:, list(COLUMNS)].astype(COLUMNS)
    with replacing_file(path) as temporary:
        table.to_parquet(temporary, index=False)


def read_manifest(path: Path) -> pd.DataFrame:
    """Read a manifest; unknown texts are None.

    Raises:
        MienError: the file is missing, is not parquet, or a column is missing or of another kind.
    """
    table = _read_parquet(path)
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise MienError(f"{path}: the columns {missing} are missing; run the stage `prepare` again")
    for name, dtype in COLUMNS.items():
        if table[name].isna().all() and dtype == "object":
            table[name] = pd.Series([None] * len(table), dtype=object)
        elif table[name].dtype != np.dtype(dtype):
            found = table[name].dtype
            raise MienError(f"{path}: column {name} is {found}, not {dtype}; run `prepare` again")
    return table


def write_quarantine(path: Path, quarantine: pd.DataFrame) -> None:
    """Write the list of pictures that were set aside: `QUARANTINE_COLUMNS`, all strings."""
    with replacing_file(path) as temporary:
        quarantine.loc[:, list(QUARANTINE_COLUMNS)].astype("string").to_parquet(
            temporary, index=False
        )


def read_quarantine(path: Path) -> pd.DataFrame:
    """Read the list of pictures that were set aside.

    Raises:
        MienError: the file is missing, is not parquet, or lacks a column.
    """
    table = _read_parquet(path)
    missing = [name for name in QUARANTINE_COLUMNS if name not in table]
    if missing:
        raise MienError(f"{path}: the columns {missing} are missing; run the stage `prepare` again")
    return table.astype(object)


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise MienError(f"{path}: no such file; run the stage `prepare` first") from None
    except (OSError, ValueError) as error:  # pyarrow's errors are of these
        raise MienError(f"{path}: not a parquet file ({error}); run `prepare` again") from None


# --- what is measured on faces ------------------------------------------------------------------


def measure(faces: NDArray[np.uint8]) -> pd.DataFrame:
    """Statistics of faces ``[n, S, S]``: ``brightness``, ``contrast``, ``sharpness``, ``phash``.

    Works in chunks, so that ``faces`` may be a memory-mapped store.
    """
    parts = [_measure(chunk) for chunk in _chunks(faces)]
    return pd.concat(parts, ignore_index=True) if parts else _measure(faces)


def _measure(faces: NDArray[np.uint8]) -> pd.DataFrame:
    grey = faces.astype(np.float32)
    return pd.DataFrame({**image_statistics(grey), "phash": perceptual_hash(grey)})


def image_statistics(grey: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """``brightness``, ``contrast`` and ``sharpness`` of faces ``[n, S, S]``, each ``[n]``."""
    inner = grey[:, 1:-1, 1:-1]
    laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    laplacian -= 4 * inner
    return {
        "brightness": grey.mean(axis=(1, 2)),
        "contrast": grey.std(axis=(1, 2)),
        "sharpness": laplacian.var(axis=(1, 2)),
    }


def perceptual_hash(faces: NDArray[np.float32]) -> NDArray[np.uint64]:
    """The DCT hash of Zauner (2010), *Implementation and benchmarking of perceptual image hashes*.

    The face is averaged down to 32×32; of its cosine transform the 8×8 lowest frequencies but the
    constant row and column are kept; each gives one bit: whether it is above their median. Hashes
    of alike pictures differ in few bits.

    Args:
        faces: ``[n, S, S]``.

    Returns:
        uint64 ``[n]``.
    """
    basis = _cosines() @ _averages(faces.shape[1])
    waves = (basis @ faces @ basis.T).reshape(len(faces), _PHASH_BITS**2)
    bits = waves > np.median(waves, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").ravel().astype(np.uint64)


def _cosines() -> NDArray[np.float32]:
    """The DCT-II basis vectors 1 to 8 of 32 points, ``[8, 32]``."""
    points = np.arange(_PHASH_SIDE) + 0.5
    frequencies = np.arange(1, _PHASH_BITS + 1)
    return np.cos(np.pi / _PHASH_SIDE * np.outer(frequencies, points)).astype(np.float32)


def _averages(side: int) -> NDArray[np.float32]:
    """The matrix ``[32, side]`` that averages ``side`` pixels down (or up) to 32 by area."""
    edges = np.arange(_PHASH_SIDE + 1) * side / _PHASH_SIDE
    pixels = np.arange(side)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (overlap.clip(min=0) * _PHASH_SIDE / side).astype(np.float32)


def hash_faces(faces: NDArray[np.uint8]) -> list[str]:
    """The first 16 hexadecimal digits of the SHA-256 of each face's pixels."""
    return [hashlib.sha256(face.tobytes()).hexdigest()[:16] for face in faces]


def _chunks(faces: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(faces), _CHUNK):
        yield faces[start : start + _CHUNK]
