"""Which model is served, and its package read into memory."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file

import mien
from mien.errors import MienError
from mien.files import read_json
from mien.model.runtime import open_session
from mien.packaging import CARD, METADATA, ONNX, PROJECTION, REFERENCE, find_model

CHAMPION = Path("releases/champion.json")
PACKAGE = Path("models/package")
SHIPPED = Path(mien.__file__).parent / "shipped"
_USUAL = "small"
"""The shipped size that is served where nothing was trained or named."""


@dataclass(frozen=True)
class Package:
    """A packaged model, ready to run."""

    version: str
    expressions: tuple[str, ...]
    image_size: int
    threshold: float
    """Confidence below which it abstains."""
    metadata: dict[str, Any]
    card: dict[str, Any]
    session: onnxruntime.InferenceSession
    mean: NDArray[np.float32]
    """``[D]``, of the reference's embeddings."""
    components: NDArray[np.float32]
    """``[k, D]`` principal components of the reference's embeddings."""
    reference: NDArray[np.float32]
    """``[n, k]``: the reference's faces on those components."""


def started_in() -> Path:
    """The folder in which the service was started: where relative paths start.

    BentoML's workers change into the Bento's folder; the shell's ``PWD`` is what they inherit.
    """
    return Path(os.environ.get("PWD", "."))


def find_package(workspace: Path, wanted: str | None = None) -> Path:
    """The folder of the model to serve.

    ``wanted`` (see `named_package`) comes first, then what the environment's ``MIEN_MODEL`` names
    likewise, the workspace's champion, its ``models/package``, and the model that Mien was shipped
    with.

    Raises:
        MienError: what is named does not exist, or there is no model at all.
    """
    if wanted is None:
        wanted = os.environ.get("MIEN_MODEL") or None
    if wanted is not None:
        return named_package(wanted)
    champion = workspace / CHAMPION
    if champion.is_file():
        try:
            return find_model(str(read_json(champion)["tag"]))
        except (ValueError, KeyError, TypeError):
            raise MienError(
                f"{champion}: names no model; restore it from Git, or remove it to start anew"
            ) from None
    for folder in (workspace / PACKAGE, SHIPPED / _USUAL):
        if (folder / METADATA).is_file():
            return folder
    raise MienError(
        f"no model to serve: run the pipeline (it leaves {workspace / PACKAGE}), or name a package "
        "folder or a tag with MIEN_MODEL"
    )


def named_package(name: str) -> Path:
    """The folder of a size that Mien ships, a package folder, that of a workspace, or of a tag
    ``mien:…``.

    Raises:
        MienError: it is none of these.
    """
    if not name:
        raise MienError("the model's name is empty: name a size, a package folder or a tag")
    shipped = shipped_packages()
    if name in shipped:
        return shipped[name]
    for folder in (Path(name), Path(name) / PACKAGE):
        if (folder / METADATA).is_file():
            return folder
    if ":" in name:
        return find_model(name)
    sizes = ", ".join(shipped) if shipped else "none"
    raise MienError(
        f"{name}: neither a package folder nor a workspace with {PACKAGE}, nor a tag of the model "
        f"store (mien:…), nor a model that Mien ships (here: {sizes})"
    )


def shipped_packages() -> dict[str, Path]:
    """The packages inside the installed Mien, by their size; perhaps none."""
    return {path.parent.name: path.parent for path in sorted(SHIPPED.glob(f"*/{METADATA}"))}


def load_package(folder: Path) -> Package:
    """Read a package.

    Raises:
        MienError: a file of it is missing or broken.
    """
    try:
        metadata, card = read_json(folder / METADATA), read_json(folder / CARD)
        projection = load_file(folder / PROJECTION)
        names = [f"component_{i + 1}" for i in range(len(projection["components"]))]
        reference = pd.read_parquet(folder / REFERENCE, columns=names)
        return Package(
            version=metadata["version"],
            expressions=tuple(metadata["expressions"]),
            image_size=metadata["image_size"],
            threshold=metadata["abstention_threshold"],
            metadata=metadata,
            card=card,
            session=open_session(folder / ONNX),
            mean=projection["mean"],
            components=projection["components"],
            reference=reference.to_numpy(np.float32),
        )
    except Exception as error:  # each reader raises its own kinds on broken files
        raise MienError(f"{folder}: not a sound package ({error}); package it again") from error
