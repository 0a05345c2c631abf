"""Faces as the log describes them, drawn from known distributions."""

import numpy as np
import pandas as pd

VERSION, EXPRESSIONS = "0123456789abcdef", ["happy", "sad", "neutral"]


def draw(
    count: int, rng: np.random.Generator, happy: float = 1 / 3, **shift: float
) -> pd.DataFrame:
    """``shift`` moves a column by so many of its standard deviations."""
    others = (1 - happy) / 2
    table = pd.DataFrame(
        {
            "expression": rng.choice(EXPRESSIONS, count, p=[happy, others, others]),
            "confidence": rng.beta(6, 2, count),
            "brightness": rng.normal(110, 25, count),
            "contrast": rng.normal(45, 10, count),
            "sharpness": rng.gamma(3, 400, count),
            "width": rng.integers(40, 120, count),
            "height": rng.integers(40, 120, count),
            **{f"component_{i}": rng.normal(0, 5 / i, count) for i in range(1, 5)},
        }
    )
    for name, amount in shift.items():
        table[name] += amount * table[name].std()
    return table
