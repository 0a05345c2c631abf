"""``mien promote``, ``mien rollback`` and ``mien releases``."""

import os
from pathlib import Path

from mien import packaging
from mien.errors import MienError
from mien.params import load_params
from mien.promotion import releases
from mien.promotion.gate import judge, read_metadata, read_test_sets
from mien.promotion.renewals import RENEWAL, champion_workspace
from mien.yaml_files import read_yaml


class AlreadyChampion(MienError):
    """The challenger and the champion are one."""


def decide(root: Path, trained: Path, renewal: bool = False) -> releases.Record:
    """Judge the package that ``trained`` holds against the champion of ``root``; change nothing.

    The package is put into the model store, where it must be to be served.

    Args:
        root: the workspace with the releases.
        trained: the workspace with the package.
        renewal: nobody asked for this challenger by name. Then it must be tested on all that the
            champion was tested on.

    Raises:
        AlreadyChampion: there is nothing to compare.
        MienError: no package, one of another run than its test faces, no test faces, or the
            champion is not in the store.
    """
    releases.require_whole(trained)
    values = read_yaml(trained / "params.yaml")
    settings = load_params(root / "params.yaml").promotion
    package = trained / "models" / "package"
    tag = packaging.register(package, read_metadata(package)["name"])
    pointer = releases.read_champion(root)
    champion = pointer["tag"] if pointer else None
    if champion == tag:
        raise AlreadyChampion(f"{tag} is the champion already")
    data = trained / "data" / "prepared"
    judgement = judge(
        package,
        packaging.find_model(champion) if champion else None,
        read_test_sets(data / "manifest.parquet", data / "faces.npy"),
        settings,
        renewal,
    )
    # a renewal's own folder is made anew each time: the next one renews what this one did
    renews = trained.resolve() == root.resolve() / RENEWAL
    made_in = champion_workspace(root) if renews else trained.resolve()
    workspace = os.path.relpath(made_in, root.resolve())
    return releases.make_record(judgement, tag, champion, trained, workspace, values)


def carry_out(root: Path, record: releases.Record) -> str:
    """Promote or note the refusal; returns the record's file name.

    Raises:
        MienError: another promotion was faster, or Git refused to commit the release.
    """
    git = _tags_releases(root)
    if record["decision"] == "promoted":
        name = releases.promote(root, record)
    else:
        name = releases.write_record(root, record)
    if git:
        releases.commit_release(root, record)
    return name


def promote(root: Path, trained: Path) -> None:
    """Put the package of ``trained`` through the gate of ``root``.

    Raises:
        MienError: the gate refuses; the message says why.
    """
    record = decide(root, trained)
    kept = root / releases.FOLDER / carry_out(root, record)
    for check in record["checks"]:
        print(f"{'passed' if check['passed'] else 'FAILED'}  {check['says']}")
    if record["decision"] != "promoted":
        raise MienError(f"{record['challenger']} is refused: {record['reason']} ({kept})")
    print(f"\n{record['challenger']} is the champion ({kept})")


def rollback(root: Path, reason: str, to: str | None) -> None:
    """Go back to an earlier champion."""
    _require_folder(root)
    git = _tags_releases(root)  # before anything changes: the settings may be wrong
    record = releases.rollback(root, reason, to)
    if git:
        releases.commit_release(root, record)
    print(f"{record['challenger']} is the champion again, instead of {record['champion']}")


def _require_folder(root: Path) -> None:
    if not root.is_dir():
        raise MienError(f"{root}: no such folder")


def _tags_releases(root: Path) -> bool:
    settings = root / "params.yaml"  # a folder that only serves may have none
    return settings.is_file() and load_params(settings).promotion.git_tag


def show_releases(root: Path) -> None:
    """All decisions, oldest first; the champion is marked."""
    _require_folder(root)
    records, pointer = releases.list_releases(root), releases.read_champion(root)
    if pointer and pointer["release"] not in {record["file"] for record in records}:
        print(f"* {pointer['tag']} is the champion, but its record is gone: {pointer['release']}")
    elif not records:
        print("no releases yet: `mien promote` makes the first")
    for record in records:
        mark = "*" if pointer and record["file"] == pointer["release"] else " "
        when = record["created_at"][:19].replace("T", " ")
        print(
            f"{mark} {when}  {record['decision']:<11}  {record['challenger']}  {record['reason']}"
        )
