"""An analytic ray tracer: spheres, cubes and cylinders on a floor under a sun and three area lamps.

Soft shadows, highlights, reflections in metal, two by two rays a pixel. Of each video the bare floor is lit once; a frame
then needs only the rays that meet an object and the floor in an object's shadow. The light model is that of a study
which came within 34 to 37 dB of Blender's Cycles on mostly rubber scenes; glints of lamps in flat metal are missing.

Every ray is computed by itself, by additions, multiplications, divisions and square roots, which round alike wherever a
ray stands in a tensor: a video has the same bytes whatever is rendered with it, on any number of processes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from datasets.clevrer.camera import facing
from datasets.clevrer.scenes import Scenes
from datasets.clevrer.shading import Hits, shade
from datasets.clevrer.solids import MISSED
from datasets.clevrer.stage import GLOW, LIGHTS, SAMPLES, Stage
from datasets.clevrer.vectors import Vector, dot, minus, take, unit, vector
from datasets.clevrer.world import AMBIENT, FLOOR, half_extent

RAYS_AT_ONCE = 2**18  # a tensor of them is 1 MB: it stays in a core's cache


@dataclass
class Videos:
    """What the camera sees."""

    frames: Tensor  # (B, T, 3, H, W) uint8, sRGB
    segmentation: Tensor  # (B, T, H, W) uint8: 0 is the floor, n + 1 is object n


@torch.no_grad()
def render(scenes: Scenes, resolution: int, lens: float) -> Videos:
    """Render videos.

    Args:
        scenes: B scenes of T frames.
        resolution: width and height in pixels.
        lens: mm.
    """
    frames = scenes.motion.positions.shape[1]
    together = max(1, RAYS_AT_ONCE // (frames * SAMPLES * resolution**2))
    parts = [
        _render(scenes.rows(start, start + together), resolution, lens) for start in range(0, len(scenes), together)
    ]
    return Videos(torch.cat([p.frames for p in parts]), torch.cat([p.segmentation for p in parts]))


def _render(scenes: Scenes, resolution: int, lens: float) -> Videos:
    stage = Stage(scenes)
    eye = vector(scenes.eye.float().unsqueeze(1))  # (B, 1)
    rays = _camera_rays(scenes.eye, resolution, lens)  # (B, R)
    view = _Floor(stage, eye, rays)
    depth, owner = _first_met(stage, eye, rays, view.distance)
    colour = [lit.unsqueeze(1).expand(-1, stage.frames, -1).reshape(-1) for lit in view.lit]
    _cast_shadows(stage, view, owner, colour)
    _draw_objects(stage, eye, rays, depth, owner, colour)
    shape = (len(scenes), stage.frames, SAMPLES, resolution, resolution)
    frames = torch.stack([_encode(channel.view(shape)) for channel in colour], 2)
    return Videos(frames, _majority(owner.view(shape), stage.count))


def _camera_rays(eye: Tensor, resolution: int, lens: float) -> Vector:
    """Directions of all rays, (B, R) with R = SAMPLES * H * W: a quarter of every pixel after another."""
    axis = torch.arange(resolution, dtype=torch.float64)
    places = [((axis + quarter) / resolution * 2 - 1) * half_extent(lens) for quarter in (0.25, 0.75)]
    x = torch.stack([places[0], places[1], places[0], places[1]]).view(1, SAMPLES, 1, resolution)
    y = -torch.stack([places[0], places[0], places[1], places[1]]).view(1, SAMPLES, resolution, 1)
    right, up, forward = (tuple(t.view(-1, 1, 1, 1) for t in axis) for axis in facing(eye))
    across = [f + x * r + y * u for r, u, f in zip(right, up, forward, strict=True)]
    rays = unit((across[0], across[1], across[2]))
    return rays[0].flatten(1).float(), rays[1].flatten(1).float(), rays[2].flatten(1).float()


class _Floor:
    """The floor as the camera sees it without objects."""

    def __init__(self, stage: Stage, eye: Vector, rays: Vector) -> None:
        down = -rays[2]
        below = down > 1e-4  # the horizon
        self.distance = torch.where(below, eye[2] / down.clamp(min=1e-4), MISSED)  # (B, R)
        reach = self.distance.clamp(max=1e4)
        self.point: Vector = (eye[0] + rays[0] * reach, eye[1] + rays[1] * reach, torch.zeros_like(reach))
        self.towards: list[Vector] = []  # (B, R) each, to the lights
        self.gain: list[Tensor] = []  # (B, R), what each light adds where nothing blocks it, before its colour
        grid = (len(reach), SAMPLES, -1)
        point = vector(torch.stack([t.view(grid) for t in self.point], -1))
        for light in stage.lights:
            source = vector(torch.stack(light.samples, -1).unsqueeze(2))  # (B, SAMPLES, 1)
            axis = vector(torch.stack(light.axis, -1).view(-1, 1, 1, 3))
            direction, strength = light.towards(point, source, axis)
            x, y, z = (t.expand_as(point[0]).flatten(1) for t in direction)
            self.towards.append((x, y, z))
            gain = strength.flatten(1) * z.clamp(min=0) * (FLOOR / math.pi)
            self.gain.append(torch.where(below, gain, 0.0))
        self.lit: list[Tensor] = []  # (B, R) a channel
        for channel in range(3):
            lit = torch.where(below, AMBIENT * FLOOR, AMBIENT)
            for gain, glow in zip(self.gain, GLOW, strict=True):
                lit = lit + gain * glow[channel]
            self.lit.append(lit)


def _first_met(stage: Stage, eye: Vector, rays: Vector, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to what each ray meets first, and 0 for the floor or n + 1 for object n: both flat, (B * T * R,)."""
    shape = (len(floor), stage.frames, floor.shape[1])
    depth = floor.unsqueeze(1).expand(shape).reshape(-1)
    owner = torch.zeros_like(depth, dtype=torch.uint8)
    start = vector(torch.stack(eye, -1).unsqueeze(1))  # (B, 1, 1)
    direction = vector(torch.stack(rays, -1).unsqueeze(1))  # (B, 1, R)
    for index in range(stage.count):
        centre, square = stage.spheres(index)
        offset = minus(start, centre)
        middle = dot(offset, direction)
        near = middle * middle > dot(offset, offset) - square
        where = (near & (square > 0)).flatten().nonzero().squeeze(1)
        frame, ray = _frame_and_ray(where, stage, shape[2])
        distance = stage.meet(index, frame, take(eye, frame // stage.frames), take(rays, ray))
        nearer = distance < depth[where]
        depth[where[nearer]] = distance[nearer]
        owner[where[nearer]] = index + 1
    return depth, owner


def _cast_shadows(stage: Stage, view: _Floor, owner: Tensor, colour: list[Tensor]) -> None:
    """Take from the floor, in place, the light that objects block."""
    size = view.distance.shape[1]
    seen = (owner == 0).view(len(view.distance), stage.frames, size)
    point = vector(torch.stack(view.point, -1).unsqueeze(1))  # (B, 1, R)
    for light in range(LIGHTS):
        direction = vector(torch.stack(view.towards[light], -1).unsqueeze(1))  # (B, 1, R)
        reached = seen & (view.gain[light] > 0).unsqueeze(1)
        dark = torch.zeros_like(owner, dtype=torch.bool)
        for index in range(stage.count):
            centre, square = stage.spheres(index)
            offset = minus(point, centre)
            middle, outside = dot(offset, direction), dot(offset, offset) - square
            # Ahead, or so close that a corner of the solid may be ahead though its centre is not.
            near = (middle * middle > outside) & ((middle < 0) | (outside < 0))
            where = (near & reached & (square > 0)).flatten().nonzero().squeeze(1)
            frame, ray = _frame_and_ray(where, stage, size)
            met = stage.meet(index, frame, take(view.point, ray), take(view.towards[light], ray)) < MISSED
            dark[where[met]] = True
        where = dark.nonzero().squeeze(1)
        _, ray = _frame_and_ray(where, stage, size)
        lost = view.gain[light].flatten()[ray]
        for channel in range(3):
            colour[channel][where] -= lost * GLOW[light][channel]


def _draw_objects(stage: Stage, eye: Vector, rays: Vector, depth: Tensor, owner: Tensor, colour: list[Tensor]) -> None:
    """Colour, in place, the rays that meet an object first."""
    size = rays[0].shape[1]
    for index in range(stage.count):
        where = (owner == index + 1).nonzero().squeeze(1)
        if not len(where):
            continue
        frame, ray = _frame_and_ray(where, stage, size)
        start, direction = take(eye, frame // stage.frames), take(rays, ray)
        reach = depth[where]
        hits = Hits.on_object(stage, index, frame, (ray % size) // (size // SAMPLES), start, direction, reach)
        for channel, value in enumerate(shade(stage, hits, mirror=True)):
            colour[channel][where] = value


def _frame_and_ray(where: Tensor, stage: Stage, size: int) -> tuple[Tensor, Tensor]:
    """Places in (B, T, R) as frames of (B * T) and rays of (B * R)."""
    frame = where // size
    return frame, where % size + (frame // stage.frames) * size


def _encode(linear: Tensor) -> Tensor:
    """Linear light of (B, T, SAMPLES, H, W) as sRGB bytes (B, T, H, W), rounded.

    The bytes are found among the 255 levels at which the rounded byte changes: no power, whose last bit may vary.
    """
    a, b, c, d = linear.unbind(2)
    return torch.bucketize((a + b + c + d) / SAMPLES, _levels(), out_int32=True).to(torch.uint8)


def _levels() -> Tensor:
    levels = [(byte + 0.5) / 255 for byte in range(255)]
    return torch.tensor([s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in levels])


def _majority(owner: Tensor, count: int) -> Tensor:
    """What most of a pixel's rays meet; of equals an object wins over the floor."""
    best = torch.zeros_like(owner[:, :, 0])
    most = torch.full_like(best, 1)  # an object needs two rays of four
    for label in range(1, count + 1):
        rays = (owner == label).sum(2)
        best = torch.where(rays > most, label, best)
        most = torch.maximum(most, rays.to(torch.uint8))
    return best.to(torch.uint8)
