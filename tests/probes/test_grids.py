"""Pictures: every composition has its row, every rejected sample its reason, and none is lost or stretched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageDraw

from datasets.factors import FactorSpace
from probes import grids

TRAIN = ("00", "01")
SIDE = 72


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every line of text that is put on a picture."""
    lines: list[str] = []
    plain = ImageDraw.ImageDraw.text

    def note(pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, *rest: object) -> None:
        lines.append(text)
        plain(pen, place, text, *rest)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", note)
    return lines


def judged(space: FactorSpace, count: int, rejected: int = 0) -> tuple[torch.Tensor, pd.DataFrame]:
    """Images (M, 3, 24, 24), sample i all of grey level i, and a table in which the first ``rejected`` are so."""
    total = count * len(space.compositions)
    images = torch.arange(total, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 24, 24)
    sample = np.arange(total)
    table = pd.DataFrame({"sample": sample, "composition": np.repeat(space.compositions, count)})
    table["accepted"] = sample >= rejected
    table["reason"] = np.where(table["accepted"], "", "two objects")
    return images, table


def greys(path: Path, boxes: int) -> list[int]:
    """The grey levels below ``boxes`` that fill whole pictures."""
    values, counts = np.unique(np.asarray(Image.open(path).convert("L")), return_counts=True)
    return [int(v) for v, n in zip(values, counts, strict=True) if v < boxes and n >= SIDE * SIDE - 100]


def test_a_row_for_each_composition_and_a_picture_for_each_of_its_first_samples(
    tmp_path: Path, space: FactorSpace, written: list[str]
) -> None:
    images, table = judged(space, 5)
    shares = {"probe": dict.fromkeys(space.compositions, 0.75), "strict": {"00": 0.5}}
    grids.draw_samples(tmp_path / "samples.png", images, table, space, TRAIN, shares, columns=3)
    picture = Image.open(tmp_path / "samples.png")
    assert picture.size == (grids.LABEL + 3 * (SIDE + grids.GAP) + grids.GAP, 4 * (SIDE + grids.GAP) + grids.GAP)
    for row in range(4):
        for column in range(3):
            left, top = grids.LABEL + column * (SIDE + grids.GAP), grids.GAP + row * (SIDE + grids.GAP)
            box = np.asarray(picture.crop((left, top, left + SIDE, top + SIDE)))
            assert (box == 5 * row + column).all(), (row, column)
    assert written[:3] == ["00   level 0", "circle large", "probe 0.75   strict 0.50"]
    assert written[9:] == ["11   level 1", "triangle small", "probe 0.75"]


def test_rows_of_several_judges_show_each_sample_once(tmp_path: Path, space: FactorSpace) -> None:
    images, table = judged(space, 2)
    both = pd.concat([table, table], ignore_index=True)
    for name, rows in (("one", table), ("both", both)):
        grids.draw_samples(tmp_path / f"{name}.png", images, rows, space, TRAIN, {}, columns=4)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "both.png").read_bytes()


def test_rejected_samples_with_what_was_asked_and_why_not(
    tmp_path: Path, space: FactorSpace, written: list[str]
) -> None:
    images, table = judged(space, 10, rejected=11)
    grids.draw_rejected(tmp_path / "rejected.png", images, table, space)
    assert written[0] == "11 of 40 samples rejected; 11 shown: asked for, and why not"
    assert written[1:] == ["circle large", "two objects"] * 10 + ["circle small", "two objects"]
    height = SIDE + 2 * grids.LINE + grids.GAP
    wide, high = Image.open(tmp_path / "rejected.png").size
    assert wide == 8 * (120 + grids.GAP) + grids.GAP
    assert high == grids.LINE + grids.GAP + 2 * (height + grids.GAP) + grids.GAP
    assert greys(tmp_path / "rejected.png", 12) == list(range(11))


def test_of_many_rejected_samples_some_are_shown_from_first_to_last(
    tmp_path: Path, space: FactorSpace, written: list[str]
) -> None:
    images, table = judged(space, 10, rejected=40)
    grids.draw_rejected(tmp_path / "rejected.png", images, table, space, most=4)
    assert written[0].startswith("40 of 40 samples rejected; 4 shown")
    assert greys(tmp_path / "rejected.png", 40) == [0, 13, 26, 39]


def test_a_sample_that_two_judges_reject_is_shown_once(tmp_path: Path, space: FactorSpace, written: list[str]) -> None:
    images, table = judged(space, 2, rejected=3)
    grids.draw_rejected(tmp_path / "rejected.png", images, pd.concat([table, table], ignore_index=True), space)
    assert written[0].startswith("3 of 8 samples rejected; 3 shown")


def test_nothing_was_rejected(tmp_path: Path, space: FactorSpace, written: list[str]) -> None:
    images, table = judged(space, 3)
    grids.draw_rejected(tmp_path / "rejected.png", images, table, space)
    assert written == ["Nothing was rejected among 12 samples."]
    assert Image.open(tmp_path / "rejected.png").size == (8 * (120 + grids.GAP) + grids.GAP, 3 * grids.LINE)


@pytest.mark.parametrize(("side", "shown"), [(24, 72), (28, 84), (32, 96), (72, 72), (100, 100)])
def test_images_are_enlarged_by_whole_factors(side: int, shown: int) -> None:
    assert grids.enlarged(torch.zeros(3, side, side, dtype=torch.uint8)).size == (shown, shown)


def test_images_of_one_channel_are_shown_grey() -> None:
    assert grids.enlarged(torch.full((1, 40, 40), 7, dtype=torch.uint8)).getpixel((0, 0)) == (7, 7, 7)
