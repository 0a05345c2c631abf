"""Seeded draws: which faces are for validation and test, and which labels may be used."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def draw_splits(
    labels: pd.Series,
    identities: pd.Series,
    *,
    validation_share: float,
    test_share: float,
    seed: int,
) -> NDArray[np.object_]:
    """``train``, ``validation`` or ``test`` for each labelled face.

    Where any identity is known, whole people are drawn (a face without identity is a person of
    its own), and the shares hold as closely as the people's face counts allow. Elsewhere each
    label is drawn on its own, and one face of each stays for training.
    """
    rng = np.random.default_rng([seed, 1])
    splits = np.full(len(labels), "train", dtype=object)
    if identities.notna().any():
        alone = pd.Series(np.arange(len(labels)).astype(str), index=identities.index)
        people = pd.factorize(identities.where(identities.notna(), "\0" + alone))[0]
        counts = np.bincount(people)
        order = rng.permutation(len(counts))
        middle = np.empty(len(counts))
        middle[order] = counts[order].cumsum() - counts[order] / 2
        position = middle[people] / len(labels)
        splits[position < test_share + validation_share] = "validation"
        splits[position < test_share] = "test"
        return splits
    for label in sorted(labels.unique()):
        rows = rng.permutation(np.flatnonzero(labels.to_numpy() == label))
        spare = len(rows) - 1
        test = min(round(test_share * len(rows)), spare)
        validation = min(round(validation_share * len(rows)), spare - test)
        splits[rows[:test]] = "test"
        splits[rows[test : test + validation]] = "validation"
    return splits


def draw_labels(labels: pd.Series, *, share: float, seed: int) -> NDArray[np.bool_]:
    """Which labels the pipeline may use: of each, ``share`` of its faces, but at least one."""
    rng = np.random.default_rng([seed, 2])
    chosen = np.zeros(len(labels), dtype=bool)
    for label in sorted(labels.unique()):
        rows = rng.permutation(np.flatnonzero(labels.to_numpy() == label))
        chosen[rows[: max(1, round(share * len(rows)))]] = True
    return chosen
