"""Convolutions of tokenizers: torch's results, and gradients that every processor gets right."""

import pytest
import torch
from torch import nn

from architectures.tokenizers.convolutions import CONVOLUTIONS

SIZES = [(4, 4), (2, 4), (1, 1), (4, 2, 4), (2, 4, 4), (1, 1, 8), (2, 2, 2), (8, 8, 8)]


def pair(size, stride):
    torch.manual_seed(0)
    ours = CONVOLUTIONS[len(size)](8, 64, 3, stride=stride, padding=1)
    theirs = (nn.Conv2d, nn.Conv3d)[len(size) - 2](8, 64, 3, stride=stride, padding=1)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def gradients(module, x, bf16):
    """Output, and gradients of the input, the weights and the bias; in memory that held NaN before."""
    x = x.clone().requires_grad_()
    for numbers in (2**12, 2**16, 2**18):
        torch.full((numbers,), float("nan"))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = module(x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y.dtype))
    return y.float(), x.grad, module.weight.grad, module.bias.grad


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_result_is_that_of_torch(size, stride):
    x = torch.randn(16, 8, *size, generator=torch.Generator().manual_seed(1))
    ours, theirs = pair(size, stride)
    for found, wanted in zip(gradients(ours, x, False), gradients(theirs, x, False), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gradients_in_bfloat16_are_those_of_float32(size, stride):
    """Fails on some processors where the convolution pads an axis shorter than its kernel by itself."""
    x = torch.randn(16, 8, *size, generator=torch.Generator().manual_seed(1))
    ours, theirs = pair(size, stride)
    for found, wanted in zip(gradients(ours, x, True), gradients(theirs, x, False), strict=True):
        assert (found - wanted).abs().max() < 0.02 * wanted.abs().max()
