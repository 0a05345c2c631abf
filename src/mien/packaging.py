"""What goes with a model into service: identity, drift reference, a place in the model store."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from mien.errors import MienError
from mien.files import hash_file, read_json

ONNX, WEIGHTS, METADATA, LABELS = (
    "model.onnx",
    "weights.safetensors",
    "metadata.json",
    "labels.json",
)
CARD, CARD_TEXT = "card.json", "card.md"
REFERENCE, PROJECTION = "reference.parquet", "projection.safetensors"
"""The files of a package."""
_VERSIONED = (ONNX, WEIGHTS, PROJECTION, REFERENCE)
"""Those of which its version is made."""

_BATCH = 256
IMAGE_STATISTICS = ("brightness", "contrast", "sharpness", "width", "height")


# --- identity -----------------------------------------------------------------------------------


def hash_lock(path: Path) -> str:
    """SHA-256 of what ``dvc.lock`` records of every stage but ``package``.

    The record is hashed as JSON with sorted keys and no spaces. Without ``package`` it is the same
    while that stage runs and after it, so that anybody can compute it again.

    Raises:
        MienError: there is no lock file, or it records no stage.
    """
    try:
        stages = dict((yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("stages") or {})
    except FileNotFoundError:
        raise MienError(
            f"{path}: no such file; run the pipeline with `dvc repro`, which writes it"
        ) from None
    except (yaml.YAMLError, AttributeError):
        raise MienError(f"{path}: not a lock file of DVC; run `dvc repro` again") from None
    stages.pop("package", None)
    if not stages:
        raise MienError(f"{path}: records no stage; run the pipeline with `dvc repro`")
    canonical = json.dumps(stages, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def find_commit(folder: Path = Path()) -> str:
    """The Git commit that ``folder`` lies in, or that there is none."""
    command = ["git", "rev-parse", "--verify", "HEAD"]
    try:
        answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "none (Git is not installed)"
    return answer.stdout.strip() if answer.returncode == 0 else "none (not in a Git repository)"


def make_version(folder: Path, threshold: float, lock: str) -> str:
    """16 hexadecimal digits that follow from what answers, what drift is told by, and its making.

    Args:
        folder: holds the network, calibrated, its weights, the drift reference and its projection.
        threshold: of the confidence under which there is no answer.
        lock: from `hash_lock`.
    """
    parts = [hash_file(folder / name) for name in _VERSIONED]
    return hashlib.sha256("\n".join([*parts, repr(threshold), lock]).encode()).hexdigest()[:16]


# --- drift reference ----------------------------------------------------------------------------


def draw_reference(manifest: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """At most ``count`` faces that stand for what the model will see, in the manifest's order.

    Held-out faces (validation and test) come first: on faces that a network has learned, its
    confidence is higher than it will ever be in service. Others only fill what is missing.
    """
    order = np.random.default_rng(seed).permutation(len(manifest))
    held_out = manifest["split"].isin(["validation", "test"]).to_numpy()[order]
    drawn = np.concatenate([order[held_out], order[~held_out]])[:count]
    return manifest.iloc[np.sort(drawn)]


def describe_reference(
    faces: pd.DataFrame,
    probabilities: NDArray[np.floating],
    embeddings: NDArray[np.float32],
    expressions: Sequence[str],
    projection: dict[str, NDArray[np.float32]],
) -> pd.DataFrame:
    """One row for each face: prediction, image statistics, principal components.

    Args:
        faces: ``[n]`` rows of the manifest.
        probabilities: ``[n, C]``, calibrated.
        embeddings: ``[n, D]``.
        expressions: the ``C`` names.
        projection: from `fit_projection`.
    """
    components = (embeddings - projection["mean"]) @ projection["components"].T
    table = faces[["face_id", *IMAGE_STATISTICS]].reset_index(drop=True)
    return table.assign(
        predicted=np.array(expressions, dtype=object)[probabilities.argmax(axis=1)],
        confidence=probabilities.max(axis=1),
        **{f"component_{i + 1}": column for i, column in enumerate(components.T)},
    )


def fit_projection(
    embeddings: NDArray[np.float32], components: int
) -> dict[str, NDArray[np.float32]]:
    """Principal components of embeddings ``[n, D]``: ``mean`` ``[D]``, ``components`` ``[k, D]``.

    ``k`` is at most ``components``, and fewer where there are fewer faces or dimensions.
    """
    from sklearn.decomposition import PCA

    pca = PCA(min(components, *embeddings.shape), svd_solver="full").fit(embeddings)
    return {
        "mean": np.ascontiguousarray(pca.mean_, np.float32),
        "components": np.ascontiguousarray(pca.components_, np.float32),
    }


def predict(
    package: Path, faces: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Calibrated probabilities ``[n, C]`` and embeddings ``[n, D]`` of faces ``[n, S, S]``, n ≥ 1,
    from a package's ONNX file."""
    from mien.data.dataset import to_input
    from mien.model.runtime import open_session

    session = open_session(package / ONNX)
    parts = [
        session.run(
            ["probabilities", "embedding"],
            {"faces": to_input(faces[start : start + _BATCH])},
        )
        for start in range(0, len(faces), _BATCH)
    ]
    probabilities, embeddings = (np.concatenate(each) for each in zip(*parts, strict=True))
    return probabilities, embeddings


# --- model store --------------------------------------------------------------------------------


def register(folder: Path, name: str) -> str:
    """Put a package into the local BentoML model store; the same package keeps its tag.

    What a process that was killed has left of it there is replaced.

    Args:
        folder: a package as the stage ``package`` leaves it.
        name: the model's name in the store.

    Returns:
        The tag, ``name:version``; the version follows from the content.

    Raises:
        MienError: the folder is no package.
    """
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    import bentoml
    from bentoml.exceptions import BentoMLException, NotFound

    try:
        metadata: dict[str, Any] = read_json(folder / METADATA)
    except FileNotFoundError:
        raise MienError(
            f"{folder}: no {METADATA}, so this is no package; run `dvc repro`"
        ) from None
    tag = f"{name}:{metadata['version']}"
    labels = {
        "lock": metadata["lock"],
        **{f"accuracy-{each}": f"{value:.4f}" for each, value in metadata["accuracy"].items()},
    }
    with (folder / METADATA).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # two at once would take each other's copy for half of one
        try:
            stored = bentoml.models.get(tag)
            if _is_whole(Path(stored.path), folder):
                return str(stored.tag)
            bentoml.models.delete(tag)
        except NotFound:
            pass
        except BentoMLException:
            bentoml.models.delete(tag)
        with bentoml.models.create(tag, labels=labels, metadata=metadata) as model:
            shutil.copytree(folder, model.path, dirs_exist_ok=True)
    return str(model.tag)


def find_model(tag: str) -> Path:
    """The package folder of a model in the local BentoML model store.

    Raises:
        MienError: it is not there.
    """
    import bentoml
    from bentoml.exceptions import BentoMLException

    try:
        return Path(bentoml.models.get(tag).path)
    except (BentoMLException, ValueError):  # some texts that are no tag give the latter
        raise MienError(
            f"{tag} is not in the model store (`bentoml models list` shows what is); import it "
            "(`bentoml models import`), or, where it is the champion, roll back to another "
            "(`mien rollback --to TAG`), or remove releases/champion.json to start anew"
        ) from None


def _is_whole(stored: Path, folder: Path) -> bool:
    """Whether all files of a package are in the store.

    A card tells where and how fast the network was packaged, and may be of another size when the
    same version is packaged again: the model that may be in service stays.
    """
    for path in folder.iterdir():
        copy = stored / path.name
        size = copy.stat().st_size if copy.is_file() else 0
        if size != path.stat().st_size and (path.name in _VERSIONED or not size):
            return False
    return True
