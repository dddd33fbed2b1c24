"""torch's convolutions, but for axes that are shorter than the kernel, where some processors get the gradient wrong.

Where such an axis is padded inside the product, oneDNN's kernel for AVX-512 with bfloat16 and without AMX
(`jit_bf16:avx512_core_bf16` of 3.13; on AMD's Zen 4 and 5, for instance) leaves parts of the weights' gradient as it found
the memory: NaN, or any number. A clip of 8 frames has two latent steps and a kernel three, so no tokenizer of clips learned
there. With the zeros added ahead of the product the same kernel is right, and so is every other.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


class ZerosAhead(nn.Module):
    """Adds zeros before the product along axes that are shorter than the kernel, and inside it along the others."""

    kernel_size: tuple[int, ...]
    padding: str | tuple[int, ...]
    stride: tuple[int, ...]
    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, [t,] H, W) -> (B, C', [t',] H', W'), as torch's."""
        if isinstance(self.padding, str):
            raise ValueError(f"padding={self.padding!r} must be given as numbers")
        axes = zip(x.shape[2:], self.kernel_size, self.padding, strict=True)
        ahead = [padding if size < kernel else 0 for size, kernel, padding in axes]
        if not any(ahead):
            return super().forward(x)
        inside = tuple(padding - zeros for padding, zeros in zip(self.padding, ahead, strict=True))
        x = F.pad(x, [zeros for each in reversed(ahead) for zeros in (each, each)])
        return CONVOLVE[len(ahead)](x, self.weight, self.bias, self.stride, inside)


class Conv2d(ZerosAhead, nn.Conv2d):
    """Of images (B, C, H, W)."""


class Conv3d(ZerosAhead, nn.Conv3d):
    """Of videos (B, C, t, H, W)."""


CONVOLVE: dict[int, Any] = {2: F.conv2d, 3: F.conv3d}
CONVOLUTIONS: dict[int, Any] = {2: Conv2d, 3: Conv3d}  # by the axes of the latent: images have two, videos three
