"""Shapes2D: one circle or triangle, red or blue, large or small, on a plain background.

The concept-graph set of Okawa et al. 2023 (``single-body_2d_3classes``) as Farid et al. 2025 use it, drawn by our own
rasteriser because neither the images nor their generator are public. Digits of a composition: shape, colour, size.
Values, V = 4: r, g, b in [0, 1] and the radius in pixels; shape has none.

All shapes of one radius r have the area pi r^2. Coordinates are pixels from the frame's centre, x to the right, y up.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datasets.base import CompositionalDataModule, dataset
from datasets.factors import Composition, Factor, FactorSpace, seed_for

SHAPES = ("circle", "triangle", "square")
COLOURS = {"red": (0.9, 0.1, 0.1), "blue": (0.1, 0.1, 0.9)}  # Okawa et al. 2023, properties of single-body_2d_3classes

# Inradius of each shape, as a multiple of the radius of the circle of equal area.
INRADIUS = (1.0, math.sqrt(math.pi / (3 * math.sqrt(3))), math.sqrt(math.pi) / 2)
# How far each shape reaches from its centroid sideways, upwards and downwards, as a multiple of its inradius.
REACH = ((1.0, 1.0, 1.0), (math.sqrt(3), 2.0, 1.0), (1.0, 1.0, 1.0))

CHUNK = 256  # images rendered at once: their pixels stay in a core's cache


@dataclass
class Shapes2DConfig:
    """The defaults are the published geometry: 28 px, centred, radii as 2.7 : 1.6, white background."""

    resolution: int = 28  # px; Okawa et al. 2023
    radius_large: float = 9.0  # px; published samples look like 24 x 15 px, this is the largest whose triangles fit
    radius_small: float = 16 / 3  # px; large : small = 2.7 : 1.6, Okawa et al. 2023
    size_jitter: float = 0.7  # px, uniform +-; unpublished, our choice: a tenth of the mean radius
    position_jitter: float = 0.0  # px, uniform +- in x and y around the centre; published images are centred
    colour_jitter: float = 0.1  # uniform +- per channel, clipped to [0, 1]; Park et al. 2024
    square: bool = False  # adds the square as a third shape; Okawa et al. 2023 have it as an option
    background: float = 1.0  # grey level in [0, 1]; white as published
    edge_width: float = 1.0  # px over which coverage falls from 1 to 0; 1 is a box filter
    train_per_composition: int = 5000  # images for tokenizers and generators
    probe_per_composition: int = 1250  # images for training judges
    test_per_composition: int = 512  # images held out from everybody

    @property
    def shapes(self) -> tuple[str, ...]:
        return SHAPES if self.square else SHAPES[:2]

    @property
    def space(self) -> FactorSpace:
        """Shape, colour and size, in digit order."""
        radii = ((self.radius_large,), (self.radius_small,))
        return FactorSpace(
            (
                Factor("shape", self.shapes),
                Factor("colour", tuple(COLOURS), tuple(COLOURS.values())),
                Factor("size", ("large", "small"), radii),
            )
        )

    def validate(self) -> None:
        """Refuse what cannot be drawn or judged.

        Raises:
            ValueError: naming the key and the remedy.
        """
        for key in ("size_jitter", "position_jitter", "colour_jitter"):
            _require(getattr(self, key) >= 0, key, getattr(self, key), "use 0 or more")
        for key in ("train_per_composition", "probe_per_composition", "test_per_composition"):
            _require(getattr(self, key) >= 1, key, getattr(self, key), "use 1 or more")
        _require(self.edge_width > 0, "edge_width", self.edge_width, "use a width above 0, such as 1")
        _require(0 <= self.background <= 1, "background", self.background, "use a grey level from 0 to 1")
        _require(
            self.colour_jitter < 0.4,
            "colour_jitter",
            self.colour_jitter,
            "the ranges of red and blue meet; use less than 0.4",
        )
        gap = (self.radius_large - self.radius_small) / 2
        _require(gap > 0, "radius_large", self.radius_large, f"use more than radius_small={self.radius_small:g}")
        limit = min(gap, self.radius_small)
        _require(
            self.size_jitter < limit,
            "size_jitter",
            self.size_jitter,
            f"the ranges of large and small meet; use less than {limit:g}",
        )
        # Sideways the triangle reaches farthest; its height needs less room, for it may move down in the frame.
        widest = max(reach[0] * inradius for reach, inradius in zip(REACH, INRADIUS, strict=True))
        edge = math.sqrt(3) * self.edge_width / 2
        room = (self.resolution / 2 - edge) / widest - self.size_jitter
        _require(
            self.radius_large <= room,
            "radius_large",
            self.radius_large,
            f"triangles leave a frame of {self.resolution} px; use at most {room:.2f}",
        )


@dataset("shapes2d", Shapes2DConfig)
class Shapes2D(CompositionalDataModule):
    """Images of one shape; image ``i`` of a part shows composition ``i`` modulo their number."""

    config: Shapes2DConfig
    strict_judge = "shapes2d"

    def __init__(self, config: Shapes2DConfig, seed: int, folder: Path) -> None:
        config.validate()
        super().__init__(config, seed, folder)

    @property
    def space(self) -> FactorSpace:
        return self.config.space

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 3, self.config.resolution, self.config.resolution

    def judge_geometry(self) -> dict[str, Any]:
        """The fields of the config that say how images look, and the colours."""
        drawn = {key: value for key, value in asdict(self.config).items() if not key.endswith("_per_composition")}
        return {**drawn, "colours": list(COLOURS.values())}

    def draw_block(self, part: str, block: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed_for(self.seed, self.name, part, block))
        compositions = self.space.compositions
        first = block * self.block
        table = torch.tensor([self.space.class_indices(c) for c in compositions])
        classes = table[torch.arange(first, first + self.block) % len(compositions)]  # (B, F)
        values = self._jittered(classes, generator)
        positions = self.draw_positions(values, classes, generator)
        images = torch.cat(
            [
                self.render(*rows).mul_(127.5).add_(128).to(torch.uint8)  # 127.5 to centre, 0.5 to round
                for rows in zip(values.split(CHUNK), classes.split(CHUNK), positions.split(CHUNK), strict=True)
            ]
        )
        return images, values, classes

    def draw_values(self, composition: Composition, count: int, generator: torch.Generator) -> Tensor:
        return self._jittered(torch.tensor([self.space.class_indices(composition)]).expand(count, -1), generator)

    def draw_positions(self, values: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
        """Centroids (B, 2) in pixels, uniform within ``position_jitter`` as far as the shape stays in the frame."""
        jitter = torch.full((len(values), 2), self.config.position_jitter)
        low, high = self._into_frame(-jitter, values, classes), self._into_frame(jitter, values, classes)
        return low + (high - low) * torch.rand(len(values), 2, generator=generator)

    def render(self, values: Tensor, classes: Tensor, positions: Tensor | None = None) -> Tensor:
        """Draw shapes.

        The share of a pixel that the shape covers is ``clamp(1/2 - d / edge_width, 0, 1)``, where d is the signed
        distance in pixels from the pixel's centre to the outline. For triangle and square d is the greatest of the
        distances to their sides: exact inside and along the sides, mitred beyond the corners.

        Args:
            values: (B, V) colour and radius.
            classes: (B, F); only the shape is read.
            positions: (B, 2) centroids in pixels; without them as near to the frame's centre as the shape fits.

        Returns:
            float32 (B, 3, H, W) in [-1, 1].
        """
        if positions is None:
            positions = self._into_frame(torch.zeros(len(values), 2), values, classes)
        resolution = self.config.resolution
        axis = torch.arange(resolution) + 0.5 - resolution / 2
        x = axis.view(1, 1, -1) - positions[:, 0].view(-1, 1, 1)  # (B, 1, W)
        y = -axis.view(1, -1, 1) - positions[:, 1].view(-1, 1, 1)  # (B, H, 1)
        distance = torch.empty(len(values), resolution, resolution)
        for shape in range(len(self.config.shapes)):
            rows = (classes[:, 0] == shape).nonzero().squeeze(1)
            inradius = values[rows, 3].view(-1, 1, 1) * INRADIUS[shape]
            distance[rows] = _distance(SHAPES[shape], x[rows], y[rows]) - inradius
        coverage = distance.div_(-self.config.edge_width).add_(0.5).clamp_(0, 1).unsqueeze(1)  # (B, 1, H, W)
        background = 2 * self.config.background - 1
        colour = (2 * values[:, :3] - 1).view(-1, 3, 1, 1)
        return (coverage * (colour - background)).add_(background)

    def _jittered(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """Values (B, V) around the class centres of (B, F) classes."""
        _, colour, size = self.space.factors
        centres = torch.cat([torch.tensor(colour.centres)[classes[:, 1]], torch.tensor(size.centres)[classes[:, 2]]], 1)
        width = torch.tensor([self.config.colour_jitter] * 3 + [self.config.size_jitter])
        values = centres + width * (2 * torch.rand(centres.shape, generator=generator) - 1)
        values[:, :3].clamp_(0, 1)
        return values

    def _into_frame(self, positions: Tensor, values: Tensor, classes: Tensor) -> Tensor:
        """The nearest positions (B, 2) at which the shapes, their soft edge included, lie within the frame."""
        shape = classes[:, 0]
        inradius = values[:, 3] * torch.tensor(INRADIUS)[shape] + self.config.edge_width / 2
        sideways, up, down = (torch.tensor(REACH)[shape] * inradius.unsqueeze(1)).unbind(1)
        half = self.config.resolution / 2
        x = positions[:, 0].clamp(min=sideways - half, max=half - sideways)
        y = positions[:, 1].clamp(min=down - half, max=half - up)
        return torch.stack([x, y], 1)


def _distance(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """Distance from the centroid, measured so that the outline is where it equals the inradius: (B, H, W)."""
    if shape == "circle":
        return (x.square() + y.square()).sqrt_()
    if shape == "square":
        return torch.maximum(x.abs(), y.abs())
    slanted = math.sqrt(3) / 2 * x.abs() + 0.5 * y  # both upper sides at once: the triangle is symmetric in x
    return torch.maximum(slanted, -y)


def _require(condition: bool, key: str, value: float, remedy: str) -> None:
    if not condition:
        raise ValueError(f"dataset.shapes2d.{key}={value:g}: {remedy}")
