"""The tables that rays are traced in: every object of every frame, and the four lamps, as plain float32 numbers.

Frames of several videos are numbered through, ``frame = video * T + t``; a camera and lamps belong to a video.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from datasets.clevrer.camera import facing
from datasets.clevrer.draws import cosine_sine
from datasets.clevrer.scenes import Scenes
from datasets.clevrer.solids import BOUNDS, MISSED, entry, outward
from datasets.clevrer.vectors import Vector, dot, minus, take, unit, vector
from datasets.clevrer.world import LAMPS, SHAPES, SUN, SUN_ANGLE, SUN_STRENGTH

SAMPLES = 4  # rays a pixel, two by two; each sees another quarter of every lamp
QUARTERS = ((-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25))
GLOW = ((1.0, 1.0, 1.0), *(lamp.colour for lamp in LAMPS))  # linear RGB of every light, the sun first
LIGHTS = len(GLOW)


@dataclass
class Light:
    """One light as B videos see it. A far one has no position: ``samples`` and ``middle`` are then directions."""

    samples: Vector  # (B, SAMPLES): points on the lamp
    middle: Vector  # (B,)
    axis: Vector  # (B,) where the lamp looks
    power: float  # W; W / m^2 of the sun
    far: bool

    def towards(self, point: Vector, source: Vector, axis: Vector) -> tuple[Vector, Tensor]:
        """Directions from points to ``source``, a point of the lamp, and the light that falls on a plane facing it.

        The objects' region ends before any lamp, so whatever a ray to a lamp meets stands before the lamp.
        """
        if self.far:
            return source, torch.full_like(point[0], self.power)
        offset = minus(source, point)
        square = dot(offset, offset)
        distance = square.sqrt()
        direction = offset[0] / distance, offset[1] / distance, offset[2] / distance
        return direction, self.power * (-dot(direction, axis)).clamp(min=0) / (math.pi * square)


class Stage:
    """Objects and lights of B videos of T frames, M = B * T."""

    def __init__(self, scenes: Scenes) -> None:
        self.frames = scenes.motion.positions.shape[1]
        self.count = scenes.shape.shape[1]
        self.shape = scenes.shape  # (B, N)
        self.half = scenes.half.float()  # (B, N)
        self.rgb = scenes.rgb  # (B, N, 3)
        self.metal = scenes.metal  # (B, N)
        self.cosine, self.sine = (t.float() for t in cosine_sine(scenes.yaw))  # (B, N)
        self.centre = scenes.centres.flatten(0, 1).float()  # (M, N, 3)
        self.eye = scenes.eye
        bounds = torch.tensor(BOUNDS)[scenes.shape.clamp(min=0)] * self.half * 1.001  # a little more: float32
        self.bound = torch.where(scenes.shape >= 0, bounds, -1.0)  # (B, N), negative where there is no object
        self.lights = _lights(scenes.lamps)

    def spheres(self, index: int) -> tuple[Vector, Tensor]:
        """Centre (B, T, 1) and squared radius (B, 1, 1) of the sphere around an object; negative where there is none."""
        bound = self.bound[:, index].view(-1, 1, 1)
        return vector(self.centre[:, index].view(-1, self.frames, 1, 3)), bound * bound.abs()

    def meet(self, index: int, frame: Tensor, origin: Vector, direction: Vector) -> Tensor:
        """Distance (M,) at which rays enter object ``index`` as it is in a frame (M,), MISSED where they do not."""
        video = frame // self.frames
        start = self._local(index, frame, video, origin)
        along = self._turned_back(index, video, direction)
        distance = torch.full_like(direction[0], MISSED)
        shape, half = self.shape[video, index], self.half[video, index]
        for kind in range(len(SHAPES)):
            rows = (shape == kind).nonzero().squeeze(1)
            if len(rows):
                distance[rows] = entry(kind, half[rows], take(start, rows), take(along, rows))
        return distance

    def normal(self, index: int, frame: Tensor, point: Vector) -> Vector:
        """Normals of object ``index`` at points of its surface, each (M,)."""
        video = frame // self.frames
        local = self._local(index, frame, video, point)
        x, y, z = (torch.zeros_like(t) for t in local)
        shape = self.shape[video, index]
        for kind in range(len(SHAPES)):
            rows = (shape == kind).nonzero().squeeze(1)
            if len(rows):
                x[rows], y[rows], z[rows] = outward(kind, take(local, rows))
        cosine, sine = self.cosine[video, index], self.sine[video, index]
        return cosine * x - sine * y, sine * x + cosine * y, z

    def blocked(self, frame: Tensor, owner: Tensor, origin: Vector, direction: Vector) -> Tensor:
        """Whether rays (M,) from the surface of ``owner`` (M,), an object or -1 for the floor, meet another object."""
        found = torch.zeros_like(frame, dtype=torch.bool)
        for index in range(self.count):
            rows = (owner != index).nonzero().squeeze(1)  # a convex solid does not shade itself where it faces the lamp
            if len(rows):
                met = self.meet(index, frame[rows], take(origin, rows), take(direction, rows)) < MISSED
                found[rows] = found[rows] | met
        return found

    def _local(self, index: int, frame: Tensor, video: Tensor, point: Vector) -> Vector:
        return self._turned_back(index, video, minus(point, vector(self.centre[frame, index])))

    def _turned_back(self, index: int, video: Tensor, given: Vector) -> Vector:
        cosine, sine = self.cosine[video, index], self.sine[video, index]
        x, y, z = given
        return cosine * x + sine * y, cosine * y - sine * x, z


def _lights(positions: Tensor) -> list[Light]:
    """The sun and the lamps at (B, 3, 3)."""
    distance = math.sqrt(sum(x * x for x in SUN))
    sun = torch.tensor([[x / distance for x in SUN]], dtype=torch.float64).expand(len(positions), 3)
    # The sun is a lamp whose width at distance 1 is its apparent diameter.
    lights = [_light(sun, SUN_ANGLE, SUN_STRENGTH, far=True)]
    for index, lamp in enumerate(LAMPS):
        lights.append(_light(positions[:, index], lamp.size, lamp.power, far=False))
    return lights


def _light(position: Tensor, size: float, power: float, far: bool) -> Light:
    right, up, forward = facing(position)
    offsets = [[size * (a * r + b * u) for a, b in QUARTERS] for r, u in zip(right, up, strict=True)]
    spread = torch.stack([torch.stack(axis, 1) for axis in offsets], -1)  # (B, SAMPLES, 3)
    samples = vector(position.unsqueeze(1) + spread)
    points = unit(samples) if far else samples
    return Light(_float(points), _float(vector(position)), _float(forward), power, far)


def _float(a: Vector) -> Vector:
    return a[0].float(), a[1].float(), a[2].float()
