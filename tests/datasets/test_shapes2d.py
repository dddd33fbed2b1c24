"""Shapes2D: what is drawn is what the labels say, and always the same."""

import hashlib
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from datasets.base import DATASETS
from datasets.shapes2d import Shapes2D, Shapes2DConfig

PUBLISHED = Shapes2DConfig()
MOVING = Shapes2DConfig(resolution=32, radius_large=7, radius_small=4.5, size_jitter=0.7, position_jitter=4.5)


@pytest.fixture(params=[PUBLISHED, MOVING, replace(MOVING, square=True)], ids=["published", "moving", "square"])
def shapes(request, tmp_path):
    return Shapes2D(request.param, seed=3, folder=tmp_path)


def coverage(images, values, background=1.0):
    """How much of each pixel the shape covers, read back from the pixels: (B, H, W)."""
    pixels = images.double() / 255 - background  # (B, 3, H, W)
    towards = (values[:, :3].double() - background).view(-1, 3, 1, 1)
    return (pixels * towards).sum(1) / towards.square().sum(1)


def test_it_is_registered():
    assert DATASETS["shapes2d"] is Shapes2D
    assert Shapes2D.config_class is Shapes2DConfig


def test_measured_area_and_colour_are_the_labels(shapes):
    images, values, _ = shapes.draw_block("train", 0)
    covered = coverage(images, values)
    radius = (covered.sum((1, 2)) / math.pi).sqrt()
    torch.testing.assert_close(radius.float(), values[:, 3], rtol=0, atol=0.06)
    middle = images.flatten(2).double().gather(2, covered.flatten(1).argmax(1).view(-1, 1, 1).expand(-1, 3, 1))
    torch.testing.assert_close(middle.squeeze(2).float() / 255, values[:, :3], rtol=0, atol=0.5 / 255 + 1e-6)


def test_values_lie_around_the_class_centres(shapes):
    _, values, classes = shapes.draw_block("train", 0)
    centres = torch.tensor([shapes.space.centre("".join(map(str, row))) for row in classes.tolist()])
    jitter = torch.tensor([shapes.config.colour_jitter] * 3 + [shapes.config.size_jitter])
    distance = (values - centres).abs() / jitter
    assert distance.max() <= 1 + 1e-5
    assert (distance.amax(0) > 0.98).all(), "the whole range is used"


def test_shapes_stay_in_the_frame_and_are_told_apart(shapes):
    images, values, classes = shapes.draw_block("train", 0)
    covered = coverage(images, values)
    border = torch.cat([covered[:, 0], covered[:, -1], covered[:, :, 0], covered[:, :, -1]], 1)
    assert border.max() < 0.51, "at most the soft edge touches the outermost pixels"
    rows, columns = (covered > 0.5).any(2).sum(1), (covered > 0.5).any(1).sum(1)  # height and width in pixels
    filled = covered.sum((1, 2)) / (rows * columns)
    for shape, share in enumerate((math.pi / 4, 0.5, 1.0)[: len(shapes.config.shapes)]):
        assert abs(filled[classes[:, 0] == shape].mean() - share) < 0.06


def test_published_shapes_are_centred(tmp_path):
    images, values, classes = Shapes2D(PUBLISHED, 0, tmp_path).draw_block("train", 0)
    covered = coverage(images, values)
    axis = torch.arange(28) + 0.5 - 14
    across = (covered.sum(1) * axis).sum(1) / covered.sum((1, 2))
    upwards = -(covered.sum(2) * axis).sum(1) / covered.sum((1, 2))
    assert across.abs().max() < 0.02
    fits = (classes[:, 0] == 0) | (classes[:, 2] == 1)  # large triangles have no room to have their centroid there
    assert upwards[fits].abs().max() < 0.1
    assert upwards[~fits].min() > -2.5


def test_positions_use_the_range(tmp_path):
    shapes = Shapes2D(MOVING, 0, tmp_path)
    generator = torch.Generator().manual_seed(0)
    for composition in ("000", "101"):
        classes = torch.tensor([shapes.space.class_indices(composition)]).expand(2000, -1)
        values = shapes.draw_values(composition, 2000, generator)
        positions = shapes.draw_positions(values, classes, generator)
        assert positions.abs().max() <= 4.5
        assert positions.abs().amax(0).min() > 4.4
        assert positions.mean(0).abs().max() < 0.3


def test_cyclic_compositions(shapes):
    _, _, classes = shapes.draw_block("train", 1)
    compositions = shapes.space.compositions
    expected = [
        shapes.space.class_indices(compositions[(shapes.block + i) % len(compositions)]) for i in range(shapes.block)
    ]
    assert classes.tolist() == [list(row) for row in expected]


def test_values_of_the_first_image_never_change(tmp_path):
    _, values, _ = Shapes2D(PUBLISHED, 0, tmp_path).draw_block("train", 0)
    torch.testing.assert_close(values[0], torch.tensor([0.804293, 0.133578, 0.105109, 8.647168]), rtol=0, atol=1e-5)


def test_seed_part_and_block_give_other_images(tmp_path):
    draws = [
        Shapes2D(PUBLISHED, seed, tmp_path).draw_block(part, block)[0]
        for seed, part, block in [(0, "train", 0), (1, "train", 0), (0, "test", 0), (0, "train", 1)]
    ]
    assert len({hashlib.sha256(images.numpy().tobytes()).hexdigest() for images in draws}) == 4


def test_another_process_draws_the_same_whatever_it_did_before():
    command = (
        "import hashlib, torch; from pathlib import Path; from datasets.shapes2d import *; "
        "torch.set_num_threads(2); torch.manual_seed(9); torch.rand(7); "
        "print(hashlib.sha256(Shapes2D(Shapes2DConfig(), 5, Path()).draw_block('test', 2)[0].numpy()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    there = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True, env=environment
    ).stdout.strip()
    images, _, _ = Shapes2D(PUBLISHED, 5, Path()).draw_block("test", 2)
    assert there == hashlib.sha256(images.numpy()).hexdigest()


def test_drawn_values_are_those_of_images(shapes):
    drawn = shapes.draw_values("011", 4000, torch.Generator().manual_seed(0))
    _, values, classes = shapes.draw_block("train", 0)
    real = values[(classes == torch.tensor([0, 1, 1])).all(1)]
    assert drawn.shape == (4000, 4)
    torch.testing.assert_close(drawn.mean(0), real.mean(0), rtol=0, atol=0.12)
    torch.testing.assert_close(drawn.std(0), real.std(0), rtol=0.25, atol=0)


def test_render_shows_what_is_asked_for(shapes):
    values = torch.tensor([shapes.space.centre("000")])
    there, elsewhere = (
        shapes.render(values, torch.tensor([[0, 0, 0]]), torch.tensor([position])) for position in ([0.0, 0], [2.0, -1])
    )
    assert there.shape == (1, *shapes.image_shape)
    assert there.min() >= -1 and there.max() == 1
    torch.testing.assert_close(elsewhere, there.roll((1, 2), (2, 3)), msg="2 px to the right, 1 px down")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius_large": 12.0}, r"radius_large=12: triangles leave a frame of 28 px; use at most 9\.0"),
        ({"size_jitter": 2.0}, "size_jitter=2: the ranges of large and small meet; use less than 1.8"),
        ({"radius_large": 5.0}, "radius_large=5: use more than radius_small"),
        ({"colour_jitter": 0.5}, "colour_jitter=0.5: the ranges of red and blue meet"),
        ({"position_jitter": -1.0}, "position_jitter=-1: use 0 or more"),
        ({"edge_width": 0.0}, "edge_width=0: "),
        ({"background": 1.5}, "background=1.5: "),
        ({"test_per_composition": 0}, "test_per_composition=0: use 1 or more"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_its_key(change, message, tmp_path):
    with pytest.raises(ValueError, match=r"^dataset\.shapes2d\." + message):
        Shapes2D(replace(PUBLISHED, **change), 0, tmp_path)


def test_geometry_for_the_judge_has_no_counts(shapes):
    geometry = shapes.judge_geometry()
    assert geometry["radius_small"] == shapes.config.radius_small
    assert geometry["colours"] == [(0.9, 0.1, 0.1), (0.1, 0.1, 0.9)]
    assert not any(key.endswith("_per_composition") for key in geometry)
