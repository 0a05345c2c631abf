"""The exported network says what the network says, for any number of faces."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from mien.errors import MienError
from mien.model.accnn import ACCNN
from mien.model.export import Deployable, check_parity, export_onnx
from mien.model.runtime import measure_latency, open_session
from mien.params import load_params

SIDE = 24


@pytest.fixture(scope="module")
def deployable(root) -> Deployable:
    settings = load_params(root / "params.yaml").model
    small = settings.model_copy(update={"stem": 4, "widths": [8, 16], "blocks": [1, 1]})
    torch.manual_seed(0)
    return Deployable(ACCNN(small, 3).eval(), temperature=1.7).eval()


@pytest.fixture(scope="module")
def path(deployable, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(path, deployable, SIDE, ["happy", "sad", "a, b"])
    return path


def _faces(count: int) -> np.ndarray:
    return np.random.default_rng(count).random((count, 1, SIDE, SIDE), dtype=np.float32)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_every_output_is_the_networks(deployable, path, count):
    found = open_session(path).run(
        ["probabilities", "logits", "embedding"], {"faces": _faces(count)}
    )
    with torch.inference_mode():
        expected = deployable(torch.from_numpy(_faces(count)))
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other.numpy(), abs=1e-5)
    assert check_parity(open_session(path), deployable, _faces(count), 1e-4) < 1e-5


def test_the_temperature_is_in_it(path):
    probabilities, logits = open_session(path).run(
        ["probabilities", "logits"], {"faces": _faces(5)}
    )
    expected = np.exp(logits / 1.7)
    assert probabilities == pytest.approx(expected / expected.sum(axis=1, keepdims=True), abs=1e-6)


def test_another_network_fails_parity(deployable, path):
    torch.manual_seed(1)
    other = Deployable(ACCNN(deployable.model.settings, 3).eval(), 1.7)
    with pytest.raises(MienError, match="parity_tolerance"):
        check_parity(open_session(path), other, _faces(4), 1e-4)


def test_a_nan_fails_parity(deployable, path):
    with pytest.raises(MienError, match="nan"):
        check_parity(open_session(path), deployable, np.full_like(_faces(1), np.nan), 1e-4)


def test_it_is_one_file_that_names_no_folder_of_this_machine(path, root):
    assert [each.name for each in path.parent.iterdir()] == ["model.onnx"]
    content = path.read_bytes()
    assert str(root).encode() not in content
    assert b"site-packages" not in content
    held = {each.key: each.value for each in onnx.load(path).metadata_props}
    assert json.loads(held["expressions"]) == ["happy", "sad", "a, b"]
    assert held["image_size"] == str(SIDE)


def nodes(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def test_trained_with_branches_it_is_the_same_graph(deployable, path, tmp_path):
    torch.manual_seed(0)
    settings = deployable.model.settings.model_copy(update={"branches": 3})
    model = ACCNN(settings, 3).train()
    for _ in range(20):
        model(torch.rand(16, 1, SIDE, SIDE))  # moves every norm's statistics
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    trained = Deployable(model.eval(), 1.7).eval()
    export_onnx(tmp_path / "branches.onnx", trained, SIDE, ["a", "b", "c"])
    assert nodes(tmp_path / "branches.onnx") == nodes(path)
    assert "BatchNormalization" not in nodes(path)
    session = open_session(tmp_path / "branches.onnx")
    assert check_parity(session, trained, _faces(7), 1e-4) < 1e-4


def test_latency_is_in_milliseconds(path):
    assert 0.001 < measure_latency(open_session(path), _faces(1), runs=20) < 1000


def test_onnx_runtime_reports_nothing_home(path, tmp_path):
    """It would keep an id of this machine, and events to send, below the user's cache."""
    code = "import sys; from mien.model.runtime import open_session; open_session(sys.argv[1])"
    told = {"ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"}
    ours = {name: value for name, value in os.environ.items() if name not in told}
    environment = ours | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code, str(path)], env=environment, check=True)
    assert not list(tmp_path.iterdir())
