"""What every tokenizer is: images to a short sequence of latents and back, trained once, shared by all cells that agree on it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from architectures.tokenizers.blocks import AutoencoderConfig, Decoder, Encoder, to_features
from architectures.tokenizers.convolutions import CONVOLUTIONS
from datasets.ranges import ABOVE_0, BELOW_1, check_ranges

TOKENIZERS: dict[str, type["Tokenizer"]] = {}

T = TypeVar("T", bound="type[Tokenizer]")


@dataclass
class TokenizerConfig(AutoencoderConfig):
    """Shape and training of a tokenizer; `train_on` and `batch_size` are read by whoever feeds it."""

    reconstruction: str = "l1"  # pixel loss: "l1" (LDM, VQGAN) or "l2"
    train_on: str = "all"  # compositions it sees: all, so that it cannot be what fails, or train (the split)
    batch_size: int = 256  # images a step
    max_steps: int = 50_000  # of the optimiser; the cosine decay ends here
    learning_rate: float = 1e-4  # peak of AdamW's rate; MAR's KL-16
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])  # AdamW's; .5 and .9 in LDM, for its GAN
    weight_decay: float = 0.0  # AdamW's, on convolution weights only; none in LDM
    warmup_steps: int = 500  # the rate rises linearly over them
    final_rate: float = 0.01  # rate at the end over the peak
    clip: float = 1.0  # largest norm of the gradient

    def validate(self) -> None:
        """Raise ValueError for names that are not known, and for numbers with which nothing is trained."""
        if len(self.betas) != 2:
            raise ValueError(f"tokenizer.betas={list(self.betas)} must be two numbers, such as [0.9, 0.99]")
        check_ranges(
            "tokenizer", self, batch_size=(1, math.inf), max_steps=(1, math.inf), learning_rate=(ABOVE_0, math.inf)
        )
        check_ranges("tokenizer", self, betas=(0.0, BELOW_1), weight_decay=(0.0, math.inf), warmup_steps=(0, math.inf))
        check_ranges("tokenizer", self, final_rate=(0.0, 1.0), clip=(ABOVE_0, math.inf))
        for key, known in (("reconstruction", ("l1", "l2")), ("train_on", ("all", "train"))):
            if getattr(self, key) not in known:
                raise ValueError(f"tokenizer.{key}={getattr(self, key)} is unknown; use {' or '.join(known)}")


def tokenizer(name: str, config_class: type[TokenizerConfig]) -> Callable[[T], T]:
    """Register the class below as `name`, built from `config_class`."""

    def register(cls: T) -> T:
        cls.name, cls.config_class = name, config_class
        TOKENIZERS[name] = cls
        return cls

    return register


class Tokenizer(LightningModule):
    """Encoder, latents, decoder. Subclasses say what the latents are: `loss`, `encode`, `decode`.

    Images (B, C, H, W) are told apart from videos (B, T, C, H, W) by their shape alone; where a docstring says images, videos
    are meant as well. Latents are sequences (B, N, C) or, for codes, (B, N): N = [t *] h * w tokens, the last axis fastest.
    `views` names the kinds of latents that `decode` takes, the first one is what `reconstruct` uses. All randomness comes from
    the generator handed in.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[TokenizerConfig]]
    views: ClassVar[tuple[str, ...]]
    statistics: ClassVar[int] = 1  # numbers the encoder gives per latent channel

    def __init__(self, config: TokenizerConfig, image_shape: tuple[int, ...]) -> None:
        """For images (C, H, W) or videos (T, C, H, W). Raises ValueError when the config does not fit them."""
        super().__init__()
        self.config = config
        self.image_shape = tuple(image_shape)
        self.grid = config.grid(self.image_shape, f"tokenizer.{self.name}")
        config.validate()
        features = self.statistics * config.channels
        self.encoder = Encoder(config, self.image_shape, features)
        self.to_latent = CONVOLUTIONS[len(self.grid)](features, features, 1)
        self.from_latent = CONVOLUTIONS[len(self.grid)](config.channels, config.channels, 1)
        self.decoder = Decoder(config, self.image_shape, config.channels)
        self.last_logs: dict[str, Tensor] = {}  # of the latest step, on the device

    @property
    def channels(self) -> int:
        """Numbers a token, C."""
        return self.config.channels

    @property
    def codebook(self) -> Tensor | None:
        """Code vectors (K, C) float32, or None where there are none."""
        return None

    def loss(self, image: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Training loss and what to log, for images (B, C, H, W) in [-1, 1]."""
        raise NotImplementedError

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """Latents of images (B, C, H, W) in [-1, 1]; float32 (B, N, C) or int64 (B, N)."""
        raise NotImplementedError

    def decode(self, latents: Tensor, view: str) -> Tensor:
        """Images (B, C, H, W), float32, from latents of kind `view`. Raises ValueError for a kind not in `views`."""
        raise NotImplementedError

    def reconstruct(self, image: Tensor) -> Tensor:
        """Images (B, C, H, W) through the bottleneck and back, without sampling."""
        raise NotImplementedError

    def features(self, image: Tensor) -> Tensor:
        """Images -> what the latents are made of, float32 (B, statistics * C, [t,] h, w)."""
        return self.to_latent(self.encoder(image)).float()

    def image_of(self, tokens: Tensor) -> Tensor:
        """Latents (B, N, C) as the decoder takes them -> images, float32."""
        return self.decoder(self.from_latent(to_features(tokens, self.grid))).float()

    def pixel_loss(self, image: Tensor, reconstruction: Tensor) -> Tensor:
        """Mean over all pixels and channels of |difference| or of its square; 0-d."""
        difference = image.float() - reconstruction
        return difference.abs().mean() if self.config.reconstruction == "l1" else difference.square().mean()

    def check_view(self, view: str) -> None:
        if view not in self.views:
            raise ValueError(f"The {self.name} tokenizer has no view {view!r}: use one of {', '.join(self.views)}.")

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        loss, logs = self.loss(batch["image"], batch["generator"])
        self.last_logs = {"loss": loss.detach(), **logs}
        return loss

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW; a rate that rises linearly and falls along half a cosine."""
        config = self.config
        decayed = [p for name, p in self.named_parameters() if p.ndim >= 4]
        others = [p for name, p in self.named_parameters() if p.ndim < 4]  # biases, norms, codebook
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        optimiser = torch.optim.AdamW(
            groups,
            config.learning_rate,
            (config.betas[0], config.betas[1]),
            weight_decay=config.weight_decay,
            fused=True,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate(step, config))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """By hand: Lightning 2.6 refuses to clip for a fused optimiser under mixed precision (its issue 21435)."""
        nn.utils.clip_grad_norm_(self.parameters(), self.config.clip)


def rate(step: int, config: TokenizerConfig) -> float:
    """Learning rate at a step, over its peak."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps)
    cosine = (1 + math.cos(math.pi * min(1.0, progress))) / 2
    return config.final_rate + (1 - config.final_rate) * cosine


def psnr(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, an image each (B,), for images in [-1, 1]; reconstructions are clamped to it."""
    error = (image.float() - reconstruction.float().clamp(-1, 1)).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp(min=1e-10))
