"""Contact sheets: many faces on one picture, for people to look at."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_CELL = 72
_GAP = 4
_COLUMNS = 12
_UNLABELLED_LINES = 4
_LABEL_WIDTH = 190
_TITLE_HEIGHT = 56
_INK, _FAINT, _PAPER = (32, 33, 36), (110, 113, 120), (255, 255, 255)


def contact_sheet(
    rows: pd.DataFrame, faces: NDArray[np.uint8], expressions: Sequence[str], *, title: str
) -> Image.Image:
    """A row of faces for each split and expression, evenly taken from the manifest's ``rows``.

    Args:
        rows: of the manifest.
        faces: the store, uint8 ``[N, S, S]``.
        expressions: in the order in which they are shown.
        title: written above.
    """
    groups = _groups(rows, expressions)
    sheet = Image.new(
        "RGB",
        (
            _LABEL_WIDTH + _COLUMNS * (_CELL + _GAP) + _GAP,
            _TITLE_HEIGHT + len(groups) * (_CELL + _GAP) + _GAP,
        ),
        _PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    large, small, tiny = (ImageFont.load_default(size) for size in (22, 15, 12))
    draw.text((16, 16), title, _INK, font=large)
    count = f"{len(rows):,} faces, {faces.shape[1]} by {faces.shape[2]} pixels"
    draw.text((_LABEL_WIDTH, 22), count, _FAINT, font=small)
    for index, (heading, detail, members) in enumerate(groups):
        top = _TITLE_HEIGHT + index * (_CELL + _GAP)
        draw.text((16, top + 18), heading, _INK, font=small)
        draw.text((16, top + 38), detail, _FAINT, font=tiny)
        chosen = np.unique(np.linspace(0, len(members) - 1, _COLUMNS).round().astype(int))
        for column, row in enumerate(members["row"].to_numpy()[chosen]):
            face = Image.fromarray(np.asarray(faces[row])).resize((_CELL, _CELL))
            sheet.paste(face.convert("RGB"), (_LABEL_WIDTH + column * (_CELL + _GAP), top))
    return sheet


def _groups(rows: pd.DataFrame, expressions: Sequence[str]) -> list[tuple[str, str, pd.DataFrame]]:
    """``(heading, detail, members)``: labelled faces by split and expression, then the others."""
    groups = []
    for split in ("train", "validation", "test"):
        for expression in expressions:
            members = rows[rows["split"].eq(split) & rows["label"].eq(expression)]
            if len(members):
                groups.append((expression, f"{split}, {len(members):,}", members))
    unlabelled = rows[rows["split"].eq("none")]
    lines = min(_UNLABELLED_LINES, -(-len(unlabelled) // _COLUMNS))
    for line in range(lines):
        share = slice(line * len(unlabelled) // lines, (line + 1) * len(unlabelled) // lines)
        detail = f"{len(unlabelled):,}" if line == 0 else ""
        groups.append(("unlabelled", detail, unlabelled.iloc[share]))
    return groups
