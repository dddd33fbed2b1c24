"""VQ-VAE: a code of a learned book for each token (van den Oord et al. 2017; the autoencoder is that of Esser et al. 2021).

Trained on pixels and the two quantisation terms alone; why without LPIPS and a discriminator is said in `kl.py`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from architectures.tokenizers.base import Tokenizer, TokenizerConfig, tokenizer
from architectures.tokenizers.blocks import to_tokens
from datasets.ranges import check_ranges


@dataclass
class VQConfig(TokenizerConfig):
    """A tokenizer config and its codebook."""

    codes: int = 1024  # entries of the codebook, K; YCG's class default
    codebook_weight: float = 1.0  # of the term that pulls codes to the encoder; .25 in taming's default ("legacy")
    commitment_weight: float = 0.25  # of the term that pulls the encoder to codes; 1 in taming's default ("legacy")
    restart_after: int = 100  # steps without use after which a code moves to a badly served token; 0 never
    restart_until: float = 0.7  # share of training with restarts; after it the codebook only converges
    snap: bool = True  # decode continuous latents through their nearest codes; LDM's VQModelInterface

    def validate(self) -> None:
        """Raise ValueError for values outside their ranges."""
        super().validate()
        check_ranges("tokenizer", self, codes=(1, math.inf), restart_after=(0, math.inf), restart_until=(0.0, 1.0))
        check_ranges("tokenizer", self, codebook_weight=(0.0, math.inf), commitment_weight=(0.0, math.inf))


@tokenizer("vq", VQConfig)
class VQTokenizer(Tokenizer):
    """One encoder, three views: `codes`, `embeddings` (their vectors) and `pre_quant` (the encoder's output)."""

    views = ("codes", "embeddings", "pre_quant")
    config: VQConfig

    def __init__(self, config: VQConfig, image_shape: tuple[int, ...]) -> None:
        super().__init__(config, image_shape)
        self.quantizer = VectorQuantizer(
            config.codes,
            config.channels,
            config.codebook_weight,
            config.commitment_weight,
            config.restart_after,
            int(config.restart_until * config.max_steps),
        )

    @property
    def codebook(self) -> Tensor:
        """Code vectors (K, C), float32, detached."""
        return self.quantizer.codebook.detach()

    def loss(self, image: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean pixel loss plus the quantisation loss (van den Oord et al. 2017, equation 3)."""
        tokens = to_tokens(self.features(image))
        if self.training:
            self.quantizer.restart(tokens.detach(), generator)
        quantised, codes, quantisation = self.quantizer(tokens)
        reconstruction = self.pixel_loss(image, self.image_of(quantised))
        used = (self.usage(codes) > 0).float().mean()
        logs = {"reconstruction": reconstruction.detach(), "quantisation": quantisation.detach(), "codes_used": used}
        return reconstruction + quantisation, logs

    @torch.no_grad()
    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """{"codes": int64 (B, N), "pre_quant": float32 (B, N, C)}; `embed(codes)` gives the embeddings."""
        tokens = to_tokens(self.features(image))
        return {"codes": self.quantizer.nearest(tokens), "pre_quant": tokens}

    def embed(self, codes: Tensor) -> Tensor:
        """Codes (B, N) -> their vectors (B, N, C), float32."""
        return self.codebook[codes]

    @torch.no_grad()
    def decode(self, latents: Tensor, view: str = "codes") -> Tensor:
        """Codes (B, N), or embeddings or pre_quant (B, N, C) -> images (B, C, H, W)."""
        self.check_view(view)
        if view == "codes":
            return self.image_of(self.embed(latents))
        return self.image_of(self.embed(self.quantizer.nearest(latents)) if self.config.snap else latents.float())

    def reconstruct(self, image: Tensor) -> Tensor:
        """Through the codes."""
        return self.decode(self.encode(image)["codes"], "codes")

    def usage(self, codes: Tensor) -> Tensor:
        """How often each code occurs in `codes`: int64 (K,)."""
        return torch.bincount(codes.flatten(), minlength=self.config.codes)


class VectorQuantizer(nn.Module):
    """Nearest code by squared distance, straight-through gradient, always in float32.

    Codes out of use: `idle` counts the training steps since a code was last chosen. One that reached `restart_after` moves to
    a token of the current batch, drawn with probability proportional to its squared distance from its nearest code (the
    seeding rule of k-means++, Arthur & Vassilvitskii 2007), so codes go where quantisation is worst and not where most
    tokens are. All codes start out idle, hence the first batch fills the codebook; those that it fills badly move again.
    """

    idle: Tensor
    steps: Tensor

    def __init__(
        self,
        codes: int,
        channels: int,
        codebook_weight: float = 1.0,
        commitment_weight: float = 0.25,
        restart_after: int = 0,
        restart_until: int = 0,
    ) -> None:
        super().__init__()
        self.codebook_weight, self.commitment_weight = codebook_weight, commitment_weight
        self.restart_after, self.restart_until = restart_after, restart_until
        self.codebook = nn.Parameter(torch.empty(codes, channels).uniform_(-1 / codes, 1 / codes))
        self.register_buffer("idle", torch.full((codes,), restart_after))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, N, C) -> quantised (B, N, C), codes (B, N), loss 0-d.

        The loss is codebook_weight * |sg(z) - e|^2 + commitment_weight * |z - sg(e)|^2, means over all elements.
        """
        tokens = tokens.float()
        codes = self.nearest(tokens)
        vectors = F.embedding(codes, self.codebook)
        loss = self.codebook_weight * F.mse_loss(vectors, tokens.detach())
        loss = loss + self.commitment_weight * F.mse_loss(tokens, vectors.detach())
        return tokens + (vectors - tokens).detach(), codes, loss

    @torch.no_grad()
    def nearest(self, tokens: Tensor) -> Tensor:
        """Tokens (..., C) -> codes (...), int64."""
        return self.distances(tokens).argmin(-1)

    def distances(self, tokens: Tensor) -> Tensor:
        """Squared distances (..., K) in float32, also under autocast: bfloat16 would confuse neighbouring codes."""
        with torch.autocast(tokens.device.type, enabled=False):
            tokens, codebook = tokens.float(), self.codebook
            return tokens.square().sum(-1, keepdim=True) + codebook.square().sum(-1) - 2 * tokens @ codebook.T

    @torch.no_grad()
    def restart(self, tokens: Tensor, generator: torch.Generator) -> None:
        """Count this training step's tokens (B, N, C) and move codes that are out of use. Never waits for the device."""
        tokens = tokens.flatten(0, -2).float()
        distance, codes = self.distances(tokens).min(-1)
        self.idle += 1
        self.idle[codes] = 0
        if self.restart_after > 0:
            weights = distance.nan_to_num(0.0).clamp(min=1e-12)  # that a loss is NaN, is told by whoever watches it
            chosen = torch.multinomial(weights, len(self.idle), replacement=True, generator=generator)
            idle = (self.idle > self.restart_after) & (self.steps < self.restart_until)
            self.codebook.copy_(torch.where(idle[:, None], tokens[chosen], self.codebook))
            self.idle.masked_fill_(idle, 0)
        self.steps += 1
