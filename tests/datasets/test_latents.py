"""Batches of latents: a function of (seed, step), of training compositions only."""

import itertools

import lightning
import pytest
import torch

from datasets.base import DataError
from datasets.factors import Factor, FactorSpace, seed_for
from datasets.latents import LatentBatches, LatentSet, _Groups

SPACE = FactorSpace(
    (
        Factor("shape", ("circle", "triangle")),
        Factor("colour", ("red", "blue"), ((0.9, 0.1, 0.1), (0.1, 0.1, 0.9))),
        Factor("size", ("large", "small"), ((7.0,), (4.5,))),
    )
)
TRAIN = ("000", "001", "010", "100")
M, N, C = 80, 4, 3
ZERO, ONE = torch.zeros(C), torch.ones(C)


@pytest.fixture
def latents():
    generator = torch.Generator().manual_seed(0)
    classes = torch.tensor([SPACE.class_indices(c) for c in SPACE.compositions]).repeat(M // 8, 1)
    tensors = {
        "mean": 3 + 2 * torch.randn(M, N, C, generator=generator),
        "std": 0.5 + torch.rand(M, N, C, generator=generator),
        "pre_quant": torch.randn(M, N, C, generator=generator),
        "codes": torch.randint(16, (M, N), generator=generator),
    }
    return LatentSet(tensors, torch.rand(M, 4, generator=generator), classes)


def batches(latents, view="kl", **changes):
    return LatentBatches(latents, view, **{"batch_size": 16, "seed": 7, "shift": ZERO, "scale": ONE, **changes})


def assert_equal(first, second):
    for key in ("latents", "values", "classes"):
        assert torch.equal(first[key], second[key])
    assert torch.equal(first["generator"].get_state(), second["generator"].get_state())


@pytest.mark.parametrize("view", ["kl", "pre_quant", "codes"])
def test_resuming_in_the_middle_is_bit_equal(latents, view):
    whole = list(itertools.islice(batches(latents, view), 6))
    resumed = batches(latents, view)
    for step in (3, 4, 5):
        assert_equal(whole[step], resumed.batch(step))


def test_steps_and_seeds_differ(latents):
    drawn = [batches(latents, seed=seed).batch(step)["latents"] for seed in (0, 1) for step in (0, 1)]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(drawn, 2))


def test_the_generator_goes_on_from_the_indices(latents):
    generator = torch.Generator().manual_seed(seed_for(7, "step", 5))
    indices = torch.randint(M, (16,), generator=generator)
    batch = batches(latents, "codes").batch(5)
    assert torch.equal(batch["latents"], latents.tensors["codes"][indices])
    assert torch.equal(torch.rand(3, generator=batch["generator"]), torch.rand(3, generator=generator))


def test_labels_belong_to_their_latents(latents):
    batch = batches(latents, "pre_quant").batch(0)
    for x, values, classes in zip(batch["latents"], batch["values"], batch["classes"], strict=True):
        (row,) = (latents.tensors["pre_quant"] == x).all(2).all(1).nonzero()[0].tolist()
        assert torch.equal(latents.values[row], values)
        assert torch.equal(latents.classes[row], classes)


def test_every_image_is_drawn(latents):
    seen = torch.cat([batches(latents, "codes").batch(step)["values"][:, 0] for step in range(100)]).unique()
    assert len(seen) == M


def test_kl_is_sampled_anew(latents):
    one = LatentSet({k: v[:1] for k, v in latents.tensors.items()}, latents.values[:1], latents.classes[:1])
    samples = torch.cat([batches(one, batch_size=500).batch(step)["latents"] for step in range(8)])
    assert len(samples.flatten(1).unique(dim=0)) == 4000
    torch.testing.assert_close(samples.mean(0), one.tensors["mean"][0], rtol=0, atol=0.12)
    torch.testing.assert_close(samples.std(0), one.tensors["std"][0], rtol=0.06, atol=0)


@pytest.mark.parametrize("view", ["kl", "pre_quant"])
def test_statistics_normalise_batches(latents, view):
    shift, scale = latents.statistics(view)
    x = batches(latents, view, batch_size=20000, shift=shift, scale=scale).batch(0)["latents"].flatten(0, 1)
    torch.testing.assert_close(x.mean(0), ZERO, rtol=0, atol=0.03)
    torch.testing.assert_close(x.std(0), ONE, rtol=0, atol=0.03)


def test_nothing_of_other_compositions_reaches_a_batch(latents):
    novel = ~torch.isin(latents.classes.sum(1), torch.tensor([0, 1]))
    for name in ("mean", "std", "pre_quant"):
        latents.tensors[name][novel] = torch.nan
    latents.values[novel] = torch.nan
    seen = latents.subset(TRAIN, SPACE)
    assert len(seen) == M // 2
    for view in ("kl", "pre_quant"):
        shift, scale = seen.statistics(view)
        for step in range(50):
            batch = batches(seen, view, shift=shift, scale=scale).batch(step)
            assert batch["latents"].isfinite().all()
            assert batch["values"].isfinite().all()
            assert batch["classes"].sum(1).max() <= 1


def test_save_and_load(latents, tmp_path):
    latents.save(tmp_path / "latents.safetensors")
    loaded = LatentSet.load(tmp_path / "latents.safetensors")
    assert loaded.tensors.keys() == latents.tensors.keys()
    assert_equal(batches(loaded).batch(4), batches(latents).batch(4))


@pytest.mark.parametrize("content", [None, b"", b"\x00" * 100])
def test_damaged_files_are_told(tmp_path, content):
    path = tmp_path / "latents.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"latents\.safetensors holds no latents .*; delete the folder"):
        LatentSet.load(path)


def test_what_cannot_be_drawn_is_refused(latents):
    with pytest.raises(ValueError, match="no view 'pixels'"):
        batches(latents, "pixels")
    with pytest.raises(ValueError, match="view embeddings needs embeddings; these latents have only mean, std"):
        batches(latents, "embeddings")
    with pytest.raises(ValueError, match="needs a shift and a scale"):
        batches(latents, scale=None)
    with pytest.raises(ValueError, match="no training latents"):
        batches(latents.subset((), SPACE))


class Recorder(lightning.LightningModule):
    """Keeps what Lightning hands to a training step, and what its generator gives next."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, _):
        self.seen.append((batch["latents"], torch.rand(2, generator=batch["generator"])))
        return self.weight

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_trainer_sees_the_same_stream(latents, tmp_path):
    recorder = Recorder()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = lightning.Trainer(max_steps=4, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    trainer.fit(recorder, batches(latents))
    assert len(recorder.seen) == 4
    for step, (x, noise) in enumerate(recorder.seen):
        expected = batches(latents).batch(step)
        assert torch.equal(x, expected["latents"])
        assert torch.equal(noise, torch.rand(2, generator=expected["generator"]))


def test_groups_are_drawn_equally_often_however_many_they_have():
    groups = torch.tensor([3] * 900 + [0] * 90 + [7] * 10)
    labels = groups[:, None]
    rare = LatentSet({"codes": torch.arange(1000)[:, None]}, torch.zeros(1000, 1), labels)
    drawn = LatentBatches(rare, "codes", 6000, seed=0, groups=groups).batch(0)
    shares = torch.bincount(drawn["classes"][:, 0], minlength=8) / 6000
    assert (shares[[0, 3, 7]] - 1 / 3).abs().max() < 0.03 and shares.sum() == 1
    assert len(drawn["latents"][drawn["classes"] == 7].unique()) == 10  # all of a group
    natural = LatentBatches(rare, "codes", 6000, seed=0).batch(0)
    assert abs((natural["classes"] == 3).float().mean() - 0.9) < 0.03


def test_the_last_of_a_large_group_is_the_end():
    """(1 - 2^-24) * 100000 is 100000 in float32: one past the end."""
    members = _Groups(torch.zeros(100_000, dtype=torch.int64))
    assert members.member(torch.tensor([0]), torch.tensor([1 - 2**-24])) == 99_999
