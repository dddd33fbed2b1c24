"""Scenes: functions of (seed, index), in which nothing but time tells the direction and nothing else tells a factor."""

from dataclasses import replace

import pytest
import torch

from datasets.clevrer.camera import facing, project, to_floor, to_world
from datasets.clevrer.companions import GAP
from datasets.clevrer.config import NUISANCES, ClevrerConfig
from datasets.clevrer.physics import GRAVITY
from datasets.clevrer.scenes import draw_scenes
from datasets.clevrer.world import COLOURS, HALF, SHAPES

PLAIN = ClevrerConfig()
RICH = ClevrerConfig(nuisance="all", distractors=3)
HITS = ClevrerConfig(nuisance="all", collisions=True)
SMALL = ClevrerConfig(resolution=32, frames=8, radius=0.95, depth_jitter=0.8)
ALL = pytest.mark.parametrize("config", [PLAIN, RICH, HITS, SMALL], ids=["plain", "rich", "hits", "small"])


def tensors(scenes):
    """Every tensor of some scenes by name."""
    found = {name: value for name, value in vars(scenes).items() if isinstance(value, torch.Tensor)}
    return found | vars(scenes.motion)


def with_classes(config, classes, count=24):
    rows = torch.tensor(classes).expand(count, 3)
    return draw_scenes(config, 3, range(count), rows)


def middles(scenes):
    """Positions at mid-clip: (B, N, 2)."""
    return (scenes.motion.positions[:, 0] + scenes.motion.positions[:, -1]) / 2


@ALL
def test_a_scene_is_a_function_of_seed_and_index(config):
    together = draw_scenes(config, 3, range(16))
    alone = draw_scenes(config, 3, [11])
    for name, value in tensors(alone).items():
        assert torch.equal(value, tensors(together)[name][11:12]), name
    assert not torch.equal(draw_scenes(config, 4, [11]).values, alone.values)


def test_indices_go_through_the_compositions_in_order():
    classes = draw_scenes(PLAIN, 3, range(16)).classes
    assert ["".join(map(str, row)) for row in classes.tolist()] == list(PLAIN.space.compositions) * 2


def test_the_target_is_what_its_classes_say():
    scenes = draw_scenes(RICH, 3, range(64))
    shape, colour, direction = scenes.classes.unbind(1)
    assert [SHAPES[s] for s in scenes.shape[:, 0]] == [("cube", "sphere")[s] for s in shape]
    assert [list(COLOURS)[c] for c in scenes.colour[:, 0]] == [("red", "blue")[c] for c in colour]
    assert torch.equal(scenes.values[:, 3] > 0, direction == 1)
    assert torch.equal(scenes.values[:, :3], scenes.rgb[:, 0])
    centres = torch.tensor([RICH.space.centre("".join(map(str, row))) for row in scenes.classes.tolist()])
    away = (scenes.values - centres).abs().amax(0)
    assert (away[:3] <= RICH.colour_jitter + 1e-6).all() and (away[:3] > 0.9 * RICH.colour_jitter).all()
    speed = scenes.values[:, 3].abs()
    assert RICH.speed_slow <= speed.min() < speed.max() <= RICH.speed_fast


@ALL
def test_clips_begin_in_the_direction_of_their_class(config):
    scenes = draw_scenes(config, 3, range(64))
    pixels = project(scenes.centres[:, :, 0], scenes.eye.unsqueeze(1), config.lens, config.resolution)
    assert torch.equal(pixels[:, 1, 0] > pixels[:, 0, 0], scenes.classes[:, 2] == 1)
    if not config.collisions:
        assert (pixels[..., 0].diff(dim=1) * scenes.values[:, 3:] > 0).all()
        speed = scenes.motion.velocities[:, :, 0].norm(dim=-1)
        torch.testing.assert_close(speed.float(), scenes.values[:, 3:].abs().expand_as(speed))
        moved = (pixels[:, -1, 0] - pixels[:, 0, 0]).abs()
        assert (moved > config.resolution / 8).all(), "by at least a radius, so that a judge can see it"


@pytest.mark.parametrize("config", [PLAIN, RICH, SMALL], ids=["plain", "rich", "small"])
def test_a_right_clip_backwards_is_a_left_clip(config):
    left, right = with_classes(config, [0, 1, 0]), with_classes(config, [0, 1, 1])
    assert torch.equal(left.motion.positions[:, :, 0], right.motion.positions[:, :, 0].flip(1))


@pytest.mark.parametrize("config", [PLAIN, RICH], ids=["plain", "rich"])
def test_no_nuisance_reads_a_factor(config):
    """By construction: the same index with any other classes is the same scene but for these classes."""
    reference = with_classes(config, [0, 0, 0])
    for composition in config.space.compositions:
        other = with_classes(config, config.space.class_indices(composition))
        for name in ("metal", "radius", "yaw", "eye", "lamps"):
            assert torch.equal(getattr(reference, name), getattr(other, name)), name
        torch.testing.assert_close(middles(reference), middles(other), rtol=0, atol=1e-12)
        assert torch.equal(reference.motion.positions[:, :, 1:], other.motion.positions[:, :, 1:])
        for name in ("shape", "colour", "rgb"):
            assert torch.equal(getattr(reference, name)[:, 1:], getattr(other, name)[:, 1:]), name
        assert torch.equal(reference.values[:, 3].abs(), other.values[:, 3].abs())


def test_nuisances_do_not_go_with_the_factors():
    """By count: with index modulo 8 as the composition, no nuisance is related to a factor or to the speed."""
    scenes = draw_scenes(ClevrerConfig(nuisance="all"), 3, range(1200))
    along, away = to_floor(middles(scenes)[:, 0]).unbind(1)
    heading = (scenes.motion.velocities[:, 0, 0, 0] / scenes.motion.velocities[:, 0, 0, 1]).atan()
    nuisances = torch.stack(
        [along, away, heading, scenes.radius[:, 0], scenes.yaw[:, 0], scenes.metal[:, 0].double()], 1
    )
    nuisances = torch.cat([nuisances, scenes.eye, scenes.lamps.flatten(1)], 1)
    factors = torch.cat([scenes.classes, scenes.values[:, 3:].abs()], 1).double()
    together = torch.corrcoef(torch.cat([nuisances, factors], 1).T)[: nuisances.shape[1], nuisances.shape[1] :]
    assert together.abs().max() < 0.11, "four standard errors of 72 correlations"


def test_each_nuisance_has_its_switch_and_its_stream():
    still, default = draw_scenes(replace(PLAIN, nuisance="none"), 3, range(8)), draw_scenes(PLAIN, 3, range(8))
    assert (still.radius == PLAIN.radius).all() and not still.metal.any() and (still.yaw == still.yaw[0]).all()
    torch.testing.assert_close(middles(still), torch.zeros_like(middles(still)), atol=1e-12, rtol=0)
    assert (default.eye == default.eye[0]).all() and (default.lamps == default.lamps[0]).all()
    only = draw_scenes(replace(PLAIN, nuisance="yaw, lights"), 3, range(8))
    assert torch.equal(only.yaw, default.yaw) and torch.equal(only.radius, still.radius)
    assert torch.equal(only.lamps, draw_scenes(replace(PLAIN, nuisance="all"), 3, range(8)).lamps)
    alone = draw_scenes(replace(RICH, distractors=0), 3, range(8))
    accompanied = draw_scenes(RICH, 3, range(8))
    assert torch.equal(alone.motion.positions, accompanied.motion.positions[:, :, :1])


@ALL
def test_everything_stays_in_view(config):
    scenes = draw_scenes(config, 3, range(120))
    eye = scenes.eye.view(-1, 1, 1, 3)
    right, up, _ = (torch.stack(axis, -1) for axis in facing(eye))
    radius = (torch.tensor(HALF)[scenes.shape.clamp(min=0)] * scenes.radius).view(len(scenes), 1, -1, 1)
    present = (scenes.shape >= 0).unsqueeze(1).expand(scenes.centres.shape[:3])
    for side in (right, -right, up, -up):
        pixels = project(scenes.centres + side * radius, eye, config.lens, config.resolution)[present]
        assert pixels.min() > -0.5 and pixels.max() < config.resolution + 0.5


def test_distractors_are_none_of_the_controlled_and_touch_nothing():
    scenes = draw_scenes(RICH, 3, range(64))
    present = scenes.shape[:, 1:] >= 0
    assert present.float().mean() > 0.8
    assert {SHAPES[s] for s in scenes.shape[:, 1:][present]} == {"cylinder"}
    assert {list(COLOURS)[c] for c in scenes.colour[:, 1:][present]} == {"gray", "green", "cyan", "yellow"}
    fine = draw_scenes(replace(RICH, frames=101), 3, range(64))  # the same scenes, seen more often
    place, disc = fine.motion.positions, fine.radius.clone()
    disc[:, 1:] *= HALF[2]
    for i in range(4):
        for j in range(i + 1, 4):
            gap = (place[:, :, i] - place[:, :, j]).norm(dim=-1).amin(1) - disc[:, i] - disc[:, j]
            assert (gap[present[:, j - 1] & (present[:, i - 1] if i else True)] > GAP - 1e-3).all()


@pytest.mark.parametrize("friction", [0.0, 0.05])
def test_colliding_targets_are_hit_within_the_clip_and_turn_away(friction):
    scenes = draw_scenes(replace(HITS, friction=friction), 3, range(32))
    when = scenes.motion.contact_frames[:, 0, 1]
    assert (when > 0).all() and (when < HITS.frames - 1).all()
    velocity = scenes.motion.velocities[:, :, 0]
    assert (velocity[:, 0] != velocity[:, -1]).any(1).all()
    torch.testing.assert_close(velocity[:, 0].norm(dim=-1).float(), scenes.values[:, 3].abs())


def test_friction_slows_the_target_on_the_path_it_would_take():
    scenes, free = draw_scenes(replace(PLAIN, friction=0.05), 3, range(8)), draw_scenes(PLAIN, 3, range(8))
    torch.testing.assert_close(scenes.motion.positions[:, 0], free.motion.positions[:, 0])
    speed = scenes.motion.velocities[:, :, 0].norm(dim=-1)
    assert (speed.diff(dim=1) < 0).all()
    torch.testing.assert_close(speed[:, -1], speed[:, 0] - 0.05 * GRAVITY * PLAIN.seconds)


def test_floor_coordinates_and_back():
    points = torch.rand(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(to_floor(to_world(points)), points)
    right = to_world(torch.tensor([1.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(right, torch.tensor([0.657, 0.754], dtype=torch.float64), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"frames": 1},
        {"nuisance": "weather"},
        {"nuisance": ""},
        {"speed_fast": 6.0},
        {"speed_fast": 0.5},
        {"radius_jitter": 0.9},
        {"colour_jitter": 0.3},
        {"distractors": 5},
        {"distractors": 1, "collisions": True},
        {"lens": 80.0},
        {"friction": -0.1},
    ],
    ids=lambda wrong: ",".join(wrong),
)
def test_what_cannot_be_drawn_is_refused_with_the_key_and_a_remedy(wrong):
    with pytest.raises(ValueError, match=r"^dataset\.clevrer_kubric\.\w+=.*: .*use "):
        draw_scenes(ClevrerConfig(**wrong), 0, range(1))


def test_the_names_of_nuisances_are_all_understood():
    for name in NUISANCES:
        replace(PLAIN, nuisance=name).validate()
