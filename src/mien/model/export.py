"""The network as one ONNX file, and the check that it still says the same."""

import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.errors import MienError
from mien.model.accnn import ACCNN

OUTPUTS = ("probabilities", "logits", "embedding")


class Deployable(nn.Module):
    """The network with its calibration: what is served.

    Shape: faces ``[B, 1, S, S]``, float32 grey in [0, 1]; calibrated probabilities ``[B, C]``,
    logits before calibration ``[B, C]``, embedding ``[B, D]``.
    """

    def __init__(self, model: ACCNN, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        embedding, logits = self.model.forward_both(faces)
        return torch.softmax(logits / self.temperature, dim=1), logits, embedding


def export_onnx(
    path: Path, deployable: Deployable, image_size: int, expressions: Sequence[str]
) -> None:
    """Write one ONNX file, weights included, whose batch size is free.

    Branches are folded, and so are batch norms (by the exporter). Input ``faces``; outputs
    ``probabilities``, ``logits`` and ``embedding``. The file's metadata holds ``expressions`` (a
    JSON list) and ``image_size``.
    """
    served = Deployable(deployable.model.folded(), deployable.temperature).eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision; we do not
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the exporter about itself
        program = torch.onnx.export(
            served,
            # Two faces, for a batch of one would be taken for a constant.
            (torch.zeros(2, 1, image_size, image_size),),
            input_names=["faces"],
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    if program is None:  # only when given a path
        raise RuntimeError("torch.onnx.export returned nothing")
    proto = program.model_proto
    # The exporter notes the source lines of each node, with the paths of this machine.
    for part in (proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.functions):
        del part.metadata_props[:]
    metadata = {"expressions": json.dumps(list(expressions)), "image_size": str(image_size)}
    onnx.helper.set_model_props(proto, metadata)
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


def check_parity(
    session: onnxruntime.InferenceSession,
    deployable: Deployable,
    faces: NDArray[np.float32],
    tolerance: float,
) -> float:
    """The largest difference of a probability between ONNX Runtime and PyTorch.

    Args:
        session: the exported network.
        deployable: the network that was exported.
        faces: real faces ``[n, 1, S, S]`` in [0, 1].
        tolerance: the largest difference allowed.

    Raises:
        MienError: the difference is larger, or not a number.
    """
    with torch.inference_mode():
        expected = deployable.eval()(torch.from_numpy(faces))[0].numpy()
    (found,) = session.run(["probabilities"], {"faces": faces})
    difference = float(np.abs(found - expected).max())
    if not difference <= tolerance:
        raise MienError(
            f"the ONNX file says other than the network: probabilities differ by up to "
            f"{difference:.2e} on {len(faces)} faces, and package.parity_tolerance is "
            f"{tolerance:.2e}; raise it only if a difference of that size does not matter"
        )
    return difference
