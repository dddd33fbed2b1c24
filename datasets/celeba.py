"""CelebA: faces of women and men, smiling or not, with black or blond hair; or faces drawn in their stead.

After the set ``celeba-3classes`` of Okawa et al. 2023, at 48 px as in Farid et al. 2025. Digits of a composition: gender (Male),
smile (NOT Smiling), hair (blond against black; images of other hair are dropped). Real images have classes only, V = 0. Drawn
faces have V = 4: how far the mouth's corners stand above its middle, in half widths, and r, g, b of the hair in [0, 1].

Real files are read in any of the layouts that ``datasets.faces.places`` knows. Drawn faces are written as CelebA is, read by the
same reader, and removed once they are in the cache. ``datasets.faces.parts`` says which images train, judge and test.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.base import MANIFEST, PARTS, CompositionalDataModule, DataError, dataset
from datasets.faces.cells import CURVES, HAIR, WIDTHS, space_of
from datasets.faces.decode import WIDTH, decode_rows
from datasets.faces.listing import Listing, open_listing
from datasets.faces.lists import FacesError
from datasets.faces.parts import classes_of, count_cells, split_parts
from datasets.faces.people import GROUPS, values_of
from datasets.faces.places import PlaceError, locate, resolve_source, where_to_put
from datasets.faces.writer import write_faces
from datasets.factors import Composition, FactorSpace
from datasets.image_set import composition_index

KEY = "dataset.celeba"
WRITTEN = "faces"  # the folder of drawn faces, beside the cache while that is made
PAINTING = 0.8  # of the time that a cache of drawn faces takes
NOT_IN_IMAGES = ("root", "balance")  # fields that change no image


@dataclass
class CelebAConfig:
    """Which faces, how large, and how many of each composition: of drawn ones exactly, of real ones at most."""

    source: str = "auto"  # auto (real if there are any; resolved before construction) | real | drawn
    root: str = ""  # folder that has the real files, in any of the three layouts; else the environment's CELEBA_ROOT
    resolution: int = 48  # px; Farid et al. 2025
    crop: int = 178  # px of the image's 178: side of the square in the middle that is kept and scaled
    nuisance: str = (
        "all"  # what varies in drawn faces besides the factors: none | all | groups with commas: head,skin,hair
    )
    balance: str = "equal"  # equal | natural: how often batches of generators show each composition
    train_per_composition: int = 10_000  # for tokenizers and generators; Okawa et al. 2023; real: 0 is all
    probe_per_composition: int = 2_500  # for training judges; real: 0 is all
    test_per_composition: int = 512  # held out from everybody, real ones of CelebA's own test partition; real: 0 is all

    @property
    def space(self) -> FactorSpace:
        """Gender, smile and hair, in digit order."""
        return space_of(self.source == "drawn")

    @staticmethod
    def settle(values: Mapping[str, Any]) -> dict[str, Any]:
        """Which faces ``auto`` stands for on this machine; drawn ones bear another label, so that nobody takes them for real.

        Raises:
            ValueError: real faces are asked for and not there, or a copy of them is not whole.
        """
        root = values["root"] or os.environ.get("CELEBA_ROOT", "")
        source = resolve_source(values["source"], root)
        if source == "drawn":
            note = f"celeba: no real faces here, so drawn ones stand in; {where_to_put(root)}"
            asked = {"note": note} if values["source"] == "auto" else {}
            return {"source": source, "label": "celeba-drawn", **asked}
        place = locate(root)
        listing = place.fingerprint() if place else ""
        return {"source": source, "root": os.path.abspath(root), "listing": listing, "nuisance": "all"}

    @property
    def nuisances(self) -> tuple[str, ...]:
        """The groups of nuisances that vary in drawn faces."""
        named = {"none": (), "all": tuple(GROUPS)}
        return (
            named[self.nuisance] if self.nuisance in named else tuple(name.strip() for name in self.nuisance.split(","))
        )

    def validate(self) -> None:
        """Refuse what cannot be read or drawn; raises ValueError, naming the key and the remedy."""
        if self.source not in ("auto", "real", "drawn"):
            raise ValueError(f"{KEY}.source={self.source} is unknown; use auto, real or drawn")
        if self.balance not in ("equal", "natural"):
            raise ValueError(f"{KEY}.balance={self.balance} is unknown; use equal or natural")
        unknown = [name for name in self.nuisances if name not in GROUPS]
        if unknown:
            known = ", ".join(GROUPS)
            raise ValueError(f"{KEY}.nuisance={self.nuisance}: use none, all, or some of {known} with commas")
        if self.resolution < 8:
            raise ValueError(f"{KEY}.resolution={self.resolution}: use 8 or more")
        if not self.resolution <= self.crop <= WIDTH:
            raise ValueError(f"{KEY}.crop={self.crop}: use {self.resolution} (the resolution) to {WIDTH}")
        least = 0 if self.source == "real" else 1
        for key in ("train_per_composition", "probe_per_composition", "test_per_composition"):
            if getattr(self, key) < least:
                raise ValueError(f"{KEY}.{key}={getattr(self, key)}: use {least} or more")


@dataset("celeba", CelebAConfig)
class CelebA(CompositionalDataModule):
    """Images (C, H, W) in the order of their names; ``source`` has to be ``real`` or ``drawn``."""

    config: CelebAConfig
    version = 3  # drawn nuisances are in groups
    block = 256  # images decoded by a process at once
    parallel = True
    strict_judge = "features"
    likeness = True
    least_ceiling = 0.80  # people disagree on who smiles, and on what is blond

    def __init__(self, config: CelebAConfig, seed: int, folder: Path) -> None:
        config.validate()
        if config.source == "auto":
            raise ValueError(f"{KEY}.source=auto has to be resolved first; use real or drawn")
        super().__init__(config, seed, folder)
        self.balance = config.balance
        self._root = Path(config.root) if config.root else None

    @property
    def drawn(self) -> bool:
        """Whether the faces are drawn ones."""
        return self.config.source == "drawn"

    @property
    def space(self) -> FactorSpace:
        return self.config.space

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 3, self.config.resolution, self.config.resolution

    @property
    def limits(self) -> dict[str, int]:
        """Part -> images of a composition, at most; 0 is all."""
        return {part: getattr(self.config, f"{part}_per_composition") for part in PARTS}

    def part_sizes(self) -> dict[str, int]:
        """Number of images in each part.

        Raises:
            DataError: real files are missing, damaged, or show no image of some composition in some part.
        """
        if self.drawn:
            return super().part_sizes()
        for part, rows in self._parts.items():
            index = composition_index(torch.from_numpy(self._classes[rows]), self.space)
            counts = torch.bincount(index, minlength=len(self.space.compositions)).tolist()
            for composition, count in zip(self.space.compositions, counts, strict=True):
                if not count:
                    raise FacesError(
                        f"{self._root} has no image of {composition} ({self.space.describe(composition)}) for the part "
                        f"{part}; add some, or use {KEY}.source=drawn"
                    )
        return {part: len(rows) for part, rows in self._parts.items()}

    def draw_block(self, part: str, block: int) -> tuple[Tensor, Tensor, Tensor]:
        """The images of a part from ``block * self.block`` on, fewer at its end; drawn ones only while they are cached."""
        rows = self._parts[part][block * self.block : (block + 1) * self.block]
        images = torch.from_numpy(decode_rows(self._listing, rows, self.config.resolution, self.config.crop))
        known = self._listing.values
        values = torch.zeros(len(rows), 0) if known is None else torch.from_numpy(known[rows])
        return images, values, torch.from_numpy(self._classes[rows])

    def draw_values(self, composition: Composition, count: int, generator: torch.Generator) -> Tensor:
        if not self.drawn:
            return torch.zeros(count, 0)
        classes = torch.tensor([self.space.class_indices(composition)]).expand(count, -1)
        return values_of(classes, torch.rand(count, len(WIDTHS), generator=generator))

    def judge_geometry(self) -> dict[str, Any]:
        """The source and the resolution, and of drawn faces the centres and half widths of their values."""
        told: dict[str, Any] = {"source": self.config.source, "resolution": self.config.resolution}
        return {**told, "curves": dict(CURVES), "hair": dict(HAIR), "widths": list(WIDTHS)} if self.drawn else told

    # -- the cache ----------------------------------------------------------------------------------------------------

    def generate(self, folder: Path, progress: Callable[[float], None] = lambda share: None) -> None:
        """As in the base class; of files that cannot be read whole nothing is kept.

        Raises:
            DataError: a file is missing or damaged; one sentence that names it and the remedy.
        """
        begun = 0.0
        try:
            if self.drawn:
                self._forget()
                self._root, begun = folder / WRITTEN, PAINTING
                varying, done = self.config.nuisances, lambda share: progress(PAINTING * share)
                write_faces(self._root, self.seed, self.part_sizes(), varying, done)
            super().generate(folder, lambda share: progress(begun + (1 - begun) * share))
            manifest = json.loads((folder / MANIFEST).read_text())
            _replace(folder / MANIFEST, json.dumps({**manifest, "origin": self._found()}, indent=1) + "\n")
        except BaseException:
            for part in PARTS:
                for name in (f"{part}_images.npy", f"{part}_labels.safetensors"):
                    (folder / name).unlink(missing_ok=True)
            (folder / MANIFEST).unlink(missing_ok=True)
            raise
        finally:
            if self.drawn:
                shutil.rmtree(folder / WRITTEN, ignore_errors=True)
                self._forget()

    @property
    def origin(self) -> dict[str, Any]:
        """Where the cached images come from: source, layout, extent, state of the checksums, counts of the eight cells.

        ``cells`` counts all images of a composition in CelebA's partitions train, valid and test, before any limit.

        Raises:
            DataError: there is no cache.
        """
        manifest = self._manifest()
        if "origin" not in manifest:
            raise self._damaged(f"{self.folder / MANIFEST} does not say where its images come from")
        return manifest["origin"]

    def _identity(self) -> dict[str, Any]:
        config = {key: value for key, value in asdict(self.config).items() if key not in NOT_IN_IMAGES}
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
        identity = {**super()._identity(), "config_hash": digest, "source": self.config.source}
        # A cache is of use without the files behind it; where they are, they have to be the same.
        with suppress(PlaceError):
            if not self.drawn and (place := locate(self.config.root)):
                identity["listing"] = place.fingerprint()
        return identity

    def _found(self) -> dict[str, Any]:
        listing = self._listing
        return {
            "source": self.config.source,
            "layout": listing.layout,
            "extent": f"{len(listing)} drawn faces" if self.drawn else listing.extent,
            "official": listing.official,
            "checksum": listing.checksum,
            "images": len(listing),
            **count_cells(listing),
        }

    @cached_property
    def _listing(self) -> Listing:
        listing = open_listing(self._root or "")
        if (listing.values is not None) != self.drawn:
            raise DataError(f"{self._root} has drawn faces; use {KEY}.source=drawn, or name a folder of real ones")
        return listing

    @cached_property
    def _classes(self) -> np.ndarray:
        """Of every image of the listing, (M, 3) int64."""
        return classes_of(self._listing.attributes)[0]

    @cached_property
    def _parts(self) -> dict[str, np.ndarray]:
        """Rows of the listing."""
        return split_parts(self._listing, self.limits)

    def _forget(self) -> None:
        for name in ("_listing", "_classes", "_parts"):
            self.__dict__.pop(name, None)


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    aside = path.with_name(f".tmp-{path.name}")
    aside.write_text(text)
    os.replace(aside, path)
