"""Writes drawn faces as CelebA is written: JPEGs, the two lists, and a list of the values behind smile and hair.

The lists are written last, each whole or not at all: a folder without them is unfinished and no reader takes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np

from datasets.base import PARTS
from datasets.faces.drawn import encode, paint
from datasets.faces.lists import HEADER, NAMES, VALUE_COLUMNS
from datasets.faces.people import GROUPS, draw_people
from datasets.faces.places import ATTRIBUTE_LIST, IMAGE_FOLDER, PARTITION_LIST, VALUE_LIST
from datasets.factors import seed_for
from datasets.loading import in_order

CHUNK = 32  # faces painted by a process at once
_ALWAYS = ("No_Beard", "Young")  # what is true of all drawn faces

Rows = tuple[int, np.ndarray, np.ndarray]  # number of the first face, (B, 3) classes, (B, 4) values


def write_faces(
    folder: Path,
    seed: int,
    counts: dict[str, int],
    groups: Collection[str] = GROUPS,
    progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Write drawn faces; face ``i`` of a part is a function of (seed, part, i) and what varies alone.

    Args:
        folder: made if it is missing; becomes a copy of CelebA in the standard layout.
        counts: how many faces each of ``PARTS`` has: CelebA's partitions 0, 1 and 2.
        groups: which groups of nuisances vary.
        progress: called with the share done, from 0 to 1.
    """
    (folder / IMAGE_FOLDER).mkdir(parents=True, exist_ok=True)
    lists = [folder / name for name in (f"{ATTRIBUTE_LIST}.txt", f"{PARTITION_LIST}.txt", VALUE_LIST)]
    for path in lists:
        path.unlink(missing_ok=True)
    total = sum(counts.values())
    attributes = [str(total), HEADER + " "]
    partition: list[str] = []
    values = [",".join(("image_id", *VALUE_COLUMNS))]
    for first, classes, drawn in _painted(folder / IMAGE_FOLDER, seed, counts, groups):
        for row, (shown, value) in enumerate(zip(classes.tolist(), drawn.tolist(), strict=True)):
            name = _name(first + row)
            attributes.append(f"{name} {_attributes(*shown)}")
            values.append(",".join((name, *(f"{number:.9g}" for number in value))))  # 9 digits keep a float32
        progress((first + len(classes)) / total)
    for number, part in enumerate(PARTS):
        partition += [f"{_name(index)} {number}" for index in range(len(partition), len(partition) + counts[part])]
    for path, lines in zip(lists, (attributes, partition, values), strict=True):
        aside = path.with_name(f".tmp-{path.name}")
        aside.write_text("\n".join(lines) + "\n")
        os.replace(aside, path)


def _painted(folder: Path, seed: int, counts: dict[str, int], groups: Collection[str]) -> Iterator[Rows]:
    """Paint and write all faces, some at a time, and tell what they show, in order."""
    tasks, first = [], 0
    for part in PARTS:
        for start in range(0, counts[part], CHUNK):
            tasks.append((part, start, min(start + CHUNK, counts[part]), first + start))
        first += counts[part]

    def painted(task: int) -> Rows:
        part, start, stop, first = tasks[task]
        people = draw_people(seed_for(seed, "celeba", part), range(start, stop), groups)
        for row in range(len(people)):
            (folder / _name(first + row)).write_bytes(encode(paint(people, row)))
        return first, people.classes.numpy(), people.values.numpy()

    return in_order(painted, len(tasks))


def _name(index: int) -> str:
    return f"{index + 1:06d}.jpg"


def _attributes(male: int, neutral: int, blond: int) -> str:
    true = {*_ALWAYS, "Blond_Hair" if blond else "Black_Hair"}
    if male:
        true.add("Male")
    if not neutral:
        true.add("Smiling")
    return " ".join(f"{1 if name in true else -1:2d}" for name in NAMES)
