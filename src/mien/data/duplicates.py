"""Copies and near-copies of faces, which would make a test look better than it is."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from mien.data.faces import resize

MIN_CORRELATION = 0.96
"""Correlation of two slightly blurred faces above which they are the same picture.

Chosen by eye on FER2013, pairs of hashes up to 10 bits apart: from 0.95 up they are one picture
(other size, crop, compression or watermark), from 0.93 nearly always, under 0.9 mostly not.
Drawn faces of different people reach 0.95.
"""
BLUR = 1.0
"""Standard deviation of that blur, pixels at 48×48: compression and noise must not count."""

_COMPARED_SIDE = 48
_CHUNK = 2048


def settle_copies(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keep one of each set of faces with the same ``face_id``, and make the ids unique.

    A face in a test set wins over its copies in validation, those over labelled training faces,
    those over unlabelled ones. Published protocols count the copies within a test or validation
    set: these are kept, their ids ending in ``-2``, ``-3``.

    Returns:
        ``(kept, copies)``, each in the order of ``table``; ``copies`` has a ``reason``, which says
        where the other one's label is another.
    """
    rank = table["split"].map({"test": 3, "validation": 2, "train": 1, "none": 0})
    best = rank.groupby(table["face_id"]).transform("max")
    order = rank.eq(best).groupby(table["face_id"]).cumsum()  # 1 for the first of the best
    kept = rank.eq(best) & (rank.ge(2) | order.eq(1))
    number = order[kept].astype(str)
    winners = table[kept].drop_duplicates("face_id").set_index("face_id")
    winner = winners["source"] + "/" + winners["path"]
    copies = table[~kept].copy()
    there = copies["face_id"].map(winners["label"]).astype(object)
    differs = there.notna() & copies["label"].notna() & there.ne(copies["label"])
    note = (" (labelled " + there + " there)").where(differs, "")
    copies["reason"] = "the same pixels as " + copies["face_id"].map(winner).astype(object) + note
    result = table[kept].copy()
    result["face_id"] = result["face_id"].where(number.eq("1"), result["face_id"] + "-" + number)
    return result, copies


def near_duplicates(table: pd.DataFrame, faces: NDArray[np.uint8], bits: int) -> pd.DataFrame:
    """Training and unlabelled faces that nearly repeat a validation or test face.

    Pairs whose perceptual hashes differ in at most ``bits`` bits are candidates; a pair is
    confirmed when the faces' correlation, after a slight blur, is at least `MIN_CORRELATION`.
    Brightness and contrast therefore do not count; a mirror image is not found.

    Args:
        table: the manifest's columns ``split``, ``phash``, ``source``, ``path`` and ``row``.
        faces: uint8 ``[N, S, S]``, indexed by ``row``; may be memory-mapped.
        bits: 0 to 64; -1 finds nothing.

    Returns:
        The rows of ``table`` concerned, with ``near`` (the held-out face's ``source/path``) and
        ``correlation`` (of the closest one).
    """
    held_out = table["split"].isin(["validation", "test"])
    ours, theirs = table[~held_out], table[held_out]
    best = np.full(len(ours), -1.0, dtype=np.float32)
    match = np.zeros(len(ours), dtype=np.int64)
    for i, j in _close_hashes(ours["phash"].to_numpy(), theirs["phash"].to_numpy(), bits):
        alike = _correlate(
            faces[ours["row"].to_numpy()[i]],
            faces[theirs["row"].to_numpy()[j]],
        )
        for face, other, value in zip(i, j, alike, strict=True):
            if value > best[face]:
                best[face], match[face] = value, other
    found = best >= MIN_CORRELATION
    near = theirs.iloc[match[found]]
    return ours[found].assign(
        near=(near["source"] + "/" + near["path"]).to_numpy(), correlation=best[found]
    )


def _close_hashes(
    a: NDArray[np.uint64], b: NDArray[np.uint64], bits: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Index pairs whose Hamming distance is at most ``bits``, in blocks of bounded memory."""
    if bits < 0:
        return
    for row in range(0, len(a), _CHUNK):
        for column in range(0, len(b), _CHUNK):
            differing = a[row : row + _CHUNK, None] ^ b[None, column : column + _CHUNK]
            i, j = np.nonzero(np.bitwise_count(differing) <= bits)
            for start in range(0, len(i), _CHUNK):  # identical blank faces may all be alike
                stop = start + _CHUNK
                yield i[start:stop] + row, j[start:stop] + column


def _correlate(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pearson correlation of each pair of faces, ``[n]``."""
    x, y = _standardise(a), _standardise(b)
    return (x * y).mean(axis=1)


def _standardise(faces: NDArray[np.uint8]) -> NDArray[np.float32]:
    small = np.stack([resize(face, _COMPARED_SIDE) for face in faces]).astype(np.float32)
    flat = gaussian_filter(small, sigma=(0, BLUR, BLUR)).reshape(len(faces), -1)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(flat.std(axis=1, keepdims=True), 1e-3)
