"""The factors of a video that was made elsewhere, from its annotations: which object is the target, and where it goes.

The target is the one red or blue cube or sphere that moves; other objects are company. Videos with none or several are of
no use, and say why.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from datasets.clevrer.annotations import Annotation
from datasets.clevrer.camera import facing
from datasets.clevrer.world import RIGHT
from datasets.factors import FactorSpace

# Why a video is of no use.
NO_CANDIDATE = "no red or blue cube or sphere"
STILL = "no red or blue cube or sphere moves"
SEVERAL = "several red or blue cubes or spheres move"
HARDLY_SEEN = "the target is out of view for too long"
ELSEWHERE = "the target moves neither to the left nor to the right"


@dataclass(frozen=True)
class Label:
    """What a video shows."""

    classes: tuple[int, ...]  # (F,): shape, colour, direction
    values: tuple[float, ...]  # (V,): linear RGB, signed speed in units a second
    frames: int  # of the whole video


def label_of(
    annotation: Annotation, space: FactorSpace, seconds: float, slowest: float, least_seen: float
) -> Label | str:
    """The factors of a video, or the reason why it has none.

    What a file of ours says under ``factors`` is taken as it is. Else the colour's values are the centre of its class, and
    the speed is the mean along the camera's right from the first to the last frame in which the target is in view.

    Args:
        annotation: of the video.
        space: shape, colour and direction, in this order, with CLEVRER's words for the first two.
        seconds: from the video's first frame to its last.
        slowest: units a second; what is slower stands still.
        least_seen: the share of the frames in which the target must be in view.

    Raises:
        ValueError: the file's own factors are none of this space.
    """
    frames = len(annotation.location)
    if annotation.classes:
        return Label(*_given(annotation, space), frames)
    shapes, colours = (factor.classes for factor in space.factors[:2])
    named = list(zip(annotation.shapes, annotation.colours, strict=True))
    candidates = [n for n, (shape, colour) in enumerate(named) if shape in shapes and colour in colours]
    if not candidates:
        return NO_CANDIDATE
    velocities = {n: _mean_velocity(annotation, n, seconds) for n in candidates}
    moving = [n for n in candidates if velocities[n].norm() >= slowest]
    if len(moving) != 1:
        return SEVERAL if moving else STILL
    (target,) = moving
    if annotation.in_view[:, target].double().mean() < least_seen:
        return HARDLY_SEEN
    speed = (velocities[target] * _right(annotation)).sum().item()
    if abs(speed) < slowest:
        return ELSEWHERE
    shape, colour = named[target]
    classes = (shapes.index(shape), colours.index(colour), int(speed > 0))
    return Label(classes, (*space.factors[1].centres[classes[1]], speed), frames)


def _given(annotation: Annotation, space: FactorSpace) -> tuple[tuple[int, ...], tuple[float, ...]]:
    composition = "".join(map(str, annotation.classes))
    if composition not in space.compositions or len(annotation.values) != space.num_values:
        raise ValueError(f"its factors are {annotation.classes} with {len(annotation.values)} values")
    return annotation.classes, annotation.values


def _mean_velocity(annotation: Annotation, n: int, seconds: float) -> Tensor:
    """Of object ``n`` while it is in view, on the floor, units a second: (2,); zero where it is never or once in view."""
    seen = annotation.in_view[:, n].nonzero().squeeze(1)
    if len(seen) < 2:
        return torch.zeros(2, dtype=torch.float64)
    first, last = int(seen[0]), int(seen[-1])
    time = seconds * (last - first) / (len(annotation.location) - 1)
    return (annotation.location[last, n] - annotation.location[first, n])[:2] / time


def _right(annotation: Annotation) -> Tensor:
    """The direction on the floor that the camera sees as image-right: (2,); CLEVR's where the file tells no camera."""
    if annotation.camera is None:
        return torch.tensor(RIGHT, dtype=torch.float64)
    right, _, _ = facing(annotation.camera.eye)
    return torch.stack([right[0], right[1]])
