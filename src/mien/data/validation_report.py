"""The validation's summary page: one HTML file that opens offline."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from mien.data.manifest import KINDS
from mien.data.validation import Check


def render_page(
    checks: Sequence[Check],
    manifest: pd.DataFrame,
    quarantine: pd.DataFrame,
    expressions: Sequence[str],
) -> str:
    """The page as HTML: the verdict, every check, what breaks it, and what the data hold."""
    environment = Environment(
        loader=PackageLoader("mien.data"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    kinds = quarantine["kind"].value_counts()
    return environment.get_template("validation.html").render(
        failed=[check for check in checks if not check.passed],
        passed=[check for check in checks if check.passed],
        faces=len(manifest),
        parts=_parts(manifest),
        rows=_label_rows(manifest, expressions),
        sources=manifest["source"].nunique(),
        quarantine={kind: int(kinds.get(kind, 0)) for kind in KINDS},
        aside=quarantine.head(20).to_dict("records"),
        aside_count=len(quarantine),
    )


def _parts(manifest: pd.DataFrame) -> dict[str, int]:
    """Faces of each part, under the name that the page shows."""
    split = manifest["split"].value_counts()
    names = {"training": "train", "validation": "validation", "test": "test", "unlabelled": "none"}
    return {shown: int(split.get(name, 0)) for shown, name in names.items()}


def _label_rows(manifest: pd.DataFrame, expressions: Sequence[str]) -> list[dict[str, Any]]:
    """For each source, its labelled faces by split and expression, and its unlabelled ones."""
    rows = []
    for source, members in manifest.groupby("source", sort=False):
        for split in ("train", "validation", "test"):
            part = members.loc[members["split"].eq(split), "label"]
            if len(part):
                counts = [int(part.eq(name).sum()) for name in expressions]
                rows.append({"source": source, "split": split, "counts": counts, "all": len(part)})
        unlabelled = int(members["split"].eq("none").sum())
        if unlabelled:
            rows.append({"source": source, "split": "unlabelled", "counts": [], "all": unlabelled})
    return [{"names": list(expressions)}, *rows]
