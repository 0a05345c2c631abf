"""What every section of the settings is made of."""

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def composed(text: str) -> str:
    """Accents as one character with their letter: file names from macOS have two for them."""
    return unicodedata.normalize("NFC", text)


def _shown(name: str) -> str:
    """A name that file names, CSVs, the card's tables and other people's pages can hold."""
    if not name or name != name.strip() or not name.isprintable() or set(name) & set("|<>/"):
        raise ValueError("give it letters, none of | < > / and no spaces around them")
    return name


Label = Annotated[str, AfterValidator(composed)]
Expression = Annotated[Label, AfterValidator(_shown)]


class Section(BaseModel):
    """A frozen group of settings that refuses unknown names."""

    model_config = ConfigDict(extra="forbid", frozen=True)
