"""What the analytic judge of clips knows beforehand: how real clips look, and how far from that it still accepts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from probes.judgement import geometry_of


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
        geometry = geometry_of(Geometry, numbers, "clips")
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
