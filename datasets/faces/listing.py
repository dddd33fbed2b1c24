"""One interface to CelebA in any layout: names, attributes, partitions, and images that are read when they are asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from datasets.faces.lists import (
    IMAGES,
    FacesError,
    checksum_state,
    read_attributes,
    read_partition,
    read_values,
)
from datasets.faces.parquet import read_shards
from datasets.faces.places import IMAGE_FOLDER, VALUE_LIST, Place, PlaceError, locate, where_to_put


class Reader(Protocol):
    """Encoded images by their index."""

    def read(self, index: int) -> bytes: ...

    def describe(self, index: int) -> str: ...


@dataclass(frozen=True)
class Listing:
    """The images of one copy of CelebA, by name: the same order for the same images in any layout."""

    layout: str  # standard | kaggle | parquet
    names: np.ndarray  # (M,) str
    attributes: np.ndarray  # (M, 4) bool: Male, Smiling, Blond_Hair, Black_Hair
    partition: np.ndarray  # (M,) uint8: 0 train, 1 valid, 2 test
    checksum: str  # of the lists: official | other | none where none are known
    reader: Reader
    order: np.ndarray  # (M,) int: where the reader has each image
    values: np.ndarray | None = None  # (M, 4) float32 of drawn faces: curve of the mouth, red, green, blue of the hair

    def __len__(self) -> int:
        return len(self.names)

    @property
    def official(self) -> bool:
        """Whether this is the official full set, as far as its lists tell."""
        return len(self) == IMAGES and self.checksum == "official"

    @property
    def extent(self) -> str:
        """In words: the full set, or which subset."""
        if len(self) != IMAGES:
            return f"subset of {len(self)} images"
        return {"official": "official full set", "none": "full set, no checksum known"}.get(
            self.checksum, "as many images as the full set, but other lists than the official ones"
        )

    def read(self, index: int) -> bytes:
        """An image as it is encoded on disk: JPEG, or PNG in some parquet files.

        Raises:
            FacesError: the file is missing or cannot be read.
        """
        return self.reader.read(int(self.order[index]))

    def describe(self, index: int) -> str:
        """The file that an image comes from, for messages."""
        return self.reader.describe(int(self.order[index]))


class FolderReader:
    """Images by name from a folder."""

    def __init__(self, folder: Path, names: np.ndarray) -> None:
        self.folder, self.names = folder, names

    def describe(self, index: int) -> str:
        return str(self.folder / str(self.names[index]))

    def read(self, index: int) -> bytes:
        try:
            return (self.folder / str(self.names[index])).read_bytes()
        except OSError as error:
            reason = error.strerror or "cannot be read"
            raise FacesError(f"{self.describe(index)}: {reason}; unpack {IMAGE_FOLDER}.zip again") from error


def open_listing(root: str | Path) -> Listing:
    """The copy of CelebA, or of drawn faces in its format, below a root folder.

    Raises:
        FacesError: there is none, or it is not whole; one sentence that names the file and the remedy.
    """
    try:
        place = locate(root)
    except PlaceError as error:
        raise FacesError(str(error)) from error
    if place is None:
        raise FacesError(f"there is no CelebA: {where_to_put(root)}")
    return _open_parquet(place) if place.layout == "parquet" else _open_folder(place)


def _open_folder(place: Place) -> Listing:
    assert place.attributes and place.partition
    attributes, partition = read_attributes(place.attributes), read_partition(place.partition)
    names = sorted(attributes)
    if missing := [name for name in names if name not in partition]:
        raise FacesError(
            f"{place.partition} lacks {missing[0]}{_others(missing)}, which {place.attributes.name} lists; "
            "download both again"
        )
    present = {entry.name for entry in os.scandir(place.images)}
    if missing := [name for name in names if name not in present]:
        raise FacesError(
            f"{place.images / missing[0]} is missing{_others(missing)}, though {place.attributes.name} lists it; unpack "
            f"{IMAGE_FOLDER}.zip again, or for a subset keep only the lines of the images that you have"
        )
    values = None
    if place.drawn:
        path = place.folder / VALUE_LIST
        known = read_values(path)
        if missing := [name for name in names if name not in known]:
            raise FacesError(f"{path} lacks {missing[0]}{_others(missing)}; draw the faces again")
        values = np.array([known[name] for name in names], np.float32)
    listed = np.array(names)
    return Listing(
        place.layout,
        listed,
        np.array([attributes[name] for name in names]),
        np.array([partition[name] for name in names], np.uint8),
        "none" if place.drawn else checksum_state(place.attributes, place.partition),
        FolderReader(place.images, listed),
        np.arange(len(names)),
        values,
    )


def _open_parquet(place: Place) -> Listing:
    names, attributes, partition, reader = read_shards(place.shards)
    listed = np.array(names)
    order = np.argsort(listed, kind="stable")
    return Listing(place.layout, listed[order], attributes[order], partition[order], "none", reader, order)


def _others(missing: list[str]) -> str:
    return f" (and {len(missing) - 1} others)" if len(missing) > 1 else ""
