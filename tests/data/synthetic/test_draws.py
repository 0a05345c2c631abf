import numpy as np
import pytest
from scipy.stats import kstest

from mien.data.synthetic.canvas import bend, dome, smooth
from mien.data.synthetic.draws import Draws


def test_a_stream_belongs_to_its_name() -> None:
    both, alone = Draws(["a", "b"], seed=5), Draws(["b"], seed=5)
    for _ in range(3):
        np.testing.assert_array_equal(both.uniform()[1:], alone.uniform())
    assert Draws(["b"], seed=6).uniform() != Draws(["b"], seed=5).uniform()


def test_distributions() -> None:
    draws = Draws([str(i) for i in range(2000)], seed=0)
    assert kstest(draws.uniform(2, 5).ravel(), "uniform", (2, 3)).pvalue > 0.001
    assert kstest(draws.normal(1, 2, limit=9).ravel(), "norm", (1, 2)).pvalue > 0.001
    assert draws.chance(0.2).mean() == pytest.approx(0.2, abs=0.03)
    assert np.bincount(draws.choice(4).ravel()) / 2000 == pytest.approx(0.25, abs=0.04)
    assert np.abs(draws.normal(0, 1, limit=1.5)).max() == pytest.approx(1.5)


def test_forms() -> None:
    t = np.array([-1, 0, 1], np.float32)
    np.testing.assert_allclose(bend(t, np.float32(3), np.float32(1), np.float32(5)), [3, 1, 5])
    np.testing.assert_allclose(smooth(np.array([-1, 0, 0.5, 1, 2], np.float32)), [0, 0, 0.5, 1, 1])
    assert dome(0.0, 0.0) == 1
    assert dome(0.6, 0.8) == pytest.approx(0, abs=1e-6)
    assert dome(2.0, 0.0) == 0
