"""Drawn faces as a dataset: through CelebA's files into the cache, the same on any number of processes, and readable."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmark.sources import find_module, source
from datasets import loading
from datasets.base import DATASETS, PARTS, DataError
from datasets.celeba import CelebA, CelebAConfig
from datasets.faces.cells import WIDTHS
from datasets.faces.listing import open_listing
from datasets.faces.lists import NAMES
from datasets.faces.people import draw_people
from datasets.faces.writer import write_faces
from datasets.factors import seed_for
from probes.linear import ProbeConfig, train_probe

TINY = CelebAConfig(
    source="drawn", resolution=16, train_per_composition=3, probe_per_composition=2, test_per_composition=1
)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    module = CelebA(TINY, 1, tmp_path_factory.mktemp("images"))
    shares = []
    module.generate(module.folder, shares.append)
    assert shares == sorted(shares) and shares[-1] == 1
    return module


def test_parts_values_and_manifest(faces):
    assert DATASETS["celeba"] is CelebA
    for part, count in (("train", 3), ("probe", 2), ("test", 1)):
        images = faces.images(part)
        assert images.images.shape == (8 * count, 3, 16, 16)
        assert torch.bincount(images.composition_index).tolist() == [count] * 8
        people = draw_people(seed_for(1, "celeba", part), range(8 * count))
        assert torch.equal(images.values, people.values) and torch.equal(images.classes, people.classes)
    faces.verify()
    assert sorted(path.name for path in faces.folder.iterdir()) == sorted(
        ["manifest.json", *(f"{part}_{kind}" for part in PARTS for kind in ("images.npy", "labels.safetensors"))]
    )
    origin = faces.origin
    assert (origin["source"], origin["extent"], origin["official"]) == ("drawn", "48 drawn faces", False)
    assert origin["cells"]["101"] == {"train": 3, "valid": 2, "test": 1}


def test_any_number_of_processes_gives_the_same_bytes(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "cores", lambda: 3)
    monkeypatch.setattr(CelebA, "block", 5)
    module = CelebA(TINY, 1, tmp_path / "again")
    module.prepare_data()
    for path in faces.folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_more_faces_never_change_earlier_ones(faces, tmp_path):
    larger = CelebA(replace(TINY, probe_per_composition=4), 1, tmp_path)
    larger.prepare_data()
    assert np.array_equal(faces.images("train").images, larger.images("train").images)
    assert np.array_equal(faces.images("probe").images, larger.images("probe").images[:16])


def test_another_seed_or_config_is_refused(faces):
    with pytest.raises(DataError, match="belongs to another seed"):
        CelebA(TINY, 2, faces.folder).images("train")
    with pytest.raises(DataError, match="belongs to another config_hash"):
        CelebA(replace(TINY, resolution=24), 1, faces.folder).images("train")
    assert len(CelebA(replace(TINY, balance="natural", root="elsewhere"), 1, faces.folder).images("test")) == 8


def test_new_values_are_those_of_drawn_faces(faces):
    drawn = faces.draw_values("101", 500, torch.Generator().manual_seed(0))
    centre = torch.tensor(faces.space.centre("101"))
    assert drawn.shape == (500, 4) and drawn.dtype == torch.float32
    assert ((drawn - centre).abs() <= torch.tensor(WIDTHS) + 1e-6).all()
    assert ((drawn - centre).abs().amax(0) > 0.9 * torch.tensor(WIDTHS)).all()


def test_the_files_are_written_as_celeba_is(tmp_path):
    write_faces(tmp_path, 5, {"train": 8, "probe": 1, "test": 2})
    lines = (tmp_path / "list_attr_celeba.txt").read_text().splitlines()
    assert lines[0] == "11" and lines[1].split() == list(NAMES)
    assert lines[2].startswith("000001.jpg -1 -1 -1") and len(lines) == 13
    partition = (tmp_path / "list_eval_partition.txt").read_text()
    assert partition.endswith("000008.jpg 0\n000009.jpg 1\n000010.jpg 2\n000011.jpg 2\n")
    listing = open_listing(tmp_path)
    assert torch.equal(
        torch.from_numpy(listing.values[:8]), draw_people(seed_for(5, "celeba", "train"), range(8)).values
    )
    assert listing.checksum == "none" and not list(tmp_path.glob(".tmp*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "fake"}, "dataset.celeba.source=fake is unknown; use auto, real or drawn"),
        ({"source": "auto"}, "dataset.celeba.source=auto has to be resolved first; use real or drawn"),
        ({"balance": "odd"}, "dataset.celeba.balance=odd is unknown; use equal or natural"),
        (
            {"nuisance": "head,hat"},
            "dataset.celeba.nuisance=head,hat: use none, all, or some of place, head, skin, ground",
        ),
        ({"resolution": 4}, "dataset.celeba.resolution=4: use 8 or more"),
        ({"crop": 200}, r"dataset.celeba.crop=200: use 16 \(the resolution\) to 178"),
        ({"test_per_composition": 0}, "dataset.celeba.test_per_composition=0: use 1 or more"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        CelebA(replace(TINY, **changes), 1, "unused")


def test_the_config_is_read_without_torch():
    light = source(find_module("datasets.celeba"), "datasets.celeba").declared("CelebAConfig")
    config = light(source="drawn")
    config.validate()
    assert config.space.num_values == 4 and light(source="real").space.num_values == 0
    assert config.space.describe("011") == "female neutral blond"


def test_a_small_network_reads_every_factor(tmp_path):
    """Of held-out faces of 32 px; in twice the epochs it reads .98 of the smiles too."""
    config = replace(TINY, resolution=32, train_per_composition=1, probe_per_composition=300, test_per_composition=50)
    data = CelebA(config, 2, tmp_path)
    data.prepare_data()
    seen, held_out = data.images("probe"), data.images("test")
    judge = ProbeConfig(features="cnn", epochs=8, lr=4e-3, batch=64)
    probe = train_probe(np.array(seen.images), seen.classes, data.space, judge, seed=0)
    right = (probe.judge(held_out.tensor()).classes == held_out.classes).float().mean(0)
    assert (right >= torch.tensor([0.98, 0.90, 0.98])).all()
