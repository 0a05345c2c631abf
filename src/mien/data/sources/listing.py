"""What a source hands over: a table of its pictures, and how to read them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

from mien.data.faces import Grey, PictureError
from mien.data.sources.draws import draw_labels, draw_splits
from mien.errors import MienError
from mien.params import OTHER
from mien.params.faces import PictureSource
from mien.params.section import composed

LISTED = ("path", "role", "split", "label", "true_label", "identity")
"""The manifest's columns that are known before a picture is read."""


class Face(NamedTuple):
    """A face as the store keeps it, and the size it had in its picture."""

    pixels: Grey
    width: int
    height: int


Reader = Callable[[pd.DataFrame, int], Iterator[list[Face] | PictureError]]
"""Reads rows of a listing: for each row its faces, resized to the given side, or why there is none.

It is sent to other processes, so it must be picklable; what it opens, it opens there.
"""


@dataclass(frozen=True)
class Listing:
    """A source's pictures, in a fixed order, not read yet."""

    table: pd.DataFrame
    """One row per picture: the columns `LISTED`, and what the reader needs besides."""
    read: Reader
    left_out: pd.DataFrame = field(default_factory=lambda: set_aside([], ""))
    """Pictures that are not to be read: ``path``, ``kind`` and ``reason``."""


def set_aside(paths: Sequence[str], reason: str, kind: str = "unknown_label") -> pd.DataFrame:
    """The table of pictures that a source leaves out, all for the same reason."""
    return pd.DataFrame({"path": list(paths), "kind": kind, "reason": reason}, dtype=object)


def give_roles(table: pd.DataFrame, settings: PictureSource, where: str) -> pd.DataFrame:
    """Fill ``role``, ``split``, ``label`` and ``true_label`` in from what is known of each picture.

    Args:
        table: ``path``, ``label`` and ``identity`` (null where unknown), and, where the source
            fixes it, ``split``.
        settings: of the source. Faces without a label in a labelled source are unlabelled; those
            for validation and test are drawn by identity where one is known, by label elsewhere.
        where: names the source in errors.

    Raises:
        MienError: a setting that has no meaning with this role, or a test face without a label.
    """
    table = table.reset_index(drop=True)
    role, held_out = settings.role, settings.validation_share + settings.test_share
    if role != "labelled" and (held_out or settings.label_share < 1):
        names = "validation_share, test_share and label_share"
        raise MienError(f"{where}: {names} need `role: labelled`, not `role: {role}`")
    if held_out >= 1:
        raise MienError(f"{where}: validation_share + test_share must leave faces for training")
    known = table["label"].notna()
    if role == "unlabelled":
        table["split"] = "none"
        table["true_label"], table["label"] = table["label"], None
    elif role == "test":
        table["split"] = "test"
    elif "split" not in table:
        table["split"] = np.where(known, "train", "none").astype(object)
        table.loc[known, "split"] = draw_splits(
            table.loc[known, "label"],
            table.loc[known, "identity"],
            table.loc[known, "path"],
            validation_share=settings.validation_share,
            test_share=settings.test_share,
            seed=settings.seed,
        )
    if "true_label" not in table:
        table["true_label"] = None
    silent = table["split"].ne("none") & table["label"].isna()
    if silent.any():
        path = table.loc[silent, "path"].iloc[0]
        raise MienError(f"{where}: {path} has no label, but `role: {role}` needs one")
    return hide_labels(table, settings.label_share, settings.seed)


def hide_labels(table: pd.DataFrame, label_share: float, seed: int) -> pd.DataFrame:
    """Keep a stratified ``label_share`` of the training labels, and set ``role`` by ``split``.

    The other training faces become unlabelled; their labels move to ``true_label``.
    """
    train = table["split"].eq("train")
    hidden = train.copy()
    hidden[train] = ~draw_labels(table.loc[train, "label"], share=label_share, seed=seed)
    table = table.copy()
    table.loc[hidden, "true_label"] = table.loc[hidden, "label"]
    table.loc[hidden, "label"] = None
    table.loc[hidden, "split"] = "none"
    roles = {"train": "labelled", "validation": "labelled", "test": "test", "none": "unlabelled"}
    table["role"] = table["split"].map(roles).astype(object)
    return table


def map_labels(
    names: pd.Series, settings: PictureSource, expressions: Sequence[str], where: str
) -> pd.Series:
    """The expression that each name stands for; ``""`` where ``label_map`` leaves the name out.

    Nulls stay null. In an unlabelled source a name may also stand for `OTHER`.

    Raises:
        MienError: a name is neither an expression nor in ``label_map``, or maps to none.
    """
    names = names.map(composed, na_action="ignore").astype(object)
    targets = {*expressions, ""} | ({OTHER} if settings.role == "unlabelled" else set())
    for name, target in settings.label_map.items():
        if target not in targets:
            raise MienError(
                f"{where}.label_map: {name!r} maps to {target!r}, which is not in expressions "
                f'({", ".join(expressions)}); map it to one of them, or to "" to leave it out'
            )
    meaning = {name: name for name in targets - {""}} | settings.label_map
    unknown = sorted(set(names.dropna()) - set(meaning))
    if unknown:
        raise MienError(
            f"{where}: the label {unknown[0]!r} is not in expressions ({', '.join(expressions)})"
            f"{f'; nor are {unknown[1:]}' if unknown[1:] else ''}. Rename it, list it in "
            f"expressions, or, in a file of settings that names the sources, add to {where}"
            f".label_map, for example, `{unknown[0]}: {expressions[0]}` to read it as that "
            f'expression, or `{unknown[0]}: ""` to leave its pictures out'
        )
    return names.map(meaning).astype(object)


def leave_out(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Part the pictures whose label is ``""`` from the others: ``(table, left out)``."""
    out = table["label"].eq("")
    return table[~out].reset_index(drop=True), set_aside(
        table.loc[out, "path"].tolist(), "label_map leaves its label out"
    )


def leave_out_held_out(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Part the faces without a label of people who are in a validation or test set from the others:
    ``(table, left out)``. Where a hidden label is known, the source itself has put the person on
    two sides, which the stage `validate` tells."""
    people = table.loc[table["split"].isin(["validation", "test"]), "identity"].dropna()
    silent = table["split"].eq("none") & table["true_label"].isna()
    out = silent & table["identity"].isin(people)
    return table[~out].reset_index(drop=True), set_aside(
        table.loc[out, "path"].tolist(),
        "without a label, of a person who is in the validation or test set",
        "held_out_person",
    )
