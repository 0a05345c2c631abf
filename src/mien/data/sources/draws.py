"""Seeded draws: which faces are for validation and test, and which labels may be used."""

import hashlib
from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def draw_splits(
    labels: pd.Series,
    identities: pd.Series,
    names: pd.Series,
    *,
    validation_share: float,
    test_share: float,
    seed: int,
) -> NDArray[np.object_]:
    """``train``, ``validation`` or ``test`` for each labelled face.

    Where any identity is known, whole people are drawn (a face without identity is a person of
    its own), and the shares hold as closely as the people's face counts allow. Elsewhere each
    label is drawn on its own, and one face of each stays for training.

    The order of the draw follows from the people's, or the faces', own ``names``. So faces that are
    added later leave the others where they were, but for a few at the edges: what an older model
    has learned from does not become its test.
    """
    splits = np.full(len(labels), "train", dtype=object)
    if identities.notna().any():
        people, known = pd.factorize(identities.where(identities.notna(), "\0" + names))
        counts = np.bincount(people)
        order = _shuffled(known, seed)
        middle = np.empty(len(counts))
        middle[order] = counts[order].cumsum() - counts[order] / 2
        position = middle[people] / len(labels)
        splits[position < test_share + validation_share] = "validation"
        splits[position < test_share] = "test"
        return splits
    shuffled = _shuffled(names, seed)
    for label in sorted(labels.unique()):
        rows = shuffled[labels.to_numpy()[shuffled] == label]
        spare = len(rows) - 1
        test = min(round(test_share * len(rows)), spare)
        validation = min(round(validation_share * len(rows)), spare - test)
        splits[rows[:test]] = "test"
        splits[rows[test : test + validation]] = "validation"
    return splits


def _shuffled(names: Iterable[str], seed: int) -> NDArray[np.intp]:
    """The names' places in an order that is random, and of any two of them always the same."""
    texts = (f"{seed} {name}".encode(errors="surrogateescape") for name in names)
    keys = [hashlib.sha256(text).digest() for text in texts]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.intp)


def draw_labels(labels: pd.Series, *, share: float, seed: int) -> NDArray[np.bool_]:
    """Which labels the pipeline may use: of each, ``share`` of its faces, but at least one.

    The seed decides for these faces in this order: where one comes or goes, others are drawn.
    """
    rng = np.random.default_rng([seed, 2])
    chosen = np.zeros(len(labels), dtype=bool)
    for label in sorted(labels.unique()):
        rows = rng.permutation(np.flatnonzero(labels.to_numpy() == label))
        chosen[rows[: max(1, round(share * len(rows)))]] = True
    return chosen
