"""Drawn faces: the embedded default, for which nothing is downloaded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mien.data.sources.listing import Face, Listing
from mien.data.synthetic import render, synthetic_table
from mien.params.faces import SyntheticSource


@dataclass(frozen=True)
class SyntheticReader:
    """Draws faces instead of reading them."""

    seed: int

    def __call__(self, rows: pd.DataFrame, size: int) -> Iterator[list[Face]]:
        """Yield the face of each row."""
        shown = rows["label"].where(rows["label"].notna(), rows["true_label"])
        faces = render(rows["path"].tolist(), shown.tolist(), seed=self.seed, size=size)
        yield from ([Face(face, size, size)] for face in faces)


def list_synthetic(settings: SyntheticSource, data: Path, expressions: Sequence[str]) -> Listing:
    """List the faces that will be drawn; nothing under ``data`` is read.

    Raises:
        MienError: an expression that drawn faces do not know.
    """
    return Listing(synthetic_table(settings, expressions), SyntheticReader(settings.seed))
