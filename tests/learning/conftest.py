"""What the tests of learning share: a tiny network, gentle views, and faces that it tells apart."""

import numpy as np

from mien.data.dataset import LabelledRows
from mien.params.learning import AugmentationSettings, ComputeSettings, ModelSettings

MODEL = ModelSettings(
    convolution="affinity", stem=4, widths=[8, 16], blocks=[1, 1], kernel=1, ratio=2,
    transform="depthwise",
)  # fmt: skip
GENTLE = AugmentationSettings(
    rotate=5, scale=0.05, shift=0.05, light=0.1, blur=0, noise=0, erase=0.1, strong=1
)
COMPUTE = ComputeSettings(accelerator="cpu", precision="32-true", threads=1, workers=1)


class Unreadable:
    """Labels that nobody may read."""

    def __getattribute__(self, name):
        raise AssertionError("a label was read")


def stripes(labels, side=16):
    """Faces of horizontal (0) or vertical (1) stripes with noise, as their labels say."""
    rng = np.random.default_rng(0)
    wave = (np.arange(side) % 4 < 2) * 200.0
    faces = np.where(labels[:, None, None], wave[None, None, :], wave[None, :, None])
    noisy = faces + rng.normal(20, 20, (len(labels), side, side))
    return noisy.clip(0, 255).astype(np.uint8), LabelledRows(np.arange(len(labels)), labels)
