"""The exported network in ONNX Runtime, for whoever only asks it: PyTorch is not needed here."""

import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray


def open_session(path: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """The exported network on the CPU: for so small a network more threads than one are slower.

    0 threads mean all cores.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def measure_latency(
    session: onnxruntime.InferenceSession, face: NDArray[np.float32], runs: int = 200
) -> float:
    """Median milliseconds for one face ``[1, 1, S, S]``, after a tenth of the runs to warm up."""
    durations = []
    for _ in range(runs + runs // 10):
        started = time.perf_counter()
        session.run(["probabilities"], {"faces": face})
        durations.append(time.perf_counter() - started)
    return 1000 * statistics.median(durations[runs // 10 :])
