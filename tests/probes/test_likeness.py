"""KID and the share of copies: nothing for one distribution, much for another, and no trace in the global generator."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from probes.likeness import fid, kid, likeness, memorised


@pytest.fixture
def normal(seeded: Callable[..., torch.Generator]) -> Callable[..., torch.Tensor]:
    """Features (count, 8) of one distribution, another draw for every seed."""
    return lambda seed, count=400: torch.randn(count, 8, generator=seeded(seed)) + 1


def test_kid_is_nothing_for_one_distribution_and_grows_with_the_distance(normal) -> None:
    real = normal(0)
    same, shifted, far = (kid(normal(1) + shift, real) for shift in (0, 0.3, 1))
    assert abs(same) < 0.02  # 400 images tell it to about .01
    assert 0.05 < shifted < far / 4


def test_kid_sees_a_missing_mode_and_not_the_scale_of_features(normal) -> None:
    real = torch.cat([normal(0), normal(1) - 4])
    assert kid(normal(2, 800), real) > 10 * abs(kid(torch.cat([normal(2), normal(3) - 4]), real))
    assert kid(100 * normal(1, 50), 100 * real) == pytest.approx(kid(normal(1, 50), real), rel=1e-3)


def test_kid_is_a_function_of_the_features_alone(normal) -> None:
    torch.manual_seed(0)
    first = kid(normal(1, 60), normal(0))  # a subset of the real ones is drawn
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1)), "the global generator is left alone"
    torch.manual_seed(7)
    assert kid(normal(1, 60), normal(0)) == first


def test_copies_are_counted(normal) -> None:
    training, held_out = normal(0), normal(1)
    assert memorised(normal(2, 2000), held_out, training) < 0.05
    copies = training[:100] + 0.001 * normal(3, 100)
    assert memorised(torch.cat([copies, normal(2, 300)]), held_out, training) == pytest.approx(0.25, abs=0.03)


def test_held_out_images_of_the_same_composition_set_the_limit(normal) -> None:
    """A novel composition is far from all training images: what is as near as its real ones are is no copy."""
    training, novel = normal(0), normal(1) + 5
    samples = {"0": training, "1": normal(2) + 5}
    figures = likeness(samples, {"0": normal(3), "1": novel}, training, ("0",))
    assert figures["memorised_level0"] == figures["memorised_comp_0"] == 1
    assert figures["memorised_level1"] < 0.05
    assert abs(figures["kid_level1"]) < 0.05


def test_levels_are_means_over_their_compositions(normal) -> None:
    features = {name: normal(index) for index, name in enumerate(("00", "01", "10", "11"))}
    figures = likeness(features, dict.fromkeys(features, normal(9)), normal(8), ("00",))
    assert figures["kid_level1"] == pytest.approx((figures["kid_comp_01"] + figures["kid_comp_10"]) / 2)
    assert {f"{name}_level{k}" for name in ("kid", "memorised") for k in range(3)} <= figures.keys()


def test_few_images_give_no_frechet_distance() -> None:
    images = torch.zeros(2047, 3, 1, 1, dtype=torch.uint8)
    assert fid(images, torch.cat([images, images]), "nowhere.pth") is None
