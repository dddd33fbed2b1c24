"""A cell's artefacts without their making: random numbers where others are drawn, trained or encoded.

How fast a model trains and samples depends on the shapes of all this, not on the values.
"""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from architectures.tokenizers.base import Tokenizer
from benchmark.artefacts import Artefacts
from benchmark.config import instantiate
from datasets.base import CompositionalDataModule
from datasets.factors import seed_for
from datasets.image_set import ImageSet, composition_index
from datasets.latents import VIEWS, LatentSet
from probes.detector import Detector
from probes.linear import LinearProbe, ProbeConfig
from probes.negative_images import NegativeImages
from probes.strict_features import GALLERY, StrictFeatures

LATENTS = 4096  # that batches are drawn from


class Untrained(Artefacts):
    """Artefacts of a cell as they would be before any work; in the store lies what a judge reads of the disk."""

    @cached_property
    def data(self) -> CompositionalDataModule:
        """The dataset, of which no image is drawn."""
        cls, config = self.part("dataset")
        return cls(config, self.cell.seed_of("data"), self.store.results / "data")

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return self._fresh_tokenizer().to(self.device).eval().requires_grad_(False)

    @cached_property
    def probe(self) -> LinearProbe:
        config = instantiate(ProbeConfig, self.config["probe"])
        return LinearProbe(self.data.space.controlled, self.data.image_shape, config).eval()

    @cached_property
    def latents(self) -> dict[str, LatentSet]:
        return dict.fromkeys(("train", "validation"), self._random_latents())

    def _random_latents(self) -> LatentSet:
        """Latents of the training compositions in every view that the tokenizer has."""
        generator = torch.Generator().manual_seed(seed_for(0, "untrained", "latents"))
        shape = (LATENTS, math.prod(self.tokenizer.grid), self.tokenizer.channels)
        tensors: dict[str, Tensor] = {}
        for name in (part for view in self.tokenizer.views for part in VIEWS[view]):
            if name == "codes":
                codebook = self.tokenizer.codebook
                assert codebook is not None  # a view of codes has one
                tensors[name] = torch.randint(len(codebook), shape[:2], generator=generator)
            else:
                law = torch.rand if name == "std" else torch.randn
                tensors[name] = law(shape, generator=generator)
        return LatentSet(tensors, *self._conditions(LATENTS))

    def random_images(self, count: int) -> ImageSet:
        """Noise (M, [T,] C, H, W), said to show the training compositions."""
        pixels = np.random.default_rng(0).integers(0, 256, (count, *self.data.image_shape), np.uint8)
        values, classes = self._conditions(count)
        return ImageSet(pixels, values, classes, composition_index(classes, self.data.space))

    def _conditions(self, count: int) -> tuple[Tensor, Tensor]:
        """Values (M, V) as real images have them, and classes (M, F)."""
        generator = torch.Generator().manual_seed(seed_for(0, "untrained", "values"))
        space, names = self.data.space, self.train_compositions
        each = -(-count // len(names))
        values = torch.cat([self.data.draw_values(name, each, generator) for name in names])[:count]
        classes = torch.tensor([space.class_indices(name) for name in names]).repeat_interleave(each, 0)[:count]
        return values, classes

    def _strict_folder(self) -> Path:
        """Where the strict judge by features lies, with a gallery of noise and no lesson learned."""
        folder = self.store.results / "strict"
        folder.mkdir(parents=True, exist_ok=True)
        noise = self.random_images(GALLERY * len(self.data.space.compositions))
        few = noise.tensor(slice(0, 8))
        kinds = NegativeImages(few, noise.composition_index[:8], torch.Generator()).kinds
        detector = Detector(self.data.image_shape, len(kinds))
        gallery = self.probe.embed(torch.from_numpy(noise.images))
        StrictFeatures(self.probe, gallery, detector, 1.0, 0.0).save(folder / "judge.safetensors")
        return folder
