"""The AC module against a reference written out in plain loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mien.model.affinity import AffinityConv, Branches, conv_bn


def loop_conv(x, weight, stride, groups):
    """Convolution of ``[C, H, W]`` with zero padding of half the kernel, pixel by pixel."""
    outputs, per_group, k, _ = weight.shape
    _, height, width = x.shape
    padded = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    rows, columns = -(-height // stride), -(-width // stride)
    result = np.zeros((outputs, rows, columns))
    for o in range(outputs):
        first = o // (outputs // groups) * per_group
        for i in range(rows):
            for j in range(columns):
                for c in range(per_group):
                    for a in range(k):
                        for b in range(k):
                            pixel = padded[first + c, i * stride + a, j * stride + b]
                            result[o, i, j] += weight[o, c, a, b] * pixel
    return result


def loop_norm(maps, norm):
    mean, variance = norm.running_mean.numpy(), norm.running_var.numpy()
    scale, shift = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    result = np.empty_like(maps)
    for c in range(len(maps)):
        result[c] = (maps[c] - mean[c]) / np.sqrt(variance[c] + norm.eps) * scale[c] + shift[c]
    return result


def reference(module, x, stride, activate):
    """``[σ(BN(W ∗ x)); σ(BN(T(σ(BN(W ∗ x)))))]``, as the docstring of `AffinityConv` says."""
    primary, transform = module.primary, module.transform
    intrinsic = loop_norm(loop_conv(x, primary[0].weight.detach().numpy(), stride, 1), primary[1])
    if activate:
        intrinsic = np.maximum(intrinsic, 0)
    weight = transform[0].weight.detach().numpy()
    affinity = loop_norm(loop_conv(intrinsic, weight, 1, len(intrinsic)), transform[1])
    if activate:
        affinity = np.maximum(affinity, 0)
    return np.concatenate([intrinsic, affinity])


@pytest.mark.parametrize(("transform", "side"), [("depthwise", 3), ("depthwise", 5), ("affine", 3)])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (5, 2)])
@pytest.mark.parametrize(("ratio", "activate"), [(2, True), (3, False), (4, True)])
def test_module_equals_the_loops(transform, side, kernel, stride, ratio, activate):
    torch.manual_seed(kernel * 10 + ratio)
    module = AffinityConv(
        3,
        12,
        kernel=kernel,
        stride=stride,
        ratio=ratio,
        transform=transform,
        transform_kernel=side,
        activate=activate,
    ).eval()
    for norm in (module.primary[1], module.transform[1]):
        nn.init.uniform_(norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    x = torch.randn(3, 7, 6)
    with torch.no_grad():
        ours = module(x[None])[0].numpy()
    np.testing.assert_allclose(
        ours, reference(module, x.numpy(), stride, activate), rtol=1e-4, atol=1e-5
    )


@settings(max_examples=30, deadline=None)
@given(
    inputs=st.integers(1, 8),
    intrinsic=st.integers(1, 6),
    ratio=st.integers(2, 5),
    kernel=st.sampled_from([1, 3, 5]),
    side=st.sampled_from([3, 5, 7]),
)
def test_cost_is_the_formula_of_the_docstring(inputs, intrinsic, ratio, kernel, side):
    outputs = intrinsic * ratio
    module = AffinityConv(inputs, outputs, kernel=kernel, ratio=ratio, transform_kernel=side)
    filters = sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Conv2d))
    assert filters == intrinsic * (inputs * kernel**2 + (ratio - 1) * side**2)
    assert module(torch.zeros(2, inputs, 5, 5)).shape == (2, outputs, 5, 5)


def test_outputs_must_divide_by_ratio():
    with pytest.raises(ValueError, match="multiple of ratio"):
        AffinityConv(3, 10, kernel=1, ratio=4)


def test_conv_bn_halves_odd_sizes_upwards():
    assert conv_bn(1, 2, 3, stride=2)(torch.zeros(1, 1, 7, 9)).shape == (1, 2, 4, 5)


@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "stride", "groups", "identity"),
    [(3, 4, 3, 2, 1, 0), (3, 4, 1, 1, 1, 0), (4, 4, 3, 1, 4, 1), (4, 4, 1, 1, 4, 1)],
)
def test_branches_are_the_sum_of_their_parts_and_fold_into_one(
    inputs, outputs, kernel, stride, groups, identity
):
    torch.manual_seed(0)
    module = Branches(inputs, outputs, kernel, stride=stride, groups=groups, branches=2)
    norms = [each for each in module.modules() if isinstance(each, nn.BatchNorm2d)]
    assert len(norms) == 2 + identity
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    module.eval()
    x = torch.randn(1, inputs, 6, 6)
    expected = sum(
        loop_norm(loop_conv(x[0].numpy(), conv.weight.detach().numpy(), stride, groups), norm)
        for conv, norm in module.convolutions
    )
    if identity:
        expected = expected + loop_norm(x[0].numpy(), module.identity)
    found = module(x)[0].detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    weight, bias = module.folded()
    folded = nn.functional.conv2d(x, weight, bias, stride, kernel // 2, groups=groups)
    np.testing.assert_allclose(folded[0].numpy(), expected, atol=1e-5)


def test_branches_start_with_the_deviation_of_one():
    torch.manual_seed(0)
    x = torch.randn(64, 8, 12, 12)
    assert Branches(8, 8, 3, branches=4)(x).std().item() == pytest.approx(1, abs=0.1)


def test_one_branch_is_the_plain_convolution():
    first, second = (conv_bn(3, 4, 3, **given) for given in ({}, {"branches": 1}))
    assert list(first.state_dict()) == list(second.state_dict())
