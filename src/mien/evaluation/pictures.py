"""Contact sheets: many small faces on one picture, in captioned rows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mien.files import replacing_file

_CAPTION, _GAP, _PAPER, _INK = 130, 3, 255, 40


def write_contact_sheet(
    path: Path, rows: Sequence[tuple[str, NDArray[np.uint8]]], *, columns: int, side: int = 64
) -> None:
    """Draw faces ``[n, S, S]`` of each captioned row, the first ``columns`` of them, as a PNG.

    Args:
        path: of the PNG; written atomically.
        rows: caption (may have two lines) and faces of each row.
        columns: faces in a row.
        side: pixels of a face's side on the sheet.
    """
    step = side + _GAP
    sheet = Image.new("L", (_CAPTION + columns * step, max(len(rows), 1) * step + _GAP), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for index, (caption, faces) in enumerate(rows):
        top = _GAP + index * step
        pen.text((8, top + side / 2), caption, fill=_INK, font=font, anchor="lm")
        for column, face in enumerate(faces[:columns]):
            picture = Image.fromarray(np.asarray(face)).resize(
                (side, side), Image.Resampling.BICUBIC
            )
            sheet.paste(picture, (_CAPTION + column * step, top))
    with replacing_file(path) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)
