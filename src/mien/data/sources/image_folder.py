"""A folder (or zip) of pictures; a sub-folder names an expression, a person, or nothing."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mien.data.sources.listing import Listing, give_roles, leave_out, map_labels
from mien.data.sources.pictures import PictureFiles, PictureReader
from mien.errors import MienError
from mien.params.faces import ImageFolderSource


def list_image_folder(
    settings: ImageFolderSource, data: Path, expressions: Sequence[str]
) -> Listing:
    """List ``<path>/<expression or person>/…/<picture>``; the first folder is the one that counts.

    Raises:
        MienError: the folder is missing or empty, a picture lies in no sub-folder though these
            have a meaning, or a sub-folder is no known expression.
    """
    where = f"prepare.sources: {settings.name}"
    if settings.role != "unlabelled" and settings.folders != "expression":
        raise MienError(f"{where}: `role: {settings.role}` needs `folders: expression`")
    if settings.label_map and settings.folders != "expression":
        raise MienError(f"{where}: label_map needs `folders: expression`")
    files = PictureFiles(data / settings.path)
    paths = pd.Series(files.paths(), dtype=object)
    table = pd.DataFrame({"path": paths, "label": None, "identity": None}, dtype=object)
    if settings.folders != "nothing":
        folders = paths.str.split("/", n=1).str[0].where(paths.str.contains("/"))
        if folders.isna().any():
            stray = paths[folders.isna()].iloc[0]
            raise MienError(
                f"{files.root}/{stray}: lies in no sub-folder, but {where} says `folders: "
                f"{settings.folders}`; move it into one or remove it"
            )
        table["label" if settings.folders == "expression" else "identity"] = folders
    table["label"] = map_labels(table["label"], settings, expressions, where)
    table, out = leave_out(table)
    table = give_roles(table, settings, where)
    return Listing(table, PictureReader(files, settings.faces), out)
