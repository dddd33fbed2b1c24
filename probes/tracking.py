"""Find one coloured object in every frame of a clip: how much of each pixel it covers, where it is, how it moves.

In linear light a pixel is ``light * object + rest * floor`` with two chromaticities, of the object and of the floor; the
share of the light that is the object's hardly depends on shading, so neither a dark side nor a highlight tears a hole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor
from torch.nn import functional as F

COLOURED = 0.4  # (max - min) / max of pixels that count as coloured; the floor has at most 0.12, objects mostly 0.8
DARK = 1e-3  # linear light below which nothing is told


@dataclass
class Tracks:
    """What is seen of the object in each frame; positions in pixels, x to the right and y down from the corner.

    Pictures are windows of W by W pixels around the largest blob; of what lies beyond the frame they hold zeros.
    """

    cover: Tensor  # (B, T, W, W) in [0, 1], how much of a pixel the object covers; 0 away from the largest blob
    light: Tensor  # (B, T, W, W), the object's part of the light
    rest: Tensor  # (B, T, W, W), the floor's part
    near: Tensor  # (B, T, W, W), 1 in the largest blob and a pixel around it
    corner: Tensor  # (B, T, 2), px, where the windows begin
    colour: Tensor  # (B, 3), the object's chromaticity over the clip: linear light that adds up to 1
    frame_colour: Tensor  # (B, T, 3), the same in each frame
    area: Tensor  # (B, T), px
    centre: Tensor  # (B, T, 2), px
    others: Tensor  # (B, T), px, coloured elsewhere
    stray: Tensor  # (B,), light in the object and around it that is neither's, over all light there


def to_linear(display: Tensor) -> Tensor:
    """Linear light of sRGB display values in [0, 1]."""
    return torch.where(display <= 0.04045, display / 12.92, ((display + 0.055) / 1.055) ** 2.4)


def find(linear: Tensor, window: int) -> Tracks:
    """Find the object in clips (B, T, 3, H, W) in linear light and cut windows of an odd number of pixels around it."""
    brightest = linear.amax(2)
    saturation = (brightest - linear.amin(2)) / brightest.clamp_min(DARK)  # (B, T, H, W)
    coloured = (saturation * (saturation > COLOURED)).square()
    frame_light = torch.einsum("btchw,bthw->btc", linear, coloured)
    colour = chromaticity(frame_light.sum(1))
    floor = chromaticity(torch.einsum("btchw,bthw->bc", linear, (saturation < 0.5 * COLOURED).float()))
    light, rest, stray = unmix(linear, colour, floor)
    told = colour.amax(1) - colour.amin(1) > 0.2 * colour.amax(1)  # without an object nothing is told from the floor
    share = light / (light + rest).clamp_min(DARK) * told[:, None, None, None]
    first = largest_blobs((share > 0.4).flatten(0, 1)).view_as(share).float()
    marked = coloured_regions(linear)
    x, y, _ = moments(first)
    corner = torch.stack([x, y], -1).floor().long() - window // 2
    pictures = (light, rest, stray, first, marked)
    light, rest, stray, inside, marks = (cut(picture, corner, window) for picture in pictures)
    near = F.max_pool2d(inside, 3, 1, 1)
    cover = balanced(light, rest) * near
    x, y, area = moments(cover)
    return Tracks(
        cover=cover,
        light=light,
        rest=rest,
        near=near,
        corner=corner,
        colour=colour,
        frame_colour=chromaticity(frame_light),
        area=area,
        centre=torch.stack([x, y], -1) + corner,
        others=marked.sum((2, 3)) - (marks * F.max_pool2d(near, 5, 1, 2)).sum((2, 3)),
        stray=(stray * near).sum((1, 2, 3)) / ((light + rest) * near).sum((1, 2, 3)).clamp_min(DARK),
    )


def surroundings(linear: Tensor, tracks: Tracks) -> dict[str, Tensor]:
    """Of the floor in clips (B, T, 3, H, W): level, near over far, distance from grey and roughness; (B,) each."""
    height, width = linear.shape[3:]
    light = linear.mean(2)
    middle = tracks.corner[..., None, None] + tracks.cover.shape[-1] / 2  # (B, T, 2, 1, 1)
    x, y = torch.arange(width) + 0.5, (torch.arange(height) + 0.5)[:, None]
    reach = tracks.cover.shape[-1] / 2
    beyond = ((x - middle[:, :, 0]).abs() > reach) | ((y - middle[:, :, 1]).abs() > reach)  # (B, T, H, W)
    level = light.flatten(1).median(1).values
    second = 4 * light[..., 1:-1, 1:-1] - light[..., :-2, 1:-1] - light[..., 2:, 1:-1]
    second = (second - light[..., 1:-1, :-2] - light[..., 1:-1, 2:]).abs() / 4
    inner = beyond[..., 1:-1, 1:-1].float()
    rough = (second * inner).sum((1, 2, 3)) / inner.sum((1, 2, 3)).clamp_min(1.0)
    floor = chromaticity(torch.einsum("btchw,bthw->bc", linear, beyond.float()))
    quarter = height // 4
    far, near = (
        (light[:, :, rows] * beyond[:, :, rows]).sum((1, 2, 3)) / beyond[:, :, rows].sum((1, 2, 3)).clamp_min(1)
        for rows in (slice(0, quarter), slice(height - quarter, height))
    )
    return {
        "floor_level": level,
        "floor_slope": near / far.clamp_min(DARK),
        "floor_colour": (floor - 1 / 3).norm(dim=1),
        "floor_texture": rough / level.clamp_min(DARK),
    }


def moments(cover: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centroid x and y from the corner, and area of pictures (B, T, H, W): (B, T) each."""
    axis = torch.arange(cover.shape[-1]) + 0.5
    area = cover.sum((2, 3))
    some = area.clamp_min(1e-3)
    return (cover.sum(2) * axis).sum(2) / some, (cover.sum(3) * axis).sum(2) / some, area


def cut(picture: Tensor, corner: Tensor, window: int) -> Tensor:
    """Windows (B, T, W, W) of pictures (B, T, H, W) that begin at ``corner`` (B, T, 2), x before y; 0 beyond."""
    high, wide = picture.shape[2:]
    x = corner[..., 0, None] + torch.arange(window)  # (B, T, W)
    y = corner[..., 1, None] + torch.arange(window)
    place = y.clamp(0, high - 1)[..., :, None] * wide + x.clamp(0, wide - 1)[..., None, :]
    within = ((y >= 0) & (y < high))[..., :, None] & ((x >= 0) & (x < wide))[..., None, :]
    return picture.flatten(2).gather(2, place.flatten(2)).view_as(place) * within


def coloured_regions(linear: Tensor) -> Tensor:
    """Where clips (B, T, 3, H, W) are coloured on average over three by three pixels: (B, T, H, W) of 0 and 1.

    In the dark, noise colours single pixels.
    """
    smooth = F.avg_pool2d(linear.flatten(0, 1), 3, 1, 1, count_include_pad=False).view_as(linear)
    brightest = smooth.amax(2)
    return (brightest - smooth.amin(2) > COLOURED * brightest.clamp_min(DARK)).float()


def chromaticity(light: Tensor) -> Tensor:
    """Linear light (..., 3) scaled to add up to 1; grey where there is none."""
    total = light.sum(-1, keepdim=True)
    return torch.where(total > 1e-6, light / total.clamp_min(1e-6), 1 / 3)


def unmix(linear: Tensor, colour: Tensor, floor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Least squares of clips (B, T, 3, H, W) in two chromaticities (B, 3).

    Returns:
        the light of each, 0 or more, and the size of what neither explains: (B, T, H, W) each.
    """
    aa, bb, ab = colour.square().sum(1), floor.square().sum(1), (colour * floor).sum(1)
    determinant = (aa * bb - ab.square()).clamp_min(1e-4)[:, None]
    first = (bb[:, None] * colour - ab[:, None] * floor) / determinant  # (B, 3)
    second = (aa[:, None] * floor - ab[:, None] * colour) / determinant
    normal = torch.linalg.cross(colour, floor)
    normal = normal / normal.norm(dim=1, keepdim=True).clamp_min(1e-6)
    parts = torch.einsum("btchw,bkc->kbthw", linear, torch.stack([first, second, normal], 1))
    return parts[0].clamp_min(0), parts[1].clamp_min(0), parts[2].abs()


def balanced(light: Tensor, rest: Tensor) -> Tensor:
    """Coverage (B, T, W, W) in [0, 1] from the two parts of the light.

    The object's share of the light is its share of the pixel only where object and floor are equally bright; both are
    therefore divided by their brightness near by, where each is alone.
    """
    share = light / (light + rest).clamp_min(DARK)
    of_object = nearby(light, share.square().square())
    of_floor = nearby(rest, (1 - share).square().square())
    scaled = light * of_floor
    return scaled / (scaled + rest * of_object).clamp_min(DARK**2)


def nearby(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted means over three by three pixels of (B, T, W, W), with a little of the mean over the clip."""
    overall = (values * weights).sum((1, 2, 3)) / weights.sum((1, 2, 3)).clamp_min(1e-3)
    pair = torch.stack([values * weights, weights], 2).flatten(0, 1)
    total, weight = F.avg_pool2d(pair, 3, 1, 1).unbind(1)
    total, weight = total.view_as(values), weight.view_as(values)
    return ((total + 0.01 * overall[:, None, None, None]) / (weight + 0.01)).clamp_min(DARK)


def largest_blobs(mask: Tensor) -> Tensor:
    """The largest connected region of each mask (N, H, W), as a mask; corners touch."""
    within_frame = np.zeros((3, 3, 3), dtype=bool)
    within_frame[1] = True  # neighbours in the frame, never across frames
    labels, count = scipy.ndimage.label(mask.numpy(), structure=within_frame)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    # Regions are numbered frame by frame, so a frame's largest number says where the next frame's begin.
    last = np.maximum.accumulate(labels.reshape(len(mask), -1).max(1))
    owner = np.searchsorted(last, np.arange(1, count + 1))  # (regions,)
    order = np.argsort(areas, kind="stable")
    largest = np.full(len(mask), -1)
    largest[owner[order]] = order + 1  # of several at one place the last, the largest, stays
    return torch.from_numpy(labels == largest[:, None, None])
