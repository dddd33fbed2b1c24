"""The trained judge: one softmax head a factor, forced to choose, on pixels as published or on features of a network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from datasets.factors import FactorSpace, seed_for
from datasets.ranges import ABOVE_0, check_ranges
from probes.backbone import Backbone
from probes.files import settle_file
from probes.judgement import Judgement, accept_all

CHUNK = 512  # images judged at once


@dataclass
class ProbeConfig:
    """How the judge sees and learns. Pixels are published; they do not suffice where objects move about."""

    features: str = "pixels"  # pixels (flattened; paper A) | cnn (a network, then the same heads)
    backbone: str = "cnn"  # which network: cnn (three convolutions, trained with the heads) | a name of timm's (frozen)
    weights: str = ""  # file of a timm network's weights, safetensors or pt; nothing is ever downloaded
    balance: str = "equal"  # equal | natural: how often compositions are shown where they have unequally many images
    epochs: int = 10  # passes over the images; paper A's probe
    lr: float = 1e-3  # Adam; paper A's probe
    batch: int = 128  # images a step; paper A's probe
    width: int = 16  # channels of the first convolution, doubled at each of the next two; ours

    @staticmethod
    def settle(values: Mapping[str, Any]) -> dict[str, Any]:
        """What the file of weights holds: that is hashed, and not where it lies.

        Raises:
            ValueError: there is no such file.
        """
        return settle_file("probe.weights", values["weights"], f"give the weights of {values['backbone']}")

    def validate(self) -> None:
        """Raise ValueError for names that are not known, and for a network without weights or weights without one."""
        least = (1, math.inf)
        check_ranges("probe", self, lr=(ABOVE_0, math.inf), epochs=(0, math.inf), batch=least, width=least)
        if self.features not in ("pixels", "cnn"):
            raise ValueError(f"probe.features={self.features} is unknown; use pixels or cnn")
        if self.balance not in ("equal", "natural"):
            raise ValueError(f"probe.balance={self.balance} is unknown; use equal or natural")
        if self.backbone == "cnn" and self.weights:
            raise ValueError("probe.weights is for a network of timm; name it with probe.backbone=NAME")
        if self.backbone != "cnn" and self.features != "cnn":
            raise ValueError(f"probe.backbone={self.backbone} does not see with probe.features=pixels; use cnn")
        if self.backbone != "cnn" and not self.weights:
            raise ValueError(
                f"probe.backbone={self.backbone} needs probe.weights=PATH, a safetensors or pt file; none is downloaded"
            )


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

    def judge(self, images: Tensor) -> Judgement:
        """Read images (B, [T,] C, H, W), clipped to [-1, 1] as published; nothing is ever rejected."""
        logits = logits_of(self, images, self.heads.weight.device)
        classes = torch.stack([head.argmax(1) for head in logits.split(self.sizes, 1)], 1)
        accepted, reasons = accept_all(len(logits))
        return Judgement(self.name, classes, accepted, reasons, logits=logits)

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """What the heads see of images (B, [T,] C, H, W), uint8 or clipped to [-1, 1]: (B, D), on the judge's device."""
        device = self.heads.weight.device
        return torch.cat([self.features(as_float(chunk.to(device)).clamp(-1, 1)) for chunk in images.split(CHUNK)])

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


@torch.no_grad()
def logits_of(network: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """Logits (B, N) on the CPU of images (B, [T,] C, H, W), which are clipped to [-1, 1]; the network is on the device."""
    return torch.cat([network(chunk.to(device).float().clamp(-1, 1)).cpu() for chunk in images.split(CHUNK)])


def make_features(config: ProbeConfig, channels: int) -> nn.Module:
    """The layers below the heads: images (B, C, H, W) to features (B, D). The frames of a video are channels of an image."""
    if config.features == "pixels":
        return nn.Flatten()
    if config.backbone != "cnn":
        return Backbone(config.backbone, channels)
    widths = [channels, config.width, 2 * config.width, 4 * config.width]
    layers: list[nn.Module] = []
    for incoming, outgoing in itertools.pairwise(widths):
        layers += [nn.Conv2d(incoming, outgoing, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(nn.Flatten(1, -3), *layers, nn.Flatten())


def train_probe(
    images: np.ndarray | Tensor, classes: Tensor, space: FactorSpace, config: ProbeConfig, seed: int
) -> LinearProbe:
    """Train a judge on real images of all compositions; the same arguments give the same weights.

    Where compositions have equally many images, ``probe.balance`` changes nothing, not a bit.

    Args:
        images: (M, C, H, W), uint8, or float in [-1, 1].
        classes: (M, F) int64, and columns of nuisances, which are left alone.
        seed: of the weights and of the order of the images.
    """
    with torch.random.fork_rng(devices=[]):  # initial weights come from the global generator
        torch.manual_seed(seed_for(seed, "probe", "weights"))
        probe = LinearProbe(space, tuple(images.shape[1:]), config)
    order = torch.Generator().manual_seed(seed_for(seed, "probe", "order"))
    classes = classes[:, : space.num_factors]
    groups = classes.unique(dim=0, return_inverse=True)[1]
    pixels = torch.as_tensor(np.asarray(images))
    layers: nn.Module = probe
    if isinstance(probe.features, Backbone):  # it never changes: every image is looked at once
        probe.features.read(config.weights)
        pixels = probe.embed(pixels)
        layers = probe.heads
    optimiser = torch.optim.Adam(layers.parameters(), lr=config.lr)
    for _ in range(config.epochs):
        for indices in one_pass(groups, config.balance, order).split(config.batch):
            logits = layers(as_float(pixels[indices])).split(probe.sizes, 1)
            targets = classes[indices].unbind(1)
            loss = torch.stack([F.cross_entropy(*pair) for pair in zip(logits, targets, strict=True)]).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return probe.eval()


def one_pass(groups: Tensor, balance: str, generator: torch.Generator) -> Tensor:
    """The order in which a pass over M images shows them, (M,): each once; or, where groups are unequal, groups equally.

    Then each group comes once in every K images, K the number of groups. Of a large one a pass shows a part, without
    repeating any; a small one is gone through again and again.

    Args:
        groups: (M,) int64, from 0 to K - 1.
        balance: equal, or natural: each image once, whatever the counts.
    """
    counts = groups.bincount().tolist()
    if balance == "natural" or len(set(counts)) == 1:
        return torch.randperm(len(groups), generator=generator)
    rounds = -(-len(groups) // len(counts))
    columns = []
    for group, count in enumerate(counts):
        members = (groups == group).nonzero()[:, 0]
        again = [members[torch.randperm(count, generator=generator)] for _ in range(-(-rounds // count))]
        columns.append(torch.cat(again)[:rounds])
    turns = torch.rand(rounds, len(counts), generator=generator).argsort(1)  # of the groups within a round
    return torch.stack(columns, 1).gather(1, turns).flatten()[: len(groups)]


def as_float(images: Tensor) -> Tensor:
    """Images in [-1, 1], float32, from uint8 or from floats, which are left as they are."""
    return images.float().div(127.5).sub(1) if images.dtype == torch.uint8 else images.float()
