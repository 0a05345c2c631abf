"""The prediction log: what was answered, never the picture unless the operator asks for it.

BentoML's monitor writes JSON lines; this module says what is in a line, when a file is full, and
what is removed: whatever is older than ``MIEN_LOG_DAYS`` (30), and the oldest where all of it is
over ``MIEN_LOG_MB`` (1024). ``MIEN_LOG_IMAGES`` (0 to 1, 0 by default) is the share of faces whose
crops are kept beside it.
"""

import contextlib
import logging.handlers
import os
import random
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mien.data.manifest import measure
from mien.errors import MienError
from mien.serving.classifier import Classified, Crop

NAME = "predictions"
_CATEGORICAL = {"time", "route", "model", "expression", "reason", "image", "abstains"}
_FILE_SHARE = 16
"""A log file is closed at this fraction of the allowed size, so that the oldest can go."""
_SWEEP_SECONDS = 600


def log_folder() -> Path:
    """``MIEN_LOG_DIR``, or ``logs`` where the service was started.

    BentoML's workers change into the Bento's folder; the shell's ``PWD`` is what they inherit.
    """
    named = os.environ.get("MIEN_LOG_DIR")
    return Path(named or Path(os.environ.get("PWD", "."), "logs")).absolute()


def _setting(name: str, default: float, most: float = float("inf")) -> float:
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = float("nan")
    if not 0 <= value <= most:
        raise MienError(f"{name}={text}: expected a number from 0 to {most:g}")
    return value


def sweep(folder: Path, days: float, megabytes: float, now: float) -> None:
    """Remove files older than ``days``, then the oldest until all fit ``megabytes``.

    Files that are being written to (``*.log``) are kept whatever their age.
    """
    files = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # another worker sweeps, too
            if path.is_file():
                files.append((path.stat().st_mtime, path.stat().st_size, path))
    total = sum(size for _, size, _ in files)
    for changed, size, path in sorted(files):
        if path.suffix == ".log":
            continue
        if changed < now - days * 86400 or total > megabytes * 2**20:
            path.unlink(missing_ok=True)
            total -= size


class KeptFileHandler(logging.handlers.BaseRotatingHandler):
    """A log file that is closed each UTC day, and when large; closed ones are kept for a while."""

    def __init__(self, filename: str) -> None:
        self.days = _setting("MIEN_LOG_DAYS", 30)
        self.megabytes = _setting("MIEN_LOG_MB", 1024)
        super().__init__(filename, "a", encoding="utf-8")
        self.swept = 0.0

    def shouldRollover(self, record: logging.LogRecord) -> bool:
        """Whether the file is of an earlier day, or full; also removes what is too old."""
        if record.created - self.swept > _SWEEP_SECONDS:
            self.swept = record.created
            sweep(Path(self.baseFilename).parents[1], self.days, self.megabytes, record.created)
        status = Path(self.baseFilename).stat()
        if not status.st_size:
            return False
        other_day = int(status.st_mtime // 86400) != int(record.created // 86400)
        return other_day or status.st_size > self.megabytes * 2**20 / _FILE_SHARE

    def doRollover(self) -> None:
        """Close the file under the present time, begin another, remove what is over the limits."""
        if self.stream is not None:
            self.stream.close()
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        self.rotate(self.baseFilename, f"{self.baseFilename}.{stamp}")
        self.stream = self._open()
        sweep(Path(self.baseFilename).parents[1], self.days, self.megabytes, time.time())


class PredictionLog:
    """Writes one row for each face, and one for a photo without any."""

    def __init__(self) -> None:
        self.folder = log_folder()
        self._lock = threading.Lock()
        self.share = _setting("MIEN_LOG_IMAGES", 0.0, 1.0)
        # Read here so that a bad value ends the start and not the first answer.
        _setting("MIEN_LOG_DAYS", 30)
        _setting("MIEN_LOG_MB", 1024)

    def write(
        self,
        *,
        request_id: str,
        route: str,
        model: str,
        expressions: tuple[str, ...],
        crops: list[Crop],
        classified: Classified | None,
        components: int,
        started: float,
    ) -> None:
        """Add the rows of one request; ``started`` is its `time.perf_counter`."""
        import bentoml

        common: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(),
            "route": route,
            "model": model,
            "faces": len(crops),
            "latency_ms": round(1000 * (time.perf_counter() - started), 3),
        }
        rows = (
            self._rows(request_id, expressions, crops, classified)
            if classified
            else [_empty(expressions, components)]
        )
        options = {
            "log_path": str(self.folder),
            "log_config_file": str(Path(__file__).with_name("log.yaml")),
        }
        for row in rows:
            # The monitor's first record must be alone, and of one row.
            with (
                self._lock,
                bentoml.monitor(NAME, monitor_class="default", monitor_options=options) as monitor,
            ):
                for name, value in (common | row).items():
                    kind = "categorical" if name in _CATEGORICAL else "numerical"
                    role = "prediction" if name.startswith(("prob", "expr", "conf")) else "feature"
                    monitor.log(value, name, role, kind)

    def _rows(
        self,
        request_id: str,
        expressions: tuple[str, ...],
        crops: list[Crop],
        classified: Classified,
    ) -> list[dict[str, Any]]:
        measured = measure(np.stack([crop.pixels for crop in crops]))
        # column by column: choosing several at once takes pandas longer than measuring them
        columns = [measured[name].tolist() for name in ("brightness", "contrast", "sharpness")]
        statistics = list(zip(*columns, strict=True))
        rows = []
        for index, (crop, answer) in enumerate(zip(crops, classified.answers, strict=True)):
            brightness, contrast, sharpness = statistics[index]
            rows.append(
                {
                    "face": index,
                    "expression": answer.expression,
                    "confidence": answer.confidence,
                    "abstains": answer.abstains,
                    "reason": answer.reason,
                    **{f"probability_{e}": answer.probabilities[e] for e in expressions},
                    "width": crop.width,
                    "height": crop.height,
                    "brightness": brightness,
                    "contrast": contrast,
                    "sharpness": sharpness,
                    **{
                        f"component_{i + 1}": value
                        for i, value in enumerate(classified.components[index].tolist())
                    },
                    "image": self._keep(crop, f"{request_id}-{index}.png"),
                }
            )
        return rows

    def _keep(self, crop: Crop, name: str) -> str | None:
        if not self.share or random.random() >= self.share:
            return None
        path = self.folder / NAME / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(crop.pixels).save(path)
        return name


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
