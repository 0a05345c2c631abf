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
