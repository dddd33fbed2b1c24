"""Discs that slide on a floor and push each other: elastic or damped impulses, friction of the floor, first contacts.

Two dimensions are enough for CLEVRER's scenes, where nothing topples or jumps. Discs have no spin and their rims no
friction, so an impulse acts along the line between two centres. All scenes of a batch are moved at once, each as if it
were alone: float64, elementwise operations only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

GRAVITY = 10.0  # units a second squared; Kubric
STEPS_PER_SECOND = 240  # at least; Kubric
NEVER = -1.0  # the frame of a contact that does not happen


@dataclass
class Motion:
    """Where everything is at every frame; x and y in world coordinates, float64."""

    positions: Tensor  # (B, T, N, 2)
    velocities: Tensor  # (B, T, N, 2), units a second
    contact_frames: Tensor  # (B, N, N) symmetric; frame of the first contact, a fraction; NEVER without one
    contact_points: Tensor  # (B, N, N, 2) where the rims meet then; 0 without one


@dataclass
class Discs:
    """What is pushed. Every tensor but the last is (B, N), float64."""

    radius: Tensor
    mass: Tensor
    friction: Tensor  # Coulomb's coefficient with the floor
    restitution: Tensor  # 1 is elastic; of two discs the smaller counts
    present: Tensor  # (B, N) bool; absent discs touch nothing


def coast(middle: Tensor, velocity: Tensor, frames: int, seconds: float) -> Motion:
    """Constant velocities, told by the positions at mid-clip (B, N, 2).

    Times are symmetric about mid-clip to the last bit: with the opposite velocity the same positions come in reverse.
    """
    times = (2 * torch.arange(frames, dtype=torch.float64) - (frames - 1)) * (seconds / (2 * (frames - 1)))
    shifts = velocity.unsqueeze(1) * times.view(1, -1, 1, 1)
    batch, count = middle.shape[:2]
    return Motion(
        positions=middle.unsqueeze(1) + shifts,
        velocities=velocity.unsqueeze(1).expand_as(shifts).clone(),
        contact_frames=torch.full((batch, count, count), NEVER, dtype=torch.float64),
        contact_points=torch.zeros(batch, count, count, 2, dtype=torch.float64),
    )


def simulate(start: Tensor, velocity: Tensor, discs: Discs, frames: int, seconds: float) -> Motion:
    """Move discs from the first frame to the last.

    Args:
        start: positions (B, N, 2) at the first frame.
        velocity: (B, N, 2) at the first frame, units a second.
        discs: their properties.
        frames: T.
        seconds: from the first frame to the last.
    """
    steps = math.ceil(STEPS_PER_SECOND * seconds / (frames - 1))  # between two frames
    dt = seconds / (frames - 1) / steps
    count = start.shape[1]
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    motion = coast(start, velocity, frames, seconds)  # for its shapes
    position, velocity = start.clone(), velocity.clone()
    for frame in range(frames):
        motion.positions[:, frame], motion.velocities[:, frame] = position, velocity
        for step in range(steps if frame < frames - 1 else 0):
            velocity = _slowed(velocity, discs.friction * (GRAVITY * dt))
            position = position + velocity * dt
            for pair in pairs:
                now = frame + (step + 1) / steps
                _push(position, velocity, discs, pair, motion, now, seconds / (frames - 1))
    return motion


def _slowed(velocity: Tensor, loss: Tensor) -> Tensor:
    """Velocities (B, N, 2) shortened by (B, N), at most to a stop."""
    speed = _length(velocity)
    return velocity * (1 - loss / speed.clamp(min=1e-12)).clamp(min=0).unsqueeze(-1)


def _push(
    position: Tensor, velocity: Tensor, discs: Discs, pair: tuple[int, int], motion: Motion, now: float, interval: float
) -> None:
    """Let two discs of every scene bounce off each other where they overlap, in place; note the first contacts.

    ``now`` counts frames, ``interval`` is the time between two of them.
    """
    i, j = pair
    offset = position[:, j] - position[:, i]
    distance = _length(offset)
    overlap = discs.radius[:, i] + discs.radius[:, j] - distance
    rows = ((overlap > 0) & discs.present[:, i] & discs.present[:, j]).nonzero().squeeze(1)
    if not len(rows):
        return
    overlap = overlap[rows]
    normal = offset[rows] / distance[rows].clamp(min=1e-12).unsqueeze(1)
    relative = velocity[rows, j] - velocity[rows, i]
    closing = -(relative[:, 0] * normal[:, 0] + relative[:, 1] * normal[:, 1])
    lightness_i, lightness_j = 1 / discs.mass[rows, i], 1 / discs.mass[rows, j]
    bounce = 1 + torch.minimum(discs.restitution[rows, i], discs.restitution[rows, j])
    impulse = bounce * closing.clamp(min=0) / (lightness_i + lightness_j)
    velocity[rows, i] -= (impulse * lightness_i).unsqueeze(1) * normal
    velocity[rows, j] += (impulse * lightness_j).unsqueeze(1) * normal
    new = (motion.contact_frames[rows, i, j] == NEVER) & (closing > 0)
    first = rows[new]
    since = overlap[new] / closing[new].clamp(min=1e-12) / interval  # frames ago: rims touched within the step
    points = position[first, i] + discs.radius[first, i].unsqueeze(1) * normal[new]
    for a, b in ((i, j), (j, i)):
        motion.contact_frames[first, a, b] = (now - since).clamp(min=0)
        motion.contact_points[first, a, b] = points
    # Pushed apart in proportion to their lightness, so that the common centre of mass stays where it was.
    share = (overlap * lightness_i / (lightness_i + lightness_j)).unsqueeze(1)
    position[rows, i] -= share * normal
    position[rows, j] += (overlap.unsqueeze(1) - share) * normal


def _length(vector: Tensor) -> Tensor:
    """Length of (..., 2); written out, for the order of a sum must not depend on the batch."""
    return (vector[..., 0] * vector[..., 0] + vector[..., 1] * vector[..., 1]).sqrt()
