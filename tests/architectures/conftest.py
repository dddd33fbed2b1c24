"""What tests of architectures share: stored arrays, a small world to build models in, a batch of conditions."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from architectures.base import Context, GenerativeModel, OptimiserConfig
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


@pytest.fixture(autouse=True)
def same_initial_weights() -> None:
    """Models draw their weights from torch's global generator: every test starts it alike, in whatever order they run."""
    torch.manual_seed(0)


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


@pytest.fixture
def context(make_context: Callable[..., Context]) -> Callable[..., Context]:
    """The small world of the masked models: 2 x 3 tokens, 6 channels, 11 codes, 3 decoding steps."""
    codebook = torch.randn(11, 6, generator=torch.Generator().manual_seed(5))
    defaults = {"grid": (2, 3), "channels": 6, "codebook": codebook, "sampling": SamplingConfig(decode_steps=3)}
    return lambda **changes: make_context(**defaults | changes)


@pytest.fixture
def conditions(make_condition: Callable[..., Condition]) -> Callable[[int], Condition]:
    """So many conditions, the eight compositions in turn."""
    return lambda count: make_condition(*(SPACE.compositions[index % 8] for index in range(count)))


@pytest.fixture
def seeded() -> Callable[..., torch.Generator]:
    """A generator by its seed."""
    return lambda seed=0: torch.Generator().manual_seed(seed)


@pytest.fixture
def perturb() -> Callable[[GenerativeModel], GenerativeModel]:
    """Move every trainable parameter off its initial value, so that gates which start closed let signals through."""

    def perturbed(model: GenerativeModel) -> GenerativeModel:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.averaged_parameters().values():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        return model

    return perturbed


@pytest.fixture
def train() -> Callable[..., list[float]]:
    """Train a model on one batch; the loss of every step."""

    def run(model: GenerativeModel, latents: Tensor, condition: Condition, steps: int, lr: float = 3e-3) -> list[float]:
        model.finalise()
        optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
        generator, losses = torch.Generator().manual_seed(0), []
        for _ in range(steps):
            loss, _ = model.training_loss(latents, condition, generator)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            model.after_step()
            losses.append(loss.item())
        return losses

    return run
