"""What a judge says about images, in one form for trained probes and analytic readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

G = TypeVar("G")


class Reason(IntEnum):
    """Why a judge rejected an image or a clip; the first that applies, in an order of the judge's."""

    NONE = 0  # not rejected
    BACKGROUND = 1
    NO_OBJECT = 2
    TWO_OBJECTS = 3
    WRONG_COLOURS = 4  # colours that lie on no line between the background and the object
    BLURRED = 5
    COLOUR_BETWEEN_CLASSES = 6
    OFF_CENTRE = 7
    SIZE_BETWEEN_CLASSES = 8
    SHAPE_UNCLEAR = 9
    VANISHES = 10  # seen in some frames only
    CHANGES = 11  # colour, size or shape, from one frame to another
    JUMPS = 12  # no straight path at constant speed
    STANDS_STILL = 13
    IMPLAUSIBLE_SPEED = 14  # or a heading that no real clip has
    IMPLAUSIBLE_SIZE = 15
    TRANSPARENT = 16  # the floor shines through the object
    FAR_FROM_REAL = 17  # in the trained judge's features, farther than held-out real images are
    DISTORTED = 18  # taken for a blend, a mean, a mosaic, a blur or the like
    NOT_FINITE = 19  # NaN or infinite somewhere: no image at all

    @property
    def words(self) -> str:
        """``"two objects"``; empty where nothing was rejected."""
        return "" if self is Reason.NONE else self.name.lower().replace("_", " ")


@dataclass
class Judgement:
    """One judge's verdict on B images. Classes are read for rejected images too, but count for nothing there."""

    judge: str
    classes: Tensor  # (B, F) int64, the class read for each factor
    accepted: Tensor  # (B,) bool
    reasons: Tensor  # (B,) int64 of Reason
    logits: Tensor | None = None  # (B, sum of classes) float32, heads concatenated in factor order
    values: Tensor | None = None  # (B, V) float32, the factors' real values as measured
    measurements: dict[str, Tensor] = field(default_factory=dict)  # name -> (B,) float32, kept raw

    @classmethod
    def by_factor(
        cls,
        judge: str,
        names: Sequence[str],
        classes: Mapping[str, Tensor],
        values: Mapping[str, Tensor],
        reasons: Tensor,
        measurements: dict[str, Tensor],
    ) -> Judgement:
        """The verdict of a judge that measures: images are accepted where there is no reason to reject them.

        Args:
            names: the factors, in digit order.
            classes: factor -> class read, (B,) int64.
            values: factor -> values measured, (B, number of its values) float32.
            reasons: (B,) int64 of `Reason`.
            measurements: name -> (B,) float32.
        """
        return cls(
            judge=judge,
            classes=torch.stack([classes[name] for name in names], 1),
            accepted=reasons == Reason.NONE,
            reasons=reasons,
            values=torch.cat([values[name] for name in names], 1),
            measurements=measurements,
        )

    def __len__(self) -> int:
        return len(self.classes)


class Judge(Protocol):
    """Anything that reads compositions off images."""

    name: str

    def judge(self, images: Tensor) -> Judgement:
        """Read images float32 (B, C, H, W) in [-1, 1]."""
        ...


def rejecting(judgement: Judgement, rows: Tensor, reason: Reason) -> Judgement:
    """The same verdict, with these rows (B,) bool rejected for a reason that goes before all others."""
    rows = rows.to(judgement.accepted.device)
    reasons = torch.where(rows, int(reason), judgement.reasons)
    return replace(judgement, accepted=judgement.accepted & ~rows, reasons=reasons)


def correct(judgement: Judgement, classes: Tensor) -> Tensor:
    """Where each factor was read as asked, (B, F) bool; False throughout a rejected image.

    Args:
        classes: the classes asked for, (B, F) int64; columns beyond those judged are nuisances.
    """
    judged = classes[:, : judgement.classes.shape[1]].to(judgement.classes.device)
    return (judgement.classes == judged) & judgement.accepted[:, None]


def first_reason(failed: dict[Reason, Tensor]) -> Tensor:
    """The first reason, in the order of the mapping, for which an image failed: (B,) bool each -> (B,) int64."""
    reasons = torch.zeros(len(next(iter(failed.values()))), dtype=torch.int64)
    for reason in reversed(failed):
        reasons[failed[reason]] = int(reason)
    return reasons


def geometry_of(cls: type[G], numbers: Mapping[str, Any], judge: str) -> G:
    """A judge's geometry from a dataset's ``judge_geometry()``; keys that it does not know are left alone.

    Raises:
        ValueError: naming the number that is missing.
    """
    known = {field.name: numbers[field.name] for field in fields(cls) if field.name in numbers}  # type: ignore[arg-type]
    try:
        return cls(**known)
    except TypeError as error:
        raise ValueError(f"the geometry for the judge of {judge} is incomplete: {error}") from error


def accept_all(count: int) -> tuple[Tensor, Tensor]:
    """Verdict and reasons of a judge that cannot reject: (B,) True, (B,) ``Reason.NONE``."""
    return torch.ones(count, dtype=torch.bool), torch.full((count,), int(Reason.NONE))


def concatenate(judgements: list[Judgement]) -> Judgement:
    """Join the judgements of consecutive chunks by one judge."""
    first = judgements[0]

    def join(name: str) -> Tensor | None:
        parts = [getattr(judgement, name) for judgement in judgements]
        return None if parts[0] is None else torch.cat(parts)

    return Judgement(
        judge=first.judge,
        classes=torch.cat([j.classes for j in judgements]),
        accepted=torch.cat([j.accepted for j in judgements]),
        reasons=torch.cat([j.reasons for j in judgements]),
        logits=join("logits"),
        values=join("values"),
        measurements={name: torch.cat([j.measurements[name] for j in judgements]) for name in first.measurements},
    )
