"""The faces that the service has kept: most to learn from, some to compare later windows with.

A network is surer of faces that it has learned from than it will be of their like in service. So
one kept face in four is never learned from: those are what the renewed model's reference is made
of.
"""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file

from mien import packaging
from mien.data.faces import PictureError, decode_picture, resize
from mien.data.manifest import measure
from mien.files import read_json, replacing_file
from mien.monitoring.log import LOG_FILES
from mien.monitoring.reference import REFERENCES

IMAGES = Path("predictions", "images")
"""Folder under the log folder in which the service keeps faces, where its operator lets it."""
_HELD_OUT = 4


def list_kept(logs: Path) -> tuple[list[Path], list[Path]]:
    """Kept faces, sorted by name: those to learn from, and those held out.

    A face's name alone decides, so it stays on its side in every renewal.
    """
    sides: tuple[list[Path], list[Path]] = ([], [])
    for path in sorted((logs / IMAGES).rglob("*")):
        if path.is_file():
            held_out = hashlib.sha256(path.name.encode()).digest()[0] % _HELD_OUT == 0
            sides[held_out].append(path)
    return sides


def read_kept(
    logs: Path, paths: list[Path], size: int, since: str, most: int
) -> tuple[NDArray[np.uint8], pd.DataFrame]:
    """The newest of these faces, ``[n, size, size]``, and their size in the sent pictures.

    Faces that the log does not know, that are gone by now or cannot be read are left out.

    Args:
        logs: the service's log folder.
        paths: kept faces, from `list_kept`.
        size: side in pixels.
        since: only faces that were logged at this time (ISO, UTC) or later.
        most: at most so many.

    Returns:
        Pixels, and a table with ``width`` and ``height``; both in the order of time.
    """
    rows = _logged(logs, {path.name: path for path in paths}, since).sort_values("time")
    faces, sizes = [], []
    for row in rows.tail(most).itertuples():
        try:
            picture = decode_picture(Path(str(row.file)).read_bytes())
        except (OSError, PictureError):
            continue
        faces.append(resize(picture, size))
        sizes.append({"width": row.width, "height": row.height})
    pixels = np.stack(faces) if faces else np.empty((0, size, size), np.uint8)
    return pixels, pd.DataFrame(sizes, columns=["width", "height"])


def renew_reference(
    root: Path, package: Path, logs: Path, since: str, *, least: int, most: int
) -> int:
    """Write a model's reference from held-out kept faces; it takes the packaged one's place.

    Without this, faces to which a model was adapted would be called drift again: the packaged
    reference is of the configured sources' faces.

    Args:
        root: the workspace; ``monitoring/references`` in it gets the file.
        package: the model's folder.
        logs: the service's log folder.
        since: only faces that were logged at this time (ISO, UTC) or later.
        least: with fewer faces nothing is written.
        most: the newest so many are taken.

    Returns:
        Faces in the new reference; 0 where none was written.
    """
    metadata = read_json(package / packaging.METADATA)
    faces, sizes = read_kept(logs, list_kept(logs)[1], metadata["image_size"], since, most)
    if len(faces) < max(least, 1):
        return 0
    probabilities, embeddings = packaging.predict(package, faces)
    described = packaging.describe_reference(
        pd.concat([sizes.assign(face_id=""), measure(faces)], axis=1),
        probabilities,
        embeddings,
        metadata["expressions"],
        load_file(package / packaging.PROJECTION),
    )
    path = root / REFERENCES / f"{metadata['version']}.parquet"
    with replacing_file(path) as temporary:
        described.to_parquet(temporary, index=False)
    return len(described)


def _logged(logs: Path, files: dict[str, Path], since: str) -> pd.DataFrame:
    """The log's rows of these kept faces: ``file``, ``time``, and the size in the sent picture."""
    found: dict[str, tuple[Path, str, int, int]] = {}
    for log in sorted(logs.glob(LOG_FILES)):
        # the service may have removed it meanwhile
        with contextlib.suppress(OSError), log.open("rb") as lines:
            for line in lines:
                try:
                    row: dict[str, Any] = json.loads(line)
                    image, time = row["image"], row["time"]
                    if image in files and time >= since:
                        found[image] = files[image], time, int(row["width"]), int(row["height"])
                except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                    continue  # torn or not of this log; monitoring counts such lines
    return pd.DataFrame(list(found.values()), columns=["file", "time", "width", "height"])
