"""What a renewal learns from besides the configured sources.

Kept faces join without labels. From those that came since the drift began, what has changed about
the pictures is measured; the workspace's own labelled faces, made to look like that, join with
their labels and in their splits. So there are labelled faces of the new look to learn from, to
calibrate on and to test on: the gate sees how both models do on it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from mien.data.manifest import hash_faces, read_manifest
from mien.data.restyling import Look, measure_look, restyle
from mien.files import replacing_file, replacing_folder
from mien.monitoring.kept import read_kept

KEPT, RESTYLED = "kept", "restyled"
"""Names of the sources."""
_LOOKED_AT = 2000
"""Faces of each kind from which the look is measured."""


@dataclass(frozen=True)
class Gathered:
    """Sources to lay beside the configured ones, and what is in them."""

    sources: list[dict[str, Any]]
    learned: int
    """Kept faces that join without labels."""
    held_out: int
    restyled: int
    """Labelled faces in the new look."""
    look: Look | None


def gather(
    workspace: Path,
    folder: Path,
    logs: Path,
    kept: tuple[list[Path], list[Path]],
    since: str,
    least: int,
    seed: int,
) -> Gathered:
    """Write the sources of a renewal.

    Args:
        workspace: whose labelled faces are restyled; its ``data/prepared`` is there.
        folder: gets them, and the list of the kept ones.
        logs: the service's log folder.
        kept: its kept faces, from `list_kept`; some are to learn from.
        since: when the pictures became what they are now (ISO, UTC); the empty text: all of them.
        least: with fewer kept faces since then, or none labelled, nothing is restyled.
        seed: of the draws of light.
    """
    learned, held_out = kept
    listing = folder / "kept.csv"
    paths = [os.path.relpath(path, folder) for path in learned]
    with replacing_file(listing) as temporary:
        pd.DataFrame({"path": paths}).to_csv(temporary, index=False)
    sources = [_source(KEPT, listing, "unlabelled")]
    labelled, faces = _labelled(workspace)
    new = read_kept(logs, learned, faces.shape[-1], since, _LOOKED_AT)[0] if len(faces) else faces
    if len(new) < max(least, 1):
        return Gathered(sources, len(learned), len(held_out), 0, None)
    look = measure_look(faces[:_LOOKED_AT], new)
    restyled = restyle(faces, look, np.random.default_rng(seed))
    # a name for each picture, so that a new look makes the list of them another one
    names = pd.Series(hash_faces(restyled), labelled.index)
    labelled["path"] = labelled["face_id"] + "-" + names + ".png"
    with replacing_folder(folder / RESTYLED) as target:
        for name, face in zip(labelled["path"], restyled, strict=True):
            cv2.imwrite(str(target / name), face)
        labelled[["path", "label", "split"]].to_csv(target / "faces.csv", index=False)
    sources.append(_source(RESTYLED, folder / RESTYLED / "faces.csv", "labelled"))
    return Gathered(sources, len(learned), len(held_out), len(labelled), look)


def _source(name: str, listing: Path, role: str) -> dict[str, Any]:
    return {"name": name, "kind": "csv", "path": str(listing), "role": role}


def _labelled(workspace: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """The workspace's labelled faces in a fixed random order."""
    prepared = workspace / "data" / "prepared"
    table = read_manifest(prepared / "manifest.parquet")
    table = table[table["label"].notna()].sample(frac=1, random_state=0)
    store = np.load(prepared / "faces.npy", mmap_mode="r")
    return table[["face_id", "label", "split"]].copy(), np.asarray(store[table["row"].to_numpy()])
