"""FER2013 (Goodfellow et al. 2013), in both forms in which Kaggle has it."""

import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mien.data.faces import PictureError, resize
from mien.data.sources.listing import Face, Listing, hide_labels, set_aside
from mien.data.sources.pictures import PictureFiles, PictureReader
from mien.errors import MienError
from mien.params.faces import Fer2013Source

EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""What the numbers in the CSV's column ``emotion`` mean."""
SPLITS = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
SIDE = 48

_PICTURE = re.compile(r"(?:^|/)([^/]+)/(Training|PublicTest|PrivateTest)_\d+\.(?:jpg|jpeg|png)$")


def list_fer2013(settings: Fer2013Source, data: Path, expressions: Sequence[str]) -> Listing:
    """List FER2013: a CSV of ``emotion,pixels,Usage``, or ``…/<expression>/Training_123.jpg``.

    The folders may be in a zip; a folder that holds the CSV will do, too. ``Training`` pictures
    are for training, ``PublicTest`` for validation, ``PrivateTest`` for the test, whatever folder
    they lie in. Expressions that the project does not list are left out.

    Raises:
        MienError: the path is missing or holds neither form, or a row of the CSV makes no sense.
    """
    root = data / settings.path
    csv = root / "fer2013.csv" if (root / "fer2013.csv").is_file() else root
    if csv.suffix.lower() == ".csv" and csv.is_file():
        table = _list_rows(csv)
        reader: PictureReader | PixelReader = PixelReader(csv)
    else:
        files = PictureFiles(root)
        table = _list_pictures(files)
        reader = PictureReader(files)
    known = table["label"].isin(list(expressions))
    out = set_aside(table.loc[~known, "path"].tolist(), "its label is not in expressions")
    table = table[known].reset_index(drop=True)
    table["identity"] = table["true_label"] = None
    return Listing(hide_labels(table, settings.label_share, settings.seed), reader, out)


def _list_pictures(files: PictureFiles) -> pd.DataFrame:
    paths = files.paths()
    rows = [
        (path, match[1].lower(), SPLITS[match[2]])
        for path in paths
        if (match := _PICTURE.search(path))
    ]
    if not rows:
        inside = [path for path in paths if path.endswith("fer2013.csv")]
        if inside:
            raise MienError(
                f"{files.root}: {inside[0]} is in it; unpack archives, and name the CSV itself"
            )
        raise MienError(
            f"{files.root}: neither fer2013.csv nor pictures named <expression>/Training_123.jpg, "
            "PublicTest_… or PrivateTest_… are in it"
        )
    return pd.DataFrame(rows, columns=["path", "label", "split"], dtype=object)


# --- the CSV ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PixelReader:
    """Reads faces out of the CSV, whose rows it finds by their byte ``offset``."""

    csv: Path

    def __call__(self, rows: pd.DataFrame, size: int) -> Iterator[list[Face] | PictureError]:
        """Yield the face of each row, or why there is none."""
        with self.csv.open("rb") as file:
            for offset, column in zip(rows["offset"], rows["column"], strict=True):
                file.seek(offset)
                try:
                    pixels = _parse_pixels(_fields(file.readline())[column])
                except PictureError as error:
                    yield error
                else:
                    yield [Face(resize(pixels, size), SIDE, SIDE)]


def _list_rows(csv: Path) -> pd.DataFrame:
    """The CSV's rows; a row's ``path`` is ``fer2013.csv#<line number>``."""
    rows = []
    with csv.open("rb") as file:
        first = file.readline().removeprefix(BOM_UTF8)
        header = [name.decode("utf-8", "replace") for name in _fields(first)]
        missing = {"emotion", "pixels", "Usage"} - set(header)
        if missing:
            raise MienError(f"{csv}: the columns {sorted(missing)} are missing in line 1")
        emotion, usage = header.index("emotion"), header.index("Usage")
        offset = file.tell()
        for number, line in enumerate(file, start=2):
            fields = _fields(line)
            if len(fields) == len(header):
                try:
                    label = EMOTIONS[int(fields[emotion])]
                    split = SPLITS[fields[usage].decode("ascii", "replace")]
                except (ValueError, IndexError, KeyError):
                    label = split = ""
                if not label or fields[emotion].startswith(b"-"):
                    raise MienError(
                        f"{csv}: line {number}: emotion must be 0 to 6 and Usage one of "
                        f"{', '.join(SPLITS)}"
                    )
                rows.append((f"{csv.name}#{number}", label, split, offset))
            elif line.strip():
                raise MienError(f"{csv}: line {number}: {len(fields)} columns, not {len(header)}")
            offset += len(line)
    if not rows:
        raise MienError(f"{csv}: there is no row under the header")
    table = pd.DataFrame(rows, columns=["path", "label", "split", "offset"]).astype(
        {"path": object, "label": object, "split": object}
    )
    table["column"] = header.index("pixels")
    return table


def _fields(line: bytes) -> list[bytes]:
    return [field.strip().strip(b'"') for field in line.split(b",")]


def _parse_pixels(field: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    try:
        values = np.array(field.split(), dtype=np.int64)
    except ValueError:
        raise PictureError("a pixel is not a whole number") from None
    if values.size != SIDE * SIDE:
        raise PictureError(f"{values.size} pixels, not {SIDE}×{SIDE}")
    if values.min() < 0 or values.max() > 255:
        raise PictureError("a pixel is not between 0 and 255")
    return values.astype(np.uint8).reshape(SIDE, SIDE)
