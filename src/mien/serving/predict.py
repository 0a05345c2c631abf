"""``mien predict``: what the faces in files show, in this process or asked of a service."""

import argparse
import csv
import glob
import json
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
from tqdm import tqdm

from mien.data.faces import MAX_PIXELS, PictureError
from mien.errors import MienError
from mien.files import is_clutter
from mien.serving.answers import FaceAnswer
from mien.serving.classifier import Classifier, find_crops, read_crop
from mien.serving.client import PICTURE, Client, ServiceError
from mien.serving.detector import make_detector
from mien.serving.package import find_package, load_package, shipped_packages

SUFFIXES = {
    *(".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".mpo", ".heic", ".heif", ".avif"),
}
"""What a folder is searched for; of those that cannot be read it is said, not kept silent."""
MAX_BYTES = 10 * MAX_PIXELS
"""A larger file is a film, say: no picture takes more than 8 a pixel, and some for its header."""
Found = list[tuple[list[int] | None, FaceAnswer]]
"""For each face its box ``[x, y, width, height]`` (None for a crop) and the answer."""
Row = dict[str, Any]


class Predictor(Protocol):
    """What finds out: takes a picture's bytes, gives its faces."""

    version: str
    """Of the model that gave the last answer."""
    expressions: list[str]

    def __call__(self, data: bytes) -> Found: ...


def run(options: argparse.Namespace) -> None:
    """The command's body; see `mien predict -h` for what the options mean.

    Raises:
        MienError: a path does not exist, there is no model, or a picture could not be used (the
            others are answered first).
    """
    files = list_files(options.paths)
    predictor: Predictor
    if options.url is not None:
        predictor = _Remote(options.url, options.crop)
    else:
        folder = find_package(Path.cwd(), options.model)
        predictor = _Local(folder, options.crop)
        if options.model is None:  # it depends on what was trained or promoted in this folder
            name = folder.name if folder in shipped_packages().values() else folder
            said = f"answers of {name} ({predictor.version}); --model names another"
            print(said, file=sys.stderr, flush=True)
    write = _WRITERS[options.format](sys.stdout, predictor.expressions)
    failed = 0
    named = {Path(name) for name in options.paths}
    # in the terminal where the rows are shown a bar would be written into them
    quiet = sys.stdout.isatty() or not sys.stderr.isatty()
    for path in tqdm(files, unit=" pictures", disable=quiet, leave=False):
        try:
            found = predictor(_read(path, named))
        except (PictureError, ServiceError, OSError) as error:
            if isinstance(error, ServiceError) and error.status not in PICTURE:
                raise  # the service, not this picture
            tqdm.write(_printable(f"{path or '-'}: {error}"), file=sys.stderr)
            failed += 1
            continue
        write(str(path or "-"), found, predictor.version)
    if failed:
        raise MienError(f"{failed} of {len(files)} pictures could not be used; see above")


def _read(path: Path | None, named: set[Path]) -> bytes:
    if path is None:
        return sys.stdin.buffer.read()
    status = path.stat()
    # what nobody writes to would be waited for, for ever
    if path not in named and not stat.S_ISREG(status.st_mode):
        raise PictureError("no regular file; a pipe is read where it is named itself")
    if status.st_size > MAX_BYTES:
        raise PictureError(f"the file is larger than {MAX_BYTES // 10**6} MB")
    return path.read_bytes()


def list_files(paths: list[str]) -> list[Path | None]:
    """The pictures that the arguments name: files, folders (searched), globs, ``-`` (None).

    A search passes over what is hidden and follows links to folders, as that of the pipeline does.
    """
    files: list[Path | None] = []
    for name in paths:
        path = Path(name)
        if name == "-":
            files.append(None)
        elif not name:
            raise MienError("a path is empty: name a picture, a folder or -")
        elif path.is_dir():
            found = _search(path)
            if not found:
                raise MienError(f"{name}: no pictures in this folder")
            files += found
        elif path.exists():  # a pipe, too, such as a shell's `<(…)`
            files.append(path)
        else:
            found = [Path(match) for match in sorted(glob.glob(name, recursive=True))]  # noqa: PTH207
            matches = [match for match in found if match.is_file()]
            if "**" not in name:  # which names what lies in folders itself
                matches += [each for match in found if match.is_dir() for each in _search(match)]
            if not matches:
                raise MienError(f"{name}: no such file or folder, and no picture matches it")
            files += matches
    return files


def _search(folder: Path) -> list[Path]:
    from mien.data.sources.pictures import walk  # with all of the pipeline's sources

    return sorted(
        folder / path
        for path in walk(folder)
        if Path(path).suffix.lower() in SUFFIXES and not is_clutter(path)
    )


class _Local:
    def __init__(self, folder: Path, crop: bool) -> None:
        self.classifier = Classifier(load_package(folder))
        self.version = self.classifier.package.version
        self.expressions = list(self.classifier.package.expressions)
        self.crop = crop
        self.detect = make_detector()

    def __call__(self, data: bytes) -> Found:
        size = self.classifier.package.image_size
        crops = [read_crop(data, size)] if self.crop else find_crops(data, size, self.detect)[0]
        if not crops:
            return []
        answers = self.classifier.classify(np.stack([crop.pixels for crop in crops])).answers
        return [
            (None if crop.box is None else [*dict(crop.box).values()], answer)
            for crop, answer in zip(crops, answers, strict=True)
        ]


class _Remote:
    def __init__(self, url: str, crop: bool) -> None:
        self.client = Client(url)
        self.crop = crop
        info = self.client.info()
        self.version, self.expressions = info.version, info.expressions

    def __call__(self, data: bytes) -> Found:
        if self.crop:
            prediction = self.client.predict([data])
            self.version = prediction.model  # another one, once a new champion is served
            return [(None, answer) for answer in prediction.faces]
        analysis = self.client.analyze(data)
        self.version = analysis.model
        return [([*dict(face.box).values()], face) for face in analysis.faces]


# --- output -------------------------------------------------------------------------------------


def _printable(text: str) -> str:
    """Without what a terminal obeys, which a file's name may hold: as Python's escapes."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def _rows(path: str, found: Found, model: str) -> Iterator[Row]:
    """A row for each face; one without an expression where there is none."""
    if not found:
        nothing = dict.fromkeys(("box", "expression", "probabilities"))
        yield {"path": path, **nothing, "abstains": True, "reason": "no_face", "model": model}
    for box, answer in found:
        shown = answer.model_dump(exclude={"confidence", "box"})
        yield {"path": path, "box": box, **shown, "model": model}


class _Lines:
    def __init__(self, file: TextIO, expressions: list[str]) -> None:
        self.file = file

    def __call__(self, path: str, found: Found, model: str) -> None:
        for row in _rows(path, found, model):
            self.write(row)

    def write(self, row: Row) -> None:
        # what an encoding lacks JSON has escapes for; those of the stream itself are no JSON
        escaped = (self.file.encoding or "").lower() not in ("utf-8", "utf8")
        print(json.dumps(row, ensure_ascii=escaped), file=self.file, flush=True)


class _Csv(_Lines):
    """A column for each probability, named after its expression unless another is named so.

    A path that a spreadsheet would take for a formula begins with ``./``.
    """

    def __init__(self, file: TextIO, expressions: list[str]) -> None:
        super().__init__(file, expressions)
        before, after = ["path", "box", "expression"], ["abstains", "reason", "model"]
        self.names = {
            name: f"probability_{name}" if name in before + after else name for name in expressions
        }
        columns = [*before, *self.names.values(), *after]
        self.writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        self.writer.writeheader()

    def write(self, row: Row) -> None:
        box = None if row["box"] is None else " ".join(map(str, row["box"]))
        found = row["probabilities"] or {}
        shares = {column: found.get(name) for name, column in self.names.items()}
        path = row["path"]
        if path != "-" and path.startswith(("=", "+", "-", "@")):
            path = f"./{path}"
        self.writer.writerow({**row, **shares, "path": path, "box": box})
        self.file.flush()


class _Table(_Lines):
    """For people: aligned columns, written as they come."""

    def __init__(self, file: TextIO, expressions: list[str]) -> None:
        super().__init__(file, expressions)
        print(f"{'expression':<12} {'conf.':>6}  {'box':<22} {'note':<12} path", file=file)

    def write(self, row: Row) -> None:
        best = f"{max(row['probabilities'].values()):.0%}" if row["probabilities"] else "-"
        box = "-" if row["box"] is None else " ".join(map(str, row["box"]))
        print(
            f"{row['expression'] or '-':<12} {best:>6}  {box:<22} {row['reason'] or '':<12} "
            f"{_printable(row['path'])}",
            file=self.file,
            flush=True,
        )


_WRITERS: dict[str, type[_Lines]] = {"table": _Table, "jsonl": _Lines, "csv": _Csv}
