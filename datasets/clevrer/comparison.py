"""How far our pictures are from Blender's: PSNR of the same scenes, as drawn and with everything made of rubber.

    BLENDER_PYTHON=PYTHON_WITH_BPY python -m benchmark prepare --dataset clevrer_kubric --compare-renderers 8

Most of a frame is floor, which is easy: so the objects' own pixels are told apart from the whole.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from datasets.clevrer.blender import render_with_blender
from datasets.clevrer.config import ClevrerConfig
from datasets.clevrer.render import Videos, render
from datasets.clevrer.scenes import Scenes, draw_scenes


def compare(
    config: ClevrerConfig, seed: int, count: int, python: str = sys.executable, samples: int = 64
) -> pd.DataFrame:
    """PSNR between our ray tracer and Blender's Cycles.

    Args:
        config: of the scenes.
        seed: names their stream.
        count: how many; they go through the compositions in order.
        python: a Python that has ``bpy``.
        samples: Cycles' rays a pixel.

    Returns:
        A row for each scene and ``material`` ("rubber": every object is, or "as drawn"), with ``composition``, ``metal``
        (whether the target is), ``psnr`` in dB over all frames of the video, and ``object_psnr`` over the pixels that
        show an object.

    Raises:
        BlenderError: there is no Blender, or it failed.
    """
    pairs = render_both(config, seed, count, python, samples)
    return pd.concat([tabulate(pair) for pair in pairs], ignore_index=True)


@dataclass
class Pair:
    """The same scenes by both."""

    material: str  # "rubber" or "as drawn"
    scenes: Scenes
    ours: Videos
    theirs: Tensor  # uint8 (B, T, 3, H, W)


def render_both(config: ClevrerConfig, seed: int, count: int, python: str, samples: int) -> list[Pair]:
    """Scenes in rubber and as drawn; arguments and errors as for :func:`compare`."""
    pairs = []
    drawn = draw_scenes(config, seed, range(count))
    for material, scenes in (("rubber", in_rubber(drawn)), ("as drawn", drawn)):
        theirs = render_with_blender(scenes, config.resolution, config.lens, python, samples)
        pairs.append(Pair(material, scenes, render(scenes, config.resolution, config.lens), theirs))
    return pairs


def in_rubber(scenes: Scenes) -> Scenes:
    """The same scenes without metal."""
    return replace(scenes, metal=torch.zeros_like(scenes.metal))


def psnr(first: Tensor, second: Tensor) -> float:
    """Peak signal to noise ratio in dB of two uint8 tensors of one shape; inf where they are equal."""
    error = (first.double() - second.double()).square().mean()
    return (10 * torch.log10(255**2 / error)).item()


def side_by_side(ours: Tensor, theirs: Tensor, scale: int = 3) -> Image.Image:
    """Ours, theirs and the difference around grey, a row for the middle frame of each video (B, T, 3, H, W)."""
    middle = ours.shape[1] // 2
    a, b = ours[:, middle], theirs[:, middle]
    difference = (a.int() - b.int() + 128).clamp(0, 255).to(torch.uint8)
    rows = torch.cat([a, b, difference], 3)  # (B, 3, H, 3 W)
    picture = Image.fromarray(torch.cat(list(rows), 1).permute(1, 2, 0).numpy())
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def tabulate(pair: Pair) -> pd.DataFrame:
    """The rows of :func:`compare` for some scenes."""
    rows = []
    for scene, (ours, theirs) in enumerate(zip(pair.ours.frames, pair.theirs, strict=True)):
        shown = (pair.ours.segmentation[scene] > 0).unsqueeze(1).expand_as(ours)
        rows.append(
            {
                "scene": scene,
                "composition": "".join(map(str, pair.scenes.classes[scene].tolist())),
                "material": pair.material,
                "metal": bool(pair.scenes.metal[scene, 0]),
                "psnr": psnr(ours, theirs),
                "object_psnr": psnr(ours[shown], theirs[shown]),
            }
        )
    return pd.DataFrame(rows)


def write_comparison(folder: Path, config: ClevrerConfig, seed: int, count: int, python: str) -> pd.DataFrame:
    """Write ``renderers.csv``, the table of :func:`compare`, and ``renderers.png``, the scenes as drawn; two frames each."""
    pairs = render_both(replace(config, frames=2), seed, count, python, samples=64)
    table = pd.concat([tabulate(pair) for pair in pairs], ignore_index=True)
    for name, write in (
        ("renderers.csv", lambda path: table.round(2).to_csv(path, index=False)),
        ("renderers.png", side_by_side(pairs[-1].ours.frames, pairs[-1].theirs).save),
    ):
        unfinished = folder / f".unfinished-{name}"
        write(unfinished.with_suffix(Path(name).suffix))
        os.replace(unfinished.with_suffix(Path(name).suffix), folder / name)
    return table
