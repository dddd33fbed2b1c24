"""The one trunk that all architectures share: a transformer with adaLN-Zero modulation.

Peebles & Xie 2023 (DiT, arXiv 2212.09748), section 3.2: pre-norm blocks whose LayerNorms have no affine part; a linear
map of the condition vector gives shift, scale and gate of each half block, and starts at zero, so that a fresh block is
the identity. What differs between architectures is what they feed in, what they read out and what they minimise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.ranges import ABOVE_0, check_ranges


@dataclass
class TrunkConfig:
    """Size of the shared trunk."""

    depth: int = 12  # blocks; paper A's DiT for Shapes2D
    width: int = 384  # D, channels of a token; paper A
    heads: int = 6  # attention heads; paper A
    mlp_ratio: float = 4.0  # hidden width of a block's MLP over D; DiT
    activation: str = "gelu_tanh"  # gelu_tanh (DiT) | gelu: within 5e-4 of it, and several times faster on a CPU

    def validate(self) -> None:
        """Raise ValueError for sizes below 1, and where they do not fit together."""
        check_ranges(
            "trunk", self, depth=(1, math.inf), width=(1, math.inf), heads=(1, math.inf), mlp_ratio=(ABOVE_0, math.inf)
        )
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"trunk.width={self.width} must be a multiple of trunk.heads={self.heads} and of 4")
        if self.activation not in ("gelu_tanh", "gelu"):
            raise ValueError(f"trunk.activation={self.activation} is unknown; use gelu_tanh or gelu")


class Trunk(nn.Module):
    """Tokens (B, N, D) and a condition vector (B, D) to hidden states (B, N, D)."""

    position: Tensor

    def __init__(self, config: TrunkConfig, grid: Sequence[int], extra_tokens: int = 0) -> None:
        super().__init__()
        self.extra_tokens = extra_tokens
        self.register_buffer("position", sincos_position(grid, config.width), persistent=False)  # (N, D)
        if extra_tokens:
            self.extra_position = nn.Parameter(torch.randn(extra_tokens, config.width) * 0.02)
        blocks = [Block(config) for _ in range(config.depth)]
        self.blocks = nn.ModuleList(blocks)
        self.final_modulation = nn.Linear(config.width, 2 * config.width)
        self.apply(xavier_init)
        for modulation in (self.final_modulation, *(block.modulation for block in blocks)):
            nn.init.zeros_(modulation.weight)

    def forward(
        self, x: Tensor, c: Tensor, extra: Tensor | None = None, keep_layers: Sequence[int] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the trunk.

        Args:
            x: embedded tokens (B, N, D), without positions.
            c: condition vector (B, D): what modulates every block.
            extra: condition tokens (B, E, D) put in front, E the constructor's ``extra_tokens``.
            keep_layers: 0-based blocks whose outputs are returned as well.

        Returns:
            Final states (B, N, D) after the last modulated LayerNorm, and the kept block outputs, (B, N, D) each.
        """
        x = x + self.position  # (B, N, D)
        if extra is not None:
            x = torch.cat([extra + self.extra_position, x], dim=1)  # (B, E + N, D)
        c = F.silu(c)
        kept = []
        for index, block in enumerate(self.blocks):
            x = block(x, c)
            if index in keep_layers:
                kept.append(x[:, self.extra_tokens :])
        shift, scale = self.final_modulation(c)[:, None].chunk(2, dim=-1)
        return modulate(x[:, self.extra_tokens :], shift, scale), kept


class Block(nn.Module):
    """One adaLN-Zero block: attention and MLP, each shifted, scaled and gated by the condition (DiT, figure 3)."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        width, hidden = config.width, int(config.width * config.mlp_ratio)
        self.heads = config.heads
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        activation = nn.GELU(approximate="tanh" if config.activation == "gelu_tanh" else "none")
        self.mlp = nn.Sequential(nn.Linear(width, hidden), activation, nn.Linear(hidden, width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(c)[:, None].chunk(6, dim=-1)  # (B, 1, D)
        x = x + gate_a * self.attention(modulate(x, shift_a, scale_a))
        return x + gate_m * self.mlp(modulate(x, shift_m, scale_m))

    def attention(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return self.attention_out(attend(q, k, v).transpose(1, 2).reshape(batch, tokens, width))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention, (B, H, N, d) each. On a CPU two matmuls beat the fused kernel up to a few hundred tokens."""
    if q.device.type != "cpu" or q.shape[2] > 256:
        return F.scaled_dot_product_attention(q, k, v)
    weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (B, H, N, N)
    return weights.softmax(-1).to(v.dtype) @ v


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without affine part, then the condition's scale and shift."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def xavier_init(module: nn.Module) -> None:
    """DiT's initialisation of linear layers."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class TimestepEmbedder(nn.Module):
    """A time in the units of the diffusion process to a vector (B, D): sinusoids, Linear, SiLU, Linear (DiT)."""

    def __init__(self, width: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        first, second = nn.Linear(frequencies, width), nn.Linear(width, width)
        self.net = nn.Sequential(first, nn.SiLU(), second)
        for layer in (first, second):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, t: Tensor) -> Tensor:
        return self.net(timestep_embedding(t, self.frequencies))


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoids of t, (B, dim) in float32: cosines first, then sines, periods from 2 pi to 2 pi 10000 (DiT).

    bfloat16 keeps 507 of 1000 integer times, so t and the table stay in float32 whatever autocast says.
    """
    half = dim // 2
    frequency = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angle = t.float()[:, None] * frequency  # (B, dim / 2)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def sincos_position(grid: Sequence[int], width: int) -> Tensor:
    """Fixed sine-cosine position table (N, D) of a token grid in row-major order.

    On a 2-D grid the first half of the channels codes the column and the second half the row (MAE, DiT); in each part
    all sines come before all cosines. A grid of three axes (time, row, column) splits the channels in three likewise.
    """
    sizes = [2 * (width // (2 * len(grid)))] * len(grid)
    sizes[0] += width - sum(sizes)
    axes = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in grid), indexing="ij")
    parts = []
    for axis, size in zip(reversed(axes), sizes, strict=True):
        frequency = 10000.0 ** (-torch.arange(size // 2, dtype=torch.float64) / (size / 2))
        angle = axis.reshape(-1, 1) * frequency  # (N, size / 2)
        parts.append(torch.cat([angle.sin(), angle.cos()], dim=1))
    return torch.cat(parts, dim=1).float()
