"""DiT trained the plain way: what `speed` compares the suite's own step with.

The network of Peebles & Xie 2023 (arXiv 2212.09748) from timm's layers, as large as a cell's, in eager float32; AdamW as
torch has it by default, an average that is updated parameter by parameter, and a loss that is read after every step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Attention, Mlp
from torch import Tensor, nn

from architectures.base import Context
from architectures.transformer import TimestepEmbedder, modulate, sincos_position
from datasets.factors import seed_for

RATE, DECAY = 1e-4, 0.9999  # of AdamW and of the average; DiT
LATENTS = 4096  # random ones to draw batches from


class PlainDiT(nn.Module):
    """Velocity of noisy latents (B, N, C) at times (B,) for compositions (B,) int64, by their index."""

    position: Tensor

    def __init__(self, context: Context) -> None:
        super().__init__()
        trunk = context.trunk
        self.register_buffer("position", sincos_position(context.grid, trunk.width))
        self.embed_token = nn.Linear(context.channels, trunk.width)
        self.embed_time = TimestepEmbedder(trunk.width)
        self.embed_label = nn.Embedding(len(context.space.compositions), trunk.width)
        self.blocks = nn.ModuleList(PlainBlock(trunk.width, trunk.heads, trunk.mlp_ratio) for _ in range(trunk.depth))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(trunk.width, 2 * trunk.width))
        self.output = nn.Linear(trunk.width, context.channels)

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        x = self.embed_token(x) + self.position  # (B, N, D)
        c = self.embed_time(t) + self.embed_label(label)  # (B, D)
        for block in self.blocks:
            x = block(x, c)
        shift, scale = self.modulation(c)[:, None].chunk(2, dim=-1)
        return self.output(modulate(x, shift, scale))


class PlainBlock(nn.Module):
    """An adaLN-Zero block (DiT, figure 3)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.attention = Attention(width, num_heads=heads, qkv_bias=True)
        self.mlp = Mlp(width, int(width * mlp_ratio), act_layer=partial(nn.GELU, approximate="tanh"))  # type: ignore[arg-type]
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(c)[:, None].chunk(6, dim=-1)  # (B, 1, D)
        x = x + gate_a * self.attention(modulate(x, shift_a, scale_a))
        return x + gate_m * self.mlp(modulate(x, shift_m, scale_m))


def plain_loss(model: PlainDiT, latents: Tensor, label: Tensor, generator: torch.Generator) -> Tensor:
    """Flow matching, 0-d: latents (B, N, C), labels (B,)."""
    t = torch.rand(len(latents), generator=generator, device=latents.device)
    noise = torch.randn(latents.shape, generator=generator, device=latents.device)
    noisy = torch.lerp(latents, noise, t[:, None, None])
    return F.mse_loss(model(noisy, t, label), noise - latents)


def plain_training(context: Context, batch_size: int, device: torch.device) -> Callable[[], float]:
    """One step of training from random weights on random latents; it gives the loss."""
    generator = torch.Generator(device).manual_seed(seed_for(0, "plain"))
    model = PlainDiT(context).to(device)
    average = copy.deepcopy(model).requires_grad_(False)
    optimiser = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.0)
    latents = torch.randn(LATENTS, context.tokens, context.channels, generator=generator, device=device)
    labels = torch.randint(len(context.space.compositions), (LATENTS,), generator=generator, device=device)

    def step() -> float:
        rows = torch.randint(LATENTS, (batch_size,), generator=generator, device=device)
        loss = plain_loss(model, latents[rows], labels[rows], generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            for shadow, parameter in zip(average.parameters(), model.parameters(), strict=True):
                shadow.mul_(DECAY).add_(parameter, alpha=1 - DECAY)
        return loss.item()

    return step
