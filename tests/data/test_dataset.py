"""What the network reads of the store."""

import numpy as np
import torch

from mien.data.dataset import to_input, to_tensor


def test_grey_levels_become_shares_of_white():
    faces = np.array([[[0, 51], [102, 255]], [[255, 0], [153, 204]]], np.uint8)
    shares = np.array([[[0, 0.2], [0.4, 1]], [[1, 0], [0.6, 0.8]]], np.float32)
    read = to_input(faces)
    assert (read.shape, read.dtype) == ((2, 1, 2, 2), np.float32)
    np.testing.assert_array_equal(read[:, 0], shares)
    mirrored = to_tensor(faces[:, :, ::-1])
    assert mirrored.dtype == torch.float32
    np.testing.assert_array_equal(mirrored[:, 0].numpy(), shares[:, :, ::-1])


def test_the_exported_network_is_asked_with_the_numbers_of_training():
    faces = np.arange(256, dtype=np.uint8).repeat(9).reshape(-1, 48, 48)
    as_trained = torch.from_numpy(faces).unsqueeze(1).float().div_(255)
    np.testing.assert_array_equal(to_input(faces), as_trained.numpy())
    np.testing.assert_array_equal(to_tensor(faces).numpy(), as_trained.numpy())
