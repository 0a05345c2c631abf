"""How sure the figures are: bootstrap intervals, and two classifiers on the same faces."""

import math
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import binom, norm

from mien.evaluation.metrics import Booleans, Floats, Integers, OverallScores, score_overall


@dataclass(frozen=True)
class Interval:
    """A 95% interval."""

    low: float
    high: float


@dataclass(frozen=True)
class McNemar:
    """Do two classifiers differ? Only the faces that exactly one of them gets right count."""

    only_first_right: int
    only_second_right: int
    exact_p: float
    mid_p: float


def bootstrap_confusions(
    truth: Integers,
    predictions: list[Integers],
    classes: int,
    repeats: int,
    generator: np.random.Generator,
) -> Integers:
    """Confusion counts of resampled test sets: ``[models, repeats, C, C]``.

    Faces are drawn with replacement within each true expression (stratified), and the same faces
    for every model (paired). Drawing ``n_c`` faces is drawing from a multinomial over the patterns
    of joint predictions that occur in expression ``c``, so the cost does not grow with the faces.

    Args:
        truth: ``[n]`` true expressions.
        predictions: for each model, ``[n]`` predicted expressions.
        classes: number of expressions ``C``.
        repeats: number of resampled test sets.
        generator: source of randomness.
    """
    confusions = np.zeros((len(predictions), repeats, classes, classes), dtype=np.int64)
    joint = np.stack(predictions)
    for expression in np.unique(truth):
        patterns, counts = np.unique(joint[:, truth == expression], axis=1, return_counts=True)
        draws = generator.multinomial(counts.sum(), counts / counts.sum(), size=repeats)
        for model, predicted in enumerate(patterns):
            confusions[model, :, expression] = draws @ np.eye(classes, dtype=np.int64)[predicted]
    return confusions


def percentile_interval(values: Floats) -> Interval:
    """The middle 95% of bootstrap values ``[repeats]`` (Efron's percentile interval)."""
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(low), float(high))


def score_intervals(confusions: Integers) -> dict[str, Interval]:
    """Intervals of the overall scores of one model's resampled test sets ``[repeats, C, C]``."""
    return {
        name: percentile_interval(values)
        for name, values in asdict(score_overall(confusions)).items()
    }


def difference_intervals(first: Integers, second: Integers) -> dict[str, Interval]:
    """Intervals of ``second - first`` from paired resampled test sets ``[repeats, C, C]`` each."""
    one, other = asdict(score_overall(first)), asdict(score_overall(second))
    return {name: percentile_interval(other[name] - one[name]) for name in one}


def score_differences(first: Integers, second: Integers) -> OverallScores:
    """``second - first`` of the overall scores of two confusions ``[C, C]``."""
    one, other = asdict(score_overall(first)), asdict(score_overall(second))
    return OverallScores(**{name: other[name] - one[name] for name in one})


def mcnemar(first_correct: Booleans, second_correct: Booleans) -> McNemar:
    """McNemar's two-sided test, exact and mid-p, from which faces ``[n]`` each model got right.

    The mid-p value counts the observed outcome half; it is less conservative than the exact one
    and still holds its level in practice.
    Source: Fagerland, Lydersen and Laake, The McNemar test for binary matched-pairs data, BMC
    Medical Research Methodology 13:91, 2013.
    """
    only_first = int((first_correct & ~second_correct).sum())
    only_second = int((second_correct & ~first_correct).sum())
    discordant, fewer = only_first + only_second, min(only_first, only_second)
    tail = float(binom.cdf(fewer, discordant, 0.5))
    half = 0.5 * float(binom.pmf(fewer, discordant, 0.5))
    if discordant == 0:
        exact_p = mid_p = 1.0
    elif only_first == only_second:  # the two tails share the observed outcome
        exact_p, mid_p = 1.0, 1 - half
    else:
        exact_p, mid_p = min(1.0, 2 * tail), 2 * (tail - half)
    return McNemar(only_first, only_second, exact_p, mid_p)


def accuracy_difference(test: McNemar, faces: int) -> Interval:
    """Interval of the accuracy of the second classifier less that of the first, on so many faces.

    Wald's, after half a face was added to each cell of the two-by-two table. A bootstrap of two
    classifiers that are right on the same faces gives a point, however few the faces are.
    Source: Agresti and Min, Simple improved confidence intervals for comparing matched proportions,
    Statistics in Medicine 24:729-740, 2005.
    """
    first, second, total = test.only_first_right + 0.5, test.only_second_right + 0.5, faces + 2
    change = (second - first) / total
    error = math.sqrt(first + second - (second - first) ** 2 / total) / total
    reach = float(norm.ppf(0.975)) * error
    return Interval(max(change - reach, -1.0), min(change + reach, 1.0))
