"""What the masked models share: which tokens are masked in training, and the order in which sampling fills them in.

MaskGIT, GIVT and MAR differ only in how a token's distribution is written down; masks, reduction of the loss and the
decoding loop live here, so that the three rungs of the ladder cannot drift apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from architectures.shares import draw
from datasets.ranges import check_ranges

RATIO_LAWS = ("cosine", "arccos", "truncnorm", "givt")
NO_CONFIDENCE = "sampling.order=confidence needs a model with token probabilities; use order=random"


@dataclass
class Step:
    """What a model is told about one step of the decoding loop."""

    index: int  # from 0
    masked: int  # tokens of a sample that it leaves masked
    wanted: Tensor  # (B, N) bool: tokens that it may decide; in random order those that it will


# One decoding step: (state (B, N, ...), known (B, N) bool, step) -> proposal, shaped as the state, of which only wanted
# tokens are read, and its log-probability or density (B, N), which only confidence order needs.
Predict = Callable[[Tensor, Tensor, Step], tuple[Tensor, Tensor | None]]


@dataclass
class MaskingConfig:
    """How training masks are drawn and on which tokens the loss stands."""

    ratio: str = "cosine"  # cosine (MaskGIT) | arccos (Valeo) | truncnorm (MAR) | givt; law of the masked share
    min_ratio: float = 0.0  # masked share never below; MaskGIT's ImageNet config uses .5
    loss_on: str = "masked"  # masked (MaskGIT) | all (Valeo): tokens that carry the loss
    label_smoothing: float = 0.0  # MaskGIT only: weight of the uniform distribution over the codes; published .1

    def validate(self) -> None:
        """Raise ValueError for a value outside its range or a name that is not known."""
        _check_choice("masking.ratio", self.ratio, RATIO_LAWS)
        _check_choice("masking.loss_on", self.loss_on, ("masked", "all"))
        check_ranges("masking", self, min_ratio=(0.0, 1.0), label_smoothing=(0.0, 1.0))


@dataclass
class SamplingConfig:
    """How a masked model fills in its tokens. The defaults are the controlled recipe, alike for all three rungs."""

    decode_steps: int = 8  # number of parallel steps; 0 decodes one token a step
    order: str = "random"  # random (MAR; one order a sample) | confidence (MaskGIT)
    schedule: str = "maskgit"  # maskgit (float32 cosine) | mar (float64): tokens left masked after each step
    temperature: float = 1.0  # of a token's distribution: divides logits, multiplies standard deviations or noise
    choice_temperature: float = 4.5  # Gumbel noise on the confidence at the first step, annealed to zero; MaskGIT
    guidance: float = 1.0  # s in u + s (c - u), u without any factor; 1 switches guidance off

    def validate(self) -> None:
        """Raise ValueError for a value outside its range or a name that is not known."""
        _check_choice("sampling.order", self.order, ("random", "confidence"))
        _check_choice("sampling.schedule", self.schedule, ("maskgit", "mar"))
        check_ranges("sampling", self, decode_steps=(0, math.inf), temperature=(0.0, math.inf))
        check_ranges("sampling", self, choice_temperature=(0.0, math.inf), guidance=(-math.inf, math.inf))

    def check_tokens(self, tokens: int) -> None:
        """Raise ValueError for more steps than tokens, of which each step decides at least one."""
        _check_steps(self.decode_steps, tokens)


def mask_ratio(uniform: Tensor, law: str) -> Tensor:
    """Share of masked tokens as a function of u in [0, 1).

    ``cosine`` is cos(pi/2 u) (Chang et al. 2022, section 3.3); ``arccos`` its inverse function (Valeo's MaskGIT);
    ``givt`` stops the cosine at u = .7 (Tschannen et al. 2024, masked variant); ``truncnorm`` is N(1, .25) cut to
    [.7, 1] (Li et al. 2024, section 4), by its inverse distribution function.
    """
    if law == "cosine":
        return torch.cos(math.pi / 2 * uniform)
    if law == "arccos":
        return torch.acos(uniform) / (math.pi / 2)
    if law == "givt":
        return torch.cos(math.pi / 2 * 0.7 * uniform)
    mean, std, low = 1.0, 0.25, 0.7
    below = 0.5 * math.erfc((mean - low) / std / math.sqrt(2))  # normal mass under the lower cut
    quantile = below + uniform * (0.5 - below)
    return (mean + std * torch.special.ndtri(quantile)).clamp(low, 1.0)


def sample_mask(batch: int, tokens: int, config: MaskingConfig, generator: torch.Generator) -> Tensor:
    """Training masks (batch, tokens), bool, True where masked; every sample has its own ratio and a masked token.

    The masked tokens are the n lowest of N uniform scores, n = ceil(N ratio) (MAR; Chang et al. leave the rounding
    open). ``arccos`` masks each token independently with that probability, as Valeo does.
    """
    ratio = mask_ratio(draw(torch.rand, (batch, 1), generator), config.ratio)
    ratio = ratio.clamp(min=config.min_ratio)
    scores = draw(torch.rand, (batch, tokens), generator)
    if config.ratio == "arccos":
        count = (scores < ratio).sum(dim=1, keepdim=True)
    else:
        count = (tokens * ratio).ceil()
    return _rank(scores) < count.clamp(min=1)


def loss_mask(mask: Tensor, config: MaskingConfig) -> Tensor:
    """The tokens (B, N) bool that carry the loss: the masked ones, or all of them."""
    return mask if config.loss_on == "masked" else torch.ones_like(mask)


def mean_loss_share(tokens: int, config: MaskingConfig) -> float:
    """Share of tokens that carry the loss, on average over masks (.64 for the cosine law)."""
    masks = sample_mask(4096, tokens, config, torch.Generator().manual_seed(0))
    return float(loss_mask(masks, config).float().mean())


def masked_mean(per_token: Tensor, mask: Tensor) -> Tensor:
    """Mean of (B, N) over the True tokens of each sample, then over samples; 0-d float32.

    This is MaskGIT's reduction; a flat mean over all masked tokens would weigh samples by their number of masks.
    """
    weights = mask.float()  # (B, N)
    return ((per_token.float() * weights).sum(dim=1) / weights.sum(dim=1)).mean()


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance in its s-form, u + s (c - u): 1 is no guidance, 0 is unconditional."""
    return unconditional + scale * (conditional - unconditional)


def decode_table(tokens: int, steps: int, schedule: str = "maskgit") -> tuple[int, ...]:
    """Number of tokens still masked after each of the decoding steps; the last entry is 0.

    Both published rules are max(1, min(current - 1, floor(N cos(pi/2 (i+1)/T)))). MaskGIT evaluates the cosine in
    float32, MAR in float64: where it is exactly 1/2 they differ by one token. ``maskgit`` is the default of the ladder.
    ``steps=0`` means one token a step.

    Raises:
        ValueError: for more steps than tokens.
    """
    steps = steps or tokens
    _check_steps(steps, tokens)
    real = np.float32 if schedule == "maskgit" else np.float64
    table, current = [], tokens
    for step in range(1, steps):
        angle = real(math.pi / 2) * real(step / steps)
        cosine = real(math.cos(angle))  # rounded once from float64, so the table is the same on every machine
        current = max(1, min(current - 1, int(real(tokens) * cosine)))
        table.append(current)
    return (*table, 0)


def decode(
    state: Tensor,
    predict: Predict,
    config: SamplingConfig,
    generator: torch.Generator,
    gumbel: Tensor | None = None,
) -> Tensor:
    """Fill in all tokens of a state (B, N, ...) and return it; see `decode_steps`."""
    for filled in decode_steps(state, predict, config, generator, gumbel):
        state = filled
    return state


def decode_steps(
    state: Tensor,
    predict: Predict,
    config: SamplingConfig,
    generator: torch.Generator,
    gumbel: Tensor | None = None,
) -> Iterator[Tensor]:
    """Iterative parallel decoding, yielding the filled-in state (B, N, ...) after every step.

    Each step proposes all unknown tokens at once and keeps some: in ``random`` order the next ones of an order that is
    drawn once a sample (MAR), in ``confidence`` order those of highest log-probability plus annealed Gumbel noise
    (MaskGIT, appendix A). `predict` must not look at the state where `known` is False. The order is the first thing
    drawn from the generator, so that models with equal generators decode in equal order.

    Args:
        state: what to fill in; only its shape, type and device matter.
        gumbel: (T, B, N) standard Gumbel noise in place of drawn noise; only read in confidence order.

    Raises:
        ValueError: if confidence order is asked of a model that has no confidence.
    """
    batch, tokens = state.shape[:2]
    table = decode_table(tokens, config.decode_steps, config.schedule)
    known = torch.zeros(batch, tokens, dtype=torch.bool, device=state.device)
    rank = _rank(torch.rand(batch, tokens, generator=generator, device=state.device))
    for step, masked in enumerate(table):
        wanted = ~known if config.order == "confidence" else ~known & (rank < tokens - masked)
        proposal, confidence = predict(state, known, Step(step, masked, wanted))
        keep = known.reshape(batch, tokens, *[1] * (state.dim() - 2))
        state = torch.where(keep, state, proposal.to(state.dtype))
        yield state
        if config.order == "confidence":
            if confidence is None:
                raise ValueError(NO_CONFIDENCE)
            noise = gumbel_noise((batch, tokens), generator, state.device) if gumbel is None else gumbel[step]
            annealed = config.choice_temperature * (1 - (step + 1) / len(table))
            rank = confidence_rank(confidence.float() + annealed * noise, known)
        known = rank < tokens - masked


def confidence_rank(confidence: Tensor, known: Tensor) -> Tensor:
    """Rank (B, N) of each token, 0 for the most confident; known tokens come before all others."""
    return _rank(-confidence.masked_fill(known, math.inf))


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """Standard Gumbel noise, float32."""
    exponential = torch.empty(shape, device=device).exponential_(generator=generator)
    return -exponential.clamp(min=torch.finfo(torch.float32).tiny).log()


def _rank(scores: Tensor) -> Tensor:
    """Position (B, N) of each score in its sorted row; 0 is the lowest."""
    return scores.argsort(dim=1, stable=True).argsort(dim=1)


def _check_steps(steps: int, tokens: int) -> None:
    if steps > tokens:
        raise ValueError(f"sampling.decode_steps={steps} exceeds the {tokens} tokens; use at most {tokens}, or 0")


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{key}={value} is unknown; use one of {', '.join(choices)}")
