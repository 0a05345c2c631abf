"""YuNet's file is the operator's: OpenCV runs one that is written out here."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mien.data.faces import Box
from mien.errors import MienError
from mien.serving.detector import YuNet, make_detector

SIDE = 96.0


def write_yunet(path):
    """A network of YuNet's inputs and outputs that finds a face of 96 pixels at bright cells of 32.

    For the strides 8, 16 and 32 YuNet gives whether a cell holds a face (``cls``, ``obj``), its box
    (centre in cells, logarithm of the size in cells) and five points.
    """
    nodes, outputs, constants = [], [], []

    def constant(name, values):
        constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    for stride in (8, 16, 32):
        nodes.append(
            helper.make_node(
                "AveragePool",
                ["input"],
                [f"mean_{stride}"],
                kernel_shape=[stride, stride],
                strides=[stride, stride],
            )
        )
        bright = [0.1, -20.0] if stride == 32 else [0.0, -20.0]  # a cell's logit: 0.1 · mean − 20
        size = [0.5, 0.5, np.log(SIDE / stride), np.log(SIDE / stride)]
        heads = {"cls": ([bright[0]], [bright[1]]), "obj": ([bright[0]], [bright[1]])}
        heads |= {"bbox": ([0.0] * 4, size), "kps": ([0.0] * 10, [0.0] * 10)}
        for head, (slopes, biases) in heads.items():
            name, count = f"{head}_{stride}", len(biases)
            weights = np.zeros((count, 3, 1, 1), np.float32) + np.reshape(slopes, (-1, 1, 1, 1)) / 3
            inputs = [
                f"mean_{stride}",
                constant(f"{name}_w", weights.astype(np.float32)),
                constant(f"{name}_b", np.float32(biases)),
            ]
            nodes.append(helper.make_node("Conv", inputs, [f"{name}_map"]))
            last = f"{name}_map"
            if head in ("cls", "obj"):
                nodes.append(helper.make_node("Sigmoid", [last], [f"{name}_p"]))
                last = f"{name}_p"
            nodes.append(helper.make_node("Transpose", [last], [f"{name}_t"], perm=[0, 2, 3, 1]))
            shape = constant(f"{name}_s", np.int64([1, -1, count]))
            nodes.append(helper.make_node("Reshape", [f"{name}_t", shape], [name]))
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, count]))
    order = ("cls", "obj", "bbox", "kps")
    outputs.sort(key=lambda o: (order.index(o.name.split("_")[0]), int(o.name.split("_")[1])))
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 320, 320])
    graph = helper.make_graph(nodes, "yunet", [picture], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)
    onnx.save(model, path)
    return path


@pytest.fixture
def yunet(tmp_path):
    return write_yunet(tmp_path / "yunet.onnx")


def test_boxes_are_square_and_of_the_pictures_pixels(yunet, monkeypatch):
    monkeypatch.setenv("MIEN_YUNET", str(yunet))
    picture = np.zeros((256, 320), np.uint8)
    picture[64:96, 128:160] = 255  # the cell in row 2, column 4: its centre is (144, 80)
    side = round(SIDE * 1.1)
    detect = make_detector()
    assert detect(picture) == [Box(round(144 - side / 2), round(80 - side / 2), side)]
    # twice the longest side that is searched: the picture is halved first
    large = np.zeros((1024, 1280), np.uint8)
    large[128:192, 256:320] = 255
    side = round(2 * SIDE * 1.1)
    assert detect(large) == [Box(round(288 - side / 2), round(160 - side / 2), side)]


def test_no_face_is_an_empty_list(yunet):
    assert YuNet(yunet)(np.zeros((100, 50), np.uint8)) == []


def test_without_a_file_the_cascade_is_used(monkeypatch):
    monkeypatch.delenv("MIEN_YUNET", raising=False)
    assert make_detector()(np.full((64, 64), 128, np.uint8)) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "no such file"), (b"", "can't run it"), (b"not a network", "can't run it")],
)
def test_a_file_that_is_no_network_ends_the_start(tmp_path, monkeypatch, content, reason):
    path = tmp_path / "x.onnx"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("MIEN_YUNET", str(path))
    with pytest.raises(MienError, match=f"MIEN_YUNET=.*{reason}"):
        make_detector()


def test_another_network_is_refused(package, monkeypatch):
    monkeypatch.setenv("MIEN_YUNET", str(package / "model.onnx"))
    with pytest.raises(MienError, match="can't run it as YuNet"):
        make_detector()
