"""What every dataset is: a space of factors, images in a cache on disk, and values drawn as real images have them.

A dataset draws its images in blocks; block ``k`` of a part is a function of (config, seed, part, k) alone, so that asking
for more images never changes earlier ones, and any number of processes draws the same.
:meth:`CompositionalDataModule.generate` writes them once, with a manifest; opening checks them against it. A video is an
image with an axis of time in front: nothing here knows the difference.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning import LightningDataModule
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from datasets.factors import Composition, FactorSpace, seed_for
from datasets.image_set import Batches, ImageSet, composition_index
from datasets.loading import in_order

MANIFEST = "manifest.json"
PARTS = ("train", "probe", "test")

DATASETS: dict[str, type[CompositionalDataModule]] = {}


def dataset(name: str, config_class: type) -> Callable[[type], type]:
    """Register a :class:`CompositionalDataModule` and the dataclass of its configuration under a name."""

    def register(cls: type) -> type:
        cls.name, cls.config_class = name, config_class  # type: ignore[attr-defined]
        DATASETS[name] = cls
        return cls

    return register


class DataError(ValueError):
    """A cached file is missing, damaged, or belongs to another configuration."""


class CompositionalDataModule(LightningDataModule, ABC):
    """A dataset with controlled factors.

    A new one gives :attr:`space`, :attr:`image_shape`, :meth:`draw_block` and :meth:`draw_values`, and :meth:`part_sizes` where
    its config has no counts for each composition.

    Args:
        config: the dataclass that the dataset was registered with.
        seed: the data seed; every image is a function of (config, seed, part, index).
        folder: where :meth:`generate` has written, or :meth:`prepare_data` will write, the images.
    """

    name: str  # given by the decorator, like config_class
    config_class: ClassVar[type]
    strict_judge: str = ""  # the analytic judge that can read these images, or features (built of them); "": none
    least_ceiling: float = 0.97  # accuracy of judges on real images of a composition below which a cell is suspicious
    likeness: bool = False  # whether samples are compared with real images in the judge's features: KID, copies
    version: ClassVar[int] = 1  # raise it when the same configuration draws other images
    block: ClassVar[int] = 1024  # images drawn from one generator
    parallel: ClassVar[bool] = False  # whether blocks take long enough to be drawn by a process a core
    balance: str = "natural"  # how a generator's batches show compositions: natural (as often as there are) | equal

    def __init__(self, config: Any, seed: int, folder: Path) -> None:
        super().__init__()
        self.config, self.seed, self.folder = config, seed, Path(folder)

    @property
    @abstractmethod
    def space(self) -> FactorSpace:
        """The factors, in digit order."""

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W), or (T, C, H, W) of videos."""

    def part_sizes(self) -> dict[str, int]:
        """Number of images in each of ``PARTS``: the config's ``PART_per_composition`` of every composition."""
        each = {part: getattr(self.config, f"{part}_per_composition") for part in PARTS}
        return {part: count * len(self.space.compositions) for part, count in each.items()}

    @abstractmethod
    def draw_block(self, part: str, block: int) -> tuple[Tensor, Tensor, Tensor]:
        """The ``self.block`` images of a part from ``block * self.block`` on.

        Returns:
            uint8 (B, [T,] C, H, W), values float32 (B, V), classes int64 (B, F).
        """

    @abstractmethod
    def draw_values(self, composition: Composition, count: int, generator: torch.Generator) -> Tensor:
        """Values as real images of a composition have them: float32 (count, V)."""

    @property
    def origin(self) -> dict[str, Any]:
        """What a record says of where the images come from; nothing where the config says it all."""
        return {}

    def judge_geometry(self) -> dict[str, Any]:
        """Plain numbers that the analytic judge needs to know of the images."""
        return {}

    # -- the cache ----------------------------------------------------------------------------------------------------

    def generate(self, folder: Path, progress: Callable[[float], None] = lambda share: None) -> None:
        """Write every part and, last, the manifest; a folder without a manifest is therefore unfinished.

        Args:
            folder: made if it is missing; files of the same names are overwritten.
            progress: called with the share done, from 0 to 1.
        """
        folder.mkdir(parents=True, exist_ok=True)
        total, done = sum(self.part_sizes().values()), 0
        parts: dict[str, dict[Composition, int]] = {}
        for part, size in self.part_sizes().items():
            images = np.lib.format.open_memmap(
                folder / f"{part}_images.npy", mode="w+", dtype=np.uint8, shape=(size, *self.image_shape)
            )
            labels = []
            for start, drawn in zip(range(0, size, self.block), self._blocks(part, size), strict=True):
                stop = min(start + self.block, size)
                images[start:stop], *told = (array[: stop - start] for array in drawn)
                labels.append(told)
                done += stop - start
                progress(done / total)
            images.flush()
            values, classes = (torch.from_numpy(np.concatenate(columns)) for columns in zip(*labels, strict=True))
            save_file({"values": values, "classes": classes}, folder / f"{part}_labels.safetensors")
            counts = torch.bincount(composition_index(classes, self.space), minlength=len(self.space.compositions))
            parts[part] = dict(zip(self.space.compositions, counts.tolist(), strict=True))
        files = {name: _fingerprint(folder / name) for part in parts for name in _part_files(part)}
        manifest = {**self._identity(), "counts": parts, "files": files}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")

    def _blocks(self, part: str, size: int) -> Iterator[tuple[np.ndarray, ...]]:
        """The blocks of a part in their order, drawn by a process a core where that pays."""

        def arrays(block: int) -> tuple[np.ndarray, ...]:
            return tuple(tensor.numpy() for tensor in self.draw_block(part, block))

        return in_order(arrays, -(-size // self.block), self.parallel, told=DataError)

    def images(self, part: str) -> ImageSet:
        """Open one part; file sizes are checked, contents are not (:meth:`verify` does).

        ``train`` has images of ALL compositions for tokenizers and generators (who take the subset they may see),
        ``probe`` is what judges are trained on, ``test`` is held out from everybody.

        Raises:
            DataError: a file is missing, damaged, or made with another configuration or seed.
            ValueError: no such part.
        """
        if part not in PARTS:
            raise ValueError(f"there is no part {part!r} of the images; use one of {', '.join(PARTS)}")
        manifest = self._manifest()
        for name in _part_files(part):
            self._check_size(name, manifest)
        image_file, label_file = (self.folder / name for name in _part_files(part))
        try:
            # Copied where it is written to, which nobody does: torch warns of arrays that are read-only.
            images = np.load(image_file, mmap_mode="c")
            labels = load_file(label_file)
            return ImageSet(
                images, labels["values"], labels["classes"], composition_index(labels["classes"], self.space)
            )
        except (ValueError, KeyError, SafetensorError) as error:
            raise self._damaged(f"{image_file} or {label_file.name} cannot be read ({error})") from error

    def verify(self) -> None:
        """Compare every file with its checksum.

        Raises:
            DataError: naming the first file that differs.
        """
        manifest = self._manifest()
        for name, expected in manifest["files"].items():
            self._check_size(name, manifest)
            if _fingerprint(self.folder / name) != expected:
                raise self._damaged(f"{self.folder / name} was altered after it was written")

    def _identity(self) -> dict[str, Any]:
        """What the images are a function of."""
        config = asdict(self.config)
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
        return {
            "dataset": self.name,
            "version": self.version,
            "seed": self.seed,
            "config": config,
            "config_hash": digest,
        }

    def _manifest(self) -> dict[str, Any]:
        path = self.folder / MANIFEST
        try:
            manifest = json.loads(path.read_text())
            expected = {f"{part}_{kind}" for part in PARTS for kind in ("images.npy", "labels.safetensors")}
            intact = expected <= manifest["files"].keys() and all("bytes" in f for f in manifest["files"].values())
        except FileNotFoundError as error:
            raise self._damaged(f"{path} is missing") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._damaged(f"{path} is no manifest of images") from error
        if not intact:
            raise self._damaged(f"{path} does not list the images it should")
        for key, value in self._identity().items():
            if key != "config" and manifest.get(key) != value:
                raise self._damaged(f"{path} belongs to another {key}: {manifest.get(key)} instead of {value}")
        return manifest

    def _check_size(self, name: str, manifest: dict[str, Any]) -> None:
        path, expected = self.folder / name, manifest["files"][name]["bytes"]
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            raise self._damaged(f"{path} is missing")
        if size != expected:
            raise self._damaged(f"{path} has {size} bytes instead of {expected}")

    def _damaged(self, problem: str) -> DataError:
        return DataError(f"{problem}; delete the folder {self.folder} and run again")

    # -- Lightning ----------------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Draw the images if nobody has yet."""
        if not (self.folder / MANIFEST).exists():
            self.generate(self.folder)

    def train_dataloader(self, compositions: tuple[Composition, ...] = (), batch_size: int = 128) -> DataLoader:
        """Shuffled epochs over the ``train`` part, or over some compositions of it.

        Batches are ``{"image": float32 (B, [T,] C, H, W) in [-1, 1], "values": (B, V), "classes": (B, F)}``.
        """
        batches = Batches(self.images("train").subset(compositions or self.space.compositions, self.space))
        order = RandomSampler(batches, generator=torch.Generator().manual_seed(seed_for(self.seed, "train_dataloader")))
        return DataLoader(batches, sampler=BatchSampler(order, batch_size, drop_last=True), batch_size=None)

    def val_dataloader(self, batch_size: int = 128) -> DataLoader:
        """One ordered pass over the held-out ``test`` part, in batches as :meth:`train_dataloader` gives them."""
        batches = Batches(self.images("test"))
        order = BatchSampler(SequentialSampler(batches), batch_size, drop_last=False)
        return DataLoader(batches, sampler=order, batch_size=None)


def _part_files(part: str) -> tuple[str, str]:
    return f"{part}_images.npy", f"{part}_labels.safetensors"


def _fingerprint(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
