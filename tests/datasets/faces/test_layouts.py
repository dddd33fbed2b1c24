"""The three layouts give the same batches of the same images; what is broken or missing gets one sentence."""

import hashlib
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from datasets.base import PARTS, DataError
from datasets.celeba import CelebA, CelebAConfig
from datasets.faces import lists
from datasets.faces.listing import open_listing
from datasets.faces.lists import NAMES, FacesError
from datasets.faces.parts import PROBE_EVERY, classes_of, split_parts
from datasets.faces.places import PlaceError, resolve_source
from datasets.faces.writer import write_faces

COUNTS = {"train": 40, "probe": 8, "test": 8}
LAYOUTS = ("standard", "kaggle", "parquet")


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """Starting processes takes longer than reading so few images."""
    monkeypatch.setattr(CelebA, "parallel", False)


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """Layout -> root of the same images in it; without the list of values they pass for real ones. Some have other hair."""
    roots = {layout: tmp_path_factory.mktemp(layout) for layout in LAYOUTS}
    standard = roots["standard"] / "celeba"
    write_faces(standard, 3, COUNTS)
    (standard / "celeba_drawn_values.csv").unlink()
    rows = [line.split() for line in (standard / "list_attr_celeba.txt").read_text().splitlines()[2:]]
    for row, (black, blond) in {0: (1, 1), 9: (-1, -1), 18: (-1, -1)}.items():
        rows[row][1 + NAMES.index("Black_Hair")], rows[row][1 + NAMES.index("Blond_Hair")] = str(black), str(blond)
    text = f"{len(rows)}\n{' '.join(NAMES)} \n" + "".join(f"{' '.join(f'{w:>2}' for w in row)}\n" for row in rows)
    (standard / "list_attr_celeba.txt").write_text(text)
    partition = [line.split() for line in (standard / "list_eval_partition.txt").read_text().splitlines()]

    nested = roots["kaggle"] / "img_align_celeba" / "img_align_celeba"
    shutil.copytree(standard / "img_align_celeba", nested)
    for name, header, table in (
        ("list_attr_celeba.csv", ["image_id", *NAMES], rows),
        ("list_eval_partition.csv", ["image_id", "partition"], partition),
    ):
        content = "\r\n".join(",".join(row) for row in [header, *table])  # and no last newline
        (roots["kaggle"] / name).write_bytes(content.encode())

    folder = roots["parquet"] / "img_align+identity+attr"
    folder.mkdir()
    for number, split in enumerate(("train", "valid", "test")):
        chosen = [row for row, (_, part) in zip(rows, partition, strict=True) if part == str(number)]
        half = len(chosen) // 2
        for shard, some in enumerate((chosen[:half], chosen[half:])):
            path = folder / f"{split}-{shard:05d}-of-00002.parquet"
            write_shard(path, some, [(nested / row[0]).read_bytes() for row in some])
    return roots


def write_shard(path, rows, images, drop=()):
    columns = {
        "image": pa.array([{"bytes": image, "path": None} for image in images]),
        "celeb_id": pa.array(range(len(rows))),
        **{name: pa.array([row[1 + place] == "1" for row in rows]) for place, name in enumerate(NAMES)},
    }
    table = pa.table({name: column for name, column in columns.items() if name not in drop})
    parquet.write_table(table, path, row_group_size=7)


def config_of(root, **changes):
    return CelebAConfig(
        **(
            {
                "source": "real",
                "root": str(root),
                "resolution": 24,
                "train_per_composition": 0,
                "probe_per_composition": 0,
                "test_per_composition": 0,
            }
            | changes
        )
    )


@pytest.fixture(scope="module")
def data(copies, tmp_path_factory):
    modules = {}
    for layout, root in copies.items():
        modules[layout] = CelebA(config_of(root), 1, tmp_path_factory.mktemp("images"))
        modules[layout].prepare_data()
    return modules


@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_the_same_batches_from_every_layout(data, layout):
    for part in PARTS:
        ours, theirs = data["standard"].images(part), data[layout].images(part)
        assert np.array_equal(ours.images, theirs.images)
        assert torch.equal(ours.classes, theirs.classes)
    pairs = zip(
        data["standard"].train_dataloader(batch_size=8), data[layout].train_dataloader(batch_size=8), strict=True
    )
    for ours, theirs in pairs:
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_order_and_labels_do_not_depend_on_the_layout(copies):
    listings = [open_listing(root) for root in copies.values()]
    for layout, listing in zip(LAYOUTS, listings, strict=True):
        assert (listing.layout, len(listing)) == (layout, 56)
        assert listing.extent == "subset of 56 images" and not listing.official
        for field in ("names", "attributes", "partition"):
            assert np.array_equal(getattr(listing, field), getattr(listings[0], field))
        assert [listing.read(k) for k in (0, 39, 55)] == [listings[0].read(k) for k in (0, 39, 55)]
    assert listings[0].checksum == "other"


def test_partitions_are_respected_and_other_hair_is_dropped(data, copies):
    listing = open_listing(copies["standard"])
    parts = split_parts(listing, dict.fromkeys(PARTS, 0))
    assert {part: set(listing.partition[rows]) for part, rows in parts.items()} == {
        "train": {0},
        "probe": {0, 1},
        "test": {2},
    }
    assert sum(map(len, parts.values())) == len(set(np.concatenate(list(parts.values())))) == 53
    assert not {0, 9, 18} & set(np.concatenate(list(parts.values())))
    classes, _ = classes_of(listing.attributes)
    lent = parts["probe"][listing.partition[parts["probe"]] == 0]
    assert np.bincount(classes[lent] @ [4, 2, 1], minlength=8).tolist() == [5 // PROBE_EVERY] * 8
    few = split_parts(listing, {"train": 1, "probe": 1, "test": 0})
    assert len(few["train"]) == len(few["probe"]) == 8 and set(listing.partition[few["probe"]]) == {1}


def test_the_manifest_says_where_the_images_come_from(data, copies):
    origin = data["kaggle"].origin
    assert (origin["source"], origin["layout"], origin["checksum"]) == ("real", "kaggle", "none")
    assert origin["extent"] == "subset of 56 images"
    assert origin["cells"]["111"] == {"train": 5, "valid": 1, "test": 1}
    assert origin["dropped"] == {"neither black nor blond": 2, "both": 1}
    assert data["parquet"].space.num_values == 0
    assert data["parquet"].images("test").values.shape == (8, 0)
    assert data["parquet"].draw_values("111", 5, torch.Generator()).shape == (5, 0)


def test_the_cache_is_of_use_without_the_files_but_not_with_others(copies, data, tmp_path):
    root = tmp_path / "gone"
    shutil.copytree(copies["kaggle"], root)
    module = CelebA(config_of(root), 1, tmp_path / "images")
    module.prepare_data()
    moved = replace(module.config, root=str(tmp_path / "nowhere"), balance="natural")
    assert len(CelebA(moved, 1, tmp_path / "images").images("test")) == 8
    path = root / "list_eval_partition.csv"
    path.write_bytes(path.read_bytes() + b"\r\n")
    with pytest.raises(DataError, match="belongs to another listing"):
        CelebA(module.config, 1, tmp_path / "images").images("test")


def test_official_checksums(copies, monkeypatch):
    standard = copies["standard"] / "celeba"
    digests = {
        name: hashlib.md5((standard / name).read_bytes()).hexdigest()
        for name in ("list_attr_celeba.txt", "list_eval_partition.txt")
    }
    monkeypatch.setattr(lists, "MD5", digests)
    listing = open_listing(copies["standard"])
    assert listing.checksum == "official" and not listing.official  # the lists are, but images are few
    monkeypatch.setattr("datasets.faces.listing.IMAGES", 56)
    assert listing.official and listing.extent == "official full set"


# -- what is broken -------------------------------------------------------------------------------------------------------


def _edit(name, old, new):
    def damage(root):
        path = next(root.rglob(name))
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new, 1))

    return damage


def _cut(name, keep):
    def damage(root):
        path = next(root.rglob(name))
        path.write_bytes(path.read_bytes()[:keep])

    return damage


def _write(name, content):
    return lambda root: next(root.rglob(name)).write_bytes(content)


def _remove(name):
    return lambda root: next(root.rglob(name)).unlink()


def _archive(name, content):
    def damage(root):
        shutil.rmtree(next(root.rglob("img_align_celeba")))
        (next(root.rglob("list_attr_celeba.*")).parent / name).write_bytes(content)

    return damage


def _spoil_first_image(root):
    path = next(root.rglob("test-00000*"))
    table = parquet.read_table(path)
    images = table.column("image").to_pylist()
    images[0]["bytes"] = HTML
    parquet.write_table(table.set_column(table.column_names.index("image"), "image", pa.array(images)), path)


HTML = b"\n<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head></html>"
FIRST = b"000001.jpg -1"
DAMAGE = [
    (
        "standard",
        _archive("img_align_celeba.zip", b"PK\x03\x04" + b"\0" * 500),
        r"celeba\.zip ends early after 504 byt",
    ),
    ("standard", _archive("img_align_celeba.zip", HTML), r"img_align_celeba\.zip is a web page, not an archive"),
    ("standard", _archive("notes", b""), r"list_attr_celeba\.txt has no folder img_align_celeba"),
    ("standard", _remove("list_attr_celeba.txt"), r"list_attr_celeba\.txt is missing, though .* download it"),
    ("kaggle", _remove("list_attr_celeba.csv"), r"list_attr_celeba\.csv is missing, though .* download it"),
    ("standard", _remove("list_eval_partition.txt"), r"list_eval_partition\.txt is missing, though .* download it"),
    ("standard", _write("list_attr_celeba.txt", HTML), r"list_attr_celeba\.txt is a web page, not a list"),
    ("standard", _edit("list_attr_celeba.txt", b" Young", b" Old"), r"celeba\.txt does not have CelebA's header"),
    ("kaggle", _edit("list_attr_celeba.csv", b"image_id", b"name"), r"celeba\.csv does not have CelebA's header"),
    ("kaggle", _edit("list_eval_partition.csv", b"partition", b"split"), r"partition\.csv begins with image_id,split"),
    (
        "standard",
        _edit("list_attr_celeba.txt", b"56\n", b""),
        r"celeba\.txt begins with 5_o_Clock_Shadow .* instead of",
    ),
    ("standard", _edit("list_attr_celeba.txt", b"56\n", b"202599\n"), r"celeba\.txt says 202599 images .* lists 56; "),
    (
        "standard",
        _cut("list_attr_celeba.txt", 3000),
        r"list_attr_celeba\.txt has \d+ values instead of 40 for 0000\d\d",
    ),
    ("standard", _edit("list_attr_celeba.txt", FIRST, b"000001.jpg  7"), r"celeba\.txt has '7' for 000001\.jpg"),
    ("standard", _edit("list_attr_celeba.txt", b"000002", b"000001"), r"celeba\.txt lists it twice for 000001\.jpg"),
    ("standard", _edit("list_eval_partition.txt", b"000002.jpg 0", b"000002.jpg 5"), r"not an image and 0, 1 or 2"),
    ("standard", _edit("list_eval_partition.txt", b"000002", b"900002"), r"partition\.txt lacks 000002\.jpg, which"),
    ("standard", _remove("000007.jpg"), r"000007\.jpg is missing, though list_attr_celeba\.txt lists it; unpack"),
    ("standard", _cut("000007.jpg", 2000), r"000007\.jpg cannot be read \(.*truncated.*\)"),
    ("kaggle", _write("000007.jpg", HTML), r"000007\.jpg cannot be read \(it is no picture\)"),
    ("standard", _write("000007.jpg", b""), r"000007\.jpg cannot be read"),
    (
        "parquet",
        _cut("train-00001-of-00002.parquet", 9000),
        r"train-00001-of-00002\.parquet ends early or is no parquet",
    ),
    ("parquet", _remove("train-00000-of-00002.parquet"), r"train-00000-of-00002\.parquet is missing, though"),
    (
        "parquet",
        lambda root: write_shard(next(root.rglob("test-00000*")), [["", *["1"] * 40]], [b"x"], drop=("Smiling",)),
        r"test-00000-of-00002\.parquet has no column Smiling",
    ),
    ("parquet", _spoil_first_image, r"test-00000-of-00002\.parquet, row 0, cannot be read"),
]


@pytest.mark.parametrize(("layout", "damage", "message"), DAMAGE)
def test_one_sentence_for_what_is_broken_and_nothing_is_cached(copies, tmp_path, layout, damage, message):
    root = tmp_path / "root"
    shutil.copytree(copies[layout], root)
    damage(root)
    module = CelebA(config_of(root), 1, tmp_path / "images")
    with pytest.raises(FacesError, match=message) as error:
        module.prepare_data()
    assert "\n" not in str(error.value) and str(root) in str(error.value) and ";" in str(error.value)
    assert not (tmp_path / "images").exists() or not list((tmp_path / "images").iterdir())


def test_the_sentence_is_the_same_from_another_process(copies, tmp_path, monkeypatch):
    root = tmp_path / "root"
    shutil.copytree(copies["standard"], root)
    _cut("000007.jpg", 2000)(root)
    monkeypatch.setattr(CelebA, "parallel", True)
    monkeypatch.setattr(CelebA, "block", 4)
    monkeypatch.setattr("datasets.loading.cores", lambda: 2)
    with pytest.raises(FacesError, match=r"^/[^ ]*/000007\.jpg cannot be read") as error:
        CelebA(config_of(root), 1, tmp_path / "images").prepare_data()
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "images").iterdir())


def test_a_subset_without_some_composition(copies, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(copies["standard"], root)
    path = root / "celeba" / "list_eval_partition.txt"
    path.write_text(path.read_text().replace(" 2", " 0", 1))
    with pytest.raises(FacesError, match=r"has no image of 000 \(female smiling black\) for the part test"):
        CelebA(config_of(root), 1, tmp_path / "images").prepare_data()


# -- which source ---------------------------------------------------------------------------------------------------------


def test_auto_takes_real_files_where_there_are_any(copies, tmp_path):
    assert [resolve_source("auto", root) for root in copies.values()] == ["real"] * 3
    assert resolve_source("auto", "") == resolve_source("auto", tmp_path / "none") == "drawn"
    assert resolve_source("drawn", copies["standard"]) == "drawn"
    with pytest.raises(ValueError, match=r"celeba\.source=fake is unknown; use auto, real or drawn"):
        resolve_source("fake", "")


def test_real_without_files_names_the_paths_of_every_layout(tmp_path):
    with pytest.raises(PlaceError) as error:
        resolve_source("real", tmp_path)
    for path in ("list_attr_celeba.txt", "list_attr_celeba.csv", "train-00000-of-00019.parquet", str(tmp_path)):
        assert path in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(PlaceError, match="CELEBA_ROOT"):
        resolve_source("real", "")


def test_drawn_faces_never_pass_for_real_ones(copies, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(copies["standard"], root)
    header = "image_id,mouth_curve,hair_red,hair_green,hair_blue"
    lines = [f"{index + 1:06d}.jpg,0,0,0,0" for index in range(56)]
    (root / "celeba" / "celeba_drawn_values.csv").write_text("\n".join([header, *lines]) + "\n")
    assert resolve_source("auto", root) == "drawn"
    with pytest.raises(PlaceError, match="has drawn faces"):
        resolve_source("real", root)
    with pytest.raises(DataError, match="has drawn faces"):
        CelebA(config_of(root), 1, tmp_path / "images").part_sizes()


def test_a_broken_copy_is_not_passed_over_in_silence(tmp_path):
    (tmp_path / "img_align_celeba.zip").write_bytes(HTML)
    with pytest.raises(PlaceError, match=r"web page.*source=drawn"):
        resolve_source("auto", tmp_path)
