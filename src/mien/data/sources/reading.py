"""Reading the pictures of all sources in parallel, with memory bounded by the chunks in flight."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import IO

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.data.faces import PictureError
from mien.data.manifest import hash_faces, measure
from mien.data.sources.listing import LISTED, Face, Listing, Reader
from mien.errors import MienError
from mien.progress import progress

CHUNK = 256
"""Pictures that a process reads at a time."""


@dataclass(frozen=True)
class Chunk:
    """What came of some rows of a listing."""

    faces: NDArray[np.uint8]
    """``[n, S, S]``."""
    table: pd.DataFrame
    """One row per face: the manifest's columns but ``source`` and ``row``."""
    faults: pd.DataFrame
    """One row per picture without a face: ``path``, ``kind``, ``reason``."""


def read_faces(
    listings: Mapping[str, Listing], size: int, workers: int, raw: IO[bytes]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read every picture of every source, and append the faces' pixels to ``raw``.

    Args:
        listings: by the name of the source.
        size: side of a face in pixels.
        workers: processes that read; 0 means one for each core.
        raw: an open file; face ``i`` is its bytes from ``i * size**2``.

    Returns:
        ``(faces, faults)``: the manifest's columns, ``row`` being the index into ``raw``, and the
        pictures that gave none. Both are in the order of the listings, whatever ``workers`` is.

    Raises:
        MienError: a reading process was killed (most often: out of memory).
    """
    total = sum(len(listing.table) for listing in listings.values())
    tables, faults = [], []
    with progress(total, "prepare", unit="pictures", done="pictures read") as bar:
        for name, count, chunk in _read_chunks(listings, size, workers or available_cores()):
            raw.write(chunk.faces.tobytes())
            tables.append(chunk.table.assign(source=name))
            faults.append(chunk.faults.assign(source=name))
            bar.update(count)
    raw.flush()
    table = pd.concat(tables, ignore_index=True)
    table["row"] = np.arange(len(table))
    return table, pd.concat(faults, ignore_index=True)


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read_chunks(
    listings: Mapping[str, Listing], size: int, workers: int
) -> Iterator[tuple[str, int, Chunk]]:
    """Yield ``(source, pictures, chunk)`` in order, with a few chunks in flight."""
    jobs = (
        (name, listing.read, listing.table.iloc[start : start + CHUNK])
        for name, listing in listings.items()
        for start in range(0, len(listing.table), CHUNK)
    )
    if workers == 1:
        yield from ((name, len(rows), read_chunk(read, rows, size)) for name, read, rows in jobs)
        return
    pool = ProcessPoolExecutor(workers, mp_context=_context(), initializer=_start_worker)
    flying: deque[tuple[str, int, Future[Chunk]]] = deque()
    try:
        for name, read, rows in jobs:
            flying.append((name, len(rows), pool.submit(read_chunk, read, rows, size)))
            if len(flying) > 3 * workers:
                name, count, future = flying.popleft()
                yield name, count, future.result()
        for name, count, future in flying:
            yield name, count, future.result()
    except BrokenProcessPool:
        raise MienError(
            "a process that reads pictures was killed, most often because memory ran out; "
            "set compute.workers to a smaller number"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _context() -> multiprocessing.context.BaseContext:
    """Never fork this process: OpenCV's threads, once used, would leave the child hanging."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # one import for all processes
    return context


def _start_worker() -> None:
    # Each process has one core: OpenCV's own threads would only get in each other's way.
    cv2.setNumThreads(1)
    # A killed parent can't stop its pool, and nothing else would.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def read_chunk(read: Reader, rows: pd.DataFrame, size: int) -> Chunk:
    """Read some rows of a listing and measure their faces; runs in a process of the pool."""
    faces: list[Face] = []
    positions: list[int] = []
    paths: list[str] = []
    faults: list[tuple[str, str, str]] = []
    for position, (path, found) in enumerate(zip(rows["path"], read(rows, size), strict=True)):
        if isinstance(found, PictureError):
            faults.append((path, found.kind, str(found)))
            continue
        faces += found
        positions += [position] * len(found)
        alone = len(found) == 1
        paths += [path] if alone else [f"{path}#{number}" for number in range(1, len(found) + 1)]
    pixels = np.empty((len(faces), size, size), dtype=np.uint8)
    for index, face in enumerate(faces):
        pixels[index] = face.pixels
    table = rows[list(LISTED)].iloc[positions].reset_index(drop=True)
    table["path"] = np.array(paths, dtype=object)
    table["width"] = np.array([face.width for face in faces], dtype=np.int32)
    table["height"] = np.array([face.height for face in faces], dtype=np.int32)
    table["face_id"] = np.array(hash_faces(pixels), dtype=object)
    measured = measure(pixels)
    return Chunk(
        faces=pixels,
        table=pd.concat([table, measured], axis=1),
        faults=pd.DataFrame(faults, columns=["path", "kind", "reason"], dtype=object),
    )
