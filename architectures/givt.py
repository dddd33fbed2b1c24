"""GIVT, masked: predict continuous masked tokens by a mixture of diagonal Gaussians.

Tschannen et al. 2024 (arXiv 2312.02116), masked variant: MaskGIT with a linear map in place of the token table and a
mixture in place of the softmax. Guidance is not offered: the published, density-based form draws by rejection, and
extrapolating between two mixtures component by component means nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from architectures.base import Context, GenerativeModel, architecture
from architectures.conditioning import Condition
from architectures.masking import (
    SamplingConfig,
    Step,
    decode,
    gumbel_noise,
    loss_mask,
    masked_mean,
    mean_loss_share,
    sample_mask,
)
from architectures.transformer import xavier_init
from datasets.ranges import ABOVE_0, check_ranges

LOG_2PI = math.log(2 * math.pi)


@dataclass
class GIVTConfig:
    """What is GIVT's own; masks and decoding are in MaskingConfig and SamplingConfig."""

    mixtures: int = 16  # k, Gaussians a token; GIVT's ImageNet config
    std_floor: float = 0.05  # least standard deviation; published 1e-6, but on atoms a density is unbounded
    mean_spread: float = 1.0  # std of the components' first means; published 0, then only rounding parts them
    per_channel: bool = False  # a mixture a channel in place of one a token; GIVT's class default, not its config
    sharpness: float = 1.0  # multiplies the mixture logits when sampling; GIVT's temp_probs

    def validate(self) -> None:
        """Raise ValueError for values that make no mixture."""
        check_ranges("architecture", self, mixtures=(1, math.inf), std_floor=(ABOVE_0, math.inf))
        check_ranges("architecture", self, mean_spread=(0.0, math.inf), sharpness=(0.0, math.inf))

    def check_sampling(self, sampling: SamplingConfig, tokens: int) -> None:
        """Raise ValueError if guidance is asked for, or there are more decoding steps than tokens."""
        if sampling.guidance != 1:
            raise ValueError(f"givt has no guidance; sampling.guidance={sampling.guidance} must be 1")
        if sampling.order == "confidence" and sampling.temperature == 0:
            raise ValueError("sampling.temperature=0 leaves no density to be confident by; use sampling.order=random")
        sampling.check_tokens(tokens)


@dataclass
class Mixture:
    """Independent mixtures over G groups of d / G channels, each of k diagonal Gaussians; float32. G is 1 or d."""

    logits: Tensor  # (..., G, k), unnormalised log weights
    means: Tensor  # (..., G, k, d / G)
    stds: Tensor  # (..., G, k, d / G)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density (...) of vectors x (..., d), in nats of the whole vector."""
        x = x.float().unflatten(-1, (self.means.shape[-3], 1, -1))  # (..., G, 1, d / G)
        z = (x - self.means) / self.stds
        each = -(0.5 * (z.square() + LOG_2PI) + self.stds.log()).sum(-1)  # (..., G, k)
        return torch.logsumexp(self.logits.log_softmax(-1) + each, dim=-1).sum(-1)

    def tempered(self, temperature: float, sharpness: float) -> Mixture:
        """Standard deviations times a temperature, logits times a sharpness (GIVT, section 3.4)."""
        return Mixture(sharpness * self.logits, self.means, temperature * self.stds)

    def sample(self, generator: torch.Generator) -> Tensor:
        """A vector (..., d): a component by its weight, then a point of its Gaussian."""
        noise = gumbel_noise(self.logits.shape, generator, self.logits.device)
        chosen = (self.logits + noise).argmax(-1, keepdim=True)[..., None]  # (..., G, 1, 1)
        chosen = chosen.expand(*chosen.shape[:-1], self.means.shape[-1])
        mean, std = self.means.gather(-2, chosen), self.stds.gather(-2, chosen)  # (..., G, 1, d / G)
        epsilon = torch.randn(mean.shape, generator=generator, device=mean.device)
        return (mean + std * epsilon).flatten(-3)


def square_plus(x: Tensor) -> Tensor:
    """(x + sqrt(x^2 + 4)) / 2: positive, 1 at 0. (big_vision's default halves the root only, and turns negative.)"""
    return (x + torch.sqrt(x.square() + 4)) / 2


def make_mixture(raw: Tensor, mixtures: int, floor: float, per_channel: bool = False) -> Mixture:
    """Read a network's output as a mixture, in big_vision's layouts.

    Args:
        raw: (..., k + 2 k d), k logits and then k blocks of d means and d raw deviations; with ``per_channel``
            (..., 3 d k), the d x k logits, means and raw deviations one after another.
    """
    raw = raw.float()
    if per_channel:
        logits, means, deviations = raw.unflatten(-1, (3, -1, mixtures)).unbind(-3)  # (..., d, k)
        means, deviations = means[..., None], deviations[..., None]
    else:
        logits, blocks = raw[..., None, :mixtures], raw[..., None, mixtures:]
        means, deviations = blocks.unflatten(-1, (mixtures, -1)).chunk(2, dim=-1)  # (..., 1, k, d)
    return Mixture(logits, means, square_plus(deviations).clamp(min=floor))


@architecture("givt", GIVTConfig)
class GIVT(GenerativeModel):
    """Mixture of Gaussians per masked token, over latents (B, N, C).

    Raises:
        ValueError: if guidance is asked for, or there are more decoding steps than tokens.
    """

    def __init__(self, config: GIVTConfig, context: Context) -> None:
        super().__init__(config, context)
        config.validate()
        config.check_sampling(context.sampling, context.tokens)  # refuse now what sampling would refuse later
        width, channels = context.trunk.width, context.channels
        self.embed_token = nn.Linear(channels, width)
        xavier_init(self.embed_token)
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02)
        self.trunk = self.make_trunk()
        per_component = 3 * channels if config.per_channel else 1 + 2 * channels
        self.head = nn.Linear(width, config.mixtures * per_component)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():  # equal components have equal gradients; the means are a view of the bias
            self._mixture(self.head.bias).means.normal_(std=config.mean_spread)

    def training_loss(
        self, latents: Tensor, condition: Condition, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        batch, tokens = latents.shape[:2]
        mask = sample_mask(batch, tokens, self.context.masking, generator)  # (B, N)
        nll, at_floor = self.token_nll(self.states(latents, mask, condition), latents)
        loss = masked_mean(nll, loss_mask(mask, self.context.masking))
        logs = {"nll_per_dim": loss.detach() / latents.shape[-1], "std_at_floor": masked_mean(at_floor, mask)}
        return loss, logs

    def token_nll(self, hidden: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Negative log density of latents (B, N, C) given hidden states (B, N, D), and the share of stds at the floor."""
        mixture = self.mixture_of(hidden)
        at_floor = (mixture.stds.detach() <= self.config.std_floor).float().mean((-1, -2, -3))
        return -mixture.log_prob(latents), at_floor  # (B, N) each

    def compile_networks(self) -> None:
        super().compile_networks()
        self.token_nll = torch.compile(self.token_nll, dynamic=False)  # type: ignore[method-assign]

    def target_share(self) -> float:
        return mean_loss_share(self.context.tokens, self.context.masking)

    def sample(self, condition: Condition, generator: torch.Generator) -> Tensor:
        sampling = self.context.sampling
        shape = (len(condition), self.context.tokens, self.context.channels)

        def predict(latents: Tensor, known: Tensor, step: Step) -> tuple[Tensor, Tensor]:
            mixture = self.mixture(latents, ~known, condition)
            mixture = mixture.tempered(sampling.temperature, self.config.sharpness)
            drawn = mixture.sample(generator)
            return drawn, mixture.log_prob(drawn)

        return decode(torch.zeros(shape, device=generator.device), predict, sampling, generator)

    def mixture(self, latents: Tensor, mask: Tensor, condition: Condition) -> Mixture:
        """Mixtures of all tokens given latents (B, N, C) under a mask (B, N), True = hidden."""
        return self.mixture_of(self.states(latents, mask, condition))

    def states(self, latents: Tensor, mask: Tensor, condition: Condition) -> Tensor:
        """Final hidden states (B, N, D) of latents (B, N, C) under a mask (B, N), True = hidden."""
        embedded = self.embed_token(latents)
        x = torch.where(mask[..., None], self.mask_token.to(embedded.dtype), embedded)  # (B, N, D)
        c, tokens = self.embed(condition)
        return self.trunk(x, c, tokens)[0]

    def mixture_of(self, hidden: Tensor) -> Mixture:
        """What the head reads in hidden states (B, N, D)."""
        with torch.autocast(hidden.device.type, enabled=False):  # a mean in bfloat16 is off by more than the floor
            return self._mixture(self.head(hidden.float()))

    def _mixture(self, raw: Tensor) -> Mixture:
        return make_mixture(raw, self.config.mixtures, self.config.std_floor, self.config.per_channel)
