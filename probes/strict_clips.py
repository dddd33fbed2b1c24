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
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from datasets.factors import FactorSpace
from probes.judgement import Judgement, Reason, concatenate
from probes.projection import Camera
from probes.shape_fit import Outline, ShapeFit
from probes.solid_views import solid_views
from probes.tracking import DARK, find, surroundings, to_linear

CHUNK = 32  # clips measured at once
SHAPES = ("cube", "sphere")


@dataclass(frozen=True)
class Geometry:
    """How real clips look, apart from the class centres, which the factors hold. Lengths are in world units."""

    resolution: int  # side of a frame, px
    frames: int
    seconds: float  # from the first frame to the last
    radius: float  # of a sphere
    radius_jitter: float
    speed_slow: float  # units a second
    speed_fast: float
    heading_jitter: float  # rad, to both sides of image-right
    eye: tuple[float, float, float]  # the camera looks from here at the origin
    half_extent: float  # half the image's width for each unit of depth
    half_heights: Mapping[str, float]  # of each shape that is as large to the eye as a sphere of radius 1
    right: tuple[float, float]  # on the floor, what the camera sees as image-right
    away: tuple[float, float]  # and as away from it
    distractors: int = 0
    collisions: bool = False
    friction: float = 0.0

    @staticmethod
    def of(numbers: Mapping[str, Any]) -> Geometry:
        """From a dataset's ``judge_geometry()``; other keys are left alone.

        Raises:
            ValueError: naming the number that is missing, or what this judge cannot read.
        """
        known = {field.name: numbers[field.name] for field in fields(Geometry) if field.name in numbers}
        try:
            geometry = Geometry(**known)
        except TypeError as error:
            raise ValueError(f"the geometry for the judge of clips is incomplete: {error}") from error
        for key in ("distractors", "collisions", "friction"):
            if getattr(geometry, key):
                raise ValueError(
                    f"the judge of clips reads one object that slides at constant speed; {key}={getattr(geometry, key)}"
                )
        if geometry.frames < 4:
            raise ValueError(f"the judge of clips needs 4 frames or more to tell a path; here are {geometry.frames}")
        return geometry

    @property
    def window(self) -> int:
        """Side in pixels, odd, of a window that holds the largest object in the nearest place, and a pixel around it."""
        nearest = 0.72 * math.dist(self.eye, (0, 0, 0))
        widest = 1.3 * (self.radius + self.radius_jitter) / nearest / (2 * self.half_extent / self.resolution)
        return 2 * math.ceil(widest + 1) + 1


@dataclass(frozen=True)
class Thresholds:
    """Set once on held-out real clips, degraded ones and negatives, before any generated clip was judged."""

    version: str = "clips-1"
    floor_level: tuple[float, float] = (0.08, 0.3)  # median linear light of the floor
    floor_slope: float = 1.4  # least light of the nearest quarter of the image over that of the farthest
    floor_colour: float = 0.05  # distance of the floor's chromaticity from grey
    floor_texture: float = 0.1  # mean second difference of the floor's light, over its level
    second_object: float = 0.12  # what is coloured elsewhere in a frame, over the object's area
    least_area: float = 0.5  # of a frame's object, over the median frame's
    stray: float = 0.06  # light in the object and around it that is neither the object's nor the floor's, over all
    saturation: float = 0.6  # (max - min) / max of the object's colour
    hue: float = 0.3  # rad from a class's hue
    colour_change: float = 0.1  # distance of a frame's chromaticity from the clip's
    size_change: float = 0.1  # of a frame's radius from the clip's, over it
    transparent: float = 0.3  # the floor's light within the object, over its level
    softness: float = 3.5  # partial coverage, over that of the outline
    jump: float = 0.25  # largest distance from a straight path at constant speed, over the radius
    least_way: float = 1.0  # displacement over the radius
    speed_slack: float = 0.25  # how far past the range a speed may lie, over it
    heading_slack: float = 0.3  # rad past the jitter
    size_slack: float = 0.15  # how far past the jitter a radius may lie, over the radius
    mismatch: float = 0.029  # squared differences from the outline of the shape read, over the area, without noise
    mismatch_of_noise: float = 1.2  # how much more of it noise excuses, over the stray light that tells of noise
    most_mismatch: float = 0.065  # whatever the noise
    shape_split: float = 0.004  # by how much a cube must fit better: one of many yaws always fits a little better
    shape_margin: float = 0.005  # how far from the split the difference must lie
    shape_change: float = 0.002  # how far past the split half a clip may lie


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
        return concatenate([self._decide(self.measure(chunk)) for chunk in display.split(CHUNK)])

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

    def _decide(self, measured: dict[str, Tensor]) -> Judgement:
        geometry, limits = self.geometry, self.thresholds
        rgb = torch.stack([measured["red"], measured["green"], measured["blue"]], 1)
        saturation = 1 - rgb.amin(1) / rgb.amax(1).clamp_min(1e-6)
        away = (hue(rgb)[:, None] - self.hues + math.pi) % (2 * math.pi) - math.pi
        hue_distance, colour = away.abs().min(1)
        beyond = measured["cubical"] - limits.shape_split  # positive for a cube
        sign = torch.where(beyond > 0, 1.0, -1.0)
        halves = torch.stack([measured["cubical_early"], measured["cubical_late"]], 1) - limits.shape_split
        mismatch = torch.where(beyond > 0, measured["mismatch_cube"], measured["mismatch_sphere"])
        excused = limits.mismatch + limits.mismatch_of_noise * measured["stray"]
        speed = measured["speed"].abs()
        lowest, highest = limits.floor_level
        slowest = geometry.speed_slow * (1 - limits.speed_slack)
        fastest = geometry.speed_fast * (1 + limits.speed_slack)
        size_limit = geometry.radius_jitter + limits.size_slack * geometry.radius
        failed = {
            Reason.NO_OBJECT: measured["area"] < 0.5 * self.least_area,
            Reason.VANISHES: measured["least_area"] < limits.least_area,
            Reason.BACKGROUND: (measured["floor_level"] < lowest)
            | (measured["floor_level"] > highest)
            | (measured["floor_slope"] < limits.floor_slope)
            | (measured["floor_colour"] > limits.floor_colour)
            | (measured["floor_texture"] > limits.floor_texture),
            Reason.TWO_OBJECTS: measured["second_object"] > limits.second_object,
            Reason.CHANGES: (measured["colour_change"] > limits.colour_change)
            | (measured["size_change"] > limits.size_change)
            | ((halves * sign[:, None]).amin(1) < -limits.shape_change),
            Reason.WRONG_COLOURS: measured["stray"] > limits.stray,
            Reason.COLOUR_BETWEEN_CLASSES: (hue_distance > limits.hue) | (saturation < limits.saturation),
            Reason.TRANSPARENT: measured["transparent"] > limits.transparent,
            Reason.STANDS_STILL: measured["way"] < limits.least_way,
            Reason.JUMPS: measured["jump"] > limits.jump,
            Reason.IMPLAUSIBLE_SPEED: (speed < slowest)
            | (speed > fastest)
            | (measured["heading"].abs() > geometry.heading_jitter + limits.heading_slack),
            Reason.IMPLAUSIBLE_SIZE: (measured["radius"] - geometry.radius).abs() > size_limit,
            Reason.BLURRED: measured["softness"] > limits.softness,
            Reason.SHAPE_UNCLEAR: (beyond.abs() < limits.shape_margin)
            | (mismatch > excused.clamp_max(limits.most_mismatch)),
        }
        reasons = torch.full((len(colour),), int(Reason.NONE))
        for reason in reversed(failed):
            reasons = torch.where(failed[reason], int(reason), reasons)
        right = measured["speed"] > 0
        read = {
            "shape": torch.where(beyond > 0, self.shapes.index("cube"), self.shapes.index("sphere")),
            "colour": colour,
            "direction": torch.where(right, self.directions.index("right"), self.directions.index("left")),
        }
        seen = measured["least_area"] >= limits.least_area
        values = {
            "shape": rgb[:, :0],
            "colour": torch.full_like(rgb, torch.nan),  # light hides the material's own brightness
            "direction": torch.where(seen, measured["speed"], torch.nan)[:, None],
        }
        return Judgement(
            judge=self.name,
            classes=torch.stack([read[name] for name in self.space.names], 1),
            accepted=reasons == Reason.NONE,
            reasons=reasons,
            values=torch.cat([values[name] for name in self.space.names], 1),
            measurements=measured,
        )

    @property
    def least_area(self) -> float:
        """Of the smallest sphere where a real object is farthest, px."""
        radius = self.geometry.radius - self.geometry.radius_jitter
        return math.pi * (radius / (1.3 * self.camera.distance) / self.camera.pixel) ** 2


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
