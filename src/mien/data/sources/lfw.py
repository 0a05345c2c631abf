"""Labeled Faces in the Wild (Huang et al. 2007): people are known, expressions are not."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from mien.data.sources.listing import Listing
from mien.data.sources.pictures import PictureFiles, PictureReader
from mien.errors import MienError
from mien.params.faces import LfwSource


def list_lfw(settings: LfwSource, data: Path, expressions: Sequence[str]) -> Listing:
    """List ``[lfw/]<Name>/<Name>_0001.jpg`` in a folder or zip; all faces are unlabelled.

    Raises:
        MienError: the path is missing, or holds no picture of that form, or ``centre`` is set for
            faces that are to be found.
    """
    if settings.centre < 1 and settings.faces == "detect":
        where = f"prepare.sources: {settings.name}"
        raise MienError(f"{where}: centre needs `faces: given`; found faces are cut out already")
    files = PictureFiles(data / settings.path)
    pictures = [
        path
        for path in map(PurePosixPath, files.paths())
        if path.suffix.lower() in (".jpg", ".png") and path.stem.startswith(f"{path.parent.name}_")
    ]
    if not pictures:
        raise MienError(
            f"{files.root}: no picture named <Name>/<Name>_0001.jpg; expected the folders of "
            "Labeled Faces in the Wild, or a zip of them"
        )
    table = pd.DataFrame({"path": [path.as_posix() for path in pictures]}, dtype=object)
    table["label"] = table["true_label"] = None
    table["identity"] = [path.parent.name for path in pictures]
    table["role"], table["split"] = "unlabelled", "none"
    return Listing(table, PictureReader(files, settings.faces, settings.centre))
