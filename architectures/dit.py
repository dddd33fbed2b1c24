"""DiT: a diffusion transformer, all tokens of a continuous latent noised together.

Peebles & Xie 2023 (arXiv 2212.09748). The rung of the ladder without masking: process, solver and steps are MAR's too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from architectures.base import Context, GenerativeModel, architecture
from architectures.conditioning import Condition
from architectures.diffusion import guide_prediction, make_process
from architectures.transformer import TimestepEmbedder, xavier_init


@dataclass
class DiTConfig:
    """Nothing of its own: size, process, sampler and conditioning are sections that all architectures share."""


@architecture("dit", DiTConfig)
class DiT(GenerativeModel):
    """Predict noise or velocity of every token from the noisy latent, its time and the condition."""

    def __init__(self, config: DiTConfig, context: Context) -> None:
        super().__init__(config, context)
        width = context.trunk.width
        self.process = make_process(context.diffusion)
        self.embed_token = nn.Linear(context.channels, width)
        self.embed_time = TimestepEmbedder(width)
        self.trunk = self.make_trunk()
        self.output = nn.Linear(width, self.process.out_channels(context.channels))
        xavier_init(self.embed_token)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor, t: Tensor, c: Tensor, extra: Tensor | None = None) -> Tensor:
        """The network.

        Args:
            x: noisy latents (B, N, C).
            t: times (B,) in the process's unit.
            c: condition vector (B, D), added to the time's embedding.
            extra: condition tokens (B, E, D), where conditions are injected that way.

        Returns:
            Prediction (B, N, out_channels).
        """
        hidden, _ = self.trunk(self.embed_token(x), self.embed_time(t) + c, extra)
        return self.output(hidden)

    def training_loss(
        self, latents: Tensor, condition: Condition, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        c, extra = self.embed(condition)
        loss = self.process.loss(lambda x, t: self(x, t, c, extra), latents, generator).mean()
        return loss, {}

    def sample(self, condition: Condition, generator: torch.Generator) -> Tensor:
        settings, channels = self.context.sampling, self.context.channels
        c, extra = self.embed(condition)
        null_c, null_extra = self.embed(condition.absent())

        def network(x: Tensor, t: Tensor) -> Tensor:
            conditional = self(x, t, c, extra)
            if settings.guidance == 1:
                return conditional
            unconditional = self(x, t, null_c, null_extra)
            return guide_prediction(conditional, unconditional, settings.guidance, channels)

        shape = (len(condition), self.context.tokens, channels)
        return self.process.sample(network, shape, generator, c.device, settings.temperature)
