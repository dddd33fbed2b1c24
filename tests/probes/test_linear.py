"""The trained judge: it learns, the same way every time, survives the disk, and never declines to answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.factors import FactorSpace
from datasets.shapes2d import Shapes2D
from probes.evaluation import accuracy
from probes.judgement import Reason
from probes.linear import LinearProbe, ProbeConfig, as_float, one_pass, train_probe

TINY = ProbeConfig(features="cnn", epochs=3, lr=3e-3, batch=32, width=4)
SHAPE = (3, 28, 28)


@pytest.fixture(scope="module")
def lessons(published) -> tuple[np.ndarray, torch.Tensor]:
    """Images (512, 3, 28, 28) uint8 and classes (512, 3) of the part that judges learn from."""
    images, _, classes = Shapes2D(published.data.config, seed=0, folder=Path("unused")).draw_block("probe", 0)
    return images[:512].numpy(), classes[:512]


@pytest.mark.parametrize("features", ["cnn", "pixels"])
def test_it_learns_to_read_every_composition(features, lessons, published) -> None:
    probe = train_probe(*lessons, published.space, replace(TINY, features=features), seed=0)
    shares = accuracy(probe, published.images, published.classes, published.space)
    assert len(shares) == 8
    assert min(shares.values()) > 0.9  # chance is 1/8
    untrained = train_probe(*lessons, published.space, replace(TINY, features=features, epochs=0), seed=0)
    guessed = accuracy(untrained, published.images, published.classes, published.space)
    assert np.mean(list(guessed.values())) < 0.5


def test_weights_are_a_function_of_the_seed_and_nothing_else(lessons, published) -> None:
    images, classes = lessons[0][:64], lessons[1][:64]

    def weights(seed: int, global_seed: int) -> torch.Tensor:
        torch.manual_seed(global_seed)
        expected = torch.Generator().manual_seed(global_seed)
        probe = train_probe(images, classes, published.space, TINY, seed)
        assert torch.equal(torch.rand(3), torch.rand(3, generator=expected)), "the global generator is left alone"
        return torch.nn.utils.parameters_to_vector(probe.parameters()).detach()

    assert torch.equal(weights(1, global_seed=0), weights(1, global_seed=5))
    assert not torch.equal(weights(1, global_seed=0), weights(2, global_seed=0))


def test_bytes_and_floats_teach_the_same(lessons, published) -> None:
    images, classes = torch.tensor(lessons[0][:64]), lessons[1][:64]
    taught = [train_probe(x, classes, published.space, TINY, 0) for x in (images, as_float(images))]
    assert torch.equal(*(probe(published.images[:8]) for probe in taught))
    assert as_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1, 1]


@pytest.mark.parametrize("features", ["cnn", "pixels"])
def test_saved_and_loaded_it_says_the_same(features, published, tmp_path) -> None:
    probe = LinearProbe(published.space, SHAPE, replace(TINY, features=features))
    probe.save(tmp_path / "probe.safetensors")
    loaded = LinearProbe.load(tmp_path / "probe.safetensors", published.space, SHAPE)
    assert loaded.config == probe.config
    assert not loaded.training
    assert torch.equal(loaded.judge(published.images[:32]).logits, probe.judge(published.images[:32]).logits)


def test_a_file_for_other_factors_is_refused(published, tmp_path) -> None:
    LinearProbe(published.space, SHAPE, TINY).save(tmp_path / "probe.safetensors")
    fewer = FactorSpace(published.space.factors[:2])
    with pytest.raises(RuntimeError, match="size mismatch"):
        LinearProbe.load(tmp_path / "probe.safetensors", fewer, SHAPE)


def test_it_is_forced_to_choose(published, seeded: Callable[..., torch.Generator]) -> None:
    noise = torch.rand(600, *SHAPE, generator=seeded()) * 2 - 1  # more than one chunk
    said = LinearProbe(published.space, SHAPE).judge(noise)
    assert said.judge == "probe"
    assert said.accepted.all()
    assert (said.reasons == Reason.NONE).all()
    assert said.logits.shape == (600, 6)
    assert said.values is None
    for factor, head in enumerate(said.logits.split(2, 1)):
        assert torch.equal(said.classes[:, factor], head.argmax(1))


def test_images_are_clipped_before_they_are_read(published) -> None:
    probe = LinearProbe(published.space, SHAPE, TINY)
    strong = 3 * published.images[:16]
    assert torch.equal(probe.judge(strong).logits, probe.judge(strong.clamp(-1, 1)).logits)


def test_published_probe_is_linear_in_the_pixels(published) -> None:
    probe = LinearProbe(published.space, SHAPE)
    assert sum(p.numel() for p in probe.parameters()) == 6 * (3 * 28 * 28 + 1)
    first, second = published.images[:4], published.images[4:8]
    middle = (probe(first) + probe(second)) / 2
    torch.testing.assert_close(probe((first + second) / 2), middle, rtol=1e-4, atol=1e-4)


def test_unknown_features_are_refused(published) -> None:
    with pytest.raises(ValueError, match=r"probe\.features=resnet is unknown; use pixels or cnn"):
        LinearProbe(published.space, SHAPE, ProbeConfig(features="resnet"))


def test_without_weights_or_with_an_unknown_balance_a_config_is_refused(published) -> None:
    for changes, words in (
        ({"balance": "odd"}, r"probe\.balance=odd is unknown; use equal or natural"),
        ({"backbone": "resnet18"}, r"probe\.backbone=resnet18 needs probe\.weights=PATH"),
        ({"weights": "w.pt"}, r"probe\.weights is for a network of timm"),
        ({"backbone": "resnet18", "weights": "w.pt", "features": "pixels"}, "does not see with probe.features=pixels"),
    ):
        with pytest.raises(ValueError, match=words):
            LinearProbe(published.space, SHAPE, replace(TINY, **changes))


def test_equal_counts_give_the_same_weights_whatever_the_balance(lessons, published) -> None:
    images, classes = lessons[0][:64], lessons[1][:64]
    assert classes.unique(dim=0, return_counts=True)[1].tolist() == [8] * 8
    taught = [train_probe(images, classes, published.space, replace(TINY, balance=b), 0) for b in ("equal", "natural")]
    assert torch.equal(*(torch.nn.utils.parameters_to_vector(probe.parameters()) for probe in taught))


def test_unequal_groups_are_shown_equally_in_every_batch(seeded: Callable[..., torch.Generator]) -> None:
    groups = torch.repeat_interleave(torch.arange(3), torch.tensor([50, 7, 3]))
    order = one_pass(groups, "equal", seeded())
    assert len(order) == 60
    for batch in groups[order].split(6):
        assert batch.bincount().tolist() == [2, 2, 2]
    shown = order.bincount(minlength=60)
    assert shown[:50].max() == 1 and shown[:50].sum() == 20  # no image of the large group twice
    assert shown[50:57].min() >= 2 and shown[50:57].max() <= 3 and shown[57:].min() >= 6
    assert not torch.equal(order, one_pass(groups, "equal", seeded(1)))
    natural = one_pass(groups, "natural", seeded())
    assert natural.sort().values.tolist() == list(range(60))
    assert torch.equal(natural, torch.randperm(60, generator=seeded()))


def test_a_rare_composition_is_read_better_when_all_are_shown_equally(lessons, published) -> None:
    images, classes = lessons
    rare = (classes == torch.tensor([1, 1, 1])).all(1)
    keep = ~rare | (rare.cumsum(0) <= 3)  # three images of 111, 64 of every other composition
    read = {}
    for balance in ("equal", "natural"):
        config = replace(TINY, epochs=2, balance=balance)
        probe = train_probe(images[keep.numpy()], classes[keep], published.space, config, seed=0)
        read[balance] = accuracy(probe, published.images, published.classes, published.space)["111"]
    assert read["equal"] > read["natural"] + 0.05
