"""Reading the prediction log, each row exactly once.

The log is JSON lines in ``<log dir>/predictions/data/data.<worker>.log*``; it is renamed when it
rotates, and the service may die in the middle of a line. A *mark* says how far each file has been
read. It knows a file by the hash of its first line, which holds a time and a request's number, so
renaming changes nothing; clocks play no part. Whoever judges the rows keeps the new mark only when
the verdict is safe: after a crash the same rows come again.
"""

import hashlib
import json
import math
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mien.monitoring.reference import Reference, face_size

Mark = dict[str, int]
"""Bytes read of each file, by the hash of its first line."""

LOG_FILES = "predictions/data/data.*.log*"
"""Where the service writes, below its log folder."""
_FILES_KEPT = 5000
"""Files that a mark remembers; a year of daily rotation with a dozen workers."""
_FUTURE = timedelta(minutes=10)
_LARGEST = 1e9
"""No measure that the service logs comes near; of larger ones Evidently can make no histogram."""

ANOTHER_MODEL = "of another model version"
"""Why a row was passed over."""


@dataclass(frozen=True)
class Window:
    """The rows of one model since a mark."""

    faces: pd.DataFrame
    """The reference's columns; a value that is missing or no number is NaN."""
    pictures: int
    """Photos and ready crops that were sent."""
    photos: int
    """Those of them in which faces were sought (``/analyze``)."""
    photos_without_face: int
    unfamiliar: int
    """Faces to which the service gave no answer since they resemble nothing it knows."""
    start: str | None
    end: str | None
    """The earliest and latest time in the rows, as written there."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Rows that were passed over, by the reason."""
    notes: list[str] = field(default_factory=list)
    files: int = 0
    """Log files that there are."""
    mark: Mark = field(default_factory=dict)
    """The new mark."""


def read_window(logs: Path, mark: Mark, reference: Reference) -> Window:
    """All whole rows after ``mark`` that ``reference``'s model has written.

    Args:
        logs: the service's log folder; it need not exist yet.
        mark: from the window before; empty at first.
        reference: names the model and the columns.
    """
    rows = _Rows(reference)
    notes: list[str] = []
    new = dict(mark)
    paths = sorted(logs.glob(LOG_FILES), key=lambda path: path.name)
    for path in paths:
        try:
            with path.open("rb") as file:
                first = file.readline(1 << 20)
                if not first.endswith(b"\n"):
                    continue  # nothing whole yet
                key = hashlib.sha256(first).hexdigest()[:32]
                size, offset = path.stat().st_size, new.get(key, 0)
                if size < offset:
                    notes.append(f"{path.name} is shorter than it was; its rows are not read again")
                    continue
                file.seek(offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # torn, or just being written: the next window has it
                    offset += len(line)
                    rows.add(line)
                rows.next_file()
        except OSError as error:  # rotated away between the listing and the opening
            notes.append(f"{path.name} cannot be read: {error.strerror}")
            continue
        # Two names of one file (a copy, a hard link) are read once, as far as the longer reaches.
        new[key] = offset
    return rows.window(notes, len(paths), dict(list(new.items())[-_FILES_KEPT:]))


class _Rows:
    """Collects rows into packed columns: a million take some 60 MB."""

    def __init__(self, reference: Reference) -> None:
        self.version = reference.version
        self.order = list(reference.faces.columns)
        self.codes = {name: i for i, name in enumerate(reference.expressions)}
        numbers = ["confidence", "brightness", "contrast", "sharpness", "width", "height"]
        self.columns = {name: array("f") for name in [*numbers, *reference.components]}
        self.expression = array("b")
        self.absent: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.pictures = self.photos = self.without_face = self.unfamiliar = 0
        self.first, self.last, self.previous, self.backwards = "", "", "", 0

    def add(self, line: bytes) -> None:
        try:
            row: dict[str, Any] = json.loads(line)
            model, faces = row["model"], row["faces"]
        except (ValueError, KeyError, TypeError, RecursionError):
            if line.strip():
                self.skipped["not a row of this log"] += 1
            return
        if model != self.version:
            self.skipped[ANOTHER_MODEL] += 1
            return
        if faces == 0:
            self.pictures += 1
            self.photos += 1
            self.without_face += 1
            self._note_time(row.get("time"))
            return
        code = self.codes.get(str(row.get("expression") or ""), -1)
        if code < 0:
            self.skipped["of an unknown expression"] += 1
            return
        self._note_time(row.get("time"))
        self.expression.append(code)
        photo = row.get("route") == "analyze"
        if not photo or row.get("face") in (0, None):  # each crop is a picture
            self.pictures += 1
            self.photos += photo
        self.unfamiliar += row.get("reason") == "unfamiliar"
        for name, column in self.columns.items():
            value = row.get(name, math.nan)
            if type(value) not in (float, int) or not abs(value) < _LARGEST:
                value = math.nan
                self.absent[name] += 1
            column.append(value)

    def next_file(self) -> None:
        self.previous = ""

    def _note_time(self, time: object) -> None:
        """ISO times in UTC sort as text."""
        if not isinstance(time, str) or not time[:4].isdigit():
            self.absent["time"] += 1
            return
        if time < self.previous:
            self.backwards += 1
        self.previous = time
        self.first = min(self.first or time, time)
        self.last = max(self.last, time)

    def window(self, notes: list[str], files: int, mark: Mark) -> Window:
        arrays = {name: np.frombuffer(c, np.float32) for name, c in self.columns.items()}
        table = pd.DataFrame({k: v for k, v in arrays.items() if k not in ("width", "height")})
        table["face_size"] = face_size(pd.Series(arrays["width"]), pd.Series(arrays["height"]))
        codes = np.frombuffer(self.expression, np.int8).astype(np.intp)
        names = np.array(list(self.codes), dtype=object)[codes]
        table.insert(0, "expression", pd.Series(names).astype("category"))
        return Window(
            faces=table[self.order],
            pictures=self.pictures,
            photos=self.photos,
            photos_without_face=self.without_face,
            unfamiliar=self.unfamiliar,
            start=self.first or None,
            end=self.last or None,
            skipped=dict(self.skipped),
            notes=[*notes, *self._notes(len(table))],
            files=files,
            mark=mark,
        )

    def _notes(self, faces: int) -> Iterator[str]:
        for name, count in self.absent.items():
            yield f"{name} is missing or no number in {count} of {faces} rows"
        if self.backwards:
            yield f"the clock went back {self.backwards} times; rows are taken as they stand"
        try:
            ahead = datetime.fromisoformat(self.last) - datetime.now(UTC)
        except (ValueError, TypeError):
            return
        if ahead > _FUTURE:
            yield f"the latest row is {ahead} ahead of this machine's clock"
