"""Latents of the training images, kept on the training device, and batches of them by index.

A training step touches neither the tokenizer nor a data loader. Step ``k`` is a function of (seed, k) alone: a run that
resumes at step ``k`` sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from datasets.base import DataError
from datasets.factors import Composition, FactorSpace, seed_for
from datasets.image_set import belongs_to, composition_index

VIEWS = {"kl": ("mean", "std"), "pre_quant": ("pre_quant",), "embeddings": ("embeddings",), "codes": ("codes",)}


@dataclass
class LatentSet:
    """What a tokenizer made of a set of images, with what is true of them."""

    tensors: dict[str, Tensor]  # "mean", "std", "pre_quant", "embeddings" (M, N, C) float32; "codes" (M, N) int64
    values: Tensor  # (M, V) float32
    classes: Tensor  # (M, F) int64

    def __len__(self) -> int:
        return len(self.values)

    def to(self, device: torch.device | str) -> LatentSet:
        tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return LatentSet(tensors, self.values.to(device), self.classes.to(device))

    def subset(self, compositions: tuple[Composition, ...], space: FactorSpace) -> LatentSet:
        """The latents of some compositions: what is saved for a generator holds nothing else."""
        keep = belongs_to(composition_index(self.classes, space), compositions, space)
        return LatentSet({name: t[keep] for name, t in self.tensors.items()}, self.values[keep], self.classes[keep])

    def statistics(self, view: str) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation per channel, (C,) each, of a continuous view (of its samples, for ``kl``)."""
        centre, *spread = (part.flatten(0, 1) for part in self.parts(view))  # (M * N, C)
        variance = centre.var(0, correction=0) + sum(std.square().mean(0) for std in spread)
        return centre.mean(0), variance.sqrt()

    def parts(self, view: str) -> tuple[Tensor, ...]:
        """The tensors behind a view.

        Raises:
            ValueError: an unknown view, or one that the tokenizer did not give.
        """
        if view not in VIEWS:
            raise ValueError(f"there is no view {view!r} of latents; use one of {', '.join(VIEWS)}")
        missing = [name for name in VIEWS[view] if name not in self.tensors]
        if missing:
            raise ValueError(
                f"view {view} needs {' and '.join(missing)}; these latents have only {', '.join(self.tensors)}"
            )
        return tuple(self.tensors[name] for name in VIEWS[view])

    def save(self, path: Path) -> None:
        tensors = {**self.tensors, "values": self.values, "classes": self.classes}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)

    @classmethod
    def load(cls, path: Path) -> LatentSet:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: the file is missing or damaged.
        """
        try:
            tensors = load_file(path)
            values, classes = tensors.pop("values"), tensors.pop("classes")
        except (OSError, KeyError, SafetensorError) as error:
            raise DataError(
                f"{path} holds no latents ({error}); delete the folder {path.parent} and run again"
            ) from error
        return cls(tensors, values, classes)


class LatentBatches:
    """Endless batches, drawn with replacement and uniformly over the pooled training images (Farid et al. 2025), or over
    groups of them and then within the group.

    A batch is ``{"latents", "values" (B, V), "classes" (B, F), "generator"}``. Latents are float32 (B, N, C), shifted
    and scaled per channel, or int64 (B, N) in the view ``codes``. In the view ``kl`` they are sampled anew each time.
    The generator is the step's own, for noise and masks: what follows from it is a function of (seed, step) too.

    Args:
        latents: on the device where training happens; batches are made there, without a synchronisation.
        view: one of ``VIEWS``.
        shift, scale: (C,) each; batches hold ``(x - shift) / scale``. Unused for ``codes``.
        groups: (M,) int64, such as the composition of each image: with it every group is drawn equally often.

    Raises:
        ValueError: a view that these latents do not have, no shift or scale where one is needed, or no latents at all.
    """

    def __init__(
        self,
        latents: LatentSet,
        view: str,
        batch_size: int,
        seed: int,
        shift: Tensor | None = None,
        scale: Tensor | None = None,
        groups: Tensor | None = None,
    ) -> None:
        if not len(latents):
            raise ValueError("there are no training latents to draw from; check split.train")
        if view != "codes" and (shift is None or scale is None):
            raise ValueError(f"view {view} needs a shift and a scale; LatentSet.statistics gives them")
        self.latents, self.view, self.batch_size = latents, view, batch_size
        self.seed = seed
        self.device = latents.values.device
        self.parts = latents.parts(view)
        self.shift, self.scale = (None if t is None else t.to(self.device) for t in (shift, scale))
        self.groups = None if groups is None else _Groups(groups.to(self.device))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self.batch, itertools.count())

    def batch(self, step: int) -> dict[str, Any]:
        """The batch of one step."""
        # A generator of its own for every step: Lightning fetches a batch ahead of the one in use.
        generator = torch.Generator(self.device).manual_seed(seed_for(self.seed, "step", step))
        indices = self._indices(generator)
        latents = self.parts[0][indices]
        if self.view == "kl":
            noise = torch.randn(latents.shape, generator=generator, device=self.device)
            latents = latents + self.parts[1][indices] * noise
        if self.shift is not None and self.scale is not None and self.view != "codes":
            latents = (latents - self.shift) / self.scale
        return {
            "latents": latents,
            "values": self.latents.values[indices],
            "classes": self.latents.classes[indices],
            "generator": generator,
        }

    def _indices(self, generator: torch.Generator) -> Tensor:
        """Which images make a batch: (B,)."""
        size, device = (self.batch_size,), self.device
        if self.groups is None:
            return torch.randint(len(self.latents), size, generator=generator, device=device)
        group = torch.randint(len(self.groups.counts), size, generator=generator, device=device)
        return self.groups.member(group, torch.rand(size, generator=generator, device=device))


class _Groups:
    """Images sorted by group."""

    def __init__(self, groups: Tensor) -> None:
        self.order = groups.argsort(stable=True)
        self.counts = groups.unique(return_counts=True)[1]
        self.starts = self.counts.cumsum(0) - self.counts

    def member(self, group: Tensor, place: Tensor) -> Tensor:
        """The image at a place in [0, 1) of a group, (B,) each."""
        counts = self.counts[group]
        within = torch.minimum((place * counts).long(), counts - 1)  # a product just below the count is rounded up
        return self.order[self.starts[group] + within]
