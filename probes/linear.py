"""The trained judge: one softmax head a factor, forced to choose, on pixels as published or on small features."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from datasets.factors import FactorSpace, seed_for
from probes.judgement import Judgement, accept_all

CHUNK = 512  # images judged at once


@dataclass
class ProbeConfig:
    """How the judge sees and learns. Pixels are published; they do not suffice where objects move about."""

    features: str = "pixels"  # pixels (flattened; paper A) | cnn (three convolutions, then the same heads)
    epochs: int = 10  # passes over the images; paper A's probe
    lr: float = 1e-3  # Adam; paper A's probe
    batch: int = 128  # images a step; paper A's probe
    width: int = 16  # channels of the first convolution, doubled at each of the next two; ours

    def validate(self) -> None:
        """Raise ValueError for features that are not known."""
        if self.features not in ("pixels", "cnn"):
            raise ValueError(f"probe.features={self.features} is unknown; use pixels or cnn")


class LinearProbe(nn.Module):
    """Softmax heads, one a factor, concatenated in factor order.

    Farid et al. 2025 probe Shapes2D with three heads on the flattened pixels and no hidden layer; Okawa et al. 2023 do
    the same. The sum of the heads' cross-entropies is minimised with Adam.

    Args:
        space: factors and classes.
        image_shape: (C, H, W), or (T, C, H, W) of videos.
        config: see `ProbeConfig`.
    """

    name = "probe"

    def __init__(self, space: FactorSpace, image_shape: tuple[int, ...], config: ProbeConfig | None = None) -> None:
        super().__init__()
        self.config = config or ProbeConfig()
        self.config.validate()
        self.space = space
        self.image_shape = tuple(image_shape)
        self.sizes = [len(factor.classes) for factor in space.factors]
        self.features = make_features(self.config, math.prod(self.image_shape[:-2]))
        with torch.no_grad():
            width = self.features(torch.zeros(1, *self.image_shape)).shape[1]
        self.heads = nn.Linear(width, sum(self.sizes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, sum of classes) of images (B, [T,] C, H, W) in [-1, 1]."""
        return self.heads(self.features(images))

    @torch.no_grad()
    def judge(self, images: Tensor) -> Judgement:
        """Read images (B, [T,] C, H, W), clipped to [-1, 1] as published; nothing is ever rejected."""
        device = self.heads.weight.device
        logits = torch.cat([self(chunk.to(device).float().clamp(-1, 1)).cpu() for chunk in images.split(CHUNK)])
        classes = torch.stack([head.argmax(1) for head in logits.split(self.sizes, 1)], 1)
        accepted, reasons = accept_all(len(logits))
        return Judgement(self.name, classes, accepted, reasons, logits=logits)

    def save(self, path: Path) -> None:
        """Write weights, and the config as metadata, to a safetensors file."""
        metadata = {name: str(value) for name, value in asdict(self.config).items()}
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, path, metadata)

    @classmethod
    def load(cls, path: Path, space: FactorSpace, image_shape: tuple[int, ...]) -> LinearProbe:
        """Read what `save` wrote.

        Raises:
            RuntimeError: by torch, when the file belongs to other factors or another image shape.
        """
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        types = {name: type(value) for name, value in asdict(ProbeConfig()).items()}
        probe = cls(space, image_shape, ProbeConfig(**{name: types[name](metadata[name]) for name in types}))
        probe.load_state_dict(state)
        return probe.eval()


def make_features(config: ProbeConfig, channels: int) -> nn.Module:
    """The layers below the heads: images (B, C, H, W) to features (B, D). The frames of a video are channels of an image."""
    if config.features == "pixels":
        return nn.Flatten()
    widths = [channels, config.width, 2 * config.width, 4 * config.width]
    layers: list[nn.Module] = []
    for incoming, outgoing in itertools.pairwise(widths):
        layers += [nn.Conv2d(incoming, outgoing, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(nn.Flatten(1, -3), *layers, nn.Flatten())


def train_probe(
    images: np.ndarray | Tensor, classes: Tensor, space: FactorSpace, config: ProbeConfig, seed: int
) -> LinearProbe:
    """Train a judge on real images of all compositions; the same arguments give the same weights.

    Args:
        images: (M, C, H, W), uint8, or float in [-1, 1].
        classes: (M, F) int64, and columns of nuisances, which are left alone.
        seed: of the weights and of the order of the images.
    """
    with torch.random.fork_rng(devices=[]):  # initial weights come from the global generator
        torch.manual_seed(seed_for(seed, "probe", "weights"))
        probe = LinearProbe(space, tuple(images.shape[1:]), config)
    order = torch.Generator().manual_seed(seed_for(seed, "probe", "order"))
    optimiser = torch.optim.Adam(probe.parameters(), lr=config.lr)
    pixels = torch.as_tensor(np.asarray(images))
    for _ in range(config.epochs):
        for indices in torch.randperm(len(pixels), generator=order).split(config.batch):
            logits = probe(as_float(pixels[indices])).split(probe.sizes, 1)
            targets = classes[indices, : space.num_factors].unbind(1)
            loss = torch.stack([F.cross_entropy(*pair) for pair in zip(logits, targets, strict=True)]).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return probe.eval()


def as_float(images: Tensor) -> Tensor:
    """Images in [-1, 1], float32, from uint8 or from floats, which are left as they are."""
    return images.float().div(127.5).sub(1) if images.dtype == torch.uint8 else images.float()
