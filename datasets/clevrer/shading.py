"""The colour of points that a ray has met: matt, glossy or a mirror, under every light, shadows included."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from datasets.clevrer.solids import MISSED
from datasets.clevrer.stage import GLOW, SAMPLES, Stage
from datasets.clevrer.vectors import Vector, ahead, dot, minus, take, unit, vector
from datasets.clevrer.world import AMBIENT, FLOOR

# Exponents of Blinn and Phong, as powers of two: squaring rounds alike everywhere, a power may not.
RUBBER_GLOSS, RUBBER_SQUARINGS = 0.03, 2  # roughness .75, a little specular
METAL_SQUARINGS = 8  # roughness .3
MATT_IN_MIRROR = 0.6  # of its colour: a metal that is seen in a metal is drawn as matt, there is no second reflection


@dataclass
class Hits:
    """M points that rays have met; one object, ``owner``, or several."""

    frame: Tensor  # (M,) int64
    sample: Tensor  # (M,) int64, the quarter of the pixel and of the lamps
    owner: Tensor  # (M,) int64, object; -1 the floor
    point: Vector  # (M,) each
    normal: Vector
    view: Vector  # towards where the ray came from
    base: Vector  # linear RGB
    metal: Tensor  # (M,) bool

    @staticmethod
    def on_object(
        stage: Stage, index: int, frame: Tensor, sample: Tensor, start: Vector, direction: Vector, reach: Tensor
    ) -> Hits:
        """Rays (M,) that meet object ``index`` at a distance ``reach``."""
        video = frame // stage.frames
        point = ahead(start, direction, reach)
        return Hits(
            frame=frame,
            sample=sample,
            owner=torch.full_like(frame, index),
            point=point,
            normal=stage.normal(index, frame, point),
            view=(-direction[0], -direction[1], -direction[2]),
            base=vector(stage.rgb[video, index]),
            metal=stage.metal[video, index],
        )

    @staticmethod
    def on_floor(frame: Tensor, sample: Tensor, start: Vector, direction: Vector, reach: Tensor) -> Hits:
        """Rays (M,) that meet the floor at a distance ``reach``."""
        x, y, _ = ahead(start, direction, reach)
        zero, one = torch.zeros_like(x), torch.ones_like(x)
        return Hits(
            frame=frame,
            sample=sample,
            owner=torch.full_like(frame, -1),
            point=(x, y, zero),
            normal=(zero, zero, one),
            view=(-direction[0], -direction[1], -direction[2]),
            base=(FLOOR * one, FLOOR * one, FLOOR * one),
            metal=torch.zeros_like(frame, dtype=torch.bool),
        )

    def rows(self, rows: Tensor) -> Hits:
        """Some of the points."""
        return Hits(
            frame=self.frame[rows],
            sample=self.sample[rows],
            owner=self.owner[rows],
            point=take(self.point, rows),
            normal=take(self.normal, rows),
            view=take(self.view, rows),
            base=take(self.base, rows),
            metal=self.metal[rows],
        )


def shade(stage: Stage, hits: Hits, mirror: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Linear light that points send to the viewer, a channel after another, each (M,).

    Args:
        stage: what surrounds them.
        hits: the points.
        mirror: whether metal reflects its surroundings; if not, it is drawn as matt.
    """
    matt = torch.where(hits.metal, 0.0 if mirror else MATT_IN_MIRROR, 1.0)
    gloss = torch.where(hits.owner < 0, 0.0, RUBBER_GLOSS)
    colour = [base * matt * AMBIENT for base in hits.base]
    video = hits.frame // stage.frames
    for light, glow in zip(stage.lights, GLOW, strict=True):
        source = take(light.samples, video * SAMPLES + hits.sample)
        direction, strength = light.towards(hits.point, source, take(light.axis, video))
        received = strength * dot(hits.normal, direction).clamp(min=0) / math.pi
        _keep_unblocked(stage, hits, direction, received)
        # The highlight is that of the lamp's middle: its samples would speckle.
        middle = take(light.middle, video)
        if not light.far:
            middle = unit(minus(middle, hits.point))
        shine = _highlight(hits, middle)
        for channel, base in enumerate(hits.base):
            surface = base * matt + torch.where(hits.metal, base, gloss) * shine
            colour[channel] = colour[channel] + surface * received * glow[channel]
    if mirror:
        _reflect(stage, hits, colour)
    return colour[0], colour[1], colour[2]


def _keep_unblocked(stage: Stage, hits: Hits, direction: Vector, received: Tensor) -> None:
    """Set the light that points receive from some direction to 0, in place, where another object is in between."""
    rows = (received > 0).nonzero().squeeze(1)
    blocked = stage.blocked(hits.frame[rows], hits.owner[rows], take(hits.point, rows), take(direction, rows))
    received[rows[blocked]] = 0


def _highlight(hits: Hits, direction: Vector) -> Tensor:
    """Blinn and Phong's highlight of a light in some direction: (M,)."""
    view = hits.view
    half = unit((direction[0] + view[0], direction[1] + view[1], direction[2] + view[2]))
    cosine = dot(hits.normal, half).clamp(min=0)
    for _ in range(RUBBER_SQUARINGS):
        cosine = cosine * cosine
    broad = cosine * ((2**RUBBER_SQUARINGS + 2) / 8)
    for _ in range(METAL_SQUARINGS - RUBBER_SQUARINGS):
        cosine = cosine * cosine
    return torch.where(hits.metal, cosine * ((2**METAL_SQUARINGS + 2) / 8), broad)


def _reflect(stage: Stage, hits: Hits, colour: list[Tensor]) -> None:
    """Add to metal points, in place, what they mirror: other objects, the floor, or the surroundings."""
    rows = hits.metal.nonzero().squeeze(1)
    if not len(rows):
        return
    metal = hits.rows(rows)
    facing = dot(metal.view, metal.normal).clamp(0, 1)
    x, y, z = (2 * facing * n - v for n, v in zip(metal.normal, metal.view, strict=True))
    seen = _surroundings(stage, metal, (x, y, z))
    away = 1 - facing
    schlick = away * away * away * away * away
    for channel, base in enumerate(metal.base):
        colour[channel][rows] += (base + (1 - base) * schlick) * seen[channel]


def _surroundings(stage: Stage, metal: Hits, direction: Vector) -> list[Tensor]:
    """What rays from metal points meet: linear RGB, each (M,)."""
    reach = torch.where(direction[2] < -1e-6, metal.point[2] / (-direction[2]).clamp(min=1e-6), MISSED)
    owner = torch.where(reach < MISSED, -1, -2)
    for index in range(stage.count):
        distance = stage.meet(index, metal.frame, metal.point, direction)
        nearer = (distance < reach) & (metal.owner != index)
        reach, owner = torch.where(nearer, distance, reach), torch.where(nearer, index, owner)
    seen = [torch.full_like(reach, AMBIENT) for _ in range(3)]
    for index in range(-1, stage.count):
        rows = (owner == index).nonzero().squeeze(1)
        if not len(rows):
            continue
        start, ray = take(metal.point, rows), take(direction, rows)
        common = metal.frame[rows], metal.sample[rows], start, ray, reach[rows]
        hits = Hits.on_floor(*common) if index < 0 else Hits.on_object(stage, index, *common)
        for channel, value in enumerate(shade(stage, hits, mirror=False)):
            seen[channel][rows] = value
    return seen
