"""Keeping other runs out of a workspace."""

import fcntl
import itertools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mien.errors import MienError


@contextmanager
def locked(root: Path) -> Iterator[int]:
    """Keep other runs out of ``root``; yields the descriptor of the locked file.

    The lock is the kernel's and goes with the processes that hold it: a crash leaves none behind.

    Raises:
        MienError: another run, or a DVC command that somebody started by hand, is at work there.
    """
    path = root / ".mien" / "run.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise MienError(
                f"{root}: another run is at work here (started by process {holder}); "
                "wait for it to end, or stop it"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        _refuse_busy(root)
        yield file.fileno()


def _refuse_busy(root: Path) -> None:
    """Refuse a workspace in which a DVC command that somebody started by hand is at a stage.

    DVC's own list of locks says so. One that nobody holds any more is removed: DVC would drop the
    entries of processes that are gone, but takes one whose number another process has been given
    since (after a restart) for alive, and cannot read a list that a full disk left half written.
    """
    path = root / ".dvc" / "tmp" / "rwlock"
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except ValueError:
        held = {}
    holders = [*held.get("write", {}).values(), *itertools.chain(*held.get("read", {}).values())]
    for holder in holders:
        if _is_running(holder["pid"], holder["cmd"]):
            raise MienError(
                f"{root}: process {holder['pid']} ({holder['cmd']}) is at work here; "
                "wait for it to end, or stop it"
            )
    path.unlink()


def _is_running(process: int, command: str) -> bool:
    """Whether a process is there and is this DVC command."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    try:
        now = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return True  # this system does not say
    return command.partition(" ")[2] in now.replace("\0", " ")
