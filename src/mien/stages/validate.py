"""Stage ``validate``: hold the manifest against its expectations; wrong data stop here."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mien.data.manifest import read_manifest, read_quarantine
from mien.data.validation import Check, validate_data
from mien.data.validation_report import render_page
from mien.errors import MienError
from mien.files import replacing_folder, write_json
from mien.params import Params
from mien.stages._run import run_stage

_SHOWN = 3


def main(
    params: Params, *, manifest: Path, faces: Path, quarantine: Path, report: Path, verdict: Path
) -> None:
    """Check the data, write the summary page and the verdict, and fail if a check failed."""
    table, aside = read_manifest(manifest), read_quarantine(quarantine)
    with replacing_folder(report) as folder:
        docs = folder / "data_docs"
        docs.mkdir()
        checks = validate_data(
            table,
            aside,
            np.load(faces, mmap_mode="r"),
            expressions=params.expressions,
            settings=params.validate_,
            near_duplicate_bits=params.prepare.near_duplicate_bits,
            data_docs=docs,
        )
        page = render_page(checks, table, aside, params.expressions)
        (folder / "index.html").write_text(page, encoding="utf-8")
    write_json(verdict, _verdict(checks, len(table)))  # before the error: it must stay readable
    address = report.absolute() / "index.html"  # the run's folder need not be the reader's
    failed = [check for check in checks if not check.passed]
    if failed:
        complaints = "\n".join(map(complaint, failed))
        raise MienError(
            f"{len(failed)} of {len(checks)} checks of {manifest} failed\n{complaints}\n"
            f"all of it: {address}"
        )
    print(f"validate: all {len(checks)} checks passed; see {address}")


def complaint(check: Check) -> str:
    """A failed check in words: what was expected, how many rows break it, and the first of them."""
    lines = [f"- {check.title}: {check.failing:,} of {check.seen:,} rows break this"]
    lines += [f"    {offence.where}: {offence.value}" for offence in check.examples[:_SHOWN]]
    return "\n".join(lines)


def _verdict(checks: Sequence[Check], faces: int) -> dict[str, Any]:
    """What ``metrics/validate.json`` says: later stages depend on it, Prefect shows the rows."""
    return {
        "success": all(check.passed for check in checks),
        "faces": faces,
        "checks": len(checks),
        "failed": {
            check.title: {
                "failing": check.failing,
                "seen": check.seen,
                "rows": [asdict(offence) for offence in check.examples],
            }
            for check in checks
            if not check.passed
        },
    }


if __name__ == "__main__":
    run_stage(main)
