"""What a model is told: factor values and their presence, embedded for adaLN or as extra tokens.

Three sources of information (Farid et al. 2025, figure 4, and the documented choices of this suite):
``full`` is the class of categorical factors and the real values of the others, ``centres`` the same layers fed with
class centres, ``quantized`` class indices through tables. Where no factor has values all three are ``labels``. Dropout
hides each factor on its own, never when sampling.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from architectures.shares import draw
from datasets.factors import FactorSpace

INFORMATION = ("full", "centres", "quantized", "labels")
EMBEDDERS = ("per_factor", "joint")
INJECTIONS = ("adaln", "tokens")


@dataclass
class ConditioningConfig:
    """How a condition is told to the model; the same for every architecture of a grid."""

    information: str = "full"  # full | centres | quantized (paper A figure 4 a, our control, c) | labels
    dropout: float = 0.0  # probability of hiding each factor on its own in training; 0.1 in paper A figure 4 (b)
    embedder: str = "per_factor"  # per_factor: one embedder a factor, summed (paper A); joint: one MLP on all values
    injection: str = "adaln"  # adaln: added to the modulation vector (paper A); tokens: extra tokens in front

    def validate(self) -> None:
        """Raise ValueError for a value that no embedder knows."""
        for key, known in (("information", INFORMATION), ("embedder", EMBEDDERS), ("injection", INJECTIONS)):
            if getattr(self, key) not in known:
                raise ValueError(f"conditioning.{key}={getattr(self, key)} is unknown; use one of {', '.join(known)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"conditioning.dropout={self.dropout} must lie in [0, 1)")


@dataclass
class Condition:
    """Factor classes, the real values behind them, and which factors the model may see."""

    classes: Tensor  # (B, F) int64
    values: Tensor  # (B, V) float32
    present: Tensor  # (B, F) bool

    @staticmethod
    def of(classes: Tensor, values: Tensor) -> Condition:
        """A condition in which every factor is present."""
        return Condition(classes, values, torch.ones_like(classes, dtype=torch.bool))

    def __len__(self) -> int:
        return len(self.classes)

    def absent(self) -> Condition:
        """The same batch with every factor hidden: the unconditional half of guidance."""
        return Condition(self.classes, self.values, torch.zeros_like(self.present))

    def to(self, device: torch.device | str) -> Condition:
        return Condition(self.classes.to(device), self.values.to(device), self.present.to(device))


def drop_factors(condition: Condition, probability: float, generator: torch.Generator) -> Condition:
    """Hide each factor independently with a probability (paper A, figure 4 b: not all factors with one coin)."""
    if probability == 0:
        return condition
    kept = draw(torch.rand, condition.present.shape, generator) >= probability
    return Condition(condition.classes, condition.values, condition.present & kept)


class ConditionEmbedder(nn.Module):
    """Embed a condition: (B, F, D) for ``per_factor``, (B, 1, D) for ``joint``.

    A hidden factor has a learned null of its own: an extra row in a table, a learned input in place of real values
    (initialised to 0, as in paper A's public predecessor code).
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, space: FactorSpace, config: ConditioningConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.slices = space.value_slices
        self.class_counts = [len(factor.classes) for factor in space.factors]
        quantized = config.information in ("quantized", "labels")
        self.categorical = [factor.categorical or quantized for factor in space.factors]

        centres = torch.tensor([space.centre(composition) for composition in space.compositions]).float()
        centre_range = (centres.amax(0) - centres.amin(0)) / 2 if space.num_values else torch.zeros(0)
        self.register_buffer("shift", (centres.amax(0) + centres.amin(0)) / 2 if space.num_values else torch.zeros(0))
        self.register_buffer("scale", torch.where(centre_range > 0, centre_range, torch.ones_like(centre_range)))
        self.centres = nn.ParameterList()  # per factor (K, dim), fixed; what `centres` feeds in place of real values
        self.nulls = nn.ParameterList()
        for factor, piece in zip(space.factors, self.slices, strict=True):
            table = torch.tensor(factor.centres or [()] * len(factor.classes)).float()  # (K, dim)
            self.centres.append(nn.Parameter((table - self.shift[piece]) / self.scale[piece], requires_grad=False))
            self.nulls.append(nn.Parameter(torch.zeros(factor.dim)))

        sizes = [
            count + 1 if as_class else factor.dim
            for factor, count, as_class in zip(space.factors, self.class_counts, self.categorical, strict=True)
        ]
        if config.embedder == "joint":
            self.embedders = nn.ModuleList([mlp(sum(sizes), width)])
        else:
            self.embedders = nn.ModuleList(
                nn.Linear(size, width, bias=False) if as_class else mlp(size, width)
                for size, as_class in zip(sizes, self.categorical, strict=True)
            )
            for embedder in self.embedders:
                if isinstance(embedder, nn.Linear):
                    nn.init.normal_(embedder.weight, std=0.02)

    def forward(self, condition: Condition) -> Tensor:
        inputs = [self._factor_input(condition, index) for index in range(len(self.class_counts))]
        if self.config.embedder == "joint":
            return self.embedders[0](torch.cat(inputs, dim=-1))[:, None]  # (B, 1, D)
        embedded = [embed(value) for embed, value in zip(self.embedders, inputs, strict=True)]
        return torch.stack(embedded, dim=1)  # (B, F, D)

    def _factor_input(self, condition: Condition, index: int) -> Tensor:
        """One factor as numbers: one-hot with a row for "hidden", or standardised values with a learned null."""
        classes, present = condition.classes[:, index], condition.present[:, index]
        count = self.class_counts[index]
        if self.categorical[index]:
            row = torch.where(present, classes, count)
            return nn.functional.one_hot(row, count + 1).float()  # (B, K + 1)
        if self.config.information == "centres":
            values = self.centres[index][classes]
        else:
            piece = self.slices[index]
            values = (condition.values[:, piece] - self.shift[piece]) / self.scale[piece]
        return torch.where(present[:, None], values, self.nulls[index])  # (B, dim)


def mlp(inputs: int, width: int) -> nn.Sequential:
    """Linear, GELU, Linear: the embedder of real values in paper A's public predecessor code (EmbedFC)."""
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width))
