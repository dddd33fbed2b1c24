"""MaskGIT: predict the codes of masked tokens by a softmax over the codebook.

Chang et al. 2022 (arXiv 2202.04200): bidirectional transformer, cosine masking, iterative parallel decoding. The trunk
is the suite's shared one instead of BERT, and conditions enter as they do in every other architecture here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.base import Context, GenerativeModel, architecture
from architectures.conditioning import Condition
from architectures.masking import (
    SamplingConfig,
    Step,
    decode,
    guide,
    loss_mask,
    masked_mean,
    mean_loss_share,
    sample_mask,
)
from architectures.transformer import xavier_init


@dataclass
class MaskGITConfig:
    """What is MaskGIT's own; masks and decoding are in MaskingConfig and SamplingConfig."""

    input: str = "codes"  # codes: a learned table (published) | latents: codebook vectors through a linear map

    def validate(self) -> None:
        """Raise ValueError for an input that is not known."""
        if self.input not in ("codes", "latents"):
            raise ValueError(f"architecture.input={self.input} is unknown; use codes or latents")

    def check_sampling(self, sampling: SamplingConfig, tokens: int) -> None:
        """Raise ValueError for more decoding steps than tokens."""
        sampling.check_tokens(tokens)


@architecture("maskgit", MaskGITConfig)
class MaskGIT(GenerativeModel):
    """Categorical distribution per masked token, over K codes (B, N).

    Raises:
        ValueError: if the tokenizer has no codebook, or there are more decoding steps than tokens.
    """

    views = ("codes",)
    codebook: Tensor

    def __init__(self, config: MaskGITConfig, context: Context) -> None:
        super().__init__(config, context)
        config.validate()
        if context.codebook is None:
            raise ValueError(f"{self.name} models codes and this tokenizer has none; use tokenizer=vq")
        config.check_sampling(context.sampling, context.tokens)  # refuse now what sampling would refuse later
        (codes, channels), width = context.codebook.shape, context.trunk.width
        self.register_buffer("codebook", context.codebook, persistent=False)  # (K, C)
        self.embed_token = nn.Embedding(codes, width) if config.input == "codes" else nn.Linear(channels, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.trunk = self.make_trunk()
        self.head = nn.Linear(width, codes)
        self._initialise()

    def _initialise(self) -> None:
        """N(0, .02), as published: with N(0, 1), as in one port, the first loss is 34-92 in place of ln K."""
        nn.init.normal_(self.mask_token, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        if self.config.input == "codes":
            nn.init.normal_(self.embed_token.weight, std=0.02)
        else:
            xavier_init(self.embed_token)  # as the other models of continuous tokens

    def training_loss(
        self, latents: Tensor, condition: Condition, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        batch, tokens = latents.shape[:2]
        mask = sample_mask(batch, tokens, self.context.masking, generator)  # (B, N)
        hidden, _ = self.states(latents, mask, condition)
        loss, logs = self.code_loss(hidden, latents, mask)
        return loss, logs

    def target_share(self) -> float:
        return mean_loss_share(self.context.tokens, self.context.masking)

    def sample(self, condition: Condition, generator: torch.Generator) -> Tensor:
        sampling = self.context.sampling
        nothing = torch.zeros(len(condition), self.context.tokens, dtype=torch.int64, device=generator.device)

        def predict(codes: Tensor, known: Tensor, step: Step) -> tuple[Tensor, Tensor]:
            logits = self.guided_logits(codes, ~known, condition)  # (B, N, K)
            drawn = draw_codes(logits, sampling.temperature, generator)
            return drawn, logits.log_softmax(-1).gather(-1, drawn[..., None])[..., 0]

        return decode(nothing, predict, sampling, generator)

    def states(
        self, codes: Tensor, mask: Tensor, condition: Condition, keep_layers: Sequence[int] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """Final hidden states (B, N, D) of codes (B, N) under a mask (True = hidden), and the kept block outputs."""
        visible = codes if self.config.input == "codes" else self.codebook[codes]
        embedded = self.embed_token(visible)
        x = torch.where(mask[..., None], self.mask_token.to(embedded.dtype), embedded)  # (B, N, D)
        c, tokens = self.embed(condition)
        return self.trunk(x, c, tokens, keep_layers)

    def code_loss(self, hidden: Tensor, codes: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy in nats, float32, and the share of masked codes that are the most likely ones."""
        masking = self.context.masking
        logits = self.head(hidden).float()  # (B, N, K)
        loss = masked_mean(code_cross_entropy(logits, codes, masking.label_smoothing), loss_mask(mask, masking))
        with torch.no_grad():
            hits = masked_mean(logits.argmax(-1) == codes, mask)
        return loss, {"cross_entropy": loss.detach(), "masked_accuracy": hits}

    def guided_logits(self, codes: Tensor, mask: Tensor, condition: Condition) -> Tensor:
        """Logits (B, N, K), float32; with guidance, of two passes, the second with every factor absent."""
        logits = self.head(self.states(codes, mask, condition)[0]).float()
        scale = self.context.sampling.guidance
        if scale == 1:
            return logits
        unconditional = self.head(self.states(codes, mask, condition.absent())[0]).float()
        return guide(logits, unconditional, scale)


def draw_codes(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Codes (B, N) from the softmax of logits / temperature (B, N, K); at 0 the most likely ones.

    By the inverse of the distribution function: one uniform number a token in place of K exponential ones, which cost
    a CPU as much as half the network.
    """
    if temperature == 0:
        return logits.argmax(-1)
    cumulative = (logits.float() / temperature).softmax(-1).cumsum(-1)  # (B, N, K)
    uniform = torch.rand(logits.shape[:-1], generator=generator, device=logits.device)[..., None]
    chosen = (cumulative <= uniform * cumulative[..., -1:]).sum(-1)
    return chosen.clamp(max=logits.shape[-1] - 1)  # rounding may lift the largest uniform to the total


def code_cross_entropy(logits: Tensor, codes: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy (B, N) in nats, float32; smoothing spreads that share of the target over the whole codebook."""
    flat = F.cross_entropy(logits.float().flatten(0, 1), codes.flatten(), reduction="none", label_smoothing=smoothing)
    return flat.view(codes.shape)
