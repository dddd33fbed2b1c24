"""Where CelebA lies below a root folder, and in which of its three layouts; nothing is read but names and a few bytes.

Imports nothing heavy, so that a plan can say which faces a run will use.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

ATTRIBUTE_LIST = "list_attr_celeba"
PARTITION_LIST = "list_eval_partition"
IMAGE_FOLDER = "img_align_celeba"
VALUE_LIST = "celeba_drawn_values.csv"  # beside drawn faces only
SPLITS = ("train", "valid", "test")  # of the parquet files, in the order of partitions 0, 1 and 2

EXPECTED = {
    "standard": f"{IMAGE_FOLDER}/000001.jpg, {ATTRIBUTE_LIST}.txt and {PARTITION_LIST}.txt",
    "kaggle": f"{IMAGE_FOLDER}/{IMAGE_FOLDER}/000001.jpg, {ATTRIBUTE_LIST}.csv and {PARTITION_LIST}.csv",
    "parquet": "train-00000-of-00019.parquet and so on of flwrlabs/celeba (train, valid, test)",
}
_FOLDERS = ("", "celeba", "CelebA", "celeba-dataset", "flwrlabs/celeba")  # below the root
_BESIDE = ("", "Anno", "Eval", "Img")  # below that: the folders in which the host itself keeps the files
_WITH_SHARDS = ("", "data", "img_align+identity+attr")  # below that too; a root may hold other sets' parquet files
_HTML = (b"<!doctype", b"<html")


class PlaceError(ValueError):
    """What lies there cannot be CelebA; one sentence that names the file and the remedy."""


@dataclass(frozen=True)
class Place:
    """The files of one copy of CelebA, in one layout."""

    layout: str  # standard | kaggle | parquet
    folder: Path
    images: Path  # the folder of pictures; that of the parquet files
    attributes: Path | None = None  # None in parquet
    partition: Path | None = None
    shards: tuple[tuple[int, Path], ...] = ()  # parquet files with their partitions, in order

    @property
    def drawn(self) -> bool:
        """Whether these are drawn faces, which come with a list of their values."""
        return (self.folder / VALUE_LIST).is_file()

    def fingerprint(self) -> str:
        """A digest of the layout and of the names and sizes of its lists or parquet files: another one, other images."""
        files = [path for path in (self.attributes, self.partition) if path] or [path for _, path in self.shards]
        told = [self.layout, *(f"{path.name} {path.stat().st_size}" for path in files)]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()


def locate(root: str | Path) -> Place | None:
    """The first copy of CelebA below a root; None where there is no trace of one.

    Raises:
        PlaceError: a part of it lies there: an archive that was not unpacked, was cut off or is a web page; pictures without
            lists, or lists without pictures.
    """
    if not str(root):
        return None
    for name in _FOLDERS:
        folder = Path(root) / name
        if folder.is_dir() and (place := _in_folder(folder) or _in_parquet(folder)):
            return place
    for name in _FOLDERS:
        for beside in _BESIDE:
            _refuse_archives(Path(root) / name / beside, "celeba|archive" if name else "celeba")
    return None


def resolve_source(source: str, root: str | Path) -> str:
    """Which faces ``dataset.celeba.source`` stands for: ``real`` or ``drawn``.

    ``auto`` takes real ones where there are any. A broken copy is not passed over in silence.

    Args:
        source: auto, real or drawn.
        root: the folder that would hold CelebA; "" where none was named.

    Raises:
        PlaceError: ``real`` without files, or a copy that is not whole.
        ValueError: another source.
    """
    if source not in ("auto", "real", "drawn"):
        raise ValueError(f"dataset.celeba.source={source} is unknown; use auto, real or drawn")
    if source == "drawn":
        return source
    place = locate(root)
    if source == "auto":
        return "drawn" if place is None or place.drawn else "real"
    if place is None:
        raise PlaceError(f"dataset.celeba.source=real, but there is no CelebA: {where_to_put(root)}")
    if place.drawn:
        raise PlaceError(
            f"dataset.celeba.source=real, but {place.folder} has drawn faces ({VALUE_LIST} lies there); "
            "name another folder, or use dataset.celeba.source=drawn"
        )
    return source


def where_to_put(root: str | Path) -> str:
    """One line on the paths that are looked for."""
    looked = f"{root} (or its folder celeba)" if str(root) else "the folder named by dataset.celeba.root or CELEBA_ROOT"
    ways = "; or ".join(f"{files} ({layout})" for layout, files in EXPECTED.items())
    return f"{looked} should hold {ways}"


def is_web_page(path: Path) -> bool:
    """Whether a file is HTML: what a host sends in place of a file when its quota is used up."""
    with path.open("rb") as file:
        return file.read(512).lstrip(b"\xef\xbb\xbf \r\n\t").lower().startswith(_HTML)


def _in_folder(folder: Path) -> Place | None:
    """The standard layout or Kaggle's; pictures may be nested in either."""
    csv = _beside(folder, f"{ATTRIBUTE_LIST}.csv")
    attributes = _beside(folder, f"{ATTRIBUTE_LIST}.txt") or csv
    images = _beside(folder, IMAGE_FOLDER)
    if images is None or not images.is_dir():
        if attributes is None:
            return None
        for beside in _BESIDE:
            _refuse_archives(folder / beside)
        raise PlaceError(
            f"{attributes} has no folder {IMAGE_FOLDER} of pictures beside it; unpack {IMAGE_FOLDER}.zip there"
        )
    nested = images / IMAGE_FOLDER
    suffix = ".csv" if csv and attributes == csv else ".txt"
    if attributes is None:
        suffix = ".csv" if nested.is_dir() else ".txt"
        raise PlaceError(_lacks(folder / f"{ATTRIBUTE_LIST}{suffix}", images))
    partition = _beside(folder, f"{PARTITION_LIST}{suffix}")
    if partition is None:
        raise PlaceError(_lacks(folder / f"{PARTITION_LIST}{suffix}", images))
    layout = "kaggle" if suffix == ".csv" else "standard"
    return Place(layout, folder, nested if nested.is_dir() else images, attributes, partition)


def _in_parquet(folder: Path) -> Place | None:
    """Parquet files, ``train-00000-of-00019.parquet`` or ``train/0000.parquet``."""
    shards = []
    for below in _WITH_SHARDS:
        for number, split in enumerate(SPLITS):
            for pattern in (f"{split}-*.parquet", f"{split}/*.parquet"):
                shards += [(number, path) for path in (folder / below).glob(pattern)]
    for _, path in shards:
        if (count := re.fullmatch(r"(\w+)-\d+-of-(\d+)", path.stem)) is None:
            continue
        for number in range(int(count[2])):
            sibling = path.with_name(f"{count[1]}-{number:05d}-of-{count[2]}.parquet")
            if not sibling.exists():
                raise PlaceError(
                    f"{sibling} is missing, though {path.name} lies there; download it again, "
                    f"or for a subset rename the files you have to {count[1]}-00000-of-00001.parquet and so on"
                )
    return Place("parquet", folder, folder, shards=tuple(sorted(shards))) if shards else None


def _beside(folder: Path, name: str) -> Path | None:
    return next((path for beside in _BESIDE if (path := folder / beside / name).exists()), None)


def _lacks(missing: Path, images: Path) -> str:
    """One sentence on a list that should lie beside a folder of pictures."""
    return f"{missing} is missing, though {images} is there; download it from where the pictures came and put it there"


def _refuse_archives(folder: Path, named: str = "celeba|archive") -> None:
    """Say what is wrong with an archive that lies where its contents should; Kaggle calls every one ``archive``."""
    for path in sorted(folder.glob("*.zip")) if folder.is_dir() else []:
        if not re.search(named, path.name, re.IGNORECASE):
            continue
        if is_web_page(path):
            raise PlaceError(
                f"{path} is a web page, not an archive: its host refused the download; "
                "open the link in a browser or take another mirror, or use dataset.celeba.source=drawn"
            )
        if not zipfile.is_zipfile(path):
            raise PlaceError(
                f"{path} ends early after {path.stat().st_size} bytes: its download was cut off; "
                "download it again and unpack it there, or use dataset.celeba.source=drawn"
            )
        raise PlaceError(f"{path} is still packed; unpack it in {folder}, or use dataset.celeba.source=drawn")
