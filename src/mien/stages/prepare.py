"""Stage ``prepare``: read every source, pack its faces, set aside what can't be used."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.data.duplicates import near_duplicates, settle_copies
from mien.data.manifest import KINDS, write_manifest, write_quarantine
from mien.data.sheets import contact_sheet
from mien.data.sources import list_source
from mien.data.sources.listing import Listing
from mien.data.sources.reading import read_faces
from mien.errors import MienError
from mien.files import replacing_file, replacing_folder, write_json
from mien.params import Params
from mien.params.faces import PrepareSettings
from mien.stages._run import run_stage

_COPY_CHUNK = 4096


def main(
    params: Params,
    *,
    manifest: Path,
    faces: Path,
    quarantine: Path,
    report: Path,
    metrics: Path,
) -> None:
    """Read every configured source into one store of faces and its manifest."""
    settings = params.prepare
    listings = _list(params)
    tables = [listing.table.assign(source=name) for name, listing in listings.items()]
    listed = pd.concat(tables, ignore_index=True)
    _check_faces(listed, params.expressions, settings, lost=listed[:0])
    faces.parent.mkdir(parents=True, exist_ok=True)
    _check_space(faces.parent, len(listed) * settings.image_size**2)
    with tempfile.TemporaryFile(dir=faces.parent) as raw:  # has no name: a kill leaves nothing
        read, faults = read_faces(listings, settings.image_size, params.compute.workers, raw)
        unread = listed.merge(faults, on=["source", "path"])
        _check_faces(read, params.expressions, settings, unread)
        pixels = _view(raw, len(read), settings.image_size)
        kept, copies = settle_copies(read)
        near = _with_reason(near_duplicates(kept, pixels, settings.near_duplicate_bits))
        kept = kept.drop(index=near.index).reset_index(drop=True)
        _check_faces(kept, params.expressions, settings, lost=pd.concat([copies, near]))
        _write_store(faces, pixels, kept["row"].to_numpy())
        kept["row"] = np.arange(len(kept))
    _refuse_change(listings, _list(params))
    aside = _set_aside(listings, faults, copies, near)
    write_manifest(manifest, kept)
    write_quarantine(quarantine, aside)
    _write_report(report, kept, aside, np.load(faces, mmap_mode="r"), params.expressions)
    counts = summarise(kept, aside, params.expressions)
    write_json(metrics, counts)
    print(
        f"prepare: {len(kept):,} faces from {len(listings)} source(s); set aside: "
        + ", ".join(f"{count:,} {kind}" for kind, count in counts["quarantine"].items())
    )


def _list(params: Params) -> dict[str, Listing]:
    """What each source holds now, by its name."""
    return {
        source.name: list_source(source, params.prepare.data, params.expressions)
        for source in params.prepare.sources
    }


def _refuse_change(before: Mapping[str, Listing], after: Mapping[str, Listing]) -> None:
    """Refuse pictures that came or went meanwhile.

    DVC looks at the folder when the stage has ended, and would take them for read.
    """
    for name, listing in before.items():
        if not listing.table.equals(after[name].table):
            raise MienError(
                f"source '{name}': pictures came or went while they were read; run again when no "
                "more do"
            )


def summarise(
    manifest: pd.DataFrame, quarantine: pd.DataFrame, expressions: Sequence[str]
) -> dict[str, Any]:
    """Counts of faces by role, by source, and by expression where the pipeline knows it."""
    train = manifest.loc[manifest["split"].eq("train"), "label"]
    kinds = quarantine["kind"].value_counts()
    return {
        "faces": len(manifest),
        "labelled": int(manifest["split"].eq("train").sum()),
        "validation": int(manifest["split"].eq("validation").sum()),
        "test": int(manifest["split"].eq("test").sum()),
        "unlabelled": int(manifest["role"].eq("unlabelled").sum()),
        "quarantine": {kind: int(kinds.get(kind, 0)) for kind in KINDS},
        "expressions": {name: int(train.eq(name).sum()) for name in expressions},
        "sources": {name: len(rows) for name, rows in manifest.groupby("source", sort=False)},
    }


def _check_faces(
    table: pd.DataFrame,
    expressions: Sequence[str],
    settings: PrepareSettings,
    lost: pd.DataFrame,
) -> None:
    """Refuse data with which a later stage would fail, hours later perhaps.

    Every expression needs a training example, `cluster` unlabelled faces, `evaluate` test faces.
    ``lost`` has the pictures and faces that can't be used, each with its ``reason``.
    """
    train, expected = table["split"].eq("train"), lost["split"].eq("train")
    shown = set(table.loc[train, "label"])
    missing = [name for name in expressions if name not in shown]
    sources = ", ".join(source.name for source in settings.sources)
    if not train.any():
        advice = (
            "add a source that has labels to prepare.sources, or leave more than its validation "
            "and test shares"
        )
        cause = _cause(lost[expected], advice)
        raise MienError(f"no labelled training face in the sources ({sources}); {cause}")
    if missing:
        advice = "add examples, or take it out of expressions"
        cause = _cause(lost[expected & lost["label"].isin(missing)], advice)
        raise MienError(
            f"no labelled training face shows {', '.join(map(repr, missing))} in the sources "
            f"({sources}); {cause}"
        )
    if not table["split"].eq("test").any():
        cause = _cause(lost[lost["split"].eq("test")], _test_advice(settings))
        raise MienError(f"no test face in the sources ({sources}); {cause}")
    if not table["role"].eq("unlabelled").any():
        advice = "add a source with `role: unlabelled` to prepare.sources"
        cause = _cause(lost[lost["role"].eq("unlabelled")], advice)
        raise MienError(f"no unlabelled face in the sources ({sources}); {cause}")


def _cause(lost: pd.DataFrame, advice: str) -> str:
    """Why those that were there can't be used; where there were none, what to do."""
    if lost.empty:
        return advice
    one = lost.iloc[0]
    return (
        f"{len(lost):,} that are there can't be used; {one['source']}/{one['path']}: "
        f"{one['reason']}"
    )


def _test_advice(settings: PrepareSettings) -> str:
    """Why there is no test face, and what to do."""
    for source in settings.sources:
        if getattr(source, "role", None) == "test":
            return f"not one picture of '{source.name}' can be used; look at them"
    for source in settings.sources:
        if share := getattr(source, "test_share", 0):
            return (
                f"'{source.name}' has too few people or faces for its test_share of {share:g} (all "
                "faces of a person stay together); add some, or a source with `role: test`"
            )
    return (
        "test_share is 0; set it above 0 on a labelled source, or add a source with `role: test` "
        "to prepare.sources"
    )


def _check_space(folder: Path, size: int) -> None:
    """Refuse to begin what would fill the disk: the faces are there twice for a while."""
    needed, free = 2 * size, shutil.disk_usage(folder).free
    if free < needed:
        raise MienError(
            f"{folder}: {needed / 2**20:,.0f} MiB are needed for the faces, {free / 2**20:,.0f} "
            "MiB are free; free some space, or use a smaller prepare.image_size"
        )


def _view(raw: IO[bytes], count: int, size: int) -> NDArray[np.uint8]:
    """The faces written to ``raw`` as ``[count, size, size]``, memory-mapped."""
    return np.memmap(raw, dtype=np.uint8, mode="r", shape=(count, size, size))


def _write_store(path: Path, pixels: NDArray[np.uint8], rows: NDArray[np.int64]) -> None:
    """Copy the given faces into a ``.npy`` file, in chunks.

    Not through a memory map: on a full disk that ends the process, without a word.
    """
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), *pixels.shape[1:])}
    with replacing_file(path) as temporary, temporary.open("wb") as store:
        np.lib.format.write_array_header_1_0(store, header)
        for start in range(0, len(rows), _COPY_CHUNK):
            store.write(pixels[rows[start : start + _COPY_CHUNK]].tobytes())


def _set_aside(
    listings: Mapping[str, Listing],
    faults: pd.DataFrame,
    copies: pd.DataFrame,
    near: pd.DataFrame,
) -> pd.DataFrame:
    """The quarantine: every picture that is not in the manifest, and why."""
    left_out = [listing.left_out.assign(source=name) for name, listing in listings.items()]
    tables = [
        faults,
        *left_out,
        copies.assign(kind="duplicate"),
        near.assign(kind="near_duplicate"),
    ]
    columns = ["source", "path", "kind", "reason"]
    return pd.concat([table[columns] for table in tables], ignore_index=True)


def _with_reason(near: pd.DataFrame) -> pd.DataFrame:
    """What `near_duplicates` has found, in words, too."""
    pairs = zip(near["near"], near["correlation"], strict=True)
    return near.assign(
        reason=[f"nearly {other} (correlation {value:.3f})" for other, value in pairs]
    )


def _write_report(
    folder: Path,
    manifest: pd.DataFrame,
    quarantine: pd.DataFrame,
    faces: NDArray[np.uint8],
    expressions: Sequence[str],
) -> None:
    """Counts, the quarantine as a table to read, and a contact sheet for each source."""
    with replacing_folder(folder) as temporary:
        keys = ["source", "role", "split", "label"]
        counts = manifest[keys].fillna("-").value_counts(sort=False).rename("faces").reset_index()
        counts.to_csv(temporary / "counts.csv", index=False)
        quarantine.to_csv(temporary / "quarantine.csv", index=False)
        for name, rows in manifest.groupby("source", sort=False):
            contact_sheet(rows, faces, expressions, title=str(name)).save(temporary / f"{name}.png")


if __name__ == "__main__":
    run_stage(main)
