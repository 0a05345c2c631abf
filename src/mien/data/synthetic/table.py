"""Which synthetic faces there are: parts, people, expressions."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mien.data.synthetic.expressions import EXPRESSIONS
from mien.errors import MienError
from mien.params import OTHER
from mien.params.faces import SyntheticSource

EVERYDAY = {
    "neutral": 0.33,
    "happy": 0.26,
    "sad": 0.09,
    "surprise": 0.08,
    "angry": 0.07,
    "fear": 0.04,
    "disgust": 0.04,
}
"""Weight of each expression in the unlabelled part: skewed, as in pictures collected from life."""
OTHER_SHARE = 0.09
"""Share of the unlabelled faces that show none of the expressions."""

_FACES_PER_PERSON = {"labelled": 2.5, "validation": 2.5, "test": 2.5, "unlabelled": 8.0}
_ROLE_AND_SPLIT = {
    "labelled": ("labelled", "train"),
    "validation": ("labelled", "validation"),
    "test": ("test", "test"),
    "unlabelled": ("unlabelled", "none"),
}


def synthetic_table(settings: SyntheticSource, expressions: Sequence[str]) -> pd.DataFrame:
    """One row per face; `render` draws them.

    The labelled, validation and test parts hold each expression equally often (±1); the unlabelled
    part follows `EVERYDAY`, and its truth stands in ``true_label`` only. No person is in two parts,
    but of tables of other sizes people may be: one of them is no test of what learned from another.

    Args:
        settings: how many faces each part has, and the seed of the draw.
        expressions: the labels in use; some or all of the usual seven.

    Returns:
        Columns ``path`` (part/person/number, unique), ``role``, ``split``, ``label``,
        ``true_label``, ``identity``: strings, null where unknown.

    Raises:
        MienError: an expression that synthetic faces do not know.
    """
    check_expressions(expressions)
    random = np.random.default_rng(settings.seed)
    parts: list[pd.DataFrame] = []
    people = 0
    for part, (role, split) in _ROLE_AND_SPLIT.items():
        count: int = getattr(settings, part)
        hidden = part == "unlabelled"
        shares = _everyday(expressions) if hidden else dict.fromkeys(expressions, 1.0)
        truth = random.permutation(_apportion(count, shares)).astype(object)
        part_people = max(1, round(count / _FACES_PER_PERSON[part]))
        person = people + np.sort(random.integers(part_people, size=count))
        people += part_people
        identity = [f"person-{number:05d}" for number in person]
        parts.append(
            pd.DataFrame(
                {
                    "path": [f"{part}/{name}/{i:06d}" for i, name in enumerate(identity)],
                    "role": role,
                    "split": split,
                    "label": None if hidden else truth,
                    "true_label": truth if hidden else None,
                    "identity": identity,
                },
                dtype=object,
            )
        )
    return pd.concat(parts, ignore_index=True)


def check_expressions(expressions: Sequence[str]) -> None:
    """Refuse a label that is none of the seven.

    Raises:
        MienError: names the unknown labels and the known ones.
    """
    unknown = sorted(set(expressions) - set(EXPRESSIONS))
    if unknown:
        raise MienError(
            f"expressions: synthetic faces know no {', '.join(unknown)}; they show "
            f"{', '.join(EXPRESSIONS)}: use these in params.yaml, or another source of faces"
        )


def _everyday(expressions: Sequence[str]) -> dict[str, float]:
    total = sum(EVERYDAY[name] for name in expressions)
    shares = {name: (1 - OTHER_SHARE) * EVERYDAY[name] / total for name in expressions}
    return shares | {OTHER: OTHER_SHARE}


def _apportion(count: int, shares: dict[str, float]) -> list[str]:
    """``count`` names in proportion to their shares, each within one of its exact quota."""
    names = list(shares)
    edges = np.cumsum([0.0, *shares.values()]) / sum(shares.values()) * count
    numbers = np.diff(np.rint(edges).astype(int))
    return [name for name, number in zip(names, numbers, strict=True) for _ in range(number)]
