"""Reasons to doubt a cell that ran to its end. Such cells stay in the table, marked; claims leave them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from datasets.factors import Composition


@dataclass(frozen=True)
class SuspicionLimits:
    """Where doubt begins."""

    level0: float = 0.90  # least accuracy on compositions that were trained on, by every judge
    judge_ceiling: float = 0.97  # least accuracy of a judge on real images, in every composition
    reconstruction_ceiling: float = 0.97  # the same on what the tokenizer makes of them
    diversity: float = 0.5  # least mean distance between samples, over that between real images
    nearness: float = 0.7  # least distance of samples to training images, over that of held-out ones


@dataclass
class Evidence:
    """What is looked at. Shares are from 0 to 1; what was not measured is left empty."""

    level0: Mapping[str, float] = field(default_factory=dict)  # judge -> accuracy
    judge_ceiling: Mapping[str, Mapping[Composition, float]] = field(default_factory=dict)  # judge -> per composition
    reconstruction_ceiling: Mapping[str, Mapping[Composition, float]] = field(default_factory=dict)
    diversity: Mapping[Composition, float] = field(default_factory=dict)  # of trained compositions: failing at
    # novel ones is a result, not a reason to doubt it
    nearness: Mapping[Composition, float] = field(default_factory=dict)


def suspicions(evidence: Evidence, limits: SuspicionLimits | None = None) -> list[str]:
    """A sentence for every reason to doubt; empty where there is none."""
    limits = limits or SuspicionLimits()
    found = [
        f"level 0 of the {judge} judge is {share:.3f}, below {limits.level0:.2f}"
        for judge, share in evidence.level0.items()
        if not share >= limits.level0  # also catches NaN
    ]
    for where, ceilings, limit in (
        ("real images", evidence.judge_ceiling, limits.judge_ceiling),
        ("reconstructions", evidence.reconstruction_ceiling, limits.reconstruction_ceiling),
    ):
        for judge, shares in ceilings.items():
            found += _below(shares, limit, f"the {judge} judge reads {where}")
    found += _below(evidence.diversity, limits.diversity, "diversity of samples over that of real images")
    found += _below(evidence.nearness, limits.nearness, "distance to training images over that of held-out ones")
    return found


def _below(shares: Mapping[Composition, float], limit: float, what: str) -> list[str]:
    """One sentence that names the worst composition below a limit."""
    if not shares:
        return []
    worst = min(shares, key=lambda composition: shares[composition])
    return [] if shares[worst] >= limit else [f"{what} {worst}: {shares[worst]:.3f}, below {limit:.2f}"]


def diversity(samples: Tensor, real: Tensor) -> float:
    """Mean pairwise pixel distance of samples over that of real images of the same composition.

    Both (M, C, H, W), uint8 or float on one scale, asked for with values drawn as real images have them.
    """
    return _spread(samples) / max(_spread(real), 1e-12)


def nearness(samples: Tensor, held_out: Tensor, training: Tensor) -> float:
    """Median distance of samples to their nearest training image, over the same of held-out real images.

    Well below 1, samples are copies. All (M, C, H, W), of one composition and one scale; samples asked for with drawn
    values, since class centres are nearer to everything.
    """
    return _to_nearest(samples, training) / max(_to_nearest(held_out, training), 1e-12)


def _spread(images: Tensor) -> float:
    return float(torch.pdist(images.flatten(1).float()).mean())


def _to_nearest(images: Tensor, training: Tensor) -> float:
    reference = training.flatten(1).float()
    chunks = images.flatten(1).float().split(256)
    return float(torch.cat([torch.cdist(chunk, reference).amin(1) for chunk in chunks]).median())
