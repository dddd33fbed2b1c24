"""Suspicion: each rule speaks alone, at its limit and not before, and names what is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from probes.suspicion import Evidence, SuspicionLimits, diversity, nearness, suspicions

SOUND = Evidence(
    level0={"probe": 0.99, "strict": 0.95},
    judge_ceiling={"probe": {"00": 1.0, "01": 0.99}, "strict": {"00": 1.0, "01": 1.0}},
    reconstruction_ceiling={"probe": {"00": 0.99, "01": 0.98}, "strict": {"00": 0.98, "01": 0.99}},
    diversity={"00": 0.9, "01": 1.1},
    nearness={"00": 1.0, "01": 0.95},
)


def test_sound_evidence_raises_no_doubt() -> None:
    assert suspicions(SOUND) == []


def test_nothing_measured_raises_no_doubt() -> None:
    assert suspicions(Evidence()) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"level0": {"probe": 0.99, "strict": 0.89}}, ["level 0", "strict", "0.890", "0.90"]),
        ({"level0": {"probe": float("nan"), "strict": 1.0}}, ["level 0", "probe", "nan"]),
        ({"judge_ceiling": {"probe": {"00": 1.0, "01": 0.96}}}, ["probe", "real images", "01", "0.960", "0.97"]),
        ({"reconstruction_ceiling": {"strict": {"00": 0.9, "01": 0.95}}}, ["strict", "reconstructions", "00", "0.900"]),
        ({"diversity": {"00": 0.9, "01": 0.3}}, ["diversity", "01", "0.300", "0.50"]),
        ({"nearness": {"00": 0.2, "01": 0.9}}, ["training images", "00", "0.200", "0.70"]),
    ],
)
def test_each_rule_speaks_alone(changed: dict[str, Any], words: list[str]) -> None:
    found = suspicions(replace(SOUND, **changed))
    assert len(found) == 1
    assert all(word in found[0] for word in words), found[0]


def test_limits_themselves_pass_and_can_be_moved() -> None:
    limits = SuspicionLimits()
    on_the_line = Evidence(
        level0={"probe": limits.level0},
        judge_ceiling={"probe": {"00": limits.judge_ceiling}},
        reconstruction_ceiling={"probe": {"00": limits.reconstruction_ceiling}},
        diversity={"00": limits.diversity},
        nearness={"00": limits.nearness},
    )
    assert suspicions(on_the_line) == []
    higher = SuspicionLimits(0.91, 0.98, 0.98, 0.6, 0.8)
    assert len(suspicions(on_the_line, higher)) == 5


def test_every_judge_answers_for_itself() -> None:
    evidence = replace(SOUND, level0={"probe": 0.5, "strict": 0.4})
    assert [sentence.split(" judge")[0].split()[-1] for sentence in suspicions(evidence)] == ["probe", "strict"]


def test_diversity_is_one_for_real_images_and_nothing_for_copies_of_one() -> None:
    generator = torch.Generator().manual_seed(0)
    real = torch.randint(256, (60, 3, 4, 4), generator=generator, dtype=torch.uint8)
    more = torch.randint(256, (60, 3, 4, 4), generator=generator, dtype=torch.uint8)
    assert diversity(more, real) == pytest.approx(1, abs=0.05)
    assert diversity(real[:1].expand(60, -1, -1, -1), real) == 0
    assert diversity((more.float() - 128) / 4 + 128, real.float()) == pytest.approx(0.25, abs=0.02)


def test_nearness_is_one_for_new_images_and_nothing_for_copies() -> None:
    generator = torch.Generator().manual_seed(0)
    training, held_out, new = torch.rand(3, 50, 3, 4, 4, generator=generator).unbind(0)
    assert nearness(new, held_out, training) == pytest.approx(1, abs=0.1)
    # cdist works by matrix products, which leave a rounding error instead of 0
    assert nearness(training.flip(0), held_out, training) < 0.01
    halfway = training + (new - training) / 4
    assert 0.1 < nearness(halfway, held_out, training) < 0.7
