"""A table of pictures: ``path`` and, where known, ``label``, ``identity`` and ``split``."""

from collections.abc import Sequence
from csv import Error as CsvError
from csv import reader
from pathlib import Path

import pandas as pd

from mien.data.sources.listing import (
    Listing,
    give_roles,
    leave_out,
    leave_out_held_out,
    map_labels,
)
from mien.data.sources.pictures import PictureFiles, PictureReader
from mien.errors import MienError
from mien.params.faces import CsvSource

COLUMNS = ("path", "label", "identity", "split")
SPLITS = ("train", "validation", "test")


def list_csv(settings: CsvSource, data: Path, expressions: Sequence[str]) -> Listing:
    """List the pictures of a CSV; their paths start from the CSV's own folder.

    In a labelled source a row without a label is an unlabelled face, left out where its person is
    in the validation or test set, and a column ``split`` takes the place of the shares.

    Raises:
        MienError: the file is missing, empty or no CSV, a column or a value is unknown, a path is
            empty, or it or a column stands twice; the line is named.
    """
    where = f"prepare.sources: {settings.name}"
    csv = data / settings.path
    table = _read(csv)
    _check_paths(table, csv)
    table["label"] = map_labels(table["label"], settings, expressions, where)
    if "split" in table:
        if settings.role != "labelled" or settings.validation_share or settings.test_share:
            raise MienError(
                f"{csv}: the column split is for `role: labelled` without validation_share and "
                f"test_share; change {where}, or remove the column"
            )
        _settle_splits(table, csv)
    table, out = leave_out(table)
    table = give_roles(table, settings, where)
    table, held_out = leave_out_held_out(table)
    out = pd.concat([out, held_out], ignore_index=True)
    return Listing(table, PictureReader(PictureFiles(csv.parent), settings.faces), out)


def listed_pictures(csv: Path) -> list[Path]:
    """The files that a CSV names.

    Raises:
        MienError: the file is missing, empty or no CSV.
    """
    return [csv.parent / path for path in _read(csv)["path"].dropna()]


def _read(csv: Path) -> pd.DataFrame:
    """The CSV's texts; empty cells are None. The index says in which line a row begins."""
    lines: dict[int, list[str]] = {}
    line = 1
    try:
        with csv.open(encoding="utf-8-sig", newline="") as file:
            rows = reader(file, strict=True)
            for row in rows:
                if row:  # not an empty line, such as many a file ends with
                    lines[line] = row
                line = rows.line_num + 1  # a text in quotes may go over several lines
    except FileNotFoundError:
        raise MienError(f"{csv}: no such file; check the source's path") from None
    except CsvError as error:
        raise MienError(f"{csv}: not a CSV, near line {line}: {error}") from None
    except (UnicodeDecodeError, OSError) as error:
        raise MienError(f"{csv}: not a CSV: {error}") from None
    header = [name.strip() for name in lines.pop(1, [])]
    cased = [name for name in header if name.lower() in COLUMNS and name not in COLUMNS]
    if cased:  # passed over in silence, people could be on both sides of a split
        raise MienError(f"{csv}: the column {cased[0]} must be written {cased[0].lower()}")
    if "path" not in header:
        raise MienError(
            f"{csv}: there is no column path; columns are {', '.join(COLUMNS)}, "
            "and commas stand between them"
        )
    twice = [name for name in COLUMNS if header.count(name) > 1]
    if twice:
        raise MienError(f"{csv}: the column {twice[0]} stands twice; keep one of them")
    for number, row in lines.items():
        if len(row) > len(header):
            raise MienError(
                f"{csv}: line {number}: {len(row)} columns, not {len(header)}; "
                "put a text that holds a comma in quotes"
            )
    padded = [row + [""] * (len(header) - len(row)) for row in lines.values()]
    table = pd.DataFrame(padded, index=list(lines), columns=header, dtype=object)
    if table.empty:
        raise MienError(f"{csv}: there is no row under the header")
    table = table[[name for name in COLUMNS if name in table]]
    table = table.apply(lambda column: column.str.strip())
    for name in ("label", "identity"):
        if name not in table:
            table[name] = ""
    return table.where(table.ne(""), None)


def _check_paths(table: pd.DataFrame, csv: Path) -> None:
    empty = table["path"].isna()
    if empty.any():
        raise MienError(f"{csv}: line {_line(empty)}: the path is empty")
    twice = table["path"].duplicated()
    if twice.any():
        path = table.loc[twice, "path"].iloc[0]
        raise MienError(f"{csv}: line {_line(twice)}: {path} stands twice; keep one of the lines")


def _settle_splits(table: pd.DataFrame, csv: Path) -> None:
    """Check the column ``split``, in place; faces without a label are in none.

    Those that ``label_map`` leaves out may be in none, too.
    """
    wrong = ~table["split"].isin(SPLITS) & table["label"].notna() & table["label"].ne("")
    wrong |= table["split"].notna() & table["split"].ne("none") & ~table["split"].isin(SPLITS)
    if wrong.any():
        value = table.loc[wrong, "split"].iloc[0] or ""
        raise MienError(
            f"{csv}: line {_line(wrong)}: split is {value!r}, not one of {', '.join(SPLITS)}"
        )
    silent = table["label"].isna()
    held_out = silent & table["split"].isin(["validation", "test"])
    if held_out.any():
        raise MienError(f"{csv}: line {_line(held_out)}: a face held out needs a label")
    table["split"] = table["split"].where(~silent, "none")


def _line(mask: pd.Series) -> int:
    return int(mask.index[mask][0])
