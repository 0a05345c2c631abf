"""What a network costs: parameters and multiply-adds."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mien.model.accnn import ACCNN


@dataclass(frozen=True)
class Cost:
    """``parameters`` (learned numbers) and ``macs`` (multiply-adds for one face)."""

    parameters: int
    macs: int


def count_cost(model: nn.Module, image_size: int) -> Cost:
    """Cost of a network for one ``[1, 1, S, S]`` face: its convolutions and matrix products.

    Branches count as the one convolution that they become in service. PyTorch's counter counts a
    multiply-add as two operations.
    """
    if isinstance(model, ACCNN):
        model = model.folded()
    parameter = next(model.parameters())
    face = torch.zeros(1, 1, image_size, image_size, device=parameter.device)
    training = model.training
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(face)
    model.train(training)
    parameters = sum(p.numel() for p in model.parameters())
    return Cost(parameters=parameters, macs=counter.get_total_flops() // 2)
