"""CelebA's lists: which attributes an image has and which partition it belongs to, as text or as CSV.

``list_attr_celeba.txt`` has the number of images, a line of the 40 names, then ``000001.jpg -1  1 ...``;
``list_eval_partition.txt`` has ``000001.jpg 0`` and so on. Kaggle's CSV files have a header instead and may end lines as
Windows does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from datasets.base import DataError
from datasets.faces.places import VALUE_LIST, is_web_page

IMAGES = 202_599  # of the whole set
MD5 = {  # of the official files
    "list_attr_celeba.txt": "75e246fa4810816ffd6ee81facbd244c",
    "list_eval_partition.txt": "d32c9cbf5e040fd4025c592c306e6668",
}
HEADER = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair "
    "Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male "
    "Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks "
    "Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace "
    "Wearing_Necktie Young"
)
NAMES = tuple(HEADER.split())
USED = ("Male", "Smiling", "Blond_Hair", "Black_Hair")  # the columns that anything here looks at
VALUE_COLUMNS = ("mouth_curve", "hair_red", "hair_green", "hair_blue")

_TRUTH = {"1": True, "-1": False}
_COLUMNS = tuple(1 + NAMES.index(name) for name in USED)


class FacesError(DataError):
    """A file of CelebA is missing, damaged or of another set; one sentence that names it and the remedy."""


def read_attributes(path: Path) -> dict[str, tuple[bool, ...]]:
    """Image name -> the attributes ``USED``, in the order of the file, from text or CSV.

    Raises:
        FacesError: a wrong header, a count that does not match, or a row that cannot be read.
    """
    lines = _rows(path)
    told = _told_count(path, lines) if path.suffix == ".txt" else None
    header = next(lines, [])
    if header != ([] if path.suffix == ".txt" else ["image_id"]) + list(NAMES):
        shown = " ".join(header[:3]) or "nothing"
        raise FacesError(
            f"{path} does not have CelebA's header (40 names from {NAMES[0]} to {NAMES[-1]}) but {shown}...; "
            "download it again"
        )
    found: dict[str, tuple[bool, ...]] = {}
    for row in lines:
        if len(row) != 1 + len(NAMES) or row[0] in found:
            wrong = "lists it twice" if row[0] in found else f"has {len(row) - 1} values instead of {len(NAMES)}"
            raise FacesError(f"{path} {wrong} for {row[0]}; its download may have been cut off: download it again")
        if strange := set(row[1:]) - _TRUTH.keys():
            raise FacesError(f"{path} has {strange.pop()!r} for {row[0]}, where only 1 and -1 stand; download it again")
        found[row[0]] = tuple(_TRUTH[row[column]] for column in _COLUMNS)
    if told is not None and told != len(found):
        raise FacesError(
            f"{path} says {told} images in its first line but lists {len(found)}; download it again, "
            f"or for a subset of your own write {len(found)} there"
        )
    if not found:
        raise FacesError(f"{path} lists no image; download it again")
    return found


def read_partition(path: Path) -> dict[str, int]:
    """Image name -> 0 train, 1 valid or 2 test, from text or CSV.

    Raises:
        FacesError: a wrong header or a row that cannot be read.
    """
    lines = _rows(path)
    if path.suffix == ".csv" and (header := next(lines, [])) != ["image_id", "partition"]:
        raise FacesError(f"{path} begins with {','.join(header)} instead of image_id,partition; download it again")
    found = {}
    for row in lines:
        if len(row) != 2 or row[1] not in ("0", "1", "2"):
            raise FacesError(f"{path} has {' '.join(row[:5])!r}, not an image and 0, 1 or 2; download it again")
        found[row[0]] = int(row[1])
    return found


def read_values(path: Path) -> dict[str, tuple[float, ...]]:
    """Image name -> ``VALUE_COLUMNS`` of a drawn face.

    Raises:
        FacesError: a wrong header or a row that cannot be read.
    """
    lines = _rows(path)
    header = next(lines, [])
    try:
        if header != ["image_id", *VALUE_COLUMNS]:
            raise ValueError(f"the header {','.join(header)}")
        return {name: (float(curve), float(r), float(g), float(b)) for name, curve, r, g, b in lines}
    except ValueError as error:
        raise FacesError(f"{path} is no {VALUE_LIST} ({error}); draw the faces again") from error


def checksum_state(*paths: Path) -> str:
    """``official`` if all lists have the official checksums, ``other`` if one has not, ``none`` where none are known."""
    if not all(path.name in MD5 for path in paths):
        return "none"
    return "official" if all(_md5(path) == MD5[path.name] for path in paths) else "other"


def _rows(path: Path) -> Iterator[list[str]]:
    """The words of each line that has any."""
    if is_web_page(path):
        raise FacesError(f"{path} is a web page, not a list: its host refused the download; download it again")
    csv = path.suffix == ".csv"
    try:
        with path.open(encoding="utf-8-sig") as file:  # some programs put a mark in front of what they save as CSV
            for line in file:
                if words := line.split():
                    yield [word.strip() for word in line.split(",")] if csv else words
    except UnicodeDecodeError as error:
        raise FacesError(f"{path} is no text; download it again") from error


def _told_count(path: Path, lines: Iterator[list[str]]) -> int:
    first = next(lines, [])
    if len(first) != 1 or not first[0].isdigit():
        shown = " ".join(first[:3]) or "nothing"
        raise FacesError(f"{path} begins with {shown} instead of the number of images; download it again")
    return int(first[0])


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
