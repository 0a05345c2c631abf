"""The affinity convolution (AC) module and the ordinary convolution it replaces.

Fang et al. (2023) propose "an efficient CNN based on the affinity convolution module with much
lower computational overhead". Our reading (docs/method.md, section 1): of the ``C`` output maps
only ``C / ratio`` *intrinsic* maps come from an ordinary ("primary") convolution; the others, the
*affinity* maps, come from those by linear transforms that cost next to nothing; both are
concatenated. With ``r`` the ratio, ``k`` the primary and ``d`` the transform kernel, a module costs
``C/r · (C_in k² + (r − 1) d²)`` multiply-adds a pixel where an ordinary one costs ``C · C_in k²``.
"""

from typing import Literal

import torch
from torch import Tensor, nn

Transform = Literal["depthwise", "affine"]


class AffinityConv(nn.Module):
    """AC module: ``y = [σ(BN(W ∗ x)); σ(BN(T(σ(BN(W ∗ x)))))]``.

    Args:
        inputs: maps in.
        outputs: maps out; a multiple of ``ratio``.
        kernel: side of the primary convolution ``W`` (odd).
        stride: of the primary convolution.
        ratio: output maps for each intrinsic map (``r`` ≥ 2).
        transform: ``T``; ``depthwise`` is a 3×3 filter for each map, ``affine`` a scale and shift
            for each map (written as a 1×1 depthwise convolution, which CPUs run fastest).
        activate: σ is ReLU where true; where false (before a residual sum) the identity.

    Shape: ``[B, inputs, H, W]`` to ``[B, outputs, ⌈H/stride⌉, ⌈W/stride⌉]``.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int,
        stride: int = 1,
        ratio: int = 2,
        transform: Transform = "depthwise",
        activate: bool = True,
    ) -> None:
        super().__init__()
        if outputs % ratio:
            raise ValueError(f"outputs ({outputs}) must be a multiple of ratio ({ratio})")
        intrinsic = outputs // ratio
        side = 3 if transform == "depthwise" else 1
        self.primary = conv_bn(inputs, intrinsic, kernel, stride=stride, activate=activate)
        self.transform = conv_bn(
            intrinsic, outputs - intrinsic, side, groups=intrinsic, activate=activate
        )

    def forward(self, x: Tensor) -> Tensor:
        intrinsic = self.primary(x)
        return torch.cat([intrinsic, self.transform(intrinsic)], dim=1)


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activate: bool = True,
) -> nn.Sequential:
    """Convolution that keeps the size (but for its stride), batch norm and, if asked, ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if activate:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
