"""The outlines of a cube and a sphere as the camera sees them: small pictures to compare with what is measured.

Pictures are in coordinates of the object: seen by a camera that looks straight at it, lengths in radii of the sphere, the
outline's centroid in the middle. There is one of the cube for every yaw and every depression of the line of sight; one
serves for all spheres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

REACH = 1.9  # half side of a picture, radii; a cube's corners are at most 1.3 from its middle
CELLS = 76  # a side; a cell is a fifth of a pixel at 32 px, a quarter at 64 px
YAW_STEP = math.radians(5)
YAWS = 18  # hypotheses; a cube looks the same after a quarter turn
SPARE = 4  # steps more on both sides: a cube that passes by shows itself turned by up to 20 degrees
DEPRESSIONS = tuple(math.radians(degrees) for degrees in range(12, 49, 4))  # of the line of sight below the horizon


@dataclass
class SolidViews:
    """Coverage of pixels by a cube and by a sphere.

    Args:
        half_edge: of the cube, radii.
        distance: of the objects' centres from the camera, radii.
        pixel: side of a pixel at that distance, radii.
    """

    half_edge: float
    distance: float
    pixel: float
    cube: Tensor = field(init=False)  # (depressions, yaws, CELLS, CELLS)
    cube_area: Tensor = field(init=False)  # (depressions, yaws), square radii
    sphere: Tensor = field(init=False)  # (CELLS, CELLS)
    sphere_area: float = field(init=False)

    def __post_init__(self) -> None:
        yaws = [YAW_STEP * step for step in range(-SPARE, YAWS + SPARE)]
        views = [torch.stack([self._cube(yaw, depression) for yaw in yaws]) for depression in DEPRESSIONS]
        outline = 1 / math.sqrt(1 - 1 / self.distance**2)  # the nearer, the wider
        axis = middles()
        self.cube = torch.stack(views)
        self.sphere = self._filtered(axis[None, :].square() + axis[:, None].square() < outline**2)
        cell = (2 * REACH / CELLS) ** 2
        self.cube_area = self.cube.sum((2, 3)) * cell
        self.sphere_area = float(self.sphere.sum()) * cell

    def _cube(self, yaw: float, depression: float) -> Tensor:
        inside = self._met(yaw, depression, 0.0, 0.0).float()
        axis = middles()
        across, down = (inside.sum(0) * axis).sum() / inside.sum(), (inside.sum(1) * axis).sum() / inside.sum()
        return self._filtered(self._met(yaw, depression, float(across), float(down)))

    def _met(self, yaw: float, depression: float, across: float, down: float) -> Tensor:
        """Where rays meet the cube: (CELLS, CELLS) bool, the picture's middle at (across, down)."""
        axis = middles()
        right = (axis[None, :] + across) / self.distance
        up = -(axis[:, None] + down) / self.distance
        sine, cosine = math.sin(depression), math.cos(depression)
        x, y, z = torch.broadcast_tensors(right, cosine + up * sine, up * cosine - sine)
        c, s = math.cos(yaw), math.sin(yaw)
        ray = torch.stack([x * c + y * s, y * c - x * s, z], -1)  # in the cube's own axes
        ray = torch.where(ray.abs() < 1e-6, 1e-6, ray)
        eye = self.distance * torch.tensor([-cosine * s, -cosine * c, sine])
        enter = (-eye - ray.sign() * self.half_edge) / ray
        leave = (-eye + ray.sign() * self.half_edge) / ray
        return enter.amax(-1) < leave.amin(-1)

    def _filtered(self, inside: Tensor) -> Tensor:
        """Averaged over a pixel's square around every cell."""
        half = max(0, round((self.pixel / (2 * REACH / CELLS) - 1) / 2))
        return F.avg_pool2d(inside.float()[None], 2 * half + 1, 1, half)[0]


@lru_cache(maxsize=4)
def solid_views(half_edge: float, distance: float, pixel: float) -> SolidViews:
    """The pictures for judges of the same geometry, drawn once: it takes a second."""
    return SolidViews(half_edge, distance, pixel)


def middles() -> Tensor:
    """Of cells, from -REACH to REACH."""
    return (torch.arange(CELLS) + 0.5) / CELLS * 2 * REACH - REACH
