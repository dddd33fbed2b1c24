"""Random numbers by name, and the few functions of them whose last bit must not depend on the batch.

Torch computes the cosine of the same number in two ways, according to its place in the tensor, and the two may differ in
the last bit. Angles therefore go through Python's ``math``; there are few of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from datasets.factors import seed_for


def uniforms(seed: int, indices: Sequence[int], name: str, *shape: int) -> Tensor:
    """Uniform numbers in [0, 1) of a property of some scenes: float64 (B, *shape)."""
    rows = [torch.empty(0, *shape, dtype=torch.float64)]
    for index in indices:
        generator = torch.Generator().manual_seed(seed_for(seed, "clevrer", index, name))
        rows.append(torch.rand(1, *shape, generator=generator, dtype=torch.float64))
    return torch.cat(rows)


def jitter(uniform: Tensor) -> Tensor:
    """Uniform numbers in [-1, 1)."""
    return 2 * uniform - 1


def cosine_sine(angle: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of angles in rad, each as ``angle`` and float64."""
    flat = angle.flatten().tolist()
    pairs = torch.tensor([(math.cos(a), math.sin(a)) for a in flat], dtype=torch.float64).view(*angle.shape, 2)
    return pairs[..., 0], pairs[..., 1]


def turned(length: Tensor, angle: Tensor) -> Tensor:
    """Floor vectors (..., 2) of a length (...), turned by ``angle`` (...) rad from RIGHT towards AWAY."""
    cosine, sine = cosine_sine(angle)
    return torch.stack([length * cosine, length * sine], -1)


def first(mask: Tensor) -> Tensor:
    """Position of the first True along the last axis of (..., K): (...) int64; K where there is none."""
    count = mask.shape[-1]
    return torch.where(mask, torch.arange(count), count).amin(-1)


def pick(candidates: Tensor, chosen: Tensor) -> Tensor:
    """One of K candidates a row: (B, K, ...) and (B,) -> (B, ...)."""
    return candidates[torch.arange(len(chosen)), chosen]
