"""KL-VAE: a Gaussian a token, held loosely to a standard normal (Rombach et al. 2022, section 3.1 and appendix G).

Trained on pixels and the KL term alone. The published recipe adds LPIPS and a patch discriminator: LPIPS needs pretrained VGG
weights that cannot be had without a network connection, and both serve textures, of which synthetic images have none.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from architectures.tokenizers.base import Tokenizer, TokenizerConfig, tokenizer
from architectures.tokenizers.blocks import to_tokens
from datasets.ranges import check_ranges


@dataclass
class KLConfig(TokenizerConfig):
    """A tokenizer config and the weight of the prior."""

    kl_weight: float = 1e-6  # of the KL summed over latents, beside pixel losses summed over pixels; LDM `kl_weight`

    def validate(self) -> None:
        """Raise ValueError for values outside their ranges."""
        super().validate()
        check_ranges("tokenizer", self, kl_weight=(0.0, math.inf))


@tokenizer("kl", KLConfig)
class KLTokenizer(Tokenizer):
    """View `kl`: mean and standard deviation a token; training latents are drawn anew from them each step."""

    views = ("kl",)
    statistics = 2  # mean and log-variance
    config: KLConfig

    def loss(self, image: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Published: sum of pixel losses + weight * sum of KL, an image. Here both are divided by the number of pixel values,
        which changes neither the optimum nor the meaning of the weight, and keeps the loss alike at all resolutions."""
        mean, logvar = posterior(self.features(image))
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        latent = mean + (0.5 * logvar).exp() * noise
        reconstruction = self.pixel_loss(image, self.image_of(to_tokens(latent)))
        divergence = kl_divergence(mean, logvar).mean()
        loss = reconstruction + self.config.kl_weight * divergence / image[0].numel()
        return loss, {"reconstruction": reconstruction.detach(), "kl": divergence.detach()}

    @torch.no_grad()
    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """{"mean", "std"}, each float32 (B, N, C)."""
        mean, logvar = posterior(self.features(image))
        return {"mean": to_tokens(mean), "std": to_tokens((0.5 * logvar).exp())}

    @torch.no_grad()
    def decode(self, latents: Tensor, view: str = "kl") -> Tensor:
        """Latents (B, N, C) -> images (B, C, H, W)."""
        self.check_view(view)
        return self.image_of(latents)

    def reconstruct(self, image: Tensor) -> Tensor:
        """Through the posterior mean."""
        return self.decode(self.encode(image)["mean"])


def posterior(moments: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 2C, h, w) -> mean and log-variance, each (B, C, h, w); the log-variance clamped to [-30, 20] as LDM does."""
    mean, logvar = moments.float().chunk(2, dim=1)
    return mean, logvar.clamp(-30.0, 20.0)


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL from N(mean, exp(logvar)) to N(0, 1), summed over an image's latents: (B, C, h, w) twice -> (B,)."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1)
