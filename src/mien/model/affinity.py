"""The affinity convolution (AC) module and the ordinary convolution it replaces.

Fang et al. (2023) propose "an efficient CNN based on the affinity convolution module with much
lower computational overhead". Our reading (docs/method.md, section 1): of the ``C`` output maps
only ``C / ratio`` *intrinsic* maps come from an ordinary ("primary") convolution; the others, the
*affinity* maps, come from those by linear transforms that cost next to nothing; both are
concatenated. With ``r`` the ratio, ``k`` the primary and ``d`` the transform kernel, a module costs
``C/r · (C_in k² + (r − 1) d²)`` multiply-adds a pixel where an ordinary one costs ``C · C_in k²``.
"""

from typing import Literal, cast

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
        transform: ``T``; ``depthwise`` is a filter for each map, ``affine`` a scale and shift for
            each map (written as a 1×1 depthwise convolution, which CPUs run fastest).
        transform_kernel: side of the depthwise filters (odd).
        activate: σ is ReLU where true; where false (before a residual sum) the identity.
        branches: parallel convolutions that are summed in training, in place of each one.

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
        transform_kernel: int = 3,
        activate: bool = True,
        branches: int = 1,
    ) -> None:
        super().__init__()
        if outputs % ratio:
            raise ValueError(f"outputs ({outputs}) must be a multiple of ratio ({ratio})")
        intrinsic = outputs // ratio
        side = transform_kernel if transform == "depthwise" else 1
        self.primary = conv_bn(
            inputs, intrinsic, kernel, stride=stride, activate=activate, branches=branches
        )
        self.transform = conv_bn(
            intrinsic,
            outputs - intrinsic,
            side,
            groups=intrinsic,
            activate=activate,
            branches=branches,
        )

    def forward(self, x: Tensor) -> Tensor:
        intrinsic = self.primary(x)
        return torch.cat([intrinsic, self.transform(intrinsic)], dim=1)


class Branches(nn.Module):
    """``Σ_b BN_b(W_b ∗ x)``, and ``+ BN(x)`` where the shapes allow it; no ReLU.

    In training the branches make a convolution easier to learn (Ding et al., RepVGG, 2021; Vasu et
    al., MobileOne, 2023); once trained they are one convolution (`folded`), so they cost nothing in
    service.

    Shape: as of one convolution that keeps the size but for its stride.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        branches: int,
    ) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            conv_bn(inputs, outputs, kernel, stride=stride, groups=groups, activate=False)
            for _ in range(branches)
        )
        self.identity = nn.BatchNorm2d(inputs) if inputs == outputs and stride == 1 else None
        norms = [each for each in self.modules() if isinstance(each, nn.BatchNorm2d)]
        for norm in norms:  # the sum starts with the deviation that one branch would have
            nn.init.constant_(norm.weight, len(norms) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = sum(branch(x) for branch in self.convolutions)
        return maps if self.identity is None else maps + self.identity(x)

    @torch.no_grad()
    def folded(self) -> tuple[Tensor, Tensor]:
        """Filters and bias of the one convolution that gives the same in evaluation mode."""
        convolutions = [cast(nn.Conv2d, each.get_submodule("0")) for each in self.convolutions]
        norms = [cast(nn.BatchNorm2d, each.get_submodule("1")) for each in self.convolutions]
        parts = [_fuse(c.weight, norm) for c, norm in zip(convolutions, norms, strict=True)]
        if self.identity is not None:
            alone = torch.zeros_like(convolutions[0].weight)
            nn.init.dirac_(alone, convolutions[0].groups)
            parts.append(_fuse(alone, self.identity))
        weights, biases = zip(*parts, strict=True)
        return torch.stack(weights).sum(dim=0), torch.stack(biases).sum(dim=0)


def _fuse(filters: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Filters and bias of a convolution with the batch norm after it, in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return filters * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activate: bool = True,
    branches: int = 1,
) -> nn.Sequential:
    """Convolution that keeps the size (but for its stride), batch norm and, if asked, ReLU.

    With more than one of ``branches``, that many convolutions with a norm each (see `Branches`).
    """
    layers: list[nn.Module]
    if branches > 1:
        layers = [
            Branches(inputs, outputs, kernel, stride=stride, groups=groups, branches=branches)
        ]
    else:
        layers = [
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
        ]
    if activate:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
