"""CLEVRER-Kubric as a dataset: labels, the cache on any number of processes, and what single frames must not tell."""

from dataclasses import replace

import pytest
import torch

from datasets import loading
from datasets.base import DATASETS
from datasets.clevrer.blender import BlenderError
from datasets.clevrer.camera import to_floor
from datasets.clevrer_kubric import ClevrerKubric, ClevrerKubricConfig
from datasets.factors import Factor, FactorSpace
from probes.linear import ProbeConfig, train_probe

SMALL = ClevrerKubricConfig(
    resolution=16,
    frames=3,  # an odd number: the middle one is at mid-clip
    radius=0.95,
    depth_jitter=0.8,
    train_per_composition=10,
    probe_per_composition=2,
    test_per_composition=2,
)


@pytest.fixture(scope="module")
def clips():
    """Pixels (M, T, C, H, W) uint8 and classes of 3072 videos."""
    data = ClevrerKubric(SMALL, 0, "unused")
    blocks = [data.draw_block("train", block) for block in range(3072 // data.block)]
    return torch.cat([frames for frames, _, _ in blocks]), torch.cat([classes for _, _, classes in blocks])


def test_it_is_registered():
    assert DATASETS["clevrer_kubric"] is ClevrerKubric


def test_parts_labels_and_shapes(tmp_path):
    data = ClevrerKubric(SMALL, 0, tmp_path / "data")
    data.prepare_data()
    train = data.images("train")
    assert train.images.shape == (80, 3, 3, 16, 16)
    assert torch.bincount(train.composition_index).tolist() == [10] * 8
    assert (train.values[:, 3].sign() == 2 * train.classes[:, 2] - 1).all()
    assert train.tensor(slice(0, 2)).shape == (2, 3, 3, 16, 16)
    data.verify()


def test_any_number_of_processes_draws_the_same_bytes(tmp_path, monkeypatch):
    manifests = []
    for processes in (1, 3):
        monkeypatch.setattr(loading, "cores", lambda: processes)  # noqa: B023 - called within the turn
        data = ClevrerKubric(SMALL, 0, tmp_path / str(processes))
        data.generate(data.folder)
        manifests.append(data._manifest())
    assert manifests[0] == manifests[1]


def test_drawn_values_are_those_of_real_videos():
    data = ClevrerKubric(SMALL, 0, "unused")
    _, values, classes = data.draw_block("train", 0)
    drawn = data.draw_values("011", 500, torch.Generator().manual_seed(0))
    real = values[(classes == torch.tensor([0, 1, 1])).all(1)]
    assert drawn.shape == (500, 4) and drawn.dtype == torch.float32
    assert (real.amin(0) >= drawn.amin(0) - 0.05).all() and (real.amax(0) <= drawn.amax(0) + 0.05).all()


def test_another_seed_or_config_draws_other_videos():
    first = ClevrerKubric(SMALL, 0, "unused").draw_block("train", 0)[0]
    assert not torch.equal(first, ClevrerKubric(SMALL, 1, "unused").draw_block("train", 0)[0])
    assert not torch.equal(first, ClevrerKubric(SMALL, 0, "unused").draw_block("test", 0)[0])
    assert not torch.equal(first, ClevrerKubric(replace(SMALL, nuisance="none"), 0, "unused").draw_block("train", 0)[0])


def test_the_model_can_be_told_the_nuisances_and_nobody_judges_them():
    telling = replace(SMALL, tell_nuisances=True, nuisance="position,yaw")
    data, quiet = (
        ClevrerKubric(telling, 0, "unused"),
        ClevrerKubric(replace(telling, tell_nuisances=False), 0, "unused"),
    )
    assert data.space.names == ("shape", "colour", "direction", "position", "yaw")
    assert data.space.compositions == quiet.space.compositions and data.space.controlled == quiet.space
    frames, values, classes = data.draw_block("train", 0)
    assert values.shape == (64, 7) and classes.shape == (64, 5) and not classes[:, 3:].any()
    assert torch.equal(frames, quiet.draw_block("train", 0)[0])  # the same videos
    assert torch.equal(values[:, :4], quiet.draw_block("train", 0)[1])
    track = data.scenes("train", 0, 64).centres[:, 1, 0, :2]  # at mid-clip
    assert torch.allclose(to_floor(track)[:, 0].float(), values[:, 4], atol=1e-5)
    assert values[:, 4].std() > 0.2 and torch.allclose(values[:, 5:].norm(dim=1), torch.ones(64))
    assert data.draw_values("111", 8, torch.Generator().manual_seed(0)).shape == (8, 7)


DIRECTION = FactorSpace((Factor("direction", ("left", "right")),))


def share_read(pixels, direction):
    """Held-out share of clips or frames whose direction a small convolutional network reads."""
    config = ProbeConfig(features="cnn", epochs=4, lr=3e-3, batch=64)
    half = len(pixels) // 2
    probe = train_probe(pixels[:half], direction[:half, None], DIRECTION, config, seed=0)
    read = probe.judge(pixels[half:].float() / 127.5 - 1).classes[:, 0]
    return float((read == direction[half:]).float().mean())


def test_no_single_frame_tells_the_direction(clips):
    pixels, classes = clips
    order = torch.rand(pixels.shape[:2], generator=torch.Generator().manual_seed(0)).argsort(
        1
    )  # frames in random order
    shuffled = pixels[torch.arange(len(pixels))[:, None], order]
    assert abs(share_read(pixels[:, 1], classes[:, 2]) - 0.5) <= 0.03  # mid-frames
    assert abs(share_read(shuffled[:, 0], classes[:, 2]) - 0.5) <= 0.03  # one frame of each clip, at any time
    assert share_read(pixels, classes[:, 2]) > 0.95  # and all frames in order do: the reader can read


def test_single_frames_tell_shape_and_colour(clips):
    """The control of the test above: the same reader, from the same frame, reads what stands in it."""
    pixels, classes = clips
    assert share_read(pixels[:, 1], classes[:, 1]) > 0.99
    assert share_read(pixels[:, 1], classes[:, 0]) > 0.6  # at 16 px


def test_a_clip_backwards_is_read_as_the_other_direction_and_nothing_else(clips):
    pixels, classes = clips
    space = ClevrerKubric(SMALL, 0, "unused").space
    probe = train_probe(
        pixels[:2048], classes[:2048], space, ProbeConfig(features="cnn", epochs=4, lr=3e-3, batch=64), 0
    )
    forwards, backwards = (
        probe.judge(clip.float() / 127.5 - 1).classes for clip in (pixels[2048:], pixels[2048:].flip(1))
    )
    same = (forwards == backwards).float().mean(0)
    assert same[1] > 0.99 and same[2] < 0.05
    assert (
        abs(
            (forwards[:, 0] == classes[2048:, 0]).float().mean() - (backwards[:, 0] == classes[2048:, 0]).float().mean()
        )
        < 0.05
    )


def test_no_counts_below_one():
    with pytest.raises(ValueError, match=r"dataset.clevrer_kubric.test_per_composition=0: use 1 or more"):
        ClevrerKubric(replace(SMALL, test_per_composition=0), 0, "unused")


def test_the_analytic_judge_reads_what_it_can_follow():
    four = replace(SMALL, frames=4)
    assert ClevrerKubric(four, 0, "unused").strict_judge == "clips"
    for config in (SMALL, replace(four, distractors=1), replace(four, collisions=True), replace(four, friction=0.1)):
        assert ClevrerKubric(config, 0, "unused").strict_judge == ""


def test_an_unknown_renderer_is_refused_and_blender_is_asked_for(monkeypatch):
    with pytest.raises(ValueError, match=r"renderer=cycles is unknown; use analytic or blender"):
        ClevrerKubric(replace(SMALL, renderer="cycles"), 0, "unused")
    monkeypatch.setenv("BLENDER_PYTHON", "/no/such/python")
    with pytest.raises(BlenderError, match="/no/such/python cannot be started"):
        ClevrerKubric(replace(SMALL, renderer="blender"), 0, "unused").draw_block("train", 0)
