"""Pictures of what was sampled: every composition in a row, and what the strict judge rejected, with the reason.

A video is shown as a film strip, its frames side by side, and `animate_samples` shows it as it moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from datasets.factors import Composition, FactorSpace, level

GAP = 6  # px between pictures and around them
SIDE = 72  # px; small images are enlarged by a whole factor to at least this height
STRIP_SIDE = 48  # px; the same for film strips, which are wide
FRAME_MS = 120  # of an animation
INK, FAINT, PAPER = (25, 25, 25), (110, 110, 110), (255, 255, 255)
# The papers' blue, pink and red for levels 0, 1 and 2, darkened for text.
LEVEL_INK = {0: (31, 119, 180), 1: (214, 39, 120), 2: (200, 20, 20)}
LABEL = 190  # px for a row's label
LINE = 17  # px of a line of text


def draw_samples(
    path: Path,
    images: Tensor,
    table: pd.DataFrame,
    space: FactorSpace,
    train: tuple[Composition, ...],
    shares: Mapping[str, Mapping[Composition, float]],
    columns: int = 8,
) -> None:
    """Write a grid of compositions by their first samples; rows are labelled with composition, words, level and shares.

    Args:
        images: uint8 (M, C, H, W) or (M, T, C, H, W).
        table: one mode's judgements; only its columns ``sample`` and ``composition`` are read.
        shares: what to call a judge -> its share of right samples per composition.
        columns: samples in a row; a quarter as many film strips.
    """
    pictures, columns = (film_strips(images), max(1, columns // 4)) if is_video(images) else (images, columns)
    sample_grid(pictures, table, space, train, shares, columns).save(path)


def animate_samples(
    path: Path,
    images: Tensor,
    table: pd.DataFrame,
    space: FactorSpace,
    train: tuple[Composition, ...],
    shares: Mapping[str, Mapping[Composition, float]],
    columns: int = 8,
) -> None:
    """Write the grid of `draw_samples` as an animation (WebP) of videos, uint8 (M, T, C, H, W)."""
    first, *others = (sample_grid(frame, table, space, train, shares, columns) for frame in images.unbind(1))
    first.save(path, "WEBP", save_all=True, append_images=others, duration=FRAME_MS, loop=0)


def sample_grid(
    images: Tensor,
    table: pd.DataFrame,
    space: FactorSpace,
    train: tuple[Composition, ...],
    shares: Mapping[str, Mapping[Composition, float]],
    columns: int,
) -> Image.Image:
    """The grid of `draw_samples` for pictures uint8 (M, C, H, W)."""
    places = table.drop_duplicates("sample").groupby("composition", sort=True)["sample"]
    rows = {str(name): samples.to_numpy()[:columns] for name, samples in places}
    width, side = enlarged(images[0]).size
    height = max(side, 3 * LINE)
    canvas = Image.new("RGB", (LABEL + columns * (width + GAP) + GAP, len(rows) * (height + GAP) + GAP), PAPER)
    pen = ImageDraw.Draw(canvas)
    for index, (composition, samples) in enumerate(rows.items()):
        top = GAP + index * (height + GAP)
        rank = level(composition, train)
        ink = LEVEL_INK.get(rank, INK)
        said = "   ".join(f"{name} {of[composition]:.2f}" for name, of in shares.items() if composition in of)
        text_at(pen, GAP, top + height / 2 - 1.5 * LINE, f"{composition}   level {rank}", 15, ink)
        text_at(pen, GAP, top + height / 2 - 0.5 * LINE, space.describe(composition), 13, INK)
        text_at(pen, GAP, top + height / 2 + 0.5 * LINE, said, 13, FAINT)
        for column, sample in enumerate(samples):
            paste(canvas, pen, images[int(sample)], LABEL + column * (width + GAP), top + (height - side) // 2)
    return canvas


def draw_rejected(path: Path, images: Tensor, table: pd.DataFrame, space: FactorSpace, most: int = 32) -> None:
    """Write up to ``most`` rejected samples with what was asked for and the reason, spread evenly over all rejected.

    Args:
        images: uint8 (M, C, H, W) or (M, T, C, H, W).
        table: one mode's judgements by any judges; rejected rows of all of them are shown.
    """
    rejected = table[~table["accepted"]].drop_duplicates("sample")
    images, columns = (film_strips(images), 2) if is_video(images) else (images, 8)
    width, side = enlarged(images[0]).size
    cell = max(width, 120)
    judged = table["sample"].nunique()
    if rejected.empty:
        canvas = Image.new("RGB", (columns * (cell + GAP) + GAP, 3 * LINE), PAPER)
        text_at(ImageDraw.Draw(canvas), GAP, LINE, f"Nothing was rejected among {judged} samples.", 14, INK)
        canvas.save(path)
        return
    picks = np.unique(np.linspace(0, len(rejected) - 1, min(most, len(rejected))).round().astype(int))
    height = side + 2 * LINE + GAP
    rows = -(-len(picks) // columns)
    head = LINE + GAP
    canvas = Image.new("RGB", (columns * (cell + GAP) + GAP, head + rows * (height + GAP) + GAP), PAPER)
    pen = ImageDraw.Draw(canvas)
    title = f"{len(rejected)} of {judged} samples rejected; {len(picks)} shown: asked for, and why not"
    text_at(pen, GAP, GAP, title, 14, INK)
    shown = rejected.iloc[picks]
    for index, (sample, asked, reason) in enumerate(
        zip(shown["sample"], shown["composition"], shown["reason"], strict=True)
    ):
        left = GAP + index % columns * (cell + GAP)
        top = head + GAP + index // columns * (height + GAP)
        paste(canvas, pen, images[sample], left + (cell - width) // 2, top)
        text_at(pen, left, top + side + 2, space.describe(asked), 11, INK, width=cell)
        text_at(pen, left, top + side + 2 + LINE, reason, 11, FAINT, width=cell)
    canvas.save(path)


def is_video(images: Tensor) -> bool:
    """Whether there is an axis of time: (M, T, C, H, W)."""
    return images.ndim == 5


def film_strips(videos: Tensor) -> Tensor:
    """Frames side by side: (M, T, C, H, W) -> (M, C, H, T W)."""
    return videos.permute(0, 2, 3, 1, 4).flatten(3)


def enlarged(image: Tensor) -> Image.Image:
    """A uint8 (C, H, W) image, pixels repeated up to a height of at least SIDE, or STRIP_SIDE where it is wide."""
    pixels = image.permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).convert("RGB")
    wanted = STRIP_SIDE if picture.width > 2 * picture.height else SIDE
    factor = max(1, -(-wanted // picture.height))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def paste(canvas: Image.Image, pen: ImageDraw.ImageDraw, image: Tensor, left: int, top: int) -> None:
    """Put an image on the canvas, in a hairline frame: backgrounds are often white."""
    picture = enlarged(image)
    canvas.paste(picture, (left, top))
    pen.rectangle((left - 1, top - 1, left + picture.width, top + picture.height), outline=(205, 205, 205))


def text_at(
    pen: ImageDraw.ImageDraw, left: float, top: float, text: str, size: int, ink: tuple[int, int, int], width: int = 0
) -> None:
    """Write a line; a ``width`` centres it there."""
    font = ImageFont.load_default(size)
    shift = (width - pen.textlength(text, font)) / 2 if width else 0
    pen.text((left + shift, top), text, ink, font)
