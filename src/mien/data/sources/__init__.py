"""Where faces come from. A new kind is one function here and settings in `mien.params.faces`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mien.data.sources.csv_file import list_csv
from mien.data.sources.fer2013 import list_fer2013
from mien.data.sources.image_folder import list_image_folder
from mien.data.sources.lfw import list_lfw
from mien.data.sources.listing import Listing
from mien.data.sources.synthetic import list_synthetic
from mien.params.faces import AnySource

SOURCES: dict[str, Callable[[Any, Path, Sequence[str]], Listing]] = {
    "synthetic": list_synthetic,
    "image_folder": list_image_folder,
    "fer2013": list_fer2013,
    "lfw": list_lfw,
    "csv": list_csv,
}


def list_source(settings: AnySource, data: Path, expressions: Sequence[str]) -> Listing:
    """What a source holds, before any picture is read; its paths start from the folder ``data``.

    Raises:
        MienError: the source is missing, empty, or names a label that is not in ``expressions``.
    """
    return SOURCES[settings.kind](settings, data, expressions)
