"""Random numbers that depend on a name only, never on the order or company it is drawn in."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

# All are float32; NumPy's stubs call many results of float32 and a Python number float64.
Floats = NDArray[np.floating]

_NUMBERS = 160
"""Numbers a stream holds ready; more than any user of `Draws` takes."""


def stream(name: str, seed: int) -> np.random.Generator:
    """The random stream that belongs to ``name`` under ``seed``."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest)))


class Draws:
    """One stream for each of n names: the k-th call takes the k-th number of every stream.

    All results are float32 (or bool) of shape [n, 1, 1], so that they broadcast over pixels.
    """

    def __init__(self, names: Sequence[str], seed: int) -> None:
        self._uniform = np.stack([stream(name, seed).random(_NUMBERS) for name in names])
        self._normal = ndtri(self._uniform)
        self._taken = 0

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Floats:
        """Uniform in [low, high)."""
        return (low + (high - low) * self._next(self._uniform)).astype(np.float32)

    def normal(self, mean: float = 0.0, deviation: float = 1.0, limit: float = 2.5) -> Floats:
        """Normal, cut off at ``limit`` standard deviations."""
        numbers = np.clip(self._next(self._normal), -limit, limit)
        return (mean + deviation * numbers).astype(np.float32)

    def chance(self, probability: float) -> NDArray[np.bool_]:
        """True with the given probability."""
        return self._next(self._uniform) < probability

    def choice(self, count: int) -> NDArray[np.int64]:
        """One of 0 … count - 1, all alike."""
        return (self._next(self._uniform) * count).astype(np.int64)

    def _next(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        column = numbers[:, self._taken, None, None]
        self._taken += 1
        return column
