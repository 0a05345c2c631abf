"""Learning curves on disk: a table for `dvc plots`, a picture for people."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mien.evaluation.plots import draw_learning
from mien.files import replacing_file, write_text


def write_curves(
    table: Path, picture: Path, records: Sequence[dict[str, float]], title: str
) -> pd.DataFrame:
    """Write one row for each record (its first key is the time axis) and draw the other columns."""
    curves = pd.DataFrame(list(records))
    with replacing_file(table) as temporary:
        curves.to_csv(temporary, index=False, float_format="%.6g")
    write_text(picture, draw_learning(curves, title))
    return curves
