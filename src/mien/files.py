"""Writing files so that a killed process leaves the old file or the new one, never half of one;
hashing them, and telling what is nobody's picture."""

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

_CLUTTER = {"thumbs.db", "desktop.ini", "__macosx", "lost+found"}


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; on success it is renamed to ``path``.

    Its suffix is the same, so that writers which look at it (NumPy, pandas) behave as usual.
    On any exception what was written is removed and ``path`` stays as it was. What a killed process
    leaves is overwritten by the next one; two processes must not write one ``path`` at once.
    """
    temporary = _beside(path, "partial")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path``; on success it takes the place of ``path``."""
    temporary, old = _beside(path, "partial"), _beside(path, "old")
    if old.exists() and not path.exists():
        old.replace(path)  # a process was killed between the two renames below
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            path.replace(old)
        temporary.replace(path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, atomically."""
    with replacing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted layout for people, atomically. NaN is refused: it is not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, default=_plain) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file written by `write_json`."""
    return json.loads(path.read_text(encoding="utf-8"))


def hash_file(path: Path, kind: str = "sha256") -> str:
    """SHA-256, or another hash (DVC's is ``md5``), of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def full_disk(error: Exception) -> str | None:
    """What to say of an error that a full disk has caused; None of any other.

    safetensors' own error and that of copied folders have it in words only.
    """
    words = (f"(os error {errno.ENOSPC})", f"[Errno {errno.ENOSPC}]")
    if getattr(error, "errno", None) != errno.ENOSPC and not any(w in str(error) for w in words):
        return None
    return f"the disk is full ({error}); free some space and run again"


def is_clutter(path: str) -> bool:
    """Whether a path is hidden or what file managers leave behind, or lies in such a folder."""
    parts = PurePosixPath(path).parts
    return any(part.startswith(".") or part.lower() in _CLUTTER for part in parts)


def _plain(value: Any) -> Any:
    """NumPy scalars and arrays as plain Python values."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


def _beside(path: Path, what: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{what}-{path.name}")
