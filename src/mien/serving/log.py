"""The prediction log: what was answered, never the picture unless the operator asks for it.

BentoML's monitor writes JSON lines; this module says what is in a line, when a file is full, and
what is removed: whatever is older than ``MIEN_LOG_DAYS`` (30), and the oldest where all of it is
over ``MIEN_LOG_MB`` (1024). ``MIEN_LOG_IMAGES`` (0 to 1, 0 by default) is the share of faces whose
crops are kept beside it.
"""

import contextlib
import contextvars
import fnmatch
import logging.handlers
import os
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mien.data.manifest import image_statistics
from mien.errors import MienError
from mien.files import replacing_file
from mien.serving.classifier import Classified, Crop
from mien.serving.package import Package, started_in

NAME = "predictions"
_OURS = ("data/data.*.log*", "schema/schema.*.log*", "images/*.png")
"""What is removed when it is too old or too much. The folder may be somebody's who called it so."""
_CATEGORICAL = {"time", "request_id", "route", "model", "expression", "reason", "image", "abstains"}
_FILE_SHARE = 16
"""A log file is closed at this fraction of the allowed size, so that the oldest can go."""
_SWEEP_SECONDS = 600
_WAITING = 256
"""Answered requests that may wait for the log."""
_GATHER_SECONDS = 0.05
"""In which what else is answered joins the same write."""


def log_folder() -> Path:
    """``MIEN_LOG_DIR``, or ``logs``; a relative path starts where the service was started."""
    return (started_in() / (os.environ.get("MIEN_LOG_DIR") or "logs")).absolute()


def _setting(name: str, default: float, most: float = float("inf")) -> float:
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = float("nan")
    if not 0 <= value <= most:
        raise MienError(f"{name}={text}: expected a number from 0 to {most:g}")
    return value


def read_settings() -> tuple[float, float, float]:
    """``MIEN_LOG_IMAGES``, ``MIEN_LOG_DAYS`` and ``MIEN_LOG_MB``.

    Raises:
        MienError: one is no number, or out of range.
    """
    share = _setting("MIEN_LOG_IMAGES", 0.0, 1.0)
    return share, _setting("MIEN_LOG_DAYS", 30), _setting("MIEN_LOG_MB", 1024)


def sweep(folder: Path, days: float, megabytes: float, now: float) -> None:
    """Remove files of the log older than ``days``, then the oldest until all fit ``megabytes``.

    Files that are being written to (``*.log``) go for their age only, when nothing has been written
    to them for so long. What can't be removed is told of and stays: it must keep neither the others
    nor the row that is to be written next.
    """
    files = []
    # what goes meanwhile (another worker sweeps, too) or is not ours to see is passed over; at a
    # folder of that kind `rglob` would end
    paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in _OURS):
            continue
        with contextlib.suppress(OSError):
            if path.is_file():
                files.append((path.stat().st_mtime, path.stat().st_size, path))
    total = sum(size for _, size, _ in files)
    for changed, size, path in sorted(files):
        too_much = total > megabytes * 2**20 and path.suffix != ".log"
        if changed < now - days * 86400 or too_much:
            try:
                path.unlink(missing_ok=True)
            except OSError:
                logging.getLogger("bentoml").exception("what is too old can't be removed")
            else:
                total -= size


class KeptFileHandler(logging.handlers.BaseRotatingHandler):
    """A log file that is closed each UTC day, and when large; closed ones are kept for a while."""

    def __init__(self, filename: str) -> None:
        _, self.days, self.megabytes = read_settings()
        super().__init__(filename, "a", encoding="utf-8")

    def shouldRollover(self, record: logging.LogRecord) -> bool:
        """Whether the file is of an earlier day, or full."""
        path = Path(self.baseFilename)
        if not self._writes_to(path):
            # too old, or removed by hand, perhaps with its folder; or closed by another service
            path.parent.mkdir(parents=True, exist_ok=True)
            self._begin()
        status = path.stat()
        if not status.st_size:
            return False
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            whole = file.read() == b"\n"
        if not whole and self.stream:  # a kill or a full disk has cut a row off
            self.stream.write("\n")
        other_day = int(status.st_mtime // 86400) != int(record.created // 86400)
        return other_day or status.st_size > self.megabytes * 2**20 / _FILE_SHARE

    def handleError(self, record: logging.LogRecord) -> None:
        """Raise: logging would print the row, which is about a person, and go on."""
        raise  # called where an exception is handled

    def doRollover(self) -> None:
        """Keep the file under the present time, begin another, remove what is over the limits."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        self.rotate(self.baseFilename, f"{self.baseFilename}.{stamp}")
        self._begin()
        sweep(Path(self.baseFilename).parents[1], self.days, self.megabytes, time.time())

    def _writes_to(self, path: Path) -> bool:
        if self.stream is None or self.stream.closed:  # it could not be opened
            return False
        try:
            return os.path.samestat(os.fstat(self.stream.fileno()), path.stat())
        except FileNotFoundError:
            return False

    def _begin(self) -> None:
        if self.stream is not None:
            self.stream.close()
        self.stream = self._open()


@dataclass(frozen=True)
class Answered:
    """One answered request, as the log keeps it."""

    request_id: str
    route: str
    crops: list[Crop]
    classified: Classified | None
    """None where a photo held no face."""
    latency_ms: float
    time: datetime = field(default_factory=lambda: datetime.now(UTC))


class PredictionLog:
    """Writes one row for each face that a model answered, and one for a photo without any.

    A thread of its own does it, a few requests at a time, after they were answered; `close` waits
    for it. Where it can't keep up, requests wait for it. It also removes what is too old, even
    while nobody asks anything.

    Args:
        package: the model that answers.
        lost: told how many requests' rows could not be written, a full disk, say.
    """

    def __init__(
        self, package: Package, lost: Callable[[int], None] = lambda requests: None
    ) -> None:
        self.package, self._lost = package, lost
        self.folder = log_folder()
        # All are read here, so that a bad value ends the start and not the first answer.
        self.share, self.days, self.megabytes = read_settings()
        self._waiting: queue.Queue[Answered | None] = queue.Queue(_WAITING)
        self._writer = threading.Thread(target=self._write_waiting, name="log", daemon=True)
        self._writer.start()

    def write(self, answered: Answered) -> None:
        """Have the rows of a request written."""
        self._waiting.put(answered)

    def close(self) -> None:
        """Write what waits, and end; a second call does nothing."""
        if self._writer.is_alive():
            self._waiting.put(None)
            self._writer.join()

    def _write_waiting(self) -> None:
        ended, swept = False, float("-inf")
        while not ended:
            if time.monotonic() - swept > _SWEEP_SECONDS:
                swept = time.monotonic()
                sweep(self.folder / NAME, self.days, self.megabytes, time.time())
            try:
                batch = [self._waiting.get(timeout=_SWEEP_SECONDS)]
            except queue.Empty:
                continue
            time.sleep(_GATHER_SECONDS)
            with contextlib.suppress(queue.Empty):
                while len(batch) < _WAITING:
                    batch.append(self._waiting.get_nowait())
            answered = [each for each in batch if each is not None]
            ended = len(answered) < len(batch)
            if not answered:
                continue
            try:
                # the monitor keeps its record in context variables; a failed one must not stay
                contextvars.Context().run(self._export, answered)
            except Exception:  # a full disk, say: faces are answered all the same
                self._lost(len(answered))
                logging.getLogger("bentoml").exception("rows of the prediction log are lost")

    def _export(self, batch: list[Answered]) -> None:
        import bentoml

        # of people: whoever else is to read it makes the folder first, or opens it to them
        (self.folder / NAME).mkdir(mode=0o700, parents=True, exist_ok=True)
        rows = [row for answered in batch for row in self._rows(answered)]
        options = {
            "log_path": str(self.folder),
            "log_config_file": str(Path(__file__).with_name("log.yaml")),
        }
        with bentoml.monitor(
            NAME, monitor_class="mien.serving.monitor.RowMonitor", monitor_options=options
        ) as monitor:
            monitor.log_rows(rows, {name: _kind(name) for name in rows[0]})

    def _rows(self, answered: Answered) -> list[dict[str, Any]]:
        common: dict[str, Any] = {
            "time": answered.time.isoformat(),
            "request_id": answered.request_id,
            "route": answered.route,
            "model": self.package.version,
            "faces": len(answered.crops),
            "latency_ms": round(answered.latency_ms, 3),
        }
        crops, classified = answered.crops, answered.classified
        if classified is None:
            return [common | _empty(self.package.expressions, len(self.package.components))]
        measured = image_statistics(np.stack([crop.pixels for crop in crops]).astype(np.float32))
        statistics = {name: values.tolist() for name, values in measured.items()}
        components = classified.components.tolist()
        rows = []
        for index, (crop, answer) in enumerate(zip(crops, classified.answers, strict=True)):
            rows.append(
                {
                    **common,
                    "face": index,
                    "expression": answer.expression,
                    "confidence": answer.confidence,
                    "abstains": answer.abstains,
                    "reason": answer.reason,
                    **{f"probability_{e}": p for e, p in answer.probabilities.items()},
                    "width": crop.width,
                    "height": crop.height,
                    **{name: values[index] for name, values in statistics.items()},
                    **{f"component_{i}": value for i, value in enumerate(components[index], 1)},
                    "image": self._keep(crop, f"{answered.request_id}-{index}.png"),
                }
            )
        return rows

    def _keep(self, crop: Crop, name: str) -> str | None:
        if not self.share or random.random() >= self.share:
            return None
        path = self.folder / NAME / "images" / name
        try:
            path.parent.mkdir(exist_ok=True)
            with replacing_file(path) as temporary:
                Image.fromarray(crop.pixels).save(temporary)
        except OSError:  # a full disk: the row, which is smaller, may still fit
            logging.getLogger("bentoml").exception("a face could not be kept")
            return None
        return name


def _kind(column: str) -> tuple[str, str]:
    """BentoML's role and data type of a column."""
    role = "prediction" if column.startswith(("prob", "expr", "conf")) else "feature"
    return role, "categorical" if column in _CATEGORICAL else "numerical"


def _empty(expressions: tuple[str, ...], components: int) -> dict[str, Any]:
    """The row of a photo in which no face was found."""
    names = [
        *("face", "expression", "confidence", "abstains", "reason"),
        *(f"probability_{expression}" for expression in expressions),
        *("width", "height", "brightness", "contrast", "sharpness"),
        *(f"component_{i + 1}" for i in range(components)),
        "image",
    ]
    return dict.fromkeys(names) | {"abstains": False}
