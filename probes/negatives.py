"""Images that a strict judge of Shapes2D must reject, drawn from the factors and the geometry.

The thresholds in `probes.strict` were set on these kinds and on real images, before any generated image was judged;
the tests hold them to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from probes.strict import TEMPLATES, StrictShapes2D


@dataclass
class Scene:
    """Objects as drawn: what a real image is made of, B of them."""

    classes: Tensor  # (B, 3) int64: shape, colour, size
    rgb: Tensor  # (B, 3) in [0, 1]
    radius: Tensor  # (B,) px
    centre: Tensor  # (B, 2) px: x to the right, y down


class Chance:
    """What makes negatives draws from one generator."""

    generator: torch.Generator

    def _integers(self, count: int, below: int) -> Tensor:
        return torch.randint(below, (count,), generator=self.generator)


class Negatives(Chance):
    """Draws each kind of negative for a judge's factors and geometry.

    Args:
        judge: whose templates, colours, radii and geometry are used.
        generator: source of all randomness.
    """

    def __init__(self, judge: StrictShapes2D, generator: torch.Generator) -> None:
        self.judge = judge
        self.geometry = judge.geometry
        self.generator = generator
        self.kinds: dict[str, Callable[[int], Tensor]] = {
            "blend": self.blends,
            "hue": self.hues,
            "shape": self.shapes,
            "size": self.sizes,
            "two objects": self.two_objects,
            "half": self.halves,
            "blur": self.blurs,
            "blank": self.blanks,
            "noise": self.noises,
        }

    def scene(self, count: int) -> Scene:
        """Objects of random classes with the jitter of real ones."""
        judge, jitter = self.judge, self.geometry
        classes = torch.stack(
            [self._integers(count, size) for size in (len(judge.shapes), len(judge.colours), len(judge.radii))], 1
        )
        rgb = judge.colours[classes[:, 1]] + jitter.colour_jitter * self._symmetric(count, 3)
        radius = judge.radii[classes[:, 2]] + jitter.size_jitter * self._symmetric(count)
        centre = jitter.resolution / 2 + jitter.position_jitter * self._symmetric(count, 2)
        return Scene(classes, rgb.clamp(0, 1), radius, centre)

    def coverage(self, scene: Scene) -> Tensor:
        """(B, H, W) in [0, 1]."""
        x, y = scene.centre.unbind(1)
        masks = [self.judge.template(shape, scene.radius, x, y) for shape in self.judge.shapes]
        return torch.stack(masks, 1)[torch.arange(len(scene.radius)), scene.classes[:, 0]]

    def paint(self, coverage: Tensor, rgb: Tensor, under: Tensor | None = None) -> Tensor:
        """Put objects on the background, or over images (B, 3, H, W) in [-1, 1], which is also the result's form."""
        behind = torch.tensor(2 * self.geometry.background - 1) if under is None else under
        behind = behind.expand(len(rgb), 3, *coverage.shape[1:])
        return torch.lerp(behind, (2 * rgb - 1)[:, :, None, None], coverage[:, None])

    def draw(self, scene: Scene) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1]."""
        return self.paint(self.coverage(scene), scene.rgb)

    def blends(self, count: int) -> Tensor:
        """Pixel averages of two images that differ in at least one class."""
        first, second = self.scene(count), self.scene(count)
        other = self._integers(count, 3)  # where chance made them equal, one factor is changed
        equal = (first.classes == second.classes).all(1)
        sizes = torch.tensor([len(self.judge.shapes), len(self.judge.colours), len(self.judge.radii)])
        rows = torch.arange(count)
        second.classes[rows, other] = torch.where(
            equal, (second.classes[rows, other] + 1) % sizes[other], second.classes[rows, other]
        )
        second.rgb = self.judge.colours[second.classes[:, 1]]
        second.radius = self.judge.radii[second.classes[:, 2]]
        return (self.draw(first) + self.draw(second)) / 2

    def hues(self, count: int) -> Tensor:
        """Colours on the way from one class to another, the middle fifth of it."""
        scene = self.scene(count)
        following = (scene.classes[:, 1] + 1) % len(self.judge.colours)
        share = 0.5 + 0.1 * self._symmetric(count)
        scene.rgb = torch.lerp(self.judge.colours[scene.classes[:, 1]], self.judge.colours[following], share[:, None])
        return self.draw(scene)

    def shapes(self, count: int) -> Tensor:
        """Outlines half way from one shape to another, in signed distance."""
        scene = self.scene(count)
        axis = torch.arange(self.geometry.resolution) + 0.5
        across = axis[None, None, :] - scene.centre[:, 0, None, None]
        up = scene.centre[:, 1, None, None] - axis[None, :, None]
        radius = scene.radius[:, None, None]
        distances = torch.stack([TEMPLATES[shape](across, up, radius) for shape in self.judge.shapes], 1)
        rows, following = torch.arange(count), (scene.classes[:, 0] + 1) % len(self.judge.shapes)
        midway = (distances[rows, scene.classes[:, 0]] + distances[rows, following]) / 2
        return self.paint((0.5 - midway / self.geometry.edge_width).clamp(0, 1), scene.rgb)

    def sizes(self, count: int) -> Tensor:
        """Radii on the way from one class to another, the middle tenth of it."""
        scene = self.scene(count)
        following = (scene.classes[:, 2] + 1) % len(self.judge.radii)
        share = 0.5 + 0.05 * self._symmetric(count)
        scene.radius = torch.lerp(self.judge.radii[scene.classes[:, 2]], self.judge.radii[following], share)
        return self.draw(scene)

    def two_objects(self, count: int) -> Tensor:
        """Two objects at opposite corners of the middle of the frame; large ones touch."""
        first, second = self.scene(count), self.scene(count)
        angle = math.pi / 4 + math.pi / 2 * self._integers(count, 4)
        offset = torch.stack([angle.cos(), angle.sin()], 1) * self.geometry.resolution * 0.32
        first.centre = self.geometry.resolution / 2 + offset
        second.centre = self.geometry.resolution / 2 - offset
        return self.paint(self.coverage(second), second.rgb, under=self.draw(first))

    def halves(self, count: int) -> Tensor:
        """Left and right halves of objects, cut through the centroid.

        A cut along one of a triangle's sides would leave a smaller triangle, which is no negative.
        """
        scene = self.scene(count)
        # Of the cut's normal: to the left or to the right, give or take nine degrees.
        angle = (math.pi * self._integers(count, 2) + 0.15 * self._symmetric(count))[:, None, None]
        axis = torch.arange(self.geometry.resolution) + 0.5
        across = axis[None, None, :] - scene.centre[:, 0, None, None]
        down = axis[None, :, None] - scene.centre[:, 1, None, None]
        side = (0.5 + across * angle.cos() + down * angle.sin()).clamp(0, 1)
        return self.paint(self.coverage(scene) * side, scene.rgb)

    def blurs(self, count: int) -> Tensor:
        """Real images under a Gaussian of a standard deviation of half the smallest class's radius."""
        return blur(self.draw(self.scene(count)), 0.5 * float(self.judge.radii.min()))

    def blanks(self, count: int) -> Tensor:
        """Plain images of any grey or colour."""
        rgb = torch.rand(count, 3, generator=self.generator)
        grey = self._integers(count, 2)[:, None] == 0
        rgb = torch.where(grey, rgb[:, :1], rgb)
        rgb[::4] = self.geometry.background
        return (2 * rgb - 1)[:, :, None, None].expand(-1, -1, self.geometry.resolution, self.geometry.resolution)

    def noises(self, count: int) -> Tensor:
        """Uniform noise in the pixels, at every scale from a pixel to a quarter of the frame."""
        side = self.geometry.resolution
        images = torch.empty(count, 3, side, side)
        for index, cells in enumerate((side, side // 2, side // 4, 4)):
            coarse = torch.rand(len(images[index::4]), 3, cells, cells, generator=self.generator)
            images[index::4] = F.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=False)
        return 2 * images - 1

    def _symmetric(self, *shape: int) -> Tensor:
        return 2 * torch.rand(*shape, generator=self.generator) - 1


def blur(images: Tensor, deviation: float) -> Tensor:
    """Gaussian blur of images (B, C, H, W); the standard deviation is in pixels, edges are continued."""
    half = max(1, math.ceil(3 * deviation))
    offsets = torch.arange(-half, half + 1, dtype=torch.float32)
    kernel = torch.exp(-offsets.square() / (2 * deviation**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    padded = F.pad(images, (half, half, half, half), mode="replicate")
    across = F.conv2d(padded, kernel, groups=images.shape[1])
    return F.conv2d(across, kernel.transpose(2, 3), groups=images.shape[1])
