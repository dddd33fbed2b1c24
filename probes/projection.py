"""The camera of a clip's judge: which ray a pixel looks along, and where it comes down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

UP = (0.0, 0.0, 1.0)
LEAST_SLOPE = 0.05  # of rays towards the floor: one at the horizon would come down nowhere


@dataclass
class Camera:
    """Looks from ``eye`` at the origin, head up; lengths are in world units."""

    eye: Tensor  # (3,)
    axes: Tensor  # (3, 3): to the right in the image, upwards in it, and forward
    half_extent: float  # half the image's width for each unit of depth
    resolution: int  # px

    @staticmethod
    def at(eye: Sequence[float], half_extent: float, resolution: int) -> Camera:
        """A camera at ``eye`` (x, y, z)."""
        place = torch.tensor(eye, dtype=torch.float32)
        forward = -place / place.norm()
        right = level_right(forward)
        return Camera(place, torch.stack([right, torch.linalg.cross(right, forward), forward]), half_extent, resolution)

    @property
    def distance(self) -> float:
        """From the origin."""
        return float(self.eye.norm())

    @property
    def pixel(self) -> float:
        """Width of a pixel in the middle of the image, rad."""
        return 2 * self.half_extent / self.resolution

    def rays(self, places: Tensor) -> Tensor:
        """Directions (..., 3) of length 1 through places (..., 2) in pixels, x to the right and y down."""
        x, y = ((places * 2 / self.resolution - 1) * self.half_extent).unbind(-1)
        ray = torch.stack([x, -y, torch.ones_like(x)], -1) @ self.axes
        return ray / ray.norm(dim=-1, keepdim=True)

    def reach(self, rays: Tensor, height: float | Tensor) -> Tensor:
        """Distance (...) at which rays (..., 3) come down to a height, a number or (...), above the floor."""
        return (self.eye[2] - height) / (-rays[..., 2]).clamp_min(LEAST_SLOPE)


def level_right(forward: Tensor) -> Tensor:
    """What is to the right, level with the floor, for somebody who looks along directions (..., 3)."""
    right = torch.linalg.cross(forward, torch.tensor(UP).expand_as(forward))
    return right / right.norm(dim=-1, keepdim=True).clamp_min(1e-6)
