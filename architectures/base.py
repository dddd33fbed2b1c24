"""The contract of a generative model: a training loss, a sampler, and what every architecture shares around them.

A new architecture is one file: a config dataclass, a class with ``training_loss`` and ``sample``, and the decorator.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from architectures.averages import Average
from architectures.conditioning import Condition, ConditionEmbedder, ConditioningConfig, drop_factors
from architectures.diffusion import DiffusionConfig
from architectures.masking import MaskingConfig, SamplingConfig
from architectures.transformer import Trunk, TrunkConfig
from datasets.factors import FactorSpace
from datasets.ranges import ABOVE_0, BELOW_1, check_ranges

ARCHITECTURES: dict[str, type[GenerativeModel]] = {}
Model = TypeVar("Model", bound="type[GenerativeModel]")


def architecture(name: str, config: type) -> Callable[[Model], Model]:
    """Register a model class and its config dataclass under the name that grids, cell ids and tables use."""

    def register(cls: Model) -> Model:
        cls.name, cls.config_class = name, config
        ARCHITECTURES[name] = cls
        return cls

    return register


@dataclass
class OptimiserConfig:
    """AdamW with linear warm-up, and the average that is sampled; the same for every architecture of a grid."""

    lr: float = 1e-4  # learning rate after warm-up; DiT, and paper A
    betas: tuple[float, float] = (0.9, 0.999)  # DiT
    weight_decay: float = 0.0  # decoupled, on every parameter (published code spares biases and norms); DiT has none
    warmup_steps: int = 1000  # linear; MAR and MaskGIT warm up, DiT does not: harmless there
    schedule: str = "constant"  # constant | cosine (to 0 at the last step)
    clip_norm: float = 1.0  # global gradient norm; MaskGIT's and GIVT's value, also inside mixed precision
    ema_decay: float = 0.999  # of the sampled average; .9999 is cold for runs of 20-60k steps

    def validate(self) -> None:
        """Raise ValueError for a schedule that is not known, and for numbers with which nothing learns."""
        check_ranges("optimiser", self, lr=(ABOVE_0, math.inf), betas=(0.0, BELOW_1), weight_decay=(0.0, math.inf))
        check_ranges(
            "optimiser", self, warmup_steps=(0, math.inf), clip_norm=(ABOVE_0, math.inf), ema_decay=(0.0, BELOW_1)
        )
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(f"optimiser.schedule={self.schedule} is unknown; use constant or cosine")


@dataclass(frozen=True)
class Context:
    """Everything a model is told about the world outside its file. One object, equal for all rungs of a ladder."""

    space: FactorSpace
    grid: tuple[int, ...]  # tokens along each axis of the latent, e.g. (4, 4)
    channels: int  # C of a continuous latent
    codebook: Tensor | None  # (K, C) float32, normalised like the latents; None without a codebook
    max_steps: int
    trunk: TrunkConfig
    conditioning: ConditioningConfig
    diffusion: DiffusionConfig
    masking: MaskingConfig
    sampling: SamplingConfig
    optimiser: OptimiserConfig

    @property
    def tokens(self) -> int:
        """N, the tokens of a latent."""
        return math.prod(self.grid)


class GenerativeModel(LightningModule, ABC):
    """A conditional model of latents (B, N, C), or of codes (B, N) int64.

    Subclasses build their networks in ``__init__`` (``make_trunk`` gives the shared one) and implement ``training_loss``
    and ``sample``. Optimiser, warm-up, clipping, condition dropout and the averaged weights are the same for all.
    """

    name: ClassVar[str]
    config_class: ClassVar[type]
    views: ClassVar[tuple[str, ...]] = ("pre_quant", "embeddings", "kl")  # latents it can model, first the default

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__()
        self.config = config
        self.context = context
        self.condition_embedder = ConditionEmbedder(context.space, context.conditioning, context.trunk.width)
        self.last_logs: dict[str, Tensor] = {}  # of the latest step, on the device; callbacks read it now and then
        self.ema: Average | None = None

    @abstractmethod
    def training_loss(
        self, latents: Tensor, condition: Condition, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch (0-d) and quantities to log (0-d each); all randomness comes from the generator."""

    @abstractmethod
    def sample(self, condition: Condition, generator: torch.Generator) -> Tensor:
        """Latents (B, N, C) or codes (B, N), one a row of the condition; a function of condition and generator."""

    def make_trunk(self) -> Trunk:
        """The shared trunk, with room for condition tokens where they are injected that way."""
        conditioning = self.context.conditioning
        count = 1 if conditioning.embedder == "joint" else self.context.space.num_factors
        extra = count if conditioning.injection == "tokens" else 0
        return Trunk(self.context.trunk, self.context.grid, extra_tokens=extra)

    def embed(self, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """A condition as the trunk takes it: the vector (B, D) for adaLN, and tokens (B, E, D) or None."""
        embedded = self.condition_embedder(condition)  # (B, F, D) or (B, 1, D)
        if self.context.conditioning.injection == "tokens":
            return torch.zeros_like(embedded[:, 0]), embedded
        return embedded.sum(1), None

    def compile_networks(self) -> None:
        """Compile what steps of training and of sampling run, in place, so that names in checkpoints stay.

        The trunk is one graph: block by block a step takes 5 % longer on a CPU (docs/performance.md).
        Shapes are fixed, a graph for each, so that none depends on what ran first in the process: a resumed run computes
        the same bits.
        """
        if isinstance(trunk := getattr(self, "trunk", None), Trunk):
            trunk.compile(dynamic=False)

    def target_share(self) -> float:
        """Share of a latent's tokens that carry the loss, on average: what a training step learns from."""
        return 1.0

    def finalise(self) -> None:
        """Start the average from the initial weights. Called once, when the networks are built and on their device."""
        self.ema = Average(self.averaged_parameters(), self.context.optimiser.ema_decay)

    def averaged_parameters(self) -> dict[str, nn.Parameter]:
        """What is averaged and sampled: the trainable parameters, less what only training needs."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Evaluate with the averaged weights, in eval mode and without gradients."""
        if self.ema is None:
            raise RuntimeError("call finalise() before the averaged weights are used")
        training = self.training
        self.eval()
        try:
            with torch.no_grad(), self.ema.swapped_into(self.averaged_parameters()):
                yield
        finally:
            self.train(training)

    # Lightning hooks ------------------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        generator = batch["generator"]
        condition = Condition.of(batch["classes"], batch["values"])
        condition = drop_factors(condition, self.context.conditioning.dropout, generator)
        loss, logs = self.training_loss(batch["latents"], condition, generator)
        self.last_logs = {"loss": loss.detach(), **logs}
        return loss

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        config = self.context.optimiser
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimiser = torch.optim.AdamW(
            trainable,
            lr=config.lr,
            betas=(config.betas[0], config.betas[1]),
            weight_decay=config.weight_decay,
            fused=True,
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, self._lr_factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _lr_factor(self, step: int) -> float:
        config = self.context.optimiser
        warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
        if config.schedule == "cosine":
            return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.context.max_steps)))
        return warm

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # By hand: Lightning refuses to clip for a fused optimiser under mixed precision (its issue 21435).
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        torch.nn.utils.clip_grads_with_norm_(
            [p for group in optimizer.param_groups for p in group["params"]], self.context.optimiser.clip_norm, norm
        )
        self.last_logs["gradient_norm"] = norm.detach()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.after_step()

    def after_step(self) -> None:
        """Update the average. Here and not in a callback, so that a checkpoint never holds one a step behind."""
        if self.ema is None:
            raise RuntimeError("call finalise() before training")
        self.ema.update(self.averaged_parameters())
