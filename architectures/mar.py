"""MAR: masked tokens, each drawn by a small diffusion network of its own.

Li et al. 2024 (arXiv 2406.11838). The trunk turns visible tokens into a vector z for every masked one, and the head
denoises a token given its z. Trunk, masks and decoding order are those of the other masked rungs and the process is
DiT's, so MAR's own two-part encoder and decoder is not rebuilt here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from architectures.base import Context, GenerativeModel, architecture
from architectures.conditioning import Condition
from architectures.diffusion import Network, guide_prediction, make_process
from architectures.masking import (
    NO_CONFIDENCE,
    SamplingConfig,
    Step,
    decode,
    loss_mask,
    masked_mean,
    mean_loss_share,
    sample_mask,
)
from architectures.transformer import TimestepEmbedder, modulate, xavier_init
from datasets.ranges import check_ranges


@dataclass
class MARConfig:
    """What is MAR's own: the diffusion head, and how guidance grows while decoding."""

    head_depth: int = 3  # residual blocks of the head; MAR, section 4
    head_width: int = 1024  # its channels; MAR, section 4
    diffusion_batch_mul: int = 4  # noise draws a token and step, for one pass of the trunk; MAR's released recipe
    guidance_schedule: str = "constant"  # constant | linear in the share of revealed tokens (MAR)

    def validate(self) -> None:
        """Raise ValueError for sizes below 1 and unknown schedules."""
        least = (1, math.inf)
        check_ranges("architecture", self, head_depth=least, head_width=least, diffusion_batch_mul=least)
        if self.guidance_schedule not in ("constant", "linear"):
            raise ValueError(
                f"architecture.guidance_schedule={self.guidance_schedule} is unknown; use constant or linear"
            )

    def check_sampling(self, sampling: SamplingConfig, tokens: int) -> None:
        """Raise ValueError for more decoding steps than tokens, and for an order that needs probabilities of tokens."""
        if sampling.order == "confidence":
            raise ValueError(NO_CONFIDENCE)
        sampling.check_tokens(tokens)


class HeadBlock(nn.Module):
    """LayerNorm, modulation, Linear-SiLU-Linear, gated residual: (R, W) to (R, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(y).chunk(3, dim=-1)
        return x + gate * self.mlp(self.norm(x) * (1 + scale) + shift)


class DiffusionHead(nn.Module):
    """An MLP that denoises single tokens, modulated by time and the trunk's state (MAR, section 3.2 and appendix B)."""

    def __init__(self, channels: int, out_channels: int, state_width: int, width: int, depth: int) -> None:
        super().__init__()
        self.embed_token = nn.Linear(channels, width)
        self.embed_state = nn.Linear(state_width, width)
        self.embed_time = TimestepEmbedder(width)
        blocks = [HeadBlock(width) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.final_modulation = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, out_channels)
        for part in (self.embed_token, self.embed_state, self.blocks):
            part.apply(xavier_init)
        for layer in (self.final_modulation, self.output, *(block.modulation for block in blocks)):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, t: Tensor, state: Tensor) -> Tensor:
        """Noisy tokens (R, C), times (R,) and states from `embed_state` (R, W) to a prediction (R, out_channels)."""
        y = nn.functional.silu(self.embed_time(t) + state)  # (R, W)
        x = self.embed_token(x)
        for block in self.blocks:
            x = block(x, y)
        shift, scale = self.final_modulation(y).chunk(2, dim=-1)
        return self.output(modulate(x, shift, scale))


@architecture("mar", MARConfig)
class MAR(GenerativeModel):
    """A diffusion model of each masked token, given the visible ones.

    Raises:
        ValueError: for a head without layers, an unknown schedule, a process that does not fit together, or more
            decoding steps than tokens.
    """

    def __init__(self, config: MARConfig, context: Context) -> None:
        super().__init__(config, context)
        config.validate()
        width, channels = context.trunk.width, context.channels
        self.process = make_process(context.diffusion)
        config.check_sampling(context.sampling, context.tokens)  # refuse now what sampling would refuse later
        self.embed_token = nn.Linear(channels, width)
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02)
        self.trunk = self.make_trunk()
        self.head = DiffusionHead(
            channels, self.process.out_channels(channels), width, config.head_width, config.head_depth
        )
        xavier_init(self.embed_token)

    def states(self, latents: Tensor, mask: Tensor, condition: Condition) -> Tensor:
        """The trunk's view z (B, N, D) of latents (B, N, C), which it does not see where the mask (B, N) is True."""
        embedded = self.embed_token(latents)
        x = torch.where(mask[..., None], self.mask_token.to(embedded.dtype), embedded)
        c, extra = self.embed(condition)
        return self.trunk(x, c, extra)[0]

    def compile_networks(self) -> None:
        super().compile_networks()
        self.head.compile(dynamic=False)
        self.denoise = torch.compile(self.denoise, dynamic=True)  # type: ignore[method-assign]

    def training_loss(
        self, latents: Tensor, condition: Condition, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        mask = sample_mask(len(latents), self.context.tokens, self.context.masking, generator)
        counted = loss_mask(mask, self.context.masking)
        z = self.states(latents, mask, condition)
        # The head sees all tokens and those that do not count have weight 0: a shape that changed in every step would
        # cost more than the third of the rows that it saves, in compilation, host syncs and kernels chosen anew.
        per_token = self.head_loss(z.flatten(0, 1), latents.flatten(0, 1), generator).view(counted.shape)
        return masked_mean(per_token, counted), {}

    def denoise(self, x: Tensor, t: Tensor, state: Tensor) -> Tensor:
        """The head while sampling, where every step of decoding has another number of rows: one graph for all of them."""
        return self.head.forward(x, t, state)

    def head_loss(self, z: Tensor, x0: Tensor, generator: torch.Generator) -> Tensor:
        """Diffusion loss (R,) of tokens x0 (R, C) given z (R, D), mean over `diffusion_batch_mul` draws of noise."""
        repeats = self.config.diffusion_batch_mul
        state = self.head.embed_state(z).repeat(repeats, 1)
        loss = self.process.loss(lambda x, t: self.head(x, t, state), x0.repeat(repeats, 1), generator, repeats)
        return loss.view(repeats, -1).mean(0)

    def target_share(self) -> float:
        return mean_loss_share(self.context.tokens, self.context.masking)

    def sample(self, condition: Condition, generator: torch.Generator) -> Tensor:
        settings, channels = self.context.sampling, self.context.channels

        def predict(latents: Tensor, known: Tensor, step: Step) -> tuple[Tensor, None]:
            rows = step.wanted.flatten().nonzero()[:, 0]
            network = self.guided_head(latents, known, condition, rows, self.guidance_at(step.masked))
            shape = (len(rows), channels)
            drawn = self.process.sample(network, shape, generator, latents.device, settings.temperature)
            return latents.flatten(0, 1).index_copy(0, rows, drawn).view(latents.shape), None

        nothing = torch.zeros(len(condition), self.context.tokens, channels, device=generator.device)
        return decode(nothing, predict, settings, generator)

    def guided_head(
        self, latents: Tensor, known: Tensor, condition: Condition, rows: Tensor, guidance: float
    ) -> Network:
        """The head for some rows (R,) of the flattened tokens (B N,), as the process wants it; guided if not 1."""

        def state(told: Condition) -> Tensor:
            return self.head.embed_state(self.states(latents, ~known, told).flatten(0, 1)[rows])

        conditional = state(condition)
        if guidance == 1:
            return lambda x, t: self.denoise(x, t, conditional)
        null, channels = state(condition.absent()), self.context.channels
        return lambda x, t: guide_prediction(
            self.denoise(x, t, conditional), self.denoise(x, t, null), guidance, channels
        )

    def guidance_at(self, masked_after: int) -> float:
        """Guidance scale of the step that leaves so many tokens masked; linear reaches the full scale at the last."""
        scale = self.context.sampling.guidance
        if self.config.guidance_schedule == "constant":
            return scale
        return 1 + (scale - 1) * (self.context.tokens - masked_after) / self.context.tokens
