"""Picture files in a folder or a zip archive, and the reader that all file sources share."""

import os
import stat
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import pandas as pd

from mien.data.faces import (
    Grey,
    PictureError,
    centre,
    crop,
    decode_picture,
    find_faces,
    resize,
)
from mien.data.sources.listing import Face
from mien.errors import MienError
from mien.files import is_clutter

MAX_BYTES = 64 * 2**20
"""A larger file is no picture of a face; in a zip it may be a bomb."""


@dataclass(frozen=True)
class PictureFiles:
    """The files under a folder or in a zip archive, by their relative paths with ``/``.

    Where all files of an archive lie in folders of one folder, paths start from that: it is the
    folder that was packed.
    """

    root: Path

    def paths(self) -> list[str]:
        """All files, sorted; hidden ones and the clutter of file managers are passed over.

        Raises:
            MienError: there is no such folder or archive, it is empty, or the archive is broken.
        """
        if self.root.is_dir():
            found = list(walk(self.root))
        elif self.root.is_file():
            entries = self._archive_entries()
            start = _packed_folder(entries)
            found = [path.removeprefix(start) for path in entries]
        else:
            raise MienError(f"{self.root}: no such folder or zip archive; check the source's path")
        files = sorted(path for path in found if not is_clutter(path))
        if not files:
            raise MienError(f"{self.root}: there is no file in it; put the source's pictures there")
        return files

    def _archive_entries(self) -> dict[str, zipfile.ZipInfo]:
        try:
            with zipfile.ZipFile(self.root) as archive:
                entries = _members(archive)
        # the last two of names that are not in the encoding they claim, and of newer archives
        except (zipfile.BadZipFile, OSError, UnicodeDecodeError, NotImplementedError) as error:
            raise MienError(
                f"{self.root}: not a sound zip archive ({error}); unpack it to a folder, or pack "
                "it again"
            ) from None
        if any(entry.flag_bits & 1 for entry in entries.values()):
            raise MienError(f"{self.root}: the archive is encrypted; unpack it to a folder")
        return entries

    def read(self, path: str) -> bytes:
        """The content of one file.

        Raises:
            PictureError: it can't be read, or is larger than `MAX_BYTES`.
        """
        try:
            if self.root.is_dir():
                if not stat.S_ISREG((self.root / path).stat().st_mode):
                    raise PictureError("no regular file")  # nobody may write to a pipe, ever
                with (self.root / path).open("rb") as file:
                    data = file.read(MAX_BYTES + 1)
            else:
                archive, entries, start = _open_archive(self.root, os.getpid())
                with archive.open(entries[start + path]) as member:
                    data = member.read(MAX_BYTES + 1)
        except PictureError:
            raise
        except (OSError, KeyError, zipfile.BadZipFile, NotImplementedError, EOFError) as error:
            raise PictureError(f"the file can't be read ({type(error).__name__})") from None
        except Exception as error:  # zlib.error and its like have no common ancestor
            raise PictureError(f"the archive is damaged here ({type(error).__name__})") from None
        if len(data) > MAX_BYTES:
            raise PictureError(f"the file is larger than {MAX_BYTES // 2**20} MiB")
        return data


@lru_cache(maxsize=4)
def _open_archive(
    path: Path, process: int
) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo], str]:
    """An open archive, for this process only: a forked file handle would share its position; its
    files; and the folder in it from which paths start."""
    archive = zipfile.ZipFile(path)
    entries = _members(archive)
    return archive, entries, _packed_folder(entries)


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The files in an archive by their paths; some packers on Windows have left ``\\`` in them."""
    named = {entry.filename.replace("\\", "/"): entry for entry in archive.infolist()}
    return {path: entry for path, entry in named.items() if not path.endswith("/")}


def _packed_folder(paths: Iterable[str]) -> str:
    """``name/`` where all files lie in folders of the folder ``name``, else nothing."""
    files = [path.split("/") for path in paths if not is_clutter(path)]
    tops = {parts[0] for parts in files}
    return f"{tops.pop()}/" if len(tops) == 1 and all(len(parts) > 2 for parts in files) else ""


def linked_folders(root: Path, paths: Iterable[str]) -> list[Path]:
    """Where the links to folders lead that `walk` has followed to ``paths`` under ``root``."""
    folders = {root / folder for path in paths for folder in Path(path).parents}
    return sorted({folder.resolve() for folder in folders if folder.is_symlink()})


def walk(root: Path) -> Iterator[str]:
    """Relative paths of the files under ``root``; links to folders are followed, once each.

    Raises:
        MienError: a folder can't be read, so that its pictures would be missing unnoticed.
    """

    def refuse(error: OSError) -> None:
        folder = Path(error.filename)
        clutter = is_clutter(folder.relative_to(root).as_posix())
        if not clutter and not isinstance(error, NotADirectoryError):  # of an archive
            raise MienError(
                f"{folder}: cannot be read ({error.strerror}); allow it, or move the folder away"
            )

    seen = set()
    for folder, subfolders, files in os.walk(root, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders.sort()
        relative = Path(folder).relative_to(root)
        yield from ((relative / file).as_posix() for file in files)


@dataclass(frozen=True)
class PictureReader:
    """Reads the faces in picture files.

    A picture whose label and person are unknown gives all faces found in it, any other the largest
    only: what is known of the picture is said of that face.
    """

    files: PictureFiles
    faces: Literal["given", "detect"] = "given"
    share: float = 1.0
    """Of the side of a given face, the middle part that is kept."""

    def __call__(self, rows: pd.DataFrame, size: int) -> Iterator[list[Face] | PictureError]:
        """Yield the faces of each row's ``path``, or why there is none."""
        anonymous = rows[["label", "true_label", "identity"]].isna().all(axis=1)
        for path, several in zip(rows["path"], anonymous, strict=True):
            try:
                picture = decode_picture(self.files.read(path))
                yield [
                    Face(resize(pixels, size), pixels.shape[1], pixels.shape[0])
                    for pixels in self._crops(picture, several)
                ]
            except PictureError as error:
                yield error

    def _crops(self, picture: Grey, several: bool) -> list[Grey]:
        if self.faces == "given":
            return [crop(picture, centre(picture, self.share))]
        boxes = find_faces(picture)
        return [crop(picture, box) for box in (boxes if several else boxes[:1])]
