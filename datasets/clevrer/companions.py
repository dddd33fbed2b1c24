"""The target's company: cylinders of other colours that pass by, or one that it runs into.

Neither takes a controlled colour or shape. Gray, green, cyan and yellow only: brown is close to red, purple lies between
red and blue. Everything here is in floor coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datasets.clevrer.config import ClevrerConfig
from datasets.clevrer.draws import first, jitter, pick, turned, uniforms
from datasets.clevrer.physics import NEVER, Discs, Motion, coast, simulate
from datasets.clevrer.world import COLOURS, DENSITY, HALF, RESTITUTION

OTHER_COLOURS = tuple(list(COLOURS).index(name) for name in ("gray", "green", "cyan", "yellow"))
TRIES = 32  # candidates for each place
GAP = 0.25  # units between two surfaces at least; CLEVR
OVERLAP = 0.75  # of two radii: how near an object in front may come to the target's line of sight
MARGIN = 1.5  # units: how much farther towards and away from the camera than the target the others stand
DISC = HALF[2]  # a cylinder's disc, as a multiple of its radius


@dataclass
class Target:
    """What the others must know of the target: nothing of its factors but the velocity."""

    middle: Tensor  # (B, 2) at mid-clip
    velocity: Tensor  # (B, 2)
    radius: Tensor  # (B, 1)
    metal: Tensor  # (B, 1) bool


@dataclass
class Others:
    """M objects a scene."""

    middle: Tensor  # (B, M, 2) at mid-clip
    velocity: Tensor  # (B, M, 2)
    radius: Tensor  # (B, M); the disc's is DISC times it
    colour: Tensor  # (B, M) int64
    metal: Tensor  # (B, M) bool
    present: Tensor  # (B, M) bool


def slide(config: ClevrerConfig, target: Target, others: Others) -> Motion:
    """The motion of the target and the others, N = 1 + M, in floor coordinates."""
    middle = torch.cat([target.middle.unsqueeze(1), others.middle], 1)
    velocity = torch.cat([target.velocity.unsqueeze(1), others.velocity], 1)
    if not config.collisions and not config.friction:
        return coast(middle, velocity, config.frames, config.seconds)
    radius, metal = torch.cat([target.radius, others.radius], 1), torch.cat([target.metal, others.metal], 1)
    discs = Discs(
        # Both of the target's shapes slide as the same disc: collisions say nothing of the shape.
        radius=torch.cat([target.radius, DISC * others.radius], 1),
        mass=_of_material(metal, DENSITY) * radius * radius * radius,
        friction=torch.full_like(radius, config.friction),
        restitution=_of_material(metal, RESTITUTION),
        present=torch.cat([torch.ones_like(target.metal), others.present], 1),
    )
    return simulate(middle - velocity * (config.seconds / 2), velocity, discs, config.frames, config.seconds)


def _of_material(metal: Tensor, pair: tuple[float, float]) -> Tensor:
    return torch.tensor(pair, dtype=torch.float64)[metal.long()]


def pass_distractors(config: ClevrerConfig, seed: int, indices: Sequence[int], target: Target) -> Others:
    """Cylinders that never touch anything nor hide the target.

    Their paths stay clear of the target's path with either sign of its velocity, so that they say nothing of the
    direction.
    """
    count = config.distractors
    shift, depth, speed, angle = uniforms(seed, indices, "distractors", count, TRIES, 4).unbind(-1)
    reach = config.spread("depth", config.depth_jitter) + MARGIN
    places = torch.stack([jitter(shift) * config.room(reach, config.radius), jitter(depth) * reach], -1)
    paths = turned(config.speed_fast * (2 * speed - 1).clamp(min=0), 2 * math.pi * angle)  # half stand still
    radius, colour, metal = _looks(config, uniforms(seed, indices, "distractors' looks", count, 3))
    others = Others(places[:, :, 0].clone(), paths[:, :, 0].clone(), radius, colour, metal, torch.zeros_like(metal))
    for index in range(count):
        place, path, size = places[:, index], paths[:, index], radius[:, index, None]
        disc = place, path, DISC * size
        free = _in_view(config, place, path, size)
        for sign in (1, -1):
            goal = target.middle.unsqueeze(1), sign * target.velocity.unsqueeze(1), target.radius
            free &= _clear(config, disc, goal) & _out_of_sight_line(config, disc, goal)
        for earlier in range(index):
            other = others.middle[:, earlier, None], others.velocity[:, earlier, None], DISC * radius[:, earlier, None]
            free &= _clear(config, disc, other) | ~others.present[:, earlier, None]
        chosen = first(free)
        others.present[:, index] = chosen < TRIES
        chosen = chosen.clamp(max=TRIES - 1)
        others.middle[:, index], others.velocity[:, index] = pick(place, chosen), pick(path, chosen)
    return others


def meet_partner(config: ClevrerConfig, seed: int, indices: Sequence[int], target: Target) -> Others:
    """A cylinder that the target hits around mid-clip, placed such that both stay in view afterwards."""
    when, angle, speed, way = uniforms(seed, indices, "partner", TRIES, 4).unbind(-1)
    radius, colour, metal = _looks(config, uniforms(seed, indices, "partner's looks", 1, 3))
    time = config.seconds * (0.3 * when - 0.2).unsqueeze(-1)  # from mid-clip; a little early, to see what comes of it
    # At most 49 degrees off the target's path, and slower than the target comes on: they always meet.
    x, y = target.velocity.unsqueeze(1).unbind(-1)  # (B, 1)
    length = (x * x + y * y).sqrt()
    cosine, sine = turned(torch.ones_like(angle), 0.85 * jitter(angle)).unbind(-1)
    normal = torch.stack([(x * cosine - y * sine) / length, (x * sine + y * cosine) / length], -1)
    path = turned(0.5 * config.speed_slow * (2 * speed - 1).clamp(min=0), 2 * math.pi * way)  # half stand still
    touching = (target.radius + DISC * radius).unsqueeze(-1)
    place = target.middle.unsqueeze(1) + target.velocity.unsqueeze(1) * time + touching * normal - path * time
    looks = radius, colour, metal, torch.ones_like(metal)
    chosen = _best_meeting(config, target, place, path, looks)
    return Others(pick(place, chosen).unsqueeze(1), pick(path, chosen).unsqueeze(1), *looks)


def _best_meeting(
    config: ClevrerConfig, target: Target, place: Tensor, path: Tensor, looks: tuple[Tensor, Tensor, Tensor, Tensor]
) -> Tensor:
    """The first of K partners (B, K, 2) whom the target hits and nobody leaves the image, or else the nearest to that: (B,)."""
    batch, tries = place.shape[:2]
    each = [t.repeat_interleave(tries, 0) for t in (target.middle, target.velocity, target.radius, target.metal)]
    partners = Others(place.reshape(-1, 1, 2), path.reshape(-1, 1, 2), *(t.repeat_interleave(tries, 0) for t in looks))
    motion = slide(config, Target(*each), partners)
    sizes = torch.cat([each[2], partners.radius], 1).unsqueeze(1)
    beyond = _beyond(config, motion.positions, sizes).flatten(1).amax(1)
    missed = motion.contact_frames[:, 0, 1] == NEVER  # friction may stop the target on its way
    beyond = torch.where(missed, math.inf, beyond).view(batch, tries)
    fitting = first(beyond <= 0)
    return torch.where(fitting < tries, fitting, beyond.argmin(1))


def _looks(config: ClevrerConfig, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Radius, colour and metal, each (B, M), from uniform numbers (B, M, 3)."""
    radius = config.radius + config.spread("size", config.radius_jitter) * jitter(uniform[..., 0])
    colour = torch.tensor(OTHER_COLOURS)[(uniform[..., 1] * len(OTHER_COLOURS)).long()]
    return radius, colour, config.spread("material", 1.0) * jitter(uniform[..., 2]) > 0


def _beyond(config: ClevrerConfig, position: Tensor, radius: Tensor) -> Tensor:
    """How far objects at (..., 2) stand outside of the floor that is used; at most 0 within."""
    along, away = position.unbind(-1)
    reach = config.spread("depth", config.depth_jitter) + MARGIN
    return torch.maximum(along.abs() - config.room(away, radius), away.abs() - reach)


def _in_view(config: ClevrerConfig, place: Tensor, path: Tensor, radius: Tensor) -> Tensor:
    """Whether paths (B, K, 2) begin and end in view: (B, K)."""
    ends = (place - path * (config.seconds / 2), place + path * (config.seconds / 2))
    return torch.maximum(*(_beyond(config, end, radius) for end in ends)) <= 0


def _clear(config: ClevrerConfig, one: tuple[Tensor, Tensor, Tensor], other: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Whether two discs (place, path, radius) keep their distance throughout the clip: (B, K)."""
    offset, relative = one[0] - other[0], one[1] - other[1]
    closing = -(offset[..., 0] * relative[..., 0] + offset[..., 1] * relative[..., 1])
    speed = relative[..., 0] * relative[..., 0] + relative[..., 1] * relative[..., 1]
    half = config.seconds / 2
    time = (closing / speed.clamp(min=1e-12)).clamp(-half, half).unsqueeze(-1)  # of the least distance
    least = offset + relative * time
    distance = (least[..., 0] * least[..., 0] + least[..., 1] * least[..., 1]).sqrt()
    return distance >= one[2] + other[2] + GAP


def _out_of_sight_line(
    config: ClevrerConfig, one: tuple[Tensor, Tensor, Tensor], target: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """Whether a disc is at no frame in front of the target and in line with it: (B, K)."""
    times = torch.linspace(-config.seconds / 2, config.seconds / 2, 17, dtype=torch.float64).view(-1, 1, 1, 1)
    along, away = (one[0] - target[0] + (one[1] - target[1]) * times).unbind(-1)
    return ((away > 0) | (along.abs() > OVERLAP * (one[2] + target[2]))).all(0)
