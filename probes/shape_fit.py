"""Tell a cube from a sphere by the outline: what each would cover, of equal area and at the measured places.

Yaw is constant within a clip, and so is the size: one yaw and one radius must explain all frames, which together show
an outline in more detail than any of them. What counts is by how much one solid explains the coverage better than the
other, since blur and noise add to the mismatch of both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from probes.projection import Camera, level_right
from probes.solid_views import CELLS, DEPRESSIONS, REACH, SPARE, YAW_STEP, YAWS, SolidViews
from probes.tracking import Tracks


@dataclass
class Outline:
    """One solid, fitted to a clip."""

    cover: Tensor  # (B, T, W, W), what it would cover
    mismatch: Tensor  # (B, T), squared differences from what is covered, px
    radius: Tensor  # (B, T), of a sphere of that size, frame by frame, world units

    def total(self) -> Tensor:
        """Mismatch over the clip, (B,)."""
        return self.mismatch.sum(1)


class ShapeFit:
    """The tracked objects of B clips, seen in coordinates of the object.

    Args:
        tracks: what was found.
        camera: who looks.
        views: what solids look like.
        radius: about that of a sphere, world units; it says how high centres are.
    """

    def __init__(self, tracks: Tracks, camera: Camera, views: SolidViews, radius: float) -> None:
        self.camera, self.views, self.radius = camera, views, radius
        self.area = tracks.area
        self.measured = tracks.cover
        self.middle = camera.rays(tracks.centre)  # (B, T, 3), the line of sight
        right = level_right(self.middle)
        up = torch.linalg.cross(right, self.middle)
        pixels = camera.rays(pixel_middles(tracks))  # (B, T, W, W, 3)
        axes = torch.stack([right, up, self.middle], -1)  # (B, T, 3, 3)
        across, upward, depth = (pixels.flatten(2, 3) @ axes).unflatten(2, pixels.shape[2:4]).unbind(-1)
        self.across, self.down = across / depth, -upward / depth  # (B, T, W, W), rad
        cosine = (self.middle @ camera.axes[2]).clamp_min(0.1)
        self.angle = self.area * camera.pixel**2 * cosine**3  # (B, T), of the object, sr
        depression = torch.asin(-self.middle[..., 2])
        spacing = DEPRESSIONS[1] - DEPRESSIONS[0]
        self.depression = ((depression - DEPRESSIONS[0]) / spacing).round().long().clamp(0, len(DEPRESSIONS) - 1)
        azimuth = torch.atan2(self.middle[..., 1], self.middle[..., 0])
        self.turn = azimuth - azimuth.mean(1, keepdim=True)

    def sphere(self) -> Outline:
        """The sphere that covers as much."""
        area = torch.full_like(self.area, self.views.sphere_area)
        return self._outline(self.views.sphere.flatten(), torch.zeros_like(self.depression), area, self.radius)

    def cube(self) -> Outline:
        """The cube that covers as much, turned by the yaw that fits best."""
        best = self._cube(0)
        for index in range(1, YAWS):
            other = self._cube(index)
            better = other.total() < best.total()
            best = Outline(
                cover=torch.where(better[:, None, None, None], other.cover, best.cover),
                mismatch=torch.where(better[:, None], other.mismatch, best.mismatch),
                radius=torch.where(better[:, None], other.radius, best.radius),
            )
        return best

    def _cube(self, index: int) -> Outline:
        step = (index - self.turn / YAW_STEP).round().long().add(SPARE).clamp(0, self.views.cube.shape[1] - 1)
        picture = self.depression * self.views.cube.shape[1] + step  # (B, T)
        area = self.views.cube_area.flatten()[picture]
        return self._outline(self.views.cube.flatten(), picture, area, self.radius * self.views.half_edge)

    def _outline(self, pictures: Tensor, chosen: Tensor, area: Tensor, height: float) -> Outline:
        """Coverage by pictures (all in a row, flat), one a frame, of areas (B, T) in square radii."""
        distance = self.camera.reach(self.middle, height)  # (B, T)
        square = self.angle * distance.square()
        radius = (square / area).sqrt()
        common = (square.sum(1) / area.sum(1)).sqrt().clamp_min(0.05)
        scale = (distance / common[:, None] * (CELLS / 2 / REACH))[..., None, None]  # rad to cells
        column = (self.across * scale).add_(CELLS / 2).clamp_(0, CELLS - 1).to(torch.int32)
        row = (self.down * scale).add_(CELLS / 2).clamp_(0, CELLS - 1).to(torch.int32)
        place = row.mul_(CELLS).add_(column).add_(chosen.int()[..., None, None] * CELLS**2)
        cover = pictures.index_select(0, place.flatten()).view_as(self.across)
        return Outline(cover, (cover - self.measured).square_().sum((2, 3)), radius)


def pixel_middles(tracks: Tracks) -> Tensor:
    """Places (B, T, W, W, 2) in pixels of the windows' pixels."""
    offset = torch.arange(tracks.cover.shape[-1]) + 0.5
    x = tracks.corner[..., 0, None, None] + offset[None, :]
    y = tracks.corner[..., 1, None, None] + offset[:, None]
    return torch.stack(torch.broadcast_tensors(x, y), -1)
