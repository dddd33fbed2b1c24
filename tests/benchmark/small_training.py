"""Fifty steps of every architecture on made-up latents, by one process or by several: what tests of ranks run and compare.

As a script, ``python small_training.py FOLDER``, it is one of two ranks, told by ``LOCAL_RANK`` which.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning import Callback

from architectures.base import Context, GenerativeModel, OptimiserConfig
from architectures.conditioning import ConditioningConfig
from architectures.diffusion import DiffusionConfig
from architectures.dit import DiT, DiTConfig
from architectures.givt import GIVT, GIVTConfig
from architectures.jepa import MaskGITJEPA, MaskGITJEPAConfig
from architectures.mar import MAR, MARConfig
from architectures.maskgit import MaskGIT, MaskGITConfig
from architectures.masking import MaskingConfig, SamplingConfig
from architectures.transformer import TrunkConfig
from benchmark.fit import Preempted, fit
from benchmark.ranks import Place, here
from datasets.factors import Factor, FactorSpace
from datasets.latents import LatentBatches, LatentSet

STEPS, BATCH, TOKENS, CHANNELS, CODES = 50, 8, 6, 6, 11
SPACE = FactorSpace(
    (
        Factor("shape", ("circle", "triangle")),
        Factor("colour", ("red", "blue"), ((0.9, 0.1, 0.1), (0.1, 0.1, 0.9))),
    )
)
DDPM = DiffusionConfig(kind="ddpm", timesteps=1000, learn_sigma=True, solver="ancestral", steps=5)
FLOW = DiffusionConfig(steps=5)
MODELS: dict[str, tuple[type[GenerativeModel], Any, DiffusionConfig, str]] = {
    "dit": (DiT, DiTConfig(), FLOW, "kl"),
    "dit-ddpm": (DiT, DiTConfig(), DDPM, "pre_quant"),
    "mar": (MAR, MARConfig(head_depth=1, head_width=16, diffusion_batch_mul=3), FLOW, "pre_quant"),
    "givt": (GIVT, GIVTConfig(mixtures=2), FLOW, "pre_quant"),
    "maskgit": (MaskGIT, MaskGITConfig(), FLOW, "codes"),
    "maskgit-jepa": (MaskGITJEPA, MaskGITJEPAConfig(layers=(0, 1)), FLOW, "codes"),
}


def latents() -> LatentSet:
    generator = torch.Generator().manual_seed(0)
    classes = torch.tensor([SPACE.class_indices(name) for name in SPACE.compositions]).repeat(10, 1)
    count = len(classes)
    tensors = {
        "mean": torch.randn(count, TOKENS, CHANNELS, generator=generator),
        "std": torch.rand(count, TOKENS, CHANNELS, generator=generator),
        "pre_quant": torch.randn(count, TOKENS, CHANNELS, generator=generator),
        "codes": torch.randint(CODES, (count, TOKENS), generator=generator),
    }
    return LatentSet(tensors, torch.rand(count, SPACE.num_values, generator=generator), classes)


def build(name: str) -> tuple[GenerativeModel, LatentBatches]:
    """A tiny model with its initial weights, and its batches."""
    cls, config, diffusion, view = MODELS[name]
    context = Context(
        space=SPACE,
        grid=(2, 3),
        channels=CHANNELS,
        codebook=torch.randn(CODES, CHANNELS, generator=torch.Generator().manual_seed(5)),
        max_steps=STEPS,
        trunk=TrunkConfig(depth=2, width=16, heads=2),
        conditioning=ConditioningConfig(dropout=0.2),
        diffusion=diffusion,
        masking=MaskingConfig(),
        sampling=SamplingConfig(decode_steps=3),
        optimiser=OptimiserConfig(lr=1e-3, warmup_steps=5, ema_decay=0.9),
    )
    torch.manual_seed(0)
    model = cls(config, context)
    model.finalise()
    scale = (torch.zeros(CHANNELS), torch.ones(CHANNELS))
    return model, LatentBatches(latents(), view, BATCH, 7, *scale)


class Losses(Callback):
    """The loss of every step, and a signal to this process after one of them."""

    def __init__(self, stop_after: int | None) -> None:
        self.seen: list[float] = []
        self.stop_after = stop_after

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        self.seen.append(float(outputs["loss"]))
        if trainer.global_step == self.stop_after:
            os.kill(os.getpid(), signal.SIGUSR1)


def train(name: str, folder: Path, place: Place = Place(), stop_after: int | None = None) -> dict[str, Any]:  # noqa: B008
    """Train a model in a folder, where it goes on from a checkpoint; its losses and all its weights, averages too."""
    model, batches = build(name)
    losses = Losses(stop_after)
    with suppress(Preempted):
        fit(model, batches.batch, STEPS, folder, [losses], checkpoint_every=10, place=place)
    return {"losses": losses.seen, "weights": model.state_dict()}


def main(folder: Path) -> None:
    """Be one of two ranks: train everything, the first one a second time with a stop that rank 1 alone is asked for."""
    place = here(2, 1)
    for name in MODELS:
        torch.save(train(name, folder / name, place), folder / f"{name}-{place.rank}.pt")
    first = next(iter(MODELS))
    stopped = train(first, folder / "stopped", place, stop_after=23 if place.rank else None)
    torch.save(stopped, folder / f"stopped-{place.rank}.pt")
    torch.save(train(first, folder / "stopped", place), folder / f"resumed-{place.rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
