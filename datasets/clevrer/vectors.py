"""Vectors as three tensors.

Sums over the three coordinates are written out instead of using ``sum`` or ``matmul``: their order of addition may depend
on the shape of the batch, and a scene must not depend on which others are drawn with it.
"""

from __future__ import annotations

from torch import Tensor

Vector = tuple[Tensor, Tensor, Tensor]  # x, y, z, of shapes that broadcast


def vector(stacked: Tensor) -> Vector:
    """(..., 3) as three contiguous tensors."""
    x, y, z = stacked.unbind(-1)
    return x.contiguous(), y.contiguous(), z.contiguous()


def take(a: Vector, where: Tensor) -> Vector:
    """The vectors at some places of the flattened ones."""
    return a[0].flatten()[where], a[1].flatten()[where], a[2].flatten()[where]


def ahead(start: Vector, direction: Vector, reach: Tensor) -> Vector:
    """``start + direction * reach``."""
    return start[0] + direction[0] * reach, start[1] + direction[1] * reach, start[2] + direction[2] * reach


def minus(a: Vector, b: Vector) -> Vector:
    """``a - b``."""
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def dot(a: Vector, b: Vector) -> Tensor:
    """Inner product, added up in a fixed order."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def unit(a: Vector) -> Vector:
    """The vector of length 1 that points where ``a`` does."""
    length = dot(a, a).sqrt()
    return a[0] / length, a[1] / length, a[2] / length


def cross(a: Vector, b: Vector) -> Vector:
    """Cross product."""
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]
