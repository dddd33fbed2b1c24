"""Scenes as functions of (seed, index): what the factors are, what varies besides, and where everything is at every frame.

Every property is drawn from a stream of its own, named by seed, index and property, and no nuisance's draw reads a
factor. So the same index with other factors is the same scene but for these factors, and a nuisance that is switched on
changes no other one. The position is drawn at mid-clip and speeds are constant: a clip to the right played backwards is
a draw of a clip to the left, and no single frame tells which it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from datasets.clevrer.camera import to_world
from datasets.clevrer.companions import Target, meet_partner, pass_distractors, slide
from datasets.clevrer.config import YAW, ClevrerConfig
from datasets.clevrer.draws import cosine_sine, jitter, turned, uniforms
from datasets.clevrer.physics import Motion
from datasets.clevrer.world import ABSENT, COLOURS, EYE, HALF, LAMPS, SHAPES, linear_colour

CYLINDER = SHAPES.index("cylinder")
T = TypeVar("T")


@dataclass
class Scenes:
    """B scenes of up to N objects; object 0 is the target, which has the factors. Lengths are in Blender units."""

    classes: Tensor  # (B, 3) int64: shape, colour, direction
    values: Tensor  # (B, 4) float32: linear RGB of the target, signed speed along its path
    shape: Tensor  # (B, N) int64, index into world.SHAPES, ABSENT where there is no object
    colour: Tensor  # (B, N) int64, index into world.COLOURS
    rgb: Tensor  # (B, N, 3) float32, linear
    metal: Tensor  # (B, N) bool; rubber otherwise
    radius: Tensor  # (B, N) float64; HALF[shape] * radius is half the height
    yaw: Tensor  # (B, N) float64, rad, counter-clockwise from above; constant within a clip
    motion: Motion  # (B, T, N, 2) world coordinates
    eye: Tensor  # (B, 3) float64, the camera, which looks at the origin
    lamps: Tensor  # (B, 3, 3) float64, positions of world.LAMPS, turned to the origin
    nuisances: Tensor  # (B, 19) float32, what varies besides the factors, as ClevrerConfig.nuisance_centres lists it

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def half(self) -> Tensor:
        """Half the height of every object, which is the height of its centre: (B, N) float64."""
        return torch.tensor(HALF, dtype=torch.float64)[self.shape.clamp(min=0)] * self.radius

    @property
    def centres(self) -> Tensor:
        """Centres of the objects in world coordinates: (B, T, N, 3) float64."""
        height = self.half.unsqueeze(1).expand(self.motion.positions.shape[:3])
        return torch.cat([self.motion.positions, height.unsqueeze(-1)], -1)

    def rows(self, start: int, stop: int) -> Scenes:
        """Some of the scenes."""
        return _rows(self, start, stop)


def draw_scenes(config: ClevrerConfig, seed: int, indices: Sequence[int], classes: Tensor | None = None) -> Scenes:
    """The scenes of a stream of videos.

    Args:
        config: what may vary.
        seed: names the stream; for a part of a dataset use ``seed_for(seed, name, part)``.
        indices: which scenes; each is a function of (config, seed, index) alone.
        classes: (B, 3) int64 in place of index modulo the number of compositions; nothing else changes with it, except
            where the objects collide.
    """
    config.validate()
    if classes is None:
        space = config.space.controlled
        table = torch.tensor([space.class_indices(c) for c in space.compositions])
        classes = table[torch.tensor(list(indices), dtype=torch.int64) % len(table)]
    values = values_of(config, classes, uniforms(seed, indices, "values", 4))

    def vary(nuisance: str, width: float, count: int = 1) -> Tensor:
        """Uniform +- width around 0: (B, count)."""
        return config.spread(nuisance, width) * jitter(uniforms(seed, indices, nuisance, count))

    middle = torch.cat([vary("position", config.slack), vary("depth", config.depth_jitter)], 1)
    heading, yaw = vary("heading", config.heading_jitter), YAW + vary("yaw", math.pi)
    moved, lit = vary("camera", config.camera_jitter, 3), vary("lights", config.lamp_jitter, 9)
    velocity = turned(values[:, 3:].double(), heading).squeeze(1)
    target = Target(middle, velocity, config.radius + vary("size", config.radius_jitter), vary("material", 1.0) > 0)
    others = (meet_partner if config.collisions else pass_distractors)(config, seed, indices, target)
    colours = torch.tensor([linear_colour(name) for name in COLOURS])
    shape = torch.cat([_target(config, classes, 0, SHAPES), torch.where(others.present, CYLINDER, ABSENT)], 1)
    lamps = torch.tensor([lamp.position for lamp in LAMPS], dtype=torch.float64)
    return Scenes(
        classes=classes,
        values=values,
        shape=shape,
        colour=torch.cat([_target(config, classes, 1, tuple(COLOURS)), others.colour], 1),
        rgb=torch.cat([values[:, None, :3], colours[others.colour]], 1),
        metal=torch.cat([target.metal, others.metal], 1),
        radius=torch.cat([target.radius, others.radius], 1),
        yaw=torch.cat([yaw, torch.zeros_like(others.radius)], 1),
        motion=_in_world(slide(config, target, others)),
        eye=torch.tensor(EYE, dtype=torch.float64) + moved,
        lamps=lamps + lit.view(-1, 3, 3),
        nuisances=torch.cat(
            [middle, heading, target.radius, *cosine_sine(yaw), target.metal.double(), lit, moved], 1
        ).float(),
    )


def values_of(config: ClevrerConfig, classes: Tensor, uniform: Tensor) -> Tensor:
    """Values as real videos have them.

    Args:
        config: the widths.
        classes: (B, 3).
        uniform: (B, 4) uniform numbers in [0, 1).

    Returns:
        float32 (B, 4): linear RGB and signed speed.
    """
    colour = config.space.factors[1]
    rgb = torch.tensor(colour.centres)[classes[:, 1]] + config.colour_jitter * jitter(uniform[:, :3])
    speed = config.speed_slow + (config.speed_fast - config.speed_slow) * uniform[:, 3:]
    sign = 2 * classes[:, 2:] - 1
    return torch.cat([rgb.clamp(0, 1), sign * speed], 1).float()


def _target(config: ClevrerConfig, classes: Tensor, factor: int, names: tuple[str, ...]) -> Tensor:
    """Where the target's class of a factor stands among ``names``: (B, 1)."""
    table = torch.tensor([names.index(name) for name in config.space.factors[factor].classes])
    return table[classes[:, factor : factor + 1]]


def _in_world(motion: Motion) -> Motion:
    """A motion in floor coordinates, in world coordinates."""
    return Motion(
        positions=to_world(motion.positions),
        velocities=to_world(motion.velocities),
        contact_frames=motion.contact_frames,
        contact_points=to_world(motion.contact_points),
    )


def _rows(item: T, start: int, stop: int) -> T:
    parts: dict[str, Any] = {}
    for field in fields(item):  # type: ignore[arg-type]
        value = getattr(item, field.name)
        parts[field.name] = _rows(value, start, stop) if is_dataclass(value) else value[start:stop]
    return type(item)(**parts)
