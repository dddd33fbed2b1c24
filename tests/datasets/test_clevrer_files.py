"""CLEVRER's files: our own clips written as real sets are come back as they were; what is no use or broken is told."""

import importlib.util
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.cell import Cell
from benchmark.config import Override
from benchmark.grid import Choice, Composer, load_grid
from benchmark.machine import Machine
from benchmark.registry import discover
from datasets.base import DATASETS, PARTS, DataError
from datasets.clevrer.annotations import describe, read_annotation, write_annotation
from datasets.clevrer.camera import to_floor
from datasets.clevrer.config import ClevrerConfig
from datasets.clevrer.footage import Footage, FootageError, find_footage, pictures_in, read_frames
from datasets.clevrer.labels import ELSEWHERE, HARDLY_SEEN, NO_CANDIDATE, SEVERAL, STILL, Label, label_of
from datasets.clevrer.render import render
from datasets.clevrer.scenes import draw_scenes
from datasets.clevrer.world import RIGHT, linear_colour
from datasets.clevrer_files import ClevrerFiles, ClevrerFilesConfig

OURS = ClevrerConfig(resolution=16, frames=4, nuisance="all")
COUNT = 96
SHARES = {"probe_share": 0.35, "test_share": 0.25}
needs_av = pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="PyAV is not installed")


def write_pictures(folder, frames, suffix=".png"):
    """Frames (T, 3, H, W) as frame_0.png and on: without leading zeros, as many tools write them."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(folder / f"frame_{number}{suffix}")


def write_movie(path, frames, rate=25):
    """Frames (T, 3, H, W) as an mp4 with its index in front, so that a truncated file still opens."""
    import av

    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = frames.shape[3], frames.shape[2], "yuv420p"
        stream.bit_rate = 4_000_000
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


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


# -- CLEVRER's files: other objects, no factors, no camera ----------------------------------------------------------------


def actor(shape, colour, velocity, seen=(0, 9)):
    """An object that moves at a velocity (along RIGHT, along AWAY), in view from one frame to another of 10."""
    return {"shape": shape, "color": colour, "velocity": velocity, "seen": seen}


def scene_of(actors, seconds=3.0):
    """A file in CLEVRER's keys of 10 frames."""
    frames = []
    for t in range(10):
        objects = []
        for n, one in enumerate(actors):
            along, away = (v * seconds * t / 9 for v in one["velocity"])
            place = [along * RIGHT[0] - away * RIGHT[1] + n, along * RIGHT[1] + away * RIGHT[0], 0.2]
            objects.append(
                {
                    "object_id": n,
                    "location": place,
                    "orientation": [0.0] * 3,
                    "velocity": [0.0] * 3,
                    "angular_velocity": [0.0] * 3,
                    "inside_camera_view": one["seen"][0] <= t <= one["seen"][1],
                }
            )
        frames.append({"frame_id": t, "objects": objects})
    properties = [
        {"object_id": n, "color": one["color"], "material": "metal", "shape": one["shape"]}
        for n, one in enumerate(actors)
    ]
    return {"object_property": properties, "motion_trajectory": frames, "collision": []}


def label(tmp_path, content):
    path = tmp_path / "annotation_0.json"
    path.write_text(json.dumps(content))
    return label_of(read_annotation(path), ClevrerFilesConfig().space, seconds=3.0, slowest=0.2, least_seen=0.5)


OTHERS = [actor("cylinder", "red", (1.0, 0.0)), actor("cube", "gray", (2.0, 1.0)), actor("sphere", "red", (0.0, 0.1))]


@pytest.mark.parametrize(
    ("actors", "expected"),
    [
        ([*OTHERS, actor("cube", "red", (-1.5, 0.4))], ((0, 0, 0), -1.5)),
        ([actor("sphere", "blue", (0.7, -0.4)), *OTHERS], ((1, 1, 1), 0.7)),
        ([actor("sphere", "blue", (0.7, -0.4), seen=(4, 8))], ((1, 1, 1), 0.7)),
        (OTHERS[:2], NO_CANDIDATE),
        ([], NO_CANDIDATE),
        (OTHERS, STILL),
        ([*OTHERS, actor("cube", "red", (1.0, 0.0)), actor("cube", "blue", (0.0, 1.0))], SEVERAL),
        ([actor("cube", "red", (1.0, 0.0), seen=(4, 7))], HARDLY_SEEN),
        ([actor("cube", "red", (1.0, 0.0), seen=(4, 4))], STILL),
        ([actor("cube", "red", (0.1, 1.0))], ELSEWHERE),
    ],
    ids=["left", "right", "enters", "none", "empty", "still", "several", "hardly", "once", "away"],
)
def test_the_target_is_the_one_that_moves(tmp_path, actors, expected):
    found = label(tmp_path, scene_of(actors))
    if isinstance(expected, str):
        assert found == expected
        return
    classes, speed = expected
    rgb = linear_colour(("red", "blue")[classes[1]])
    assert found == Label(classes, (*rgb, pytest.approx(speed)), 10)


def test_the_track_says_what_we_wrote_as_factors(tmp_path):
    """Without its factors a clip of ours gets the same classes, and the speed along the right of its own camera."""
    scenes = draw_scenes(replace(OURS, distractors=2, frames=10), 5, range(8))
    for row in range(8):
        content = describe(scenes, row, OURS)
        del content["factors"]
        path = tmp_path / f"{row}.json"
        path.write_text(json.dumps(content))
        found = label_of(read_annotation(path), OURS.space, OURS.seconds, slowest=0.2, least_seen=0.5)
        assert found.classes == tuple(scenes.classes[row].tolist())
        assert abs(found.values[3]) <= abs(scenes.values[row, 3].item()) + 1e-6
        assert found.values[3] == pytest.approx(scenes.values[row, 3].item(), rel=0.1)
        assert found.values[:3] == OURS.space.centre("".join(map(str, found.classes)))[:3]
        turned = to_floor(scenes.motion.velocities[row, 0, 0])[0].item()
        del content["camera"]
        path.write_text(json.dumps(content))
        found = label_of(read_annotation(path), OURS.space, OURS.seconds, slowest=0.2, least_seen=0.5)
        assert found.values[3] == pytest.approx(turned, abs=1e-6)


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


# -- pixels ---------------------------------------------------------------------------------------------------------------


def gradient(count, height, width):
    """Frames whose red is the frame's number, green the column and blue the row, both from 0 to 255."""
    frames = torch.zeros(count, 3, height, width)
    frames[:, 0] = 20 * torch.arange(count).view(-1, 1, 1)
    frames[:, 1] = torch.linspace(0, 255, width)
    frames[:, 2] = torch.linspace(0, 255, height).view(-1, 1)
    return frames.round().to(torch.uint8)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_frames_are_evenly_spaced_cut_and_scaled(tmp_path, suffix):
    write_pictures(tmp_path / "video_1", gradient(12, 40, 60), suffix)
    found = read_frames(Footage("video_1", tmp_path / "video_1", tmp_path / "x.json"), 12, 4, 8)
    assert found.shape == (4, 3, 8, 8) and found.dtype == torch.uint8
    close = {"atol": 0.01 if suffix == ".png" else 6, "rtol": 0}
    means = found.float().mean((2, 3))
    torch.testing.assert_close(means[:, 0], 20.0 * torch.tensor([0, 4, 7, 11]), **close)
    columns = found[:, 1].float().mean((0, 1))
    expected = (10 + 5 * torch.arange(8) + 2) / 59 * 255  # centres of the squares of 5 px, ten columns cut on each side
    torch.testing.assert_close(columns[1:-1], expected[1:-1], atol=close["atol"] + 1, rtol=0)


def test_scaling_does_not_alias(tmp_path):
    frames = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    frames[..., ::2] = 255  # stripes of one pixel
    write_pictures(tmp_path / "v", frames)
    found = read_frames(Footage("v", tmp_path / "v", tmp_path / "v.json"), 2, 2, 8)
    assert found[..., 1:-1].float().sub(127.5).abs().max() < 8


@needs_av
def test_a_movie_comes_back(tmp_path):
    frames = gradient(12, 64, 96)
    write_movie(tmp_path / "v.mp4", frames)
    footage = Footage("v", tmp_path / "v.mp4", tmp_path / "v.json")
    found = read_frames(footage, 12, 6, 64)
    wanted = torch.tensor([0, 2, 4, 7, 9, 11])
    difference = (found.float() - frames[wanted][..., 16:80].float()).abs()
    assert difference.mean() < 5 and difference.mean((1, 2, 3)).max() < 8


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


def test_without_pyav_one_sentence_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "v.mp4").write_bytes(b"anything")
    with pytest.raises(FootageError, match=r"v\.mp4 needs PyAV: pip install av") as caught:
        read_frames(Footage("v", tmp_path / "v.mp4", tmp_path / "v.json"), 12, 4, 8)
    assert "\n" not in str(caught.value)


# -- what is wrong --------------------------------------------------------------------------------------------------------


def test_pictures_are_in_the_order_of_their_numbers(tmp_path):
    write_pictures(tmp_path / "v", gradient(12, 8, 8))
    (tmp_path / "v" / "notes.txt").write_text("no picture")
    assert [path.stem for path in pictures_in(tmp_path / "v")] == [f"frame_{n}" for n in range(12)]


def test_two_videos_of_one_name_are_refused(tmp_path):
    write_pictures(tmp_path / "one" / "v", gradient(2, 8, 8))
    write_pictures(tmp_path / "two" / "v", gradient(2, 8, 8))
    with pytest.raises(FootageError, match=r"two/v has the name of .*one/v; rename or remove"):
        find_footage(tmp_path)


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
