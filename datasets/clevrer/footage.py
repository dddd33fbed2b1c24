"""Videos made elsewhere: mp4 files or folders of pictures, each with a file of CLEVRER's annotations, somewhere below a root.

A video and its annotations go together by name: ``video_00001.mp4``, or a folder ``video_00001`` of PNG or JPEG pictures,
with ``annotation_00001.json`` or ``video_00001.json``. So CLEVRER's archives can be unpacked side by side as they come.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

PICTURES = (".png", ".jpg", ".jpeg")
MOVIE = ".mp4"


class FootageError(ValueError):
    """A video is damaged, too short, or cannot be decoded here; one sentence that names the file."""


@dataclass(frozen=True)
class Footage:
    """One video: an mp4 file or a folder of pictures, and its annotations."""

    name: str  # of the video, without folder and suffix
    video: Path
    annotation: Path

    def sizes(self) -> Iterator[tuple[str, int]]:
        """Names and bytes of its files, in an order that is the same everywhere."""
        for path in [self.annotation, *(pictures_in(self.video) if self.video.is_dir() else [self.video])]:
            yield f"{self.name}/{path.name}", path.stat().st_size


def find_footage(root: Path) -> tuple[list[Footage], Counter[str]]:
    """The videos below a folder, by name, and how many were left out, by reason.

    Raises:
        FootageError: two videos, or the annotations of two, have one name.
    """
    videos: dict[str, Path] = {}
    annotations: dict[str, Path] = {}
    for place, folders, files in os.walk(root, followlinks=True):
        folders.sort()
        folder = Path(place)
        if any(name.lower().endswith(PICTURES) for name in files) and folder != root:
            _enter(videos, folder.name, folder)
        for name in sorted(files):
            path = folder / name
            if path.suffix.lower() == MOVIE:
                _enter(videos, path.stem, path)
            elif path.suffix.lower() == ".json":
                _enter(annotations, path.stem.replace("annotation", "video", 1), path)
    both = sorted(videos.keys() & annotations.keys())
    left_out = Counter(
        {"no annotations": len(videos) - len(both), "annotations without a video": len(annotations) - len(both)}
    )
    return [Footage(name, videos[name], annotations[name]) for name in both], +left_out


def fingerprint(found: Iterable[Footage]) -> str:
    """Of the names and sizes of all files: reading them whole would take longer than decoding them."""
    digest = hashlib.sha256()
    for footage in found:
        for name, size in footage.sizes():
            digest.update(f"{name} {size}\n".encode())
    return digest.hexdigest()


def read_frames(footage: Footage, expected: int, frames: int, resolution: int) -> Tensor:
    """Frames at even distances from the first to the last, cut to the square in the middle and scaled with antialiasing.

    Args:
        footage: the video.
        expected: how many frames its annotations tell of.
        frames: T, how many to give.
        resolution: width and height to give, px.

    Returns:
        uint8 (T, 3, H, W).

    Raises:
        FootageError: the video is shorter than ``frames``, not as long as its annotations, damaged, or an mp4 where PyAV
            is not installed.
    """
    if expected < frames:
        raise FootageError(
            f"{footage.video} has {expected} frames, fewer than the {frames} that are asked for; "
            "ask for fewer or take it away"
        )
    wanted = [round(k * (expected - 1) / max(1, frames - 1)) for k in range(frames)]
    found, count = (_read_folder if footage.video.is_dir() else _read_movie)(footage.video, wanted)
    if count != expected:
        raise FootageError(
            f"{footage.video} has {count} frames, but {footage.annotation} tells of {expected}; copy both again"
        )
    return torch.stack([_square(found[index], resolution) for index in wanted])


def pictures_in(folder: Path) -> list[Path]:
    """The frames of a folder: by the numbers in their names, so that 10 comes after 9."""
    paths = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES]
    return sorted(paths, key=lambda path: [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", path.name)])


def _enter(found: dict[str, Path], name: str, path: Path) -> None:
    if name in found:
        raise FootageError(f"{path} has the name of {found[name]}; rename or remove one of them")
    found[name] = path


def _read_folder(folder: Path, wanted: list[int]) -> tuple[dict[int, Image.Image], int]:
    """Some of a folder's pictures by number, and how many there are."""
    paths = pictures_in(folder)
    found = {}
    for index in {index for index in wanted if index < len(paths)}:
        try:
            with Image.open(paths[index]) as image:
                found[index] = image.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:  # PIL calls a broken PNG a SyntaxError
            raise FootageError(f"{paths[index]} ends early or is no picture ({error}); copy it again") from error
    return found, len(paths)


def _read_movie(path: Path, wanted: list[int]) -> tuple[dict[int, Image.Image], int]:
    """Some of a file's frames by number, and how many there are."""
    try:
        import av
    except ImportError as error:
        raise FootageError(f"{path} needs PyAV: pip install av, or unpack it to a folder of pictures") from error
    found, count = {}, 0
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                if count in wanted:
                    found[count] = frame.to_image()
                count += 1
    except (av.error.FFmpegError, IndexError) as error:  # IndexError: it has no video stream
        raise FootageError(f"{path} ends early or is no video ({error}); copy it again") from error
    return found, count


def _square(image: Image.Image, resolution: int) -> Tensor:
    """The square in the middle, scaled: uint8 (3, H, W)."""
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    if side != image.width or side != image.height:
        image = image.crop((left, top, left + side, top + side))
    if side != resolution:  # PIL's filters widen with the reduction, which is what antialiases
        image = image.resize((resolution, resolution), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
