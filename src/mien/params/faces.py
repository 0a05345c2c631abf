"""Where faces come from, and what they must satisfy."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mien.params.section import Count, Label, Positive, Section, Share

GreyLevel = Annotated[float, Field(ge=0, le=255)]


class SourceSettings(Section):
    """What every source has: a name (that of its test set, too) and the seed of its draws."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    seed: Count = 0


class FewLabels(Section):
    """A stratified draw of the labels that the pipeline may use.

    The other training faces become unlabelled, and their labels `true_label`, for audits only.
    """

    label_share: Annotated[float, Field(gt=0, le=1)] = 1.0


class Cropping(Section):
    """``given``: the picture is a face crop already. ``detect``: find the faces in it."""

    faces: Literal["given", "detect"] = "given"


class SyntheticSource(SourceSettings):
    """Drawn faces: labelled, validation and test parts, and a face-recognition part."""

    kind: Literal["synthetic"]
    labelled: Positive
    validation: Positive
    test: Positive
    unlabelled: Count


class PictureSource(SourceSettings, FewLabels, Cropping):
    """Pictures whose role and labels are the user's to say."""

    path: Path
    role: Literal["labelled", "unlabelled", "test"]
    label_map: dict[Label, Label] = Field(default_factory=dict)
    validation_share: Share = 0.0
    test_share: Share = 0.0


class ImageFolderSource(PictureSource):
    """A folder of pictures; a sub-folder names an expression, a person, or nothing."""

    kind: Literal["image_folder"]
    folders: Literal["expression", "identity", "nothing"]


class Fer2013Source(SourceSettings, FewLabels):
    """FER2013: the Kaggle CSV, or the Kaggle folders (also zipped)."""

    kind: Literal["fer2013"]
    path: Path


class LfwSource(SourceSettings, Cropping):
    """Labeled Faces in the Wild (a folder or a zip); ``centre`` is the share of the side kept."""

    kind: Literal["lfw"]
    path: Path
    centre: Annotated[float, Field(gt=0, le=1)] = 1.0


class CsvSource(PictureSource):
    """A table with a column ``path`` and, where known, ``label``, ``identity`` and ``split``."""

    kind: Literal["csv"]


AnySource = Annotated[
    SyntheticSource | ImageFolderSource | Fer2013Source | LfwSource | CsvSource,
    Field(discriminator="kind"),
]


class PrepareSettings(Section):
    """Where faces come from. ``data`` is the folder that the sources' paths start from."""

    data: Path
    image_size: Annotated[int, Field(ge=24, le=224, multiple_of=8)]
    near_duplicate_bits: Annotated[int, Field(ge=-1, le=16)]
    """Hamming distance of 64-bit perceptual hashes up to which faces are compared; -1 is off."""
    sources: Annotated[list[AnySource], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_differ(self) -> "PrepareSettings":
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(f"two sources share a name: {sorted(names)}; give each its own")
        return self


class ValidateSettings(Section):
    """What the manifest must satisfy before anything is trained on it."""

    min_faces_per_expression: Positive
    max_quarantine_share: Share
    brightness: tuple[GreyLevel, GreyLevel]
    """Range of a face's mean grey level, 0 to 255."""
    min_contrast: Annotated[float, Field(ge=0, le=127.5)]
    """Least standard deviation of a face's grey levels, 0 to 127.5."""
    max_out_of_range_share: Share
    """Share of faces that may break the two image statistics above."""
