"""The judge of clips: it reads what real clips show, measures how they move, and rejects everything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmark.config import CONFIGS, read_yaml
from datasets.clevrer.camera import project
from datasets.clevrer.render import render
from datasets.clevrer.scenes import Scenes, draw_scenes
from datasets.clevrer_kubric import ClevrerKubric, ClevrerKubricConfig
from datasets.factors import Factor, FactorSpace
from probes.judgement import Judgement, Reason
from probes.judges import STRICT_JUDGES
from probes.negative_clips import TWINS, NegativeClips
from probes.negatives import blur
from probes.projection import Camera
from probes.solid_views import SolidViews
from probes.strict_clips import CHUNK, StrictClips, Thresholds
from probes.tracking import largest_blobs, unmix

LAPTOP = ClevrerKubricConfig(**read_yaml(CONFIGS / "presets" / "laptop.yaml")["dataset"]["clevrer_kubric"])
KINDS = (
    "blend",
    "hue",
    "two objects",
    "half",
    "blur",
    "blank",
    "noise",
    "vanishes",
    "flickers",
    "changes colour",
    "changes shape",
    "stands still",
    "random order",
    "turns back",
    "other background",
)
MOST_ACCEPTED = 1  # of few clips; of many it is one in a hundred
# Cube and sphere averaged at one place are an outline between the two; a soft one of either looks the same.
KNOWN_LIMIT = "blend of shapes"


@dataclass
class ClipWorld:
    """A dataset, its judge, and real clips with the same scenes of another class."""

    data: ClevrerKubric
    judge: StrictClips
    scenes: Scenes
    clips: Tensor  # (B, T, 3, H, W) in [-1, 1]
    twins: dict[str, Tensor]  # by the factor that differs
    said: Judgement  # of the clips

    @property
    def classes(self) -> Tensor:
        return self.scenes.classes


def make_world(config: ClevrerKubricConfig, count: int) -> ClipWorld:
    data = ClevrerKubric(config, seed=0, folder=Path("unused"))
    judge = StrictClips(data.space, data.judge_geometry())
    scenes = draw_scenes(config, 7, range(count))

    def draw(drawn: Scenes) -> Tensor:
        return render(drawn, config.resolution, config.lens).frames.float().div(127.5).sub(1)

    twins = {}
    for place, name in enumerate(TWINS):
        classes = scenes.classes.clone()
        classes[:, place] = 1 - classes[:, place]
        twins[name] = draw(draw_scenes(config, 7, range(count), classes))
    clips = draw(scenes)
    return ClipWorld(data, judge, scenes, clips, twins, judge.judge(clips))


@pytest.fixture(scope="session")
def small() -> ClipWorld:
    return make_world(LAPTOP, 40)


@pytest.fixture(scope="session")
def large() -> ClipWorld:
    return make_world(ClevrerKubricConfig(), 8)


@pytest.fixture(params=["small", "large"])
def clip_world(request: pytest.FixtureRequest) -> ClipWorld:
    """Either geometry in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def negatives(clip_world: ClipWorld) -> NegativeClips:
    generator = torch.Generator().manual_seed(3)
    return NegativeClips(clip_world.clips, clip_world.classes, clip_world.twins, generator)


# -- real clips -------------------------------------------------------------------------------------------------------


def test_real_clips_are_accepted_and_read_right(clip_world) -> None:
    assert clip_world.said.accepted.all()
    assert torch.equal(clip_world.said.classes, clip_world.classes)


def test_without_nuisances_too() -> None:
    for config, count in ((replace(LAPTOP, nuisance="none"), 16), (ClevrerKubricConfig(nuisance="none"), 4)):
        data = ClevrerKubric(config, seed=0, folder=Path("unused"))
        scenes = data.scenes("test", 0, count)
        clips = render(scenes, config.resolution, config.lens).frames.float().div(127.5).sub(1)
        said = StrictClips(data.space, data.judge_geometry()).judge(clips)
        assert said.accepted.all()
        assert torch.equal(said.classes, scenes.classes)


def test_slightly_soft_or_noisy_clips_still_pass(clip_world, seeded) -> None:
    """Decoders blur and add noise; up to a point that is not the generator's fault."""
    soft = blur(clip_world.clips.flatten(0, 1), 0.5).view_as(clip_world.clips)
    noisy = clip_world.clips + 0.04 * torch.randn(clip_world.clips.shape, generator=seeded(9))
    for clips in (soft, noisy):
        said = clip_world.judge.judge(clips)
        assert said.accepted.float().mean() >= 0.96
        assert torch.equal(said.classes[said.accepted], clip_world.classes[said.accepted])


def test_the_speed_measured_is_near_the_true_one(clip_world) -> None:
    said = clip_world.said.values
    assert said.shape == (len(clip_world.clips), 4)
    assert said[:, :3].isnan().all(), "light hides how bright the material itself is"
    error = (said[:, 3] - clip_world.scenes.values[:, 3]).abs()
    assert error.max() < 0.15  # units a second
    assert error.mean() < 0.05
    assert torch.equal(said[:, 3], clip_world.said.measurements["speed"])


def test_the_radius_measured_is_near_the_true_one(clip_world) -> None:
    ratio = clip_world.said.measurements["radius"] / clip_world.scenes.radius[:, 0].float()
    assert (ratio - 1).abs().max() < 0.08


@pytest.mark.parametrize("factor", range(3), ids=TWINS)
def test_changing_one_property_changes_exactly_that_reading(small, factor) -> None:
    said = small.judge.judge(small.twins[TWINS[factor]])
    assert said.accepted.all()
    differs = said.classes != small.said.classes
    assert differs[:, factor].all()
    assert differs.sum() == len(differs), "nothing else is read anew"


def test_time_reversal_swaps_the_direction_and_nothing_else(clip_world) -> None:
    said = clip_world.judge.judge(clip_world.clips.flip(1))
    assert said.accepted.all()
    differs = said.classes != clip_world.said.classes
    assert differs[:, 2].all()
    assert differs.sum() == len(differs)
    torch.testing.assert_close(said.values[:, 3], -clip_world.said.values[:, 3], rtol=0, atol=0.01)


# -- negatives --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_negatives_are_rejected(clip_world, negatives, kind) -> None:
    clips = negatives.kinds[kind]()
    assert clips.shape == clip_world.clips.shape
    assert clip_world.judge.judge(clips).accepted.sum() <= MOST_ACCEPTED


def test_no_kind_of_negative_is_forgotten(small, seeded) -> None:
    negatives = NegativeClips(small.clips, small.classes, small.twins, seeded())
    assert negatives.kinds.keys() == {*KINDS, KNOWN_LIMIT}


REASONS = {
    "blank": {Reason.NO_OBJECT, Reason.BACKGROUND, Reason.COLOUR_BETWEEN_CLASSES, Reason.STANDS_STILL},
    "flickers": {Reason.VANISHES, Reason.NO_OBJECT},
    "stands still": {Reason.STANDS_STILL},
    "random order": {Reason.JUMPS, Reason.STANDS_STILL},
    "changes shape": {Reason.CHANGES, Reason.JUMPS},
    "other background": {Reason.BACKGROUND, Reason.TWO_OBJECTS, Reason.NO_OBJECT},
    "hue": {Reason.COLOUR_BETWEEN_CLASSES},
}


@pytest.mark.parametrize("kind", REASONS)
def test_the_reason_is_the_one_that_was_made(small, seeded, kind) -> None:
    negatives = NegativeClips(small.clips, small.classes, small.twins, seeded(4))
    said = small.judge.judge(negatives.kinds[kind]())
    assert {Reason(code) for code in said.reasons[~said.accepted].tolist()} <= REASONS[kind]


def test_what_negatives_are_made_of_looks_real(small, seeded) -> None:
    """The floor under the objects is found, so that erased ones leave no trace but their shadow."""
    negatives = NegativeClips(small.clips, small.classes, small.twins, seeded())
    assert set(small.judge.judge(negatives.blanks()[::2]).reasons.tolist()) == {Reason.NO_OBJECT}


def test_an_implausible_speed_or_size_is_rejected(small) -> None:
    """Real clips are too fast, or too large, for a judge that expects others."""
    geometry = small.data.judge_geometry()
    slow = StrictClips(small.data.space, {**geometry, "speed_slow": 0.3, "speed_fast": 0.5})
    assert set(slow.judge(small.clips[:8]).reasons.tolist()) == {Reason.IMPLAUSIBLE_SPEED}
    large = StrictClips(small.data.space, {**geometry, "radius": 0.7})
    assert Reason.IMPLAUSIBLE_SIZE in large.judge(small.clips[:8]).reasons.tolist()


# -- what it is made for ----------------------------------------------------------------------------------------------


def test_raw_measurements_are_kept(small) -> None:
    for name, values in small.said.measurements.items():
        assert values.shape == (len(small.clips),), name
        assert values.dtype == torch.float32, name
        assert values.isfinite().all(), name


def test_verdicts_follow_from_the_measurements(small) -> None:
    """Thresholds can be drawn anew from what is kept."""
    softness = small.said.measurements["softness"]
    limit = float(softness.median())
    strict = StrictClips(small.data.space, small.data.judge_geometry(), replace(Thresholds(), softness=limit))
    assert torch.equal(strict.judge(small.clips).reasons == Reason.BLURRED, softness > limit)


def test_a_clip_is_read_alike_alone_and_among_others(small) -> None:
    clips = small.clips[: CHUNK + 2]
    together = small.judge.judge(clips)
    for index in (0, CHUNK - 1, CHUNK + 1):
        alone = small.judge.judge(clips[index : index + 1])
        for name, value in alone.measurements.items():
            torch.testing.assert_close(value[0], together.measurements[name][index], rtol=1e-3, atol=1e-4)


def test_factors_are_read_in_the_order_of_the_space(small) -> None:
    shape, colour, direction = small.data.space.factors
    turned = FactorSpace((direction, shape, replace_classes(colour)))
    said = StrictClips(turned, small.data.judge_geometry()).judge(small.clips[:8])
    expected = small.classes[:8][:, [2, 0, 1]].clone()
    expected[:, 2] = 1 - expected[:, 2]
    assert torch.equal(said.classes, expected)
    torch.testing.assert_close(said.values[:, 0], small.said.values[:8, 3], rtol=1e-3, atol=1e-4)


def replace_classes(factor: Factor) -> Factor:
    """The same classes in the reverse order."""
    return Factor(factor.name, factor.classes[::-1], factor.centres[::-1])


def test_thresholds_are_frozen_under_their_version() -> None:
    """Whoever moves a threshold gives it a new version, and a new line here."""
    frozen = {
        "clips-1": (
            *((0.08, 0.3), 1.4, 0.05, 0.1, 0.12, 0.5, 0.06, 0.6, 0.3, 0.1, 0.1, 0.3, 3.5, 0.25, 1.0, 0.25, 0.3, 0.15),
            *(0.029, 1.2, 0.065, 0.004, 0.005, 0.002),
        ),
    }
    version, *numbers = vars(Thresholds()).values()
    assert frozen[version] == tuple(numbers)


def test_it_is_found_by_name(small) -> None:
    assert STRICT_JUDGES["clips"] is StrictClips
    assert small.judge.version == "clips-1"


@pytest.mark.parametrize("name", ["eye", "speed_slow", "half_heights"])
def test_an_incomplete_geometry_is_refused(small, name) -> None:
    geometry = small.data.judge_geometry()
    del geometry[name]
    with pytest.raises(ValueError, match=name):
        StrictClips(small.data.space, geometry)


@pytest.mark.parametrize("key", ["distractors", "collisions", "friction"])
def test_what_it_cannot_read_is_refused(small, key) -> None:
    with pytest.raises(ValueError, match=key):
        StrictClips(small.data.space, {**small.data.judge_geometry(), key: 1})


def test_other_factors_are_refused(small) -> None:
    shape, colour, direction = small.data.space.factors
    with pytest.raises(ValueError, match="factor direction"):
        StrictClips(FactorSpace((shape, colour)), small.data.judge_geometry())
    star = Factor("shape", ("cube", "star"))
    with pytest.raises(ValueError, match="cube or sphere"):
        StrictClips(FactorSpace((star, colour, direction)), small.data.judge_geometry())


# -- parts ------------------------------------------------------------------------------------------------------------


def test_rays_come_down_where_scenes_are(small) -> None:
    """The camera was written apart from the renderer's; on real scenes they agree."""
    centres = small.scenes.centres[:, :, 0]
    places = project(centres, small.scenes.eye[:, None], small.data.config.lens, 32).float()
    camera = small.judge.camera
    rays = camera.rays(places)
    reach = (camera.eye[2] - centres[..., 2].float()) / -rays[..., 2]
    torch.testing.assert_close(camera.eye + rays * reach[..., None], centres.float(), rtol=0, atol=1e-3)


def test_solids_look_as_large_as_they_are() -> None:
    views = SolidViews(half_edge=0.7, distance=1000.0, pixel=0.05)
    assert views.sphere_area == pytest.approx(3.1416, rel=0.01)
    # Level with it and square to it, at the smallest depression there is: front, and a little of the top.
    front, top = 1.4**2 * 0.9781, 1.4**2 * 0.2079
    assert float(views.cube_area[0, 4]) == pytest.approx(front + top, rel=0.03)


def test_light_is_taken_apart(seeded: Callable[..., torch.Generator]) -> None:
    colour, floor = torch.tensor([[0.7, 0.2, 0.1]]), torch.full((1, 3), 1 / 3)
    light, rest = torch.rand(2, 1, 2, 4, 4, generator=seeded())
    mixed = light[:, :, None] * colour[:, None, :, None, None] + rest[:, :, None] * floor[:, None, :, None, None]
    found, left, stray = unmix(mixed, colour, floor)
    torch.testing.assert_close(found, light, rtol=0, atol=1e-5)
    torch.testing.assert_close(left, rest, rtol=0, atol=1e-5)
    assert stray.max() < 1e-5


def test_the_largest_blob_of_each_frame_is_kept() -> None:
    mask = torch.zeros(3, 6, 6, dtype=torch.bool)
    mask[0, :2, :3] = True  # six pixels, which reach the first row
    mask[0, 5, 5] = True
    mask[2, 0, 0] = mask[2, 1, 1] = True  # corners touch
    mask[2, 5, :2] = mask[2, 4, 0] = True
    assert largest_blobs(mask).sum((1, 2)).tolist() == [6, 0, 3]


def test_a_camera_sees_the_origin_in_the_middle() -> None:
    camera = Camera.at((3.0, -4.0, 2.0), 0.5, 10)
    ray = camera.rays(torch.tensor([5.0, 5.0]))
    torch.testing.assert_close(ray, -camera.eye / camera.distance)
    torch.testing.assert_close(camera.eye + ray * camera.reach(ray, 0.0), torch.zeros(3), rtol=0, atol=1e-5)
