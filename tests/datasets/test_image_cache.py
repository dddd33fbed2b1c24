"""The cache of images: complete, checked, and clear about what is wrong with it."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from datasets.base import DataError
from datasets.shapes2d import Shapes2D, Shapes2DConfig

TINY = Shapes2DConfig(train_per_composition=6, probe_per_composition=3, test_per_composition=2)


@pytest.fixture
def shapes(tmp_path):
    module = Shapes2D(TINY, seed=1, folder=tmp_path / "images")
    module.generate(module.folder)
    return module


def test_counts_of_every_part(shapes):
    for part, count in (("train", 6), ("probe", 3), ("test", 2)):
        images = shapes.images(part)
        assert len(images) == 8 * count
        assert torch.bincount(images.composition_index).tolist() == [count] * 8
        assert json.loads((shapes.folder / "manifest.json").read_text())["counts"][part]["101"] == count
    shapes.verify()


def test_more_images_never_change_earlier_ones(shapes, tmp_path):
    larger = Shapes2D(replace(TINY, train_per_composition=200), 1, tmp_path / "more")  # 1600 images: a second block
    larger.generate(larger.folder)
    few, many = shapes.images("train"), larger.images("train")
    assert (few.images == many.images[:48]).all()
    assert torch.equal(few.values, many.values[:48])
    assert len(np.unique(many.images.reshape(1600, -1), axis=0)) == 1600


def test_generating_twice_writes_the_same_bytes(shapes, tmp_path):
    shapes.generate(tmp_path / "again")
    for path in shapes.folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_what_is_done_to_images_stays_out_of_the_file(shapes):
    before = (shapes.folder / "train_images.npy").read_bytes()
    with warnings.catch_warnings(action="error"):
        pixels = torch.as_tensor(np.asarray(shapes.images("train").images))
    assert pixels.any()
    pixels.zero_()
    assert (shapes.folder / "train_images.npy").read_bytes() == before


def test_progress_grows_to_one(shapes, tmp_path):
    shares = []
    shapes.generate(tmp_path / "again", shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_subset_has_only_what_was_asked(shapes):
    images = shapes.images("train").subset(("001", "110"), shapes.space)
    assert {tuple(row) for row in images.classes.tolist()} == {(0, 0, 1), (1, 1, 0)}
    assert len(images) == len(images.images) == 12


def test_tensors_are_scaled_to_plus_minus_one(shapes):
    images = shapes.images("test")
    chosen = images.tensor(torch.tensor([3, 0]))
    assert chosen.dtype == torch.float32
    assert chosen.min() >= -1 and chosen.max() == 1
    assert torch.equal(chosen, images.tensor()[[3, 0]])
    assert torch.equal(images.tensor(slice(2, 4)), images.tensor()[2:4])
    assert np.array_equal(np.round((chosen.numpy() + 1) * 127.5), images.images[[3, 0]])


def test_unknown_part(shapes):
    with pytest.raises(ValueError, match="no part 'valid'"):
        shapes.images("valid")


def _truncate(folder):
    path = folder / "train_images.npy"
    path.write_bytes(path.read_bytes()[:-10])


def _remove(folder):
    (folder / "train_images.npy").unlink()


def _spoil_manifest(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:-20])


def _empty_manifest(folder):
    (folder / "manifest.json").write_text('{"files": {}}')


def _overwrite_header(folder, name):
    path = folder / name
    path.write_bytes(b"\xff" * 16 + path.read_bytes()[16:])


DAMAGE = [
    (_truncate, r"train_images\.npy has \d+ bytes instead of \d+"),
    (_remove, r"train_images\.npy is missing"),
    (_spoil_manifest, r"manifest\.json is no manifest of images"),
    (_empty_manifest, r"manifest\.json does not list the images it should"),
    (lambda folder: (folder / "manifest.json").unlink(), r"manifest\.json is missing"),
    (lambda folder: _overwrite_header(folder, "train_images.npy"), r"train_images\.npy .* cannot be read"),
    (lambda folder: _overwrite_header(folder, "train_labels.safetensors"), r"train_labels.* cannot be read"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_damage_is_told_in_one_sentence(shapes, damage, message):
    damage(shapes.folder)
    with pytest.raises(DataError, match=message) as error:
        shapes.images("train")
    assert str(error.value).endswith(f"; delete the folder {shapes.folder} and run again")
    assert "\n" not in str(error.value)


def test_a_changed_byte_is_found_by_the_checksum(shapes):
    path = shapes.folder / "probe_images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    shapes.images("probe")
    with pytest.raises(DataError, match=r"probe_images\.npy was altered"):
        shapes.verify()


@pytest.mark.parametrize(
    ("config", "seed", "key"), [(TINY, 2, "seed"), (replace(TINY, colour_jitter=0.2), 1, "config_hash")]
)
def test_images_of_another_configuration_are_refused(shapes, config, seed, key):
    with pytest.raises(DataError, match=f"belongs to another {key}"):
        Shapes2D(config, seed, shapes.folder).images("train")


def test_lightning_users_get_ordinary_batches(tmp_path):
    shapes = Shapes2D(TINY, seed=1, folder=tmp_path / "new")
    shapes.prepare_data()
    batches = list(shapes.train_dataloader(("000", "111"), batch_size=4))
    assert len(batches) == 3
    assert batches[0]["image"].shape == (4, 3, 28, 28)
    assert {row for batch in batches for row in map(tuple, batch["classes"].tolist())} == {(0, 0, 0), (1, 1, 1)}
    again = next(iter(shapes.train_dataloader(("000", "111"), batch_size=4)))
    assert torch.equal(again["image"], batches[0]["image"])
    assert sum(len(batch["values"]) for batch in shapes.val_dataloader(batch_size=5)) == 16
