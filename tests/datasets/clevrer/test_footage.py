"""Videos as they lie on a disk: found by name, frames evenly spaced, cut and scaled; what cannot be read is told."""

import importlib.util
import sys

import pytest
import torch
from PIL import Image

from datasets.clevrer.footage import Footage, FootageError, find_footage, pictures_in, read_frames

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


def test_without_pyav_one_sentence_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "v.mp4").write_bytes(b"anything")
    with pytest.raises(FootageError, match=r"v\.mp4 needs PyAV: pip install av") as caught:
        read_frames(Footage("v", tmp_path / "v.mp4", tmp_path / "v.json"), 12, 4, 8)
    assert "\n" not in str(caught.value)


def test_pictures_are_in_the_order_of_their_numbers(tmp_path):
    write_pictures(tmp_path / "v", gradient(12, 8, 8))
    (tmp_path / "v" / "notes.txt").write_text("no picture")
    assert [path.stem for path in pictures_in(tmp_path / "v")] == [f"frame_{n}" for n in range(12)]


def test_two_videos_of_one_name_are_refused(tmp_path):
    write_pictures(tmp_path / "one" / "v", gradient(2, 8, 8))
    write_pictures(tmp_path / "two" / "v", gradient(2, 8, 8))
    with pytest.raises(FootageError, match=r"two/v has the name of .*one/v; rename or remove"):
        find_footage(tmp_path)
