"""What a renewal renews: the champion, in the workspace that made it, from the same pictures.

A challenger that nobody has asked for must not be a model of other data, nor bring back what a
person has taken out of service.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mien import packaging
from mien.params.faces import AnySource, SyntheticSource
from mien.promotion.releases import FOLDER, Record, list_releases, read_champion
from mien.yaml_files import read_yaml

RENEWAL = Path("runs", "renewal")
"""Of a workspace: where challengers that kept faces have joined are trained."""
GATHERED = Path("monitoring", "renewal")
"""Of a workspace: the sources that join, in which a renewal differs from what it renews."""


def champion_workspace(root: Path) -> Path:
    """The workspace that made the champion: its settings and labelled faces are what is renewed.

    ``root`` itself where no record says: there is none, or an earlier version wrote it.
    """
    pointer = read_champion(root)
    return _workspace(root, _evidence(pointer, list_releases(root)) if pointer else {})


def why_not(root: Path, asked: bool) -> str | None:
    """Why no challenger may take the champion's place; None where one may.

    Args:
        root: the workspace with the releases.
        asked: a person wants it, whatever was rolled back.

    Raises:
        MienError: the champion is not in the model store, or a record or file is none.
    """
    if named := os.environ.get("MIEN_MODEL"):
        return (
            f"MIEN_MODEL names {named}, which is served whatever the gate says; unset it for the "
            "service and here to serve champions"
        )
    pointer = read_champion(root)
    if pointer is None:
        return (
            f"{root}: no champion, so there is nothing to renew; `mien promote` makes the first, "
            "of a model that a person has chosen"
        )
    packaging.find_model(pointer["tag"])
    records = list_releases(root)
    decided = [each for each in records if each["decision"] != "refused"]
    if not asked and decided and decided[-1]["decision"] == "rolled-back":
        last = decided[-1]
        return (
            f"{last['champion']} was rolled back on {last['created_at'][:10]} ({last['reason']}); "
            "what comes next a person says: `mien promote`, or a retraining with force"
        )
    evidence = _evidence(pointer, records)
    workspace = _workspace(root, evidence)
    place = f'"workspace" in {root / FOLDER / pointer["release"]}'
    if not (workspace / "dvc.lock").is_file():
        return (
            f"{workspace}: no dvc.lock, but {pointer['tag']} was trained there, and its renewal "
            f"begins with what is there; bring it back, or say in {place} where it is now"
        )
    made, now = evidence.get("params"), read_yaml(workspace / "params.yaml")
    if made and _pictures(made, workspace, root) != _pictures(now, workspace, root):
        return (
            f"{workspace / 'params.yaml'}: other expressions or sources than those from which "
            f"{pointer['tag']} has learned; `mien promote` a model of these, or say in {place} "
            "which workspace made it"
        )
    return None


def _evidence(pointer: Record, records: list[Record]) -> dict[str, Any]:
    """What the champion's record rests on; nothing where that record is gone."""
    found = (each for each in records if each["file"] == pointer["release"])
    evidence: dict[str, Any] = next(found, {}).get("evidence", {})
    return evidence


def _workspace(root: Path, evidence: Mapping[str, Any]) -> Path:
    return (root / evidence.get("workspace", ".")).resolve()


def _pictures(values: Mapping[str, Any], workspace: Path, root: Path) -> Any:
    """What these settings of a workspace learn from, but for what a renewal gathers."""
    try:
        prepare = values["prepare"]
        data = workspace / prepare["data"]
        sources = []
        for each in TypeAdapter(list[AnySource]).validate_python(prepare["sources"]):
            if not isinstance(each, SyntheticSource):
                each = each.model_copy(update={"path": (data / each.path).resolve()})
                if each.path.is_relative_to(root.resolve() / GATHERED):
                    continue
            sources.append(each)
        return values["expressions"], sources
    except (KeyError, TypeError, ValidationError):
        return values
