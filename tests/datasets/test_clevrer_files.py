"""CLEVRER's files: our own clips written as real sets are come back as they were; what is no use or broken is told."""

import json
import shutil

import numpy as np
import pytest
import torch

from benchmark.cell import Cell
from benchmark.composer import Composer
from benchmark.config import Override
from benchmark.grid import Choice, load_grid
from benchmark.machine import Machine
from benchmark.registry import discover
from datasets.base import DATASETS, PARTS, DataError
from datasets.clevrer.annotations import write_annotation
from datasets.clevrer.labels import NO_CANDIDATE, STILL
from datasets.clevrer.render import render
from datasets.clevrer.scenes import draw_scenes
from datasets.clevrer_files import ClevrerFiles, ClevrerFilesConfig
from tests.datasets.clevrer.test_footage import needs_av, write_movie, write_pictures
from tests.datasets.clevrer.test_labels import OTHERS, OURS, scene_of

COUNT = 96
SHARES = {"probe_share": 0.35, "test_share": 0.25}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A root with clips of ours in CLEVRER's folders, and the scenes and frames behind them."""
    root = tmp_path_factory.mktemp("footage")
    scenes = draw_scenes(OURS, 5, range(COUNT))
    frames = render(scenes, OURS.resolution, OURS.lens).frames
    for index in range(COUNT):
        thousand = f"{index // 50 * 50:05d}-{index // 50 * 50 + 50:05d}"
        write_pictures(root / f"video_{thousand}" / f"video_{index:05d}", frames[index])
        (root / f"annotation_{thousand}").mkdir(exist_ok=True)
        annotation = root / f"annotation_{thousand}" / f"annotation_{index:05d}.json"
        write_annotation(annotation, scenes, index, OURS, index)
    return root, scenes, frames


def config_of(root, **changes):
    return ClevrerFilesConfig(**({"root": str(root), "resolution": 16, "frames": 4} | SHARES | changes))


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """Starting processes takes longer than reading clips as small as these."""
    monkeypatch.setattr(ClevrerFiles, "parallel", False)


@pytest.fixture(scope="module")
def data(clips, tmp_path_factory):
    """The clips in a cache, read by a process a core."""
    module = ClevrerFiles(config_of(clips[0]), seed=1, folder=tmp_path_factory.mktemp("images"))
    module.prepare_data()
    return module


# -- our own clips --------------------------------------------------------------------------------------------------------


def test_every_clip_comes_back_once_with_its_frames_and_labels(clips, data):
    _, scenes, frames = clips
    found = []
    for part in PARTS:
        images = data.images(part)
        rows = [n for n in range(COUNT) if data.part_of(f"video_{n:05d}") == part]
        assert torch.equal(torch.from_numpy(np.array(images.images)), frames[rows])
        assert torch.equal(images.classes, scenes.classes[rows])
        torch.testing.assert_close(images.values, scenes.values[rows])
        found += rows
    assert sorted(found) == list(range(COUNT)) and not data.skipped
    data.verify()


def test_it_is_registered_and_has_the_factors_of_ours(data):
    assert DATASETS["clevrer_files"] is ClevrerFiles
    assert [(f.name, f.classes) for f in data.space.factors] == [(f.name, f.classes) for f in OURS.space.factors]
    for composition in OURS.space.compositions:
        assert data.space.centre(composition) == pytest.approx(OURS.space.centre(composition))
    assert data.image_shape == (4, 3, 16, 16)


def test_a_part_depends_on_the_name_alone(clips, tmp_path):
    one, other = (ClevrerFiles(config_of(clips[0]), seed, tmp_path) for seed in (1, 2))
    names = [f"video_{n:05d}" for n in range(2000)]
    assert [one.part_of(n) for n in names] == [other.part_of(n) for n in names]
    shares = [sum(one.part_of(n) == part for n in names) / len(names) for part in PARTS]
    assert shares == pytest.approx([0.4, 0.35, 0.25], abs=0.05)
    larger = ClevrerFiles(config_of(clips[0], probe_share=0.5), 1, tmp_path)
    assert [n for n in names if one.part_of(n) == "test"] == [n for n in names if larger.part_of(n) == "test"]


def test_new_values_are_those_of_real_videos_of_the_composition(data, clips, tmp_path):
    images = data.images("train")
    real = images.values[images.composition_index == 5].tolist()
    drawn = data.draw_values("101", 50, torch.Generator().manual_seed(0))
    assert drawn.shape == (50, 4) and all(row in real for row in drawn.tolist())
    assert len({tuple(row) for row in drawn.tolist()}) > 1
    fresh = ClevrerFiles(data.config, 1, tmp_path / "nothing yet")
    assert torch.equal(fresh.draw_values("101", 50, torch.Generator().manual_seed(0)), drawn)


def test_other_files_under_the_root_are_noticed(clips, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(clips[0], root)
    config = config_of(root)
    ClevrerFiles(config, 1, tmp_path / "images").prepare_data()
    ClevrerFiles(config, 1, tmp_path / "images").images("test")
    next(root.rglob("frame_2.png")).write_bytes(b"more")
    with pytest.raises(DataError, match=r"belongs to another footage: .*delete the folder .* and run again"):
        ClevrerFiles(config, 1, tmp_path / "images").images("test")


def test_what_is_skipped_is_counted_by_reason(clips, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(clips[0], root)
    frames = clips[2][0].repeat(3, 1, 1, 1)[:10]
    for name, actors in (("a", OTHERS), ("b", OTHERS), ("c", OTHERS[:2])):
        write_pictures(root / name, frames)
        (root / f"{name}.json").write_text(json.dumps(scene_of(actors)))
    write_pictures(root / "without", frames)
    (root / "annotation_77777.json").write_text("{}")
    data = ClevrerFiles(config_of(root), 1, tmp_path / "images")
    assert sum(data.part_sizes().values()) == COUNT
    assert data.skipped == {STILL: 2, NO_CANDIDATE: 1, "no annotations": 1, "annotations without a video": 1}


@needs_av
def test_movies_and_pictures_give_the_same_labels(clips, data, tmp_path):
    root = tmp_path / "movies"
    shutil.copytree(clips[0], root)
    for index in range(COUNT):
        (folder,) = root.rglob(f"video_{index:05d}")
        shutil.rmtree(folder)
        write_movie(folder.with_suffix(".mp4"), clips[2][index])
    movies = ClevrerFiles(config_of(root), 1, tmp_path / "out")
    movies.prepare_data()
    for part in PARTS:
        one, other = movies.images(part), data.images(part)
        assert torch.equal(one.classes, other.classes) and torch.equal(one.values, other.values)
        difference = np.abs(one.images.astype(int) - other.images.astype(int))
        assert difference.mean() < 8


# -- what is wrong --------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(clips, tmp_path):
    """A copy of the clips to break, and a function that says what is then said."""
    root = tmp_path / "broken"
    shutil.copytree(clips[0], root)

    def said(**changes):
        module = ClevrerFiles(config_of(root, **changes), 1, tmp_path / "images")
        with pytest.raises(DataError) as caught:
            module.prepare_data()
        message = str(caught.value)
        assert "\n" not in message and "Traceback" not in message
        return message

    return root, said


def test_a_truncated_annotation_is_told(broken):
    root, said = broken
    (path,) = root.rglob("annotation_00007.json")
    path.write_bytes(path.read_bytes()[:900])
    assert str(path) in (message := said()) and "ends early or is no JSON" in message


def test_a_foreign_annotation_is_told(broken):
    root, said = broken
    (path,) = root.rglob("annotation_00007.json")
    path.write_text('{"images": []}')
    assert f"{path} is no annotation of CLEVRER" in said()


def test_factors_of_another_space_are_told(broken):
    root, said = broken
    (path,) = root.rglob("annotation_00007.json")
    content = json.loads(path.read_text())
    content["factors"]["classes"] = [0, 5, 1]
    path.write_text(json.dumps(content))
    assert f"{path} is of another dataset (its factors are (0, 5, 1) with 4 values)" in said()


@pytest.mark.parametrize(("kept", "parallel"), [(0, False), (60, False), (-30, False), (60, True)])
def test_a_truncated_picture_is_told(broken, kept, parallel, monkeypatch):
    monkeypatch.setattr(ClevrerFiles, "parallel", parallel)
    root, said = broken
    (folder,) = root.rglob("video_00007")
    path = folder / "frame_2.png"
    path.write_bytes(path.read_bytes()[:kept])
    assert f"{path} ends early or is no picture" in said()


def test_too_few_frames_are_told(broken):
    root, said = broken
    assert "has 4 frames, fewer than the 6 that are asked for" in said(frames=6)
    (folder,) = root.rglob("video_00007")
    (folder / "frame_3.png").unlink()
    message = said()
    assert f"{folder} has 3 frames, but" in message and "annotation_00007.json tells of 4" in message


@needs_av
@pytest.mark.parametrize("kept", [0, 40, 0.5])
def test_a_truncated_movie_is_told(broken, kept):
    root, said = broken
    (folder,) = root.rglob("video_00007")
    shutil.rmtree(folder)
    path = folder.with_suffix(".mp4")
    write_movie(path, torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator()))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept) if kept == 0.5 else kept])
    assert f"{path} " in (message := said()) and "copy" in message


def test_a_root_that_is_not_there_or_of_no_use_is_told(tmp_path):
    for root, said in (("", "is not given"), (tmp_path / "nowhere", "is no folder")):
        with pytest.raises(ValueError, match=rf"^dataset\.clevrer_files\.root.* {said}"):
            ClevrerFiles(config_of(root), 1, tmp_path / "images")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match=r"^dataset\.clevrer_files\.root=.*empty has no video that can be used \(0 usable"
    ):
        ClevrerFiles(config_of(tmp_path / "empty"), 1, tmp_path / "images").prepare_data()


def test_a_part_without_some_composition_is_told(broken):
    root, said = broken
    kept = {f"annotation_{n:05d}.json" for n in range(9)}
    for path in root.rglob("annotation_*.json"):
        if path.name not in kept:
            path.unlink()
    message = said()
    assert 'has no video of "' in message and "(9 usable; 87: no annotations)" in message


@pytest.mark.parametrize(
    "wrong",
    [
        {"resolution": 4},
        {"frames": 1},
        {"seconds": 0.0},
        {"slowest": -1.0},
        {"least_seen": 1.5},
        {"test_share": 0.0},
        {"probe_share": 0.9},
    ],
    ids=lambda wrong: ",".join(wrong),
)
def test_wrong_settings_are_refused_with_the_key_and_a_remedy(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"^dataset\.clevrer_files\.\w+=.*: use "):
        config_of(tmp_path, **wrong).validate()


def test_the_folder_is_no_part_of_a_cells_identity_but_its_videos_are(clips, tmp_path):
    copy, fewer = tmp_path / "copy", tmp_path / "fewer"
    for folder in (copy, fewer):
        shutil.copytree(clips[0], folder)
    next(fewer.rglob("annotation_*.json")).unlink()

    def identity(root):
        override = Override.parse(f"dataset.clevrer_files.root={root}")
        composer = Composer(discover(), Machine("cpu", 0, 2, bf16=True), load_grid("all"), "smoke", [override])
        cell = Cell(composer.resolve(Choice("clevrer_files", "dit", "vq", "full", 0)))
        return cell.id, cell.data_key

    assert identity(clips[0]) == identity(copy) != identity(fewer)
