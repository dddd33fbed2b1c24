"""StrictClips: reads shape, colour and direction off a video by measurement, without a network, and can reject.

In linear light a frame is taken apart into the object's light and the floor's, which differ in chromaticity; what the
object covers is tracked from frame to frame (`probes.tracking`). Rays through the centroids meet the plane of the
object's half height in a path; its sign along image-right is the direction. Shapes are told apart by the outline alone:
coverage in all frames is compared with that of a sphere and of a cube at every yaw, of equal area at the same places
(`probes.shape_fit`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from datasets.factors import FactorSpace
from probes.clip_limits import Geometry, Thresholds
from probes.judgement import Judgement, Reason, concatenate, first_reason
from probes.projection import Camera
from probes.shape_fit import Outline, ShapeFit
from probes.solid_views import solid_views
from probes.tracking import DARK, find, surroundings, to_linear

CHUNK = 32  # clips measured at once
SHAPES = ("cube", "sphere")


class StrictClips:
    """The analytic judge of CLEVRER-Kubric's videos.

    Args:
        space: factors named shape (cube, sphere), colour and direction (left, right), in any order.
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
        for name, classes in (("shape", SHAPES), ("colour", ()), ("direction", ("left", "right"))):
            if name not in factors:
                raise ValueError(f"the judge of clips needs a factor {name}; this dataset has {space.names}")
            if classes and set(factors[name].classes) != set(classes):
                raise ValueError(f"the judge of clips reads a {name} as {' or '.join(classes)}, not as {factors[name]}")
        self.shapes, self.directions = factors["shape"].classes, factors["direction"].classes
        self.hues = hue(torch.tensor(factors["colour"].centres))  # (classes,)
        self.camera = Camera.at(self.geometry.eye, self.geometry.half_extent, self.geometry.resolution)
        radii = self.camera.distance / self.geometry.radius
        self.views = solid_views(self.geometry.half_heights["cube"], radii, radii * self.camera.pixel)
        self.floor_axes = torch.tensor([self.geometry.right, self.geometry.away], dtype=torch.float32)

    def judge(self, clips: Tensor) -> Judgement:
        """Read clips (B, T, 3, H, W) in [-1, 1]; values beyond are clipped."""
        display = clips.detach().to("cpu", torch.float32).clamp(-1, 1).add(1).div(2)
        return concatenate([self.decide(self.measure(chunk)) for chunk in display.split(CHUNK)])

    def measure(self, display: Tensor) -> dict[str, Tensor]:
        """Raw measurements of clips (B, T, 3, H, W) in [0, 1]: name -> (B,) float32; NaN where nothing is found."""
        linear = to_linear(display)
        tracks = find(linear, self.geometry.window)
        fit = ShapeFit(tracks, self.camera, self.views, self.geometry.radius)
        cube, sphere = fit.cube(), fit.sphere()
        area = tracks.area.sum(1).clamp_min(1.0)
        gain = (sphere.mismatch - cube.mismatch) / tracks.area.clamp_min(1.0)  # (B, T), by which a cube fits better
        half = gain.shape[1] // 2
        cubical = (sphere.total() - cube.total()) / area
        chosen = choose(cubical > self.thresholds.shape_split, cube, sphere)
        height = torch.where(cubical > self.thresholds.shape_split, self.views.half_edge, 1.0) * self.geometry.radius
        red, green, blue = tracks.colour.unbind(1)
        core = tracks.near * (chosen.cover > 0.99)
        floor = surroundings(linear, tracks)
        shining = (tracks.rest * core).sum((1, 2, 3)) / core.sum((1, 2, 3)).clamp_min(1.0)
        return {
            **floor,
            "stray": tracks.stray,
            "area": tracks.area.median(1).values,
            "least_area": tracks.area.amin(1) / tracks.area.median(1).values.clamp_min(1.0),
            "second_object": (tracks.others / tracks.area.clamp_min(1.0)).amax(1),
            "red": red,
            "green": green,
            "blue": blue,
            "colour_change": (tracks.frame_colour - tracks.colour[:, None]).norm(dim=2).amax(1),
            "transparent": shining / floor["floor_level"].clamp_min(DARK),
            "softness": partial(tracks.cover) / partial(chosen.cover).clamp_min(1e-3),
            "radius": chosen.radius.mean(1),
            "size_change": (chosen.radius / chosen.radius.mean(1, keepdim=True).clamp_min(1e-3) - 1).abs().amax(1),
            **self._path(fit.middle, height),
            "mismatch_cube": cube.total() / area,
            "mismatch_sphere": sphere.total() / area,
            "cubical": cubical,
            "cubical_early": gain[:, :half].mean(1),
            "cubical_late": gain[:, half:].mean(1),
        }

    def _path(self, rays: Tensor, height: Tensor) -> dict[str, Tensor]:
        """A straight path at constant speed through where rays (B, T, 3) meet a plane at a height (B,)."""
        reach = self.camera.reach(rays, height[:, None])
        points = (self.camera.eye + rays * reach[..., None])[..., :2] @ self.floor_axes.T  # (B, T, 2): right, away
        time = torch.linspace(-0.5, 0.5, points.shape[1]) * self.geometry.seconds
        velocity = torch.einsum("btc,t->bc", points, time) / time.square().sum()
        straight = points.mean(1, keepdim=True) + time[:, None] * velocity[:, None]
        speed = velocity.norm(dim=1)
        return {
            "speed": speed * torch.where(velocity[:, 0] < 0, -1, 1),
            "heading": torch.atan(velocity[:, 1] / velocity[:, 0].abs().clamp_min(1e-6)),
            "jump": (points - straight).norm(dim=2).amax(1) / self.geometry.radius,
            "way": speed * self.geometry.seconds / self.geometry.radius,
        }

    def decide(self, measured: dict[str, Tensor]) -> Judgement:
        """Classes, values and the verdict that follow from measurements alone: name -> (B,) float32, as `measure` gives them."""
        colour, hue_distance = self._colour(measured)
        reasons = first_reason(
            {
                **self._unseen(measured),
                Reason.CHANGES: self._changes(measured),
                **self._wrong_light(measured, hue_distance),
                **self._wrong_path(measured),
                **self._wrong_outline(measured),
            }
        )
        cube, right = measured["cubical"] > self.thresholds.shape_split, measured["speed"] > 0
        read = {
            "shape": torch.where(cube, self.shapes.index("cube"), self.shapes.index("sphere")),
            "colour": colour,
            "direction": torch.where(right, self.directions.index("right"), self.directions.index("left")),
        }
        seen = measured["least_area"] >= self.thresholds.least_area
        values = {
            "shape": torch.empty(len(colour), 0),
            "colour": torch.full((len(colour), 3), torch.nan),  # light hides the material's own brightness
            "direction": torch.where(seen, measured["speed"], torch.nan)[:, None],
        }
        return Judgement.by_factor(self.name, self.space.names, read, values, reasons, measured)

    def _colour(self, measured: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The nearest class by hue, and how far it is in rad: (B,) each."""
        away = (hue(_rgb(measured))[:, None] - self.hues + math.pi) % (2 * math.pi) - math.pi
        distance, colour = away.abs().min(1)
        return colour, distance

    def _unseen(self, measured: dict[str, Tensor]) -> dict[Reason, Tensor]:
        """Where there is not one object on a floor throughout."""
        limits = self.thresholds
        lowest, highest = limits.floor_level
        return {
            Reason.NO_OBJECT: measured["area"] < 0.5 * self.least_area,
            Reason.VANISHES: measured["least_area"] < limits.least_area,
            Reason.BACKGROUND: (measured["floor_level"] < lowest)
            | (measured["floor_level"] > highest)
            | (measured["floor_slope"] < limits.floor_slope)
            | (measured["floor_colour"] > limits.floor_colour)
            | (measured["floor_texture"] > limits.floor_texture),
            Reason.TWO_OBJECTS: measured["second_object"] > limits.second_object,
        }

    def _changes(self, measured: dict[str, Tensor]) -> Tensor:
        """Where colour, size or shape are not the same throughout."""
        limits = self.thresholds
        sign = torch.where(measured["cubical"] > limits.shape_split, 1.0, -1.0)
        halves = torch.stack([measured["cubical_early"], measured["cubical_late"]], 1) - limits.shape_split
        return (
            (measured["colour_change"] > limits.colour_change)
            | (measured["size_change"] > limits.size_change)
            | ((halves * sign[:, None]).amin(1) < -limits.shape_change)
        )

    def _wrong_light(self, measured: dict[str, Tensor], hue_distance: Tensor) -> dict[Reason, Tensor]:
        limits, rgb = self.thresholds, _rgb(measured)
        saturation = 1 - rgb.amin(1) / rgb.amax(1).clamp_min(1e-6)
        return {
            Reason.WRONG_COLOURS: measured["stray"] > limits.stray,
            Reason.COLOUR_BETWEEN_CLASSES: (hue_distance > limits.hue) | (saturation < limits.saturation),
            Reason.TRANSPARENT: measured["transparent"] > limits.transparent,
        }

    def _wrong_path(self, measured: dict[str, Tensor]) -> dict[Reason, Tensor]:
        geometry, limits, speed = self.geometry, self.thresholds, measured["speed"].abs()
        return {
            Reason.STANDS_STILL: measured["way"] < limits.least_way,
            Reason.JUMPS: measured["jump"] > limits.jump,
            Reason.IMPLAUSIBLE_SPEED: (speed < geometry.speed_slow * (1 - limits.speed_slack))
            | (speed > geometry.speed_fast * (1 + limits.speed_slack))
            | (measured["heading"].abs() > geometry.heading_jitter + limits.heading_slack),
        }

    def _wrong_outline(self, measured: dict[str, Tensor]) -> dict[Reason, Tensor]:
        geometry, limits = self.geometry, self.thresholds
        beyond = measured["cubical"] - limits.shape_split  # positive for a cube
        mismatch = torch.where(beyond > 0, measured["mismatch_cube"], measured["mismatch_sphere"])
        excused = limits.mismatch + limits.mismatch_of_noise * measured["stray"]
        size_limit = geometry.radius_jitter + limits.size_slack * geometry.radius
        return {
            Reason.IMPLAUSIBLE_SIZE: (measured["radius"] - geometry.radius).abs() > size_limit,
            Reason.BLURRED: measured["softness"] > limits.softness,
            Reason.SHAPE_UNCLEAR: (beyond.abs() < limits.shape_margin)
            | (mismatch > excused.clamp_max(limits.most_mismatch)),
        }

    @property
    def least_area(self) -> float:
        """Of the smallest sphere where a real object is farthest, px."""
        radius = self.geometry.radius - self.geometry.radius_jitter
        return math.pi * (radius / (1.3 * self.camera.distance) / self.camera.pixel) ** 2


def _rgb(measured: dict[str, Tensor]) -> Tensor:
    return torch.stack([measured["red"], measured["green"], measured["blue"]], 1)


def hue(rgb: Tensor) -> Tensor:
    """Angle in rad around grey of linear RGB (..., 3); 0 for red."""
    red, green, blue = rgb.unbind(-1)
    return torch.atan2(math.sqrt(0.75) * (green - blue), red - (green + blue) / 2)


def partial(cover: Tensor) -> Tensor:
    """How much of (B, T, W, W) is neither inside nor outside, (B,): the length of the outline times its width."""
    return (cover * (1 - cover)).sum((1, 2, 3))


def choose(first: Tensor, one: Outline, other: Outline) -> Outline:
    """One of two outlines, by clip: where ``first`` (B,) holds, the former."""
    return Outline(
        cover=torch.where(first[:, None, None, None], one.cover, other.cover),
        mismatch=torch.where(first[:, None], one.mismatch, other.mismatch),
        radius=torch.where(first[:, None], one.radius, other.radius),
    )
