"""CLEVRER's own videos, or any in its format, under the factors of CLEVRER-Kubric.

Takes what real sets have: a folder of mp4 files or of folders of pictures, with CLEVRER's JSON (``datasets.clevrer.footage``
says how they are found). Of these it uses the videos in which exactly one red or blue cube or sphere moves
(``datasets.clevrer.labels``); ``skipped`` counts the others. Digits and values are those of ``clevrer_kubric``.

Nothing is drawn here: a video belongs to a part by a hash of its name, whatever the seed and whatever other videos there
are, and new values are those of real videos, drawn with replacement.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datasets.base import MANIFEST, PARTS, CompositionalDataModule, DataError, dataset
from datasets.clevrer.annotations import AnnotationError, read_annotation
from datasets.clevrer.footage import Footage, FootageError, find_footage, fingerprint, read_frames
from datasets.clevrer.labels import Label, label_of
from datasets.clevrer.world import linear_colour
from datasets.factors import Composition, Factor, FactorSpace
from datasets.image_set import composition_index

KEY = "dataset.clevrer_files"


@dataclass
class ClevrerFilesConfig:
    """Where the videos are, which are used, and how they are cut."""

    root: str = ""  # folder with videos and annotations; has no default
    resolution: int = 64  # px; the square in the middle is scaled to it
    frames: int = 16  # at even distances over the whole video
    seconds: float = 5.08  # from a video's first frame to its last; CLEVRER: 128 frames, 25 a second
    slowest: float = 0.2  # units a second; what is slower stands still; our choice
    least_seen: float = 0.5  # the target is in view in at least this share of the frames; our choice
    typical_speed: float = 1.8  # units a second, the centre of each direction's class; that of clevrer_kubric
    probe_share: float = 0.2  # of the videos, for training judges
    test_share: float = 0.1  # of the videos, held out from everybody; the rest trains tokenizers and generators

    @property
    def space(self) -> FactorSpace:
        """Shape, colour and direction, in digit order; the value behind a direction is a signed speed."""
        return FactorSpace(
            (
                Factor("shape", ("cube", "sphere")),
                Factor("colour", ("red", "blue"), (linear_colour("red"), linear_colour("blue"))),
                Factor("direction", ("left", "right"), ((-self.typical_speed,), (self.typical_speed,))),
            )
        )

    @staticmethod
    def settle(values: Mapping[str, Any]) -> dict[str, Any]:
        """Where the videos lie, as workers elsewhere find it too, and which they are: other videos, another cell.

        Raises:
            ValueError: two videos, or the annotations of two, have one name.
        """
        from datasets.clevrer.footage import find_footage, fingerprint

        root = values["root"]
        if not Path(root).is_dir() or not root:
            return {}  # `validate` says so
        return {"root": os.path.abspath(root), "footage": fingerprint(find_footage(Path(root))[0])}

    def validate(self) -> None:
        """Refuse what cannot be read; raises ValueError, naming the key and the remedy."""
        if not self.root:
            raise ValueError(f"{KEY}.root is not given: name the folder that has the videos and their annotations")
        if not Path(self.root).is_dir():
            raise ValueError(f"{KEY}.root={self.root} is no folder: name one that has videos and their annotations")
        for key, least in (("resolution", 8), ("frames", 2)):
            if getattr(self, key) < least:
                raise ValueError(f"{KEY}.{key}={getattr(self, key)}: use {least} or more")
        for key in ("seconds", "slowest", "typical_speed", "probe_share", "test_share"):
            if getattr(self, key) <= 0:
                raise ValueError(f"{KEY}.{key}={getattr(self, key):g}: use more than 0")
        if not 0 <= self.least_seen <= 1:
            raise ValueError(f"{KEY}.least_seen={self.least_seen:g}: use 0 to 1")
        if self.probe_share + self.test_share >= 1:
            raise ValueError(f"{KEY}.probe_share={self.probe_share:g}: use less than 1 together with test_share")


@dataset("clevrer_files", ClevrerFilesConfig)
class ClevrerFiles(CompositionalDataModule):
    """Videos (T, C, H, W) in the order of their names."""

    config: ClevrerFilesConfig
    block = 16  # videos read at once: a few seconds of one core
    parallel = True

    def __init__(self, config: ClevrerFilesConfig, seed: int, folder: Path) -> None:
        config.validate()
        super().__init__(config, seed, folder)

    @property
    def space(self) -> FactorSpace:
        return self.config.space

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self.config.frames, 3, self.config.resolution, self.config.resolution

    @property
    def skipped(self) -> Counter[str]:
        """How many videos are not used, by reason."""
        return self._found[1] + self._labelled[1]

    def part_sizes(self) -> dict[str, int]:
        """Number of videos in each part.

        Raises:
            DataError: no video can be used, or none of some composition in some part; or a file is damaged.
        """
        for part, videos in self._parts.items():
            shown = {label.classes for _, label in videos}
            for composition in self.space.compositions:
                if self.space.class_indices(composition) not in shown:
                    raise self._unusable(f'no video of "{self.space.describe(composition)}" for the part {part}')
        return {part: len(videos) for part, videos in self._parts.items()}

    def draw_block(self, part: str, block: int) -> tuple[Tensor, Tensor, Tensor]:
        videos = self._parts[part][block * self.block : (block + 1) * self.block]
        size = self.config.frames, self.config.resolution
        try:
            frames = torch.stack([read_frames(footage, label.frames, *size) for footage, label in videos])
        except FootageError as error:
            raise DataError(str(error)) from error
        values, classes = _columns(label for _, label in videos)
        return frames, values, classes

    def draw_values(self, composition: Composition, count: int, generator: torch.Generator) -> Tensor:
        values, index = self._known_values
        values = values[index == self.space.compositions.index(composition)]
        return values[torch.randint(len(values), (count,), generator=generator)]

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "footage": self._footage_hash}

    @cached_property
    def _found(self) -> tuple[list[Footage], Counter[str]]:
        """Every video that has annotations, and how many have none."""
        try:
            return find_footage(Path(self.config.root))
        except FootageError as error:
            raise DataError(str(error)) from error

    @cached_property
    def _footage_hash(self) -> str:
        return fingerprint(self._found[0])

    @cached_property
    def _labelled(self) -> tuple[list[tuple[Footage, Label]], Counter[str]]:
        """The videos that can be used, and how many cannot, by reason."""
        config, used, skipped = self.config, [], Counter[str]()
        for footage in self._found[0]:
            try:
                annotation = read_annotation(footage.annotation)
                label = label_of(annotation, self.space, config.seconds, config.slowest, config.least_seen)
            except AnnotationError as error:
                raise DataError(str(error)) from error
            except ValueError as error:
                raise DataError(f"{footage.annotation} is of another dataset ({error}); remove it") from error
            if isinstance(label, str):
                skipped[label] += 1
            else:
                used.append((footage, label))
        return used, skipped

    @cached_property
    def _parts(self) -> dict[str, list[tuple[Footage, Label]]]:
        used, _ = self._labelled
        if not used:
            raise self._unusable("no video that can be used")
        parts: dict[str, list[tuple[Footage, Label]]] = {part: [] for part in PARTS}
        for footage, label in used:
            parts[self.part_of(footage.name)].append((footage, label))
        return parts

    def part_of(self, name: str) -> str:
        """The part that a video belongs to, by its name alone: nothing seen in training is ever held out later."""
        place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
        if place < self.config.test_share:
            return "test"
        return "probe" if place < self.config.test_share + self.config.probe_share else "train"

    @cached_property
    def _known_values(self) -> tuple[Tensor, Tensor]:
        """Values of the ``train`` part and their places in ``space.compositions``: (M, V) and (M,)."""
        if (self.folder / MANIFEST).exists():  # much faster than reading every file of annotations
            images = self.images("train")
            return images.values, images.composition_index
        self.part_sizes()
        values, classes = _columns(label for _, label in self._parts["train"])
        return values, composition_index(classes, self.space)

    def _unusable(self, problem: str) -> DataError:
        """One sentence about the folder as a whole."""
        reasons = ", ".join(f"{count}: {reason}" for reason, count in self.skipped.most_common()) or "none skipped"
        usable = len(self._labelled[0])
        return DataError(
            f"{KEY}.root={self.config.root} has {problem} ({usable} usable; {reasons}); add videos as "
            "video_00001.mp4 or as folders of pictures, with annotation_00001.json"
        )


def _columns(labels: Iterable[Label]) -> tuple[Tensor, Tensor]:
    """Values float32 (M, V) and classes int64 (M, F)."""
    listed = list(labels)
    values = torch.tensor([label.values for label in listed], dtype=torch.float32)
    return values, torch.tensor([label.classes for label in listed], dtype=torch.int64)
