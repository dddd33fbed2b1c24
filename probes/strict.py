"""StrictShapes2D: reads shape, colour and size off an image by measurement, without a network, and can reject.

An image is taken apart as ``background + coverage * (colour - background)``. The background is the border's median, the
colour that of the interior, the coverage what remains; whatever lies on no line between the two colours is *stray*. The
area of the coverage gives the radius, and its overlap with anti-aliased templates of equal area at the measured
position gives the shape.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor

from datasets.factors import FactorSpace
from probes.judgement import Judgement, Reason, concatenate, first_reason, geometry_of

SHARPENING = 2.0  # gain around half coverage before shapes are compared
CHUNK = 256  # images measured at once; small enough to stay in cache
TRIANGLE_INRADIUS = math.sqrt(math.pi / (3 * math.sqrt(3)))  # of an equilateral triangle of area pi
SQUARE_HALF_SIDE = math.sqrt(math.pi) / 2  # of a square of area pi


@dataclass(frozen=True)
class Geometry:
    """How real images look, apart from the class centres, which the factors hold."""

    resolution: int  # side of the image, px
    size_jitter: float  # half range of the radius around its class, px
    position_jitter: float  # half range of the centre along each axis, px
    colour_jitter: float  # half range of a channel around its class, channels in [0, 1]
    background: float = 1.0  # grey level in [0, 1]
    edge_width: float = 1.0  # px over which coverage falls from 1 to 0

    @staticmethod
    def of(numbers: Mapping[str, Any]) -> Geometry:
        """From a dataset's ``judge_geometry()``; other keys are left alone.

        Raises:
            ValueError: naming the number that is missing.
        """
        return geometry_of(Geometry, numbers, "Shapes2D")


@dataclass(frozen=True)
class Thresholds:
    """Set once on held-out real images, degraded ones and negatives, before any generated image was judged."""

    version: str = "shapes2d-1"
    background: float = 0.15  # distance of a channel of the background from its true level
    background_noise: float = 0.15  # mean distance of the border's pixels from their median, in RGB
    contrast: float = 0.45  # least distance between object and background, in RGB
    second_object: float = 0.12  # area of the next largest blob over that of the smallest class
    stray: float = 0.30  # off-line colour over the whole image, in units of the object's area
    softness: float = 4.5  # partial coverage, over that of the template; 3.5 is a blur of one pixel
    colour_slack: float = 0.6  # how far past the jitter a colour may lie, towards half way to the next class
    size_slack: float = 0.5  # the same for the radius
    position_slack: float = 0.1  # how far past the jitter a centre may lie, over the image's side
    overlap: float = 0.83  # least intersection over union with the template of the shape read
    overlap_margin: float = 0.11  # by how much it beats the template of any other shape


class StrictShapes2D:
    """The analytic judge of Shapes2D.

    Args:
        space: factors named shape, colour and size, in any order.
        geometry: ``judge_geometry()`` of the dataset, see `Geometry`.
        thresholds: what is accepted; the version goes into every record.
    """

    name = "strict"

    def __init__(self, space: FactorSpace, geometry: Mapping[str, Any], thresholds: Thresholds | None = None) -> None:
        self.space = space
        self.geometry = Geometry.of(geometry)
        self.thresholds = thresholds or Thresholds()
        self.version = self.thresholds.version
        factors = {factor.name: factor for factor in space.factors}
        missing = {"shape", "colour", "size"} - factors.keys()
        if missing:
            raise ValueError(f"the judge of Shapes2D needs a factor {min(missing)}; this dataset has {space.names}")
        self.shapes = factors["shape"].classes
        unknown = set(self.shapes) - TEMPLATES.keys()
        if unknown:
            raise ValueError(f"there is no template for the shape {min(unknown)}; known are {', '.join(TEMPLATES)}")
        self.colours = torch.tensor(factors["colour"].centres)  # (classes, 3)
        self.radii = torch.tensor(factors["size"].centres)[:, 0]  # (classes,)
        self.colour_tolerance = self._colour_tolerance()
        self.size_tolerance = self._size_tolerance()
        self.reach = self.geometry.position_jitter + self.thresholds.position_slack * self.geometry.resolution

    def judge(self, images: Tensor) -> Judgement:
        """Read images (B, 3, H, W) in [-1, 1]; values beyond are clipped."""
        pixels = images.detach().to("cpu", torch.float32).clamp(-1, 1).add(1).div(2)
        return concatenate([self.decide(self.measure(chunk)) for chunk in pixels.split(CHUNK)])

    def measure(self, pixels: Tensor) -> dict[str, Tensor]:
        """Raw measurements of images (B, 3, H, W) in [0, 1]: name -> (B,) float32."""
        background, noise = border(pixels)
        difference = pixels - background[:, :, None, None]
        distance = difference.square().sum(1).sqrt()  # (B, H, W); linalg's norm over channels is ten times slower
        colour = self._interior(difference, distance)  # (B, 3), relative to the background
        contrast = colour.norm(dim=1)
        coverage, stray = split_coverage(difference, colour)
        area = coverage.sum((1, 2)).clamp_min(1.0)
        _, second = two_largest_blobs(distance / contrast.clamp_min(1e-3)[:, None, None])
        fits = {shape: self._fit(shape, coverage) for shape in self.shapes}
        best = torch.stack([fits[shape]["overlap"] for shape in self.shapes]).argmax(0)  # (B,)

        def of_best(name: str) -> Tensor:
            return torch.stack([fits[shape][name] for shape in self.shapes]).gather(0, best[None])[0]

        red, green, blue = (background + colour).unbind(1)
        return {
            "background": (background - self.geometry.background).abs().amax(1),
            "background_noise": noise,
            "contrast": contrast,
            "second_object": second / (math.pi * self.radii.min() ** 2),
            "stray": stray.sum((1, 2)) / area,
            "softness": of_best("softness"),
            "red": red,
            "green": green,
            "blue": blue,
            "radius": of_best("radius"),
            "x": of_best("x"),
            "y": of_best("y"),
            **{f"overlap_{shape}": fits[shape]["overlap"] for shape in self.shapes},
        }

    def _interior(self, difference: Tensor, distance: Tensor) -> Tensor:
        """Colour of the object minus background (B, 3): the median of the pixels that differ most."""
        count = max(4, int(0.3 * math.pi * float(self.radii.min()) ** 2))
        top = distance.flatten(1).topk(count, dim=1).indices  # (B, count)
        picked = difference.flatten(2).gather(2, top[:, None].expand(-1, 3, -1))
        return picked.median(-1).values

    def _fit(self, shape: str, coverage: Tensor) -> dict[str, Tensor]:
        """Align a template by its moments, then compare: radius, x, y in pixels, overlap and softness, (B,) each.

        Area and centroid alone would be biased where the frame cuts a shape; matching those of the template, which the
        frame cuts alike, is not.
        """
        area, x, y = moments(coverage)
        radius, centre_x, centre_y = (area / math.pi).sqrt(), x, y
        template = self.template(shape, radius, centre_x, centre_y)
        for _ in range(2):
            template_area, template_x, template_y = moments(template)
            radius = radius * (area / template_area).sqrt()
            centre_x, centre_y = centre_x + x - template_x, centre_y + y - template_y
            template = self.template(shape, radius, centre_x, centre_y)
        overlap = intersection_over_union(sharpened(template), sharpened(coverage))
        softness = partial(coverage) / partial(template).clamp_min(1e-6)
        return {"radius": radius, "x": centre_x, "y": centre_y, "overlap": overlap, "softness": softness}

    def template(self, shape: str, radius: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Coverage (B, H, W) of a shape as real images have it; radius and centre (B,) in pixels, y down."""
        return render(shape, radius, x, y, self.geometry.resolution, self.geometry.edge_width)

    def decide(self, measured: dict[str, Tensor]) -> Judgement:
        """Classes, values and the verdict that follow from measurements alone: name -> (B,) float32, as `measure` gives them."""
        limits = self.thresholds
        overlaps = torch.stack([measured[f"overlap_{shape}"] for shape in self.shapes], 1)  # (B, shapes)
        ranked = overlaps.sort(1, descending=True).values
        rgb = torch.stack([measured["red"], measured["green"], measured["blue"]], 1)
        colour_distance, colour = torch.cdist(rgb, self.colours).min(1)
        size_distance, size = (measured["radius"][:, None] - self.radii).abs().min(1)
        middle = self.geometry.resolution / 2
        off_centre = torch.maximum((measured["x"] - middle).abs(), (measured["y"] - middle).abs())
        failures = {
            Reason.BACKGROUND: (measured["background"] > limits.background)
            | (measured["background_noise"] > limits.background_noise),
            Reason.NO_OBJECT: measured["contrast"] < limits.contrast,
            Reason.TWO_OBJECTS: measured["second_object"] > limits.second_object,
            Reason.WRONG_COLOURS: measured["stray"] > limits.stray,
            Reason.BLURRED: measured["softness"] > limits.softness,
            Reason.COLOUR_BETWEEN_CLASSES: colour_distance > self.colour_tolerance,
            Reason.OFF_CENTRE: off_centre > self.reach,
            Reason.SIZE_BETWEEN_CLASSES: size_distance > self.size_tolerance,
            Reason.SHAPE_UNCLEAR: (ranked[:, 0] < limits.overlap)
            | (ranked[:, 0] - ranked[:, 1] < limits.overlap_margin),
        }
        read = {"shape": overlaps.argmax(1), "colour": colour, "size": size}
        values = {"shape": rgb[:, :0], "colour": rgb, "size": measured["radius"][:, None]}
        return Judgement.by_factor(self.name, self.space.names, read, values, first_reason(failures), measured)

    def _colour_tolerance(self) -> float:
        """Accepted distance from a class's colour: from the jitter's corner on towards half way to the next class."""
        half_way = float(torch.pdist(self.colours).min()) / 2
        jitter = self.geometry.colour_jitter * math.sqrt(3)
        return jitter + self.thresholds.colour_slack * max(0.0, half_way - jitter)

    def _size_tolerance(self) -> float:
        """Accepted distance from a class's radius, on the same rule."""
        half_way = float(torch.pdist(self.radii[:, None]).min()) / 2
        jitter = self.geometry.size_jitter
        return jitter + self.thresholds.size_slack * max(0.0, half_way - jitter)


def border(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Median colour of the outermost pixels (B, 3), and their mean distance from it (B,)."""
    edge = torch.cat([pixels[:, :, 0], pixels[:, :, -1], pixels[:, :, :, 0], pixels[:, :, :, -1]], -1)  # (B, 3, 4S)
    median = edge.median(-1).values
    return median, (edge - median[:, :, None]).square().sum(1).sqrt().mean(-1)


def split_coverage(difference: Tensor, colour: Tensor) -> tuple[Tensor, Tensor]:
    """Split an image minus background (B, 3, H, W) into coverage in [0, 1] and stray, (B, H, W) each.

    Coverage is the projection on the object's colour (B, 3); stray is the distance from it, in units of the contrast.
    """
    square = colour.square().sum(1).clamp_min(1e-4)[:, None, None]
    coverage = torch.einsum("bchw,bc->bhw", difference, colour).div(square).clamp(0, 1)
    rest = difference - coverage[:, None] * colour[:, :, None, None]
    stray = (rest.square().sum(1) / square).sqrt()
    floor = 0.1  # below it is noise, which would add up over the background
    return coverage.masked_fill(coverage < floor, 0.0), stray.masked_fill(stray < floor, 0.0)


def partial(coverage: Tensor) -> Tensor:
    """How much of (B, H, W) is neither inside nor outside, (B,): the length of the outline times its width."""
    return (coverage * (1 - coverage)).sum((1, 2))


def sharpened(coverage: Tensor) -> Tensor:
    """Coverage with steeper edges: an evenly blurred outline stays where it was, and is compared, not its softness."""
    return (SHARPENING * (coverage - 0.5) + 0.5).clamp_(0, 1)


def intersection_over_union(first: Tensor, second: Tensor) -> Tensor:
    """Of soft masks (B, H, W): (B,)."""
    shared = torch.minimum(first, second).sum((1, 2))
    return shared / (first.sum((1, 2)) + second.sum((1, 2)) - shared).clamp_min(1e-6)


def two_largest_blobs(strength: Tensor) -> tuple[Tensor, Tensor]:
    """Areas in pixels of the two largest connected regions above 0.4, (B,) each; strength is (B, H, W)."""
    mask = (strength > 0.4).numpy()
    within_image = np.zeros((3, 3, 3), dtype=bool)
    within_image[1] = scipy.ndimage.generate_binary_structure(2, 1)  # neighbours in the image, never across images
    labels, count = scipy.ndimage.label(mask, structure=within_image)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    # Regions are numbered image by image, so an image's largest number says where the next image's begin.
    last = np.maximum.accumulate(labels.reshape(len(mask), -1).max(1))
    owner = np.searchsorted(last, np.arange(1, count + 1))  # (regions,)
    order = np.lexsort((-areas, owner))
    rank = np.arange(count) - np.searchsorted(owner[order], owner[order])
    largest = np.zeros((2, len(mask)), dtype=np.float32)
    for place in (0, 1):
        chosen = order[rank == place]
        largest[place, owner[chosen]] = areas[chosen]
    return torch.from_numpy(largest[0]), torch.from_numpy(largest[1])


def moments(coverage: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Area in pixels and centroid x (right), y (down) in pixels of coverage (B, H, W), (B,) each."""
    axis = torch.arange(coverage.shape[-1]) + 0.5
    area = coverage.sum((1, 2)).clamp_min(1.0)
    return area, (coverage.sum(1) * axis).sum(1) / area, (coverage.sum(2) * axis).sum(1) / area


def render(shape: str, radius: Tensor, x: Tensor, y: Tensor, resolution: int, edge_width: float) -> Tensor:
    """Anti-aliased coverage (B, H, W) of shapes of area pi r^2 around x (right) and y (down), all in pixels."""
    axis = torch.arange(resolution) + 0.5
    across = axis[None, None, :] - x[:, None, None]  # (B, 1, size)
    up = y[:, None, None] - axis[None, :, None]  # (B, size, 1)
    return TEMPLATES[shape](across, up, radius[:, None, None]).mul_(-1 / edge_width).add_(0.5).clamp_(0, 1)


def circle(across: Tensor, up: Tensor, radius: Tensor) -> Tensor:
    """Signed distance in pixels from the edge of a circle."""
    return (across.square() + up.square()).sqrt() - radius


def triangle(across: Tensor, up: Tensor, radius: Tensor) -> Tensor:
    """Of an equilateral triangle that points up (exact but around its corners)."""
    return torch.maximum(-up, 0.5 * up + math.sqrt(0.75) * across.abs()) - TRIANGLE_INRADIUS * radius


def square(across: Tensor, up: Tensor, radius: Tensor) -> Tensor:
    """Of a square with level sides (exact but around its corners)."""
    return torch.maximum(across.abs(), up.abs()) - SQUARE_HALF_SIDE * radius


TEMPLATES = {"circle": circle, "triangle": triangle, "square": square}
