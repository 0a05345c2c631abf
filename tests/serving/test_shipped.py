"""The weights in the repository are whole packages that say the same in ONNX and in PyTorch."""

import numpy as np
import pytest
import torch

import mien
from mien import packaging
from mien.data.dataset import to_tensor
from mien.evaluation.card import find_empty
from mien.files import read_json
from mien.model.export import Deployable
from mien.model.weights import load_weights
from mien.serving.package import shipped_packages
from tests.serving.conftest import draw_faces


def test_small_ships():
    assert "small" in shipped_packages()


@pytest.mark.parametrize("size", list(shipped_packages()))
def test_a_shipped_model_is_whole(size):
    folder = shipped_packages()[size]
    assert find_empty(read_json(folder / packaging.CARD)) == []
    faces = draw_faces(8)
    classified = mien.load(size).classify(faces)
    trained = load_weights(folder / packaging.WEIGHTS)
    temperature = read_json(folder / packaging.METADATA)["temperature"]
    with torch.no_grad():
        expected = Deployable(trained.model.eval(), temperature)(to_tensor(faces))[0].numpy()
    answered = np.array([[*answer.probabilities.values()] for answer in classified.answers])
    np.testing.assert_allclose(answered, expected, atol=1e-4)
