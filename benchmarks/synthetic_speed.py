"""Time the synthetic renderer: 10,000 faces of 48×48 in two processes.

Writes `benchmarks/results/synthetic_speed.json`.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from _results import machine, write_result

from mien.data.synthetic import render, synthetic_table
from mien.data.synthetic.expressions import EXPRESSIONS
from mien.params.faces import SyntheticSource

FACES, SIZE, PROCESSES, CHUNK, RUNS = 10_000, 48, 2, 256, 3


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    ).parse_args()
    settings = SyntheticSource(
        name="speed", kind="synthetic", labelled=7, validation=7, test=7, unlabelled=FACES - 21
    )
    table = synthetic_table(settings, EXPRESSIONS)
    paths = table["path"].tolist()
    shown = table["label"].fillna(table["true_label"]).tolist()
    starts = range(0, FACES, CHUNK)
    wall, processor = [], []
    with ProcessPoolExecutor(PROCESSES) as pool:
        list(pool.map(_draw, [(paths[:CHUNK], shown[:CHUNK])] * PROCESSES))  # warm up
        for _ in range(RUNS):
            started = time.perf_counter()
            chunks = [(paths[i : i + CHUNK], shown[i : i + CHUNK]) for i in starts]
            processor.append(sum(pool.map(_draw, chunks)))
            wall.append(time.perf_counter() - started)
            print(f"{wall[-1]:.1f} s, of {processor[-1]:.1f} s processor time", flush=True)
    result = {
        "faces": FACES,
        "size": SIZE,
        "processes": PROCESSES,
        "seconds": wall,
        "processor_seconds": processor,
        "processor_milliseconds_per_face": 1000 * float(np.median(processor)) / FACES,
        "seed": settings.seed,
        "machine": machine(),
    }
    write_result("synthetic_speed", result)


def _draw(chunk: tuple[list[str], list[str]]) -> float:
    """Render a chunk; return the processor time that it took."""
    started = time.process_time()
    render(*chunk, seed=0, size=SIZE)
    return time.process_time() - started


if __name__ == "__main__":
    main()
