"""What every benchmark notes beside its figures."""

import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.files import read_json, write_json

if TYPE_CHECKING:
    import torch

FOLDER = Path(__file__).resolve().parent / "results"


def machine() -> dict[str, Any]:
    """Cores, threads of a network (None: as many), processor kind, and the versions that matter."""
    return {
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "processor": _processor(),
        "python": platform.python_version(),
        **{
            name: version(name)
            for name in ("mien", "torch", "onnxruntime", "scikit-learn", "numpy")
        },
    }


def device_name(device: "torch.device") -> str:
    """Of a GPU as its driver says, else of the processor."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Of the runs' figures; one run has no standard deviation."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def with_earlier(
    runs: Iterable[dict[str, Any]], name: str, keys: Sequence[str]
) -> list[dict[str, Any]]:
    """``runs``, and those in ``<name>.json`` that differ from all of them in ``keys``; sorted.

    So one run in a fresh clone takes no other from the committed file.
    """
    path = FOLDER / f"{name}.json"
    kept = read_json(path)["runs"] if path.is_file() else []
    found = {tuple(run[key] for key in keys): run for run in [*kept, *runs]}
    return [found[key] for key in sorted(found)]


def write_result(name: str, value: Any) -> None:
    """Write ``benchmarks/results/<name>.json``."""
    path = FOLDER / f"{name}.json"
    write_json(path, value)
    print(f"written: {path.relative_to(FOLDER.parents[1])}")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), "")
