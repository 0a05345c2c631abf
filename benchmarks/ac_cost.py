"""What affinity convolution saves: the AC-CNN beside its ordinary twin, in one run.

    python benchmarks/ac_cost.py

For the network of ``params.yaml`` and one of twice its widths: parameters, multiply-adds, and ONNX
Runtime's latency for one face at one thread. The AC-CNN and its twin take turns, so that whatever
else the machine does falls on both. Writes ``benchmarks/results/ac_cost.json``.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _results import machine, write_result

from mien.model.accnn import ACCNN
from mien.model.cost import count_cost
from mien.model.export import Deployable, export_onnx
from mien.model.runtime import measure_latency, open_session
from mien.params import Params, load_params
from mien.params.learning import ModelSettings

ROUNDS = 15
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Measure and write."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    ).parse_args()
    params = load_params(ROOT / "params.yaml")
    model = params.model
    doubled = {"stem": 2 * model.stem, "widths": [2 * width for width in model.widths]}
    wide = params.model_copy(update={"model": model.model_copy(update=doubled)})
    networks = {"params.yaml": compare(params), "twice as wide": compare(wide)}
    write_result("ac_cost", {"machine": machine(), "networks": networks})


def compare(params: Params) -> dict[str, Any]:
    """The AC-CNN, its ordinary twin, and how many times as much the twin costs."""
    classes, size = len(params.expressions), params.prepare.image_size
    sessions, rows = {}, dict[str, dict[str, Any]]()
    for convolution in ("affinity", "ordinary"):
        settings = params.model.model_copy(update={"convolution": convolution})
        model = build(settings, classes)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            export_onnx(path, Deployable(model, 1.0), size, params.expressions)
            sessions[convolution] = open_session(path)
        cost = count_cost(model, size)
        rows[convolution] = {"parameters": cost.parameters, "macs": cost.macs}

    face = np.random.default_rng(0).random((1, 1, size, size), np.float32)
    turns: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            turns[name].append(measure_latency(session, face))
    for name, times in turns.items():
        rows[name] |= {"latency_ms": statistics.median(times), "latency_ms_rounds": times}
    ours, twin = rows["affinity"], rows["ordinary"]
    ratios = {key: twin[key] / ours[key] for key in ("parameters", "macs", "latency_ms")}
    print(
        f"{params.model.widths}: the twin costs "
        + ", ".join(f"{v:.1f}× the {k}" for k, v in ratios.items())
    )
    return {**rows, "ratio": ratios, "model": params.model.model_dump()}


def build(settings: ModelSettings, classes: int) -> ACCNN:
    """An untrained network whose running statistics are not the trivial ones."""
    torch.manual_seed(0)
    model = ACCNN(settings, classes).train()
    model(torch.rand(16, 1, 48, 48))
    return model.eval()


if __name__ == "__main__":
    main()
