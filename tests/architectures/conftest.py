"""What tests of architectures share: stored arrays, a small world to build models in, a batch of conditions."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from architectures.base import Context, OptimiserConfig
from architectures.conditioning import Condition, ConditioningConfig
from architectures.diffusion import DiffusionConfig
from architectures.masking import MaskingConfig, SamplingConfig
from architectures.transformer import TrunkConfig
from datasets.factors import Factor, FactorSpace

GOLDENS = Path(__file__).parents[1] / "goldens"
SPACE = FactorSpace(
    (
        Factor("shape", ("circle", "triangle")),
        Factor("colour", ("red", "blue"), ((0.9, 0.1, 0.1), (0.1, 0.1, 0.9))),
        Factor("size", ("large", "small"), ((7.0,), (4.5,))),
    )
)


@pytest.fixture
def golden() -> Callable[[str], dict[str, Tensor]]:
    """Load the arrays of one file of tests/goldens; where they come from stands in its README."""

    def load(name: str) -> dict[str, Tensor]:
        with np.load(GOLDENS / f"{name}.npz") as arrays:
            return {key: torch.from_numpy(np.asarray(arrays[key])) for key in arrays.files}

    return load


@pytest.fixture
def make_context() -> Callable[..., Context]:
    """A context of 3 x 3 tokens with 4 channels and a tiny trunk; keywords replace its fields."""
    context = Context(
        space=SPACE,
        grid=(3, 3),
        channels=4,
        codebook=None,
        max_steps=100,
        trunk=TrunkConfig(depth=2, width=32, heads=2),
        conditioning=ConditioningConfig(),
        diffusion=DiffusionConfig(steps=5),
        masking=MaskingConfig(),
        sampling=SamplingConfig(decode_steps=4),
        optimiser=OptimiserConfig(lr=3e-3, warmup_steps=1),
    )

    def make(**changes: Any) -> Context:
        return replace(context, **changes)

    return make


@pytest.fixture
def make_condition() -> Callable[..., Condition]:
    """Conditions of all eight compositions at their centres, or of those named."""

    def make(*compositions: str) -> Condition:
        names = compositions or SPACE.compositions
        classes = torch.tensor([SPACE.class_indices(name) for name in names])
        return Condition.of(classes, torch.tensor([SPACE.centre(name) for name in names]))

    return make
