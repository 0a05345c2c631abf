"""Release records and the champion pointer, in ``releases/`` of a workspace.

Each decision leaves a record, a refusal, too. ``releases/champion.json`` says which model is
served: it is replaced in one step, under a lock, and only where the champion is still the one that
the challenger was compared with.
"""

import fcntl
import hashlib
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien import packaging
from mien.errors import MienError
from mien.files import hash_file, read_json, write_json
from mien.yaml_files import merge, read_yaml

if TYPE_CHECKING:
    from mien.promotion.gate import Judgement

FOLDER, POINTER = "releases", "champion.json"
_THEN = "finish the run first (`mien run`, `make run` or `dvc repro`)"

Record = dict[str, Any]


def read_champion(root: Path) -> Record | None:
    """The pointer: ``tag``, ``release`` (the record's file name), ``promoted_at``; None if absent.

    Raises:
        MienError: the file is there but is no pointer.
    """
    path = root / FOLDER / POINTER
    try:
        pointer = read_json(path)
        return {key: pointer[key] for key in ("tag", "release", "promoted_at")}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise MienError(
            f"{path}: not a champion pointer; restore it from Git, or remove it to start anew"
        ) from None


def list_releases(root: Path) -> list[Record]:
    """All records, oldest first, each with its file name under ``file``."""
    # what begins with a dot, a killed process has left half written
    paths = sorted(path for path in (root / FOLDER).glob("[!.]*.json") if path.name != POINTER)
    return [_read_record(path) for path in paths]


def _read_record(path: Path) -> Record:
    try:
        record = {"file": path.name, **read_json(path)}
        for field in ("created_at", "decision", "reason", "challenger"):
            if not isinstance(record[field], str):
                raise TypeError(field)
        return record
    except (ValueError, TypeError, KeyError) as error:
        raise MienError(
            f"{path}: not a release record ({error}); restore it from Git, or remove it"
        ) from None


def require_whole(trained: Path) -> None:
    """Check that a workspace's package and test faces are those that its ``dvc.lock`` records.

    They are not while a later run is under way, after one that was stopped, or where Git has gone
    to another commit alone: the package might then be judged on faces that it has learned from.

    Raises:
        MienError: they are not, or there is no package.
    """
    lock, package = trained / "dvc.lock", trained / "models" / "package"
    stages = _stages(lock) if lock.is_file() else {}
    if "package" not in stages or not (package / packaging.METADATA).is_file():
        raise MienError(f"{package}: no package of a finished run; {_THEN}")
    # not the whole record: a stage that ran again and left the same has changed nothing
    left = {out["path"]: out.get("md5") for each in stages.values() for out in each.get("outs", [])}
    for dep in stages["package"].get("deps", []):
        if left.get(dep["path"], dep.get("md5")) != dep.get("md5"):
            raise MienError(f"{package}: made before {dep['path']} became what it is now; {_THEN}")
    require_prepared(trained)
    name = package.relative_to(trained).as_posix()
    if name in left and left[name] != _hash_folder(package):
        raise MienError(f"{package}: not as {lock} records it; `dvc checkout`, or {_THEN}")


def require_prepared(trained: Path) -> None:
    """Check that what ``prepare`` left in a workspace is what its ``dvc.lock`` records.

    Raises:
        MienError: it is not: a run is under way, was stopped, or its data lie elsewhere.
    """
    lock = trained / "dvc.lock"
    for out in _prepared(lock):
        path = trained / out["path"]
        if path.is_dir():
            continue
        if not path.is_file() or hash_file(path, "md5") != out.get("md5"):
            raise MienError(f"{path}: not as {lock} records it; {_THEN}")


def make_record(
    judgement: "Judgement",
    tag: str,
    champion: str | None,
    trained: Path,
    workspace: str,
    params: Mapping[str, Any],
) -> Record:
    """What a decision rests on.

    Args:
        judgement: of the gate.
        tag: the challenger's, in the model store.
        champion: the tag that it was compared with.
        trained: the workspace in which the challenger was trained.
        workspace: the one that a renewal of it begins with, seen from that of the releases.
        params: all settings there; of those that stages read, the record has what they read.
    """
    lock = trained / "dvc.lock"
    return {
        "created_at": _now().isoformat(),
        "decision": "promoted" if judgement.passed else "refused",
        "reason": judgement.reason,
        "challenger": tag,
        "champion": champion,
        "evidence": {
            "lock": packaging.hash_lock(lock),
            "lock_file": hash_file(lock),
            "commit": packaging.find_commit(trained),
            "workspace": workspace,
            "data": _data_hash(lock),
            "params": merge(params, _settings(lock)),
        },
        "checks": [asdict(check) for check in judgement.checks],
        "metrics": judgement.metrics,
    }


def write_record(root: Path, record: Record) -> str:
    """Add a record; returns its file name. Its name sorts by time."""
    stamp = datetime.fromisoformat(record["created_at"]).strftime("%Y%m%dT%H%M%S.%fZ")
    version = record["challenger"].partition(":")[2]
    name = f"{stamp}-{record['decision']}-{version}.json"
    write_json(root / FOLDER / name, record)
    return name


def promote(root: Path, record: Record) -> str:
    """Write a passed record and make its challenger the champion; returns the record's file name.

    Raises:
        MienError: the champion is no longer the one that the challenger was compared with: another
            promotion was faster.
    """
    if record["decision"] != "promoted":
        raise ValueError(f"a challenger that was {record['decision']} cannot be promoted")
    with _alone(root):
        pointer = read_champion(root)
        current = pointer["tag"] if pointer else None
        if current != record["champion"]:
            raise MienError(
                f"another promotion was faster: the champion is now {current}, but "
                f"{record['challenger']} was compared with {record['champion'] or 'none'}; "
                "run `mien promote` again"
            )
        name = write_record(root, {**record, "previous_release": pointer and pointer["release"]})
        _point(root, record["challenger"], name)
    return name


def rollback(root: Path, reason: str, to: str | None = None) -> Record:
    """Make an earlier champion the champion again; returns the record of it.

    Args:
        root: the workspace.
        reason: why; it stands in the record.
        to: the tag to go back to; the champion before this one by default.

    Raises:
        MienError: there is no champion, none before it, it is that one already, or that model is
            not in the store.
    """
    with _alone(root):
        pointer = read_champion(root)
        if pointer is None:
            raise MienError(f"{root / FOLDER}: no champion, so nothing to roll back")
        records = list_releases(root)
        # not every promoted challenger: one whose promotion was killed was never served
        served = {pointer["tag"], *(r.get("champion") for r in records)}
        promoted = {
            r["file"]: r
            for r in records
            if r["decision"] == "promoted" and r["challenger"] in served
        }
        if to is None:
            current = promoted.get(pointer["release"])
            target = current.get("previous_release") if current else None
            if target is None or target not in promoted:
                raise MienError(f"there is no champion before {pointer['tag']} to roll back to")
        else:
            known = [name for name, record in promoted.items() if record["challenger"] == to]
            if not known:
                tags = sorted({record["challenger"] for record in promoted.values()})
                raise MienError(f"{to} has never been champion; there were {', '.join(tags)}")
            target = known[-1]
        tag = promoted[target]["challenger"]
        if tag == pointer["tag"]:
            raise MienError(f"{tag} is the champion already")
        packaging.find_model(tag)  # it must be there to be served
        record = {
            "created_at": _now().isoformat(),
            "decision": "rolled-back",
            "reason": reason,
            "challenger": tag,
            "champion": pointer["tag"],
        }
        write_record(root, record)
        _point(root, tag, target)
    return record


def commit_release(root: Path, record: Record) -> None:
    """Commit ``releases/`` after a decision and set the tags that GTO reads.

    ``<name>@vN.0.0`` registers a promoted model, ``<name>#champion#N`` assigns the stage: to it, or
    on a rollback to the version that is served again. GTO allows one version a commit, so each
    decision is a commit of its own, which holds nothing but its record and the pointer. Where
    ``root`` is not the top of a Git checkout, nothing is done.

    Raises:
        MienError: Git refuses.
    """
    if not (root / ".git").exists():
        return
    tag, decision = record["challenger"], record["decision"]
    name = tag.partition(":")[0]
    _git(root, "add", FOLDER)
    _git(root, "commit", "--quiet", "--message", f"Release {tag}: {decision}", "--", FOLDER)
    versions = _git(root, "tag", "--list", f"{name}@v*", "--format=%(refname:short) %(subject)")
    if decision == "promoted":
        version = f"{name}@v{_next(versions)}.0.0"
        _git(root, "tag", "--annotate", "--message", tag, version)
    elif decision == "rolled-back":
        lines = (line.partition(" ") for line in versions.splitlines())
        known = {subject: version for version, _, subject in lines}
        if tag not in known:  # it was promoted before releases were tagged
            return
        version = known[tag]
    else:
        return
    stage = f"{name}#champion#{_next(_git(root, 'tag', '--list', f'{name}#champion#*'))}"
    _git(root, "tag", "--annotate", "--message", tag, stage, f"{version}^{{commit}}")


def _next(tags: str) -> int:
    """One more than the highest number among tags, one a line: versions and stages may have gaps,
    for people set such tags, too."""
    numbers = re.findall(r"^[^@#\n]+(?:@v|#champion#)(\d+)", tags, re.MULTILINE)
    return max(map(int, numbers), default=0) + 1


def _point(root: Path, tag: str, release: str) -> None:
    pointer = {"tag": tag, "release": release, "promoted_at": _now().isoformat()}
    write_json(root / FOLDER / POINTER, pointer)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the pointer's lock; it is held for milliseconds, so others wait for it."""
    path = root / ".mien" / "promotion.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _hash_folder(folder: Path) -> str:
    """DVC's hash of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    entries = [
        {"md5": hash_file(path, "md5"), "relpath": path.relative_to(folder).as_posix()}
        for path in files
    ]
    text = json.dumps(entries, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"


def _data_hash(lock: Path) -> str:
    """SHA-256 over DVC's hashes of what ``prepare`` left: manifest and faces."""
    lines = sorted(f"{out['path']} {out.get('md5')}" for out in _prepared(lock))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _prepared(lock: Path) -> list[dict[str, Any]]:
    outs: list[dict[str, Any]] = _stages(lock).get("prepare", {}).get("outs", [])
    return outs


def _settings(lock: Path) -> dict[str, Any]:
    """What the stages have read of the settings' file, which may have changed since."""
    settings: dict[str, Any] = {}
    files = [file for stage in _stages(lock).values() for file in stage.get("params", {}).values()]
    for name, value in (item for file in files for item in file.items()):
        section = reduce(lambda inner, part: {part: inner}, reversed(name.split(".")), value)
        settings = merge(settings, section)
    return settings


def _stages(lock: Path) -> dict[str, Any]:
    stages: dict[str, Any] = read_yaml(lock).get("stages", {})
    return stages


def _git(root: Path, *arguments: str) -> str:
    answer = subprocess.run(
        ["git", *arguments], cwd=root, capture_output=True, text=True, check=False
    )
    if answer.returncode:
        told = answer.stderr.strip() or answer.stdout.strip()
        command = f"git {arguments[0]}"
        raise MienError(f"the decision stands in {FOLDER}/, but `{command}` failed: {told}")
    return answer.stdout


def _now() -> datetime:
    return datetime.now(UTC)
