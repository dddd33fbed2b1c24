"""The ray tracer: what it draws is where the tracks say, lit and shaded as it should be, and always the same bytes."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from datasets.clevrer.camera import project
from datasets.clevrer.config import ClevrerConfig
from datasets.clevrer.render import Videos, render
from datasets.clevrer.scenes import draw_scenes
from datasets.clevrer.solids import BOUNDS, MISSED, entry, outward
from datasets.clevrer.vectors import dot, unit

CONFIG = ClevrerConfig(frames=4)
SMALL = ClevrerConfig(resolution=32, frames=8, radius=0.95, depth_jitter=0.8)
CROWDED = replace(SMALL, nuisance="all", distractors=2)
ROOT = Path(__file__).resolve().parents[3]


def draw(config, indices, classes=None):
    scenes = draw_scenes(config, 5, indices, classes)
    return scenes, render(scenes, config.resolution, config.lens)


def digest(videos):
    return hashlib.sha256(videos.frames.numpy().tobytes() + videos.segmentation.numpy().tobytes()).hexdigest()


@pytest.fixture(scope="module")
def plain():
    return draw(CONFIG, range(16))


@pytest.fixture(scope="module")
def crowded():
    return draw(CROWDED, range(9))


# -- rays and solids ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", range(3), ids=["sphere", "cube", "cylinder"])
def test_rays_enter_at_the_surface_and_against_its_normal(shape):
    generator = torch.Generator().manual_seed(0)
    half = 0.5 + torch.rand(4000, generator=generator)
    origin = unit(torch.randn(3, 4000, generator=generator).unbind(0))
    origin = tuple(4 * x for x in origin)
    direction = unit(tuple(torch.randn(4000, generator=generator) * 0.3 - x for x in origin))
    distance = entry(shape, half, origin, direction)
    met = distance < MISSED
    assert 0.3 < met.float().mean() < 1
    point = tuple((o + d * distance)[met] / half[met] for o, d in zip(origin, direction, strict=True))
    across = (point[0] ** 2 + point[1] ** 2).sqrt()
    size = {
        0: dot(point, point).sqrt(),
        1: torch.stack(point).abs().amax(0),
        2: torch.maximum(across, point[2].abs()),
    }[shape]
    torch.testing.assert_close(size, torch.ones_like(size), atol=1e-4, rtol=0)
    normal = outward(shape, point)
    torch.testing.assert_close(dot(normal, normal), torch.ones_like(size), atol=1e-5, rtol=0)
    assert (dot(normal, tuple(d[met] for d in direction)) < 1e-3).all()
    closest = dot(origin, origin) - dot(origin, direction) ** 2
    assert not met[closest > (half * BOUNDS[shape]) ** 2].any(), "nothing outside of the sphere around it"
    assert met[closest < 0.99 * half**2].all(), "everything through the sphere within it"


# -- pixels against tracks ------------------------------------------------------------------------------------------------


def test_tracks_fall_on_the_centroids_of_the_segmentation(plain):
    scenes, videos = plain
    pixels = project(scenes.centres[:, :, 0], scenes.eye.unsqueeze(1), CONFIG.lens, CONFIG.resolution)
    mask = (videos.segmentation == 1).double()
    axis = torch.arange(CONFIG.resolution) + 0.5
    area = mask.sum((2, 3))
    centroid = torch.stack([(mask.sum(2) * axis).sum(-1), (mask.sum(3) * axis).sum(-1)], -1) / area.unsqueeze(-1)
    assert (centroid - pixels).norm(dim=-1).max() < 0.6


def test_size_says_nothing_of_the_shape():
    areas = []
    for shape in (0, 1):
        config = replace(CONFIG, frames=2, resolution=32)
        _, videos = draw(config, range(48), torch.tensor([[shape, 0, 1]]).expand(48, 3))
        areas.append((videos.segmentation == 1).double().sum((1, 2, 3)).mean().item())
    assert areas[0] == pytest.approx(areas[1], rel=0.04)


def seen_colour(videos: Videos) -> torch.Tensor:
    """Mean sRGB of the target over the pixels and frames in which it is seen: (B, 3) in [0, 1]."""
    pixels = videos.frames.movedim(2, -1).double() / 255
    seen = (videos.segmentation == 1)[..., None]
    return (pixels * seen).sum((1, 2, 3)) / seen.sum((1, 2, 3)).clamp(min=1)


def test_red_looks_red_and_blue_looks_blue(crowded):
    scenes, videos = crowded
    colour = seen_colour(videos)
    assert torch.equal(colour[:, 0] < colour[:, 2], scenes.classes[:, 1] == 1)
    assert ((colour[:, 0] - colour[:, 2]).abs() > 0.08).all()


# -- light ----------------------------------------------------------------------------------------------------------------


def test_objects_cast_shadows_and_never_brighten_the_floor(plain):
    scenes, videos = plain
    bare = replace(scenes, shape=torch.full_like(scenes.shape, -1))
    empty = render(bare, CONFIG.resolution, CONFIG.lens)
    assert not empty.segmentation.any()
    outside = torch.nn.functional.max_pool2d((videos.segmentation > 0).float(), 3, stride=1, padding=1) == 0
    darker = (empty.frames.int() - videos.frames.int()).amin(2)  # (B, T, H, W)
    assert darker[outside].min() >= 0
    shadow = ((darker > 4) & outside).sum((2, 3))
    assert (shadow >= 6).all(), "six pixels that are not the object's own edge"


def test_nothing_speckles():
    """Within a matt sphere, or on the floor, brightness changes slowly from pixel to pixel."""
    config = replace(CONFIG, nuisance="none", frames=2)
    _, videos = draw(config, range(1), torch.tensor([[1, 0, 1]]))
    light = videos.frames[0, 0].float().mean(0)
    same = videos.segmentation[0, 0]
    inner = torch.nn.functional.max_pool2d((same != 1).float()[None], 5, stride=1, padding=2)[0] == 0
    bend = (light[:, 2:] - 2 * light[:, 1:-1] + light[:, :-2]).abs()
    assert bend[inner[:, 1:-1]].max() < 8
    assert bend[:8].max() <= 2, "the far floor"


def test_metal_mirrors_its_neighbours_and_rubber_does_not(crowded):
    scenes, videos = crowded
    changed = replace(scenes, rgb=scenes.rgb.clone())
    changed.rgb[:, 1:] = torch.tensor([1.0, 1.0, 0.0])
    again = render(changed, CROWDED.resolution, CROWDED.lens)
    assert torch.equal(again.segmentation, videos.segmentation)
    # Pixels all of whose rays meet the target: its inner ones.
    mask = (videos.segmentation != 1).float()
    inner = torch.nn.functional.max_pool2d(mask, 3, stride=1, padding=1) == 0
    differs = ((again.frames != videos.frames).any(2) & inner).flatten(1).any(1)
    assert not differs[~scenes.metal[:, 0]].any()
    assert differs[scenes.metal[:, 0]].any()


def test_spheres_around_solids_save_time_and_change_nothing(crowded, monkeypatch):
    scenes, videos = crowded
    monkeypatch.setattr("datasets.clevrer.stage.BOUNDS", (30.0, 30.0, 30.0))  # everything is within
    thorough = render(scenes.rows(0, 4), CROWDED.resolution, CROWDED.lens)
    assert torch.equal(thorough.frames, videos.frames[:4])
    assert torch.equal(thorough.segmentation, videos.segmentation[:4])


# -- the same bytes -------------------------------------------------------------------------------------------------------


def test_a_video_is_the_same_whatever_is_rendered_with_it(crowded):
    _, videos = crowded
    for indices in ([4], [8, 4, 1], range(3, 6)):
        _, others = draw(CROWDED, indices)
        for row, index in enumerate(indices):
            assert torch.equal(others.frames[row], videos.frames[index])
            assert torch.equal(others.segmentation[row], videos.segmentation[index])


def test_a_video_is_the_same_in_another_process_with_other_instructions(crowded):
    code = f"""
import torch; torch.set_num_threads(1)
from datasets.clevrer.config import ClevrerConfig
from datasets.clevrer.render import render
from datasets.clevrer.scenes import draw_scenes
import hashlib
config = {CROWDED!r}
videos = render(draw_scenes(config, 5, range(6, 8)), config.resolution, config.lens)
print(hashlib.sha256(videos.frames.numpy().tobytes() + videos.segmentation.numpy().tobytes()).hexdigest())
"""
    plain = os.environ | {"ATEN_CPU_CAPABILITY": "default"}  # torch without AVX
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=plain, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    _, videos = crowded
    assert result.stdout.strip() == digest(
        replace(videos, frames=videos.frames[6:8], segmentation=videos.segmentation[6:8])
    )


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, nuisance="all")], ids=["default", "all"])
def test_a_right_clip_played_backwards_is_a_left_clip(config):
    _, left = draw(config, range(4), torch.tensor([[1, 0, 0]]).expand(4, 3))
    _, right = draw(config, range(4), torch.tensor([[1, 0, 1]]).expand(4, 3))
    assert torch.equal(left.frames, right.frames.flip(1))
    assert not torch.equal(left.frames, right.frames)


def test_frames_of_a_clip_differ_and_the_target_is_always_seen(crowded):
    _, videos = crowded
    assert (videos.frames.diff(dim=1) != 0).flatten(2).any(2).all()
    assert ((videos.segmentation == 1).sum((2, 3)) > 6).all()
