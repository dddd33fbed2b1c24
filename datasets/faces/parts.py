"""Which images of a listing are used, and for what.

The official partition is respected: its ``test`` images are held out from everybody. Judges learn from its ``valid`` images and
from every fourth of its ``train`` images of each composition; generators and tokenizers have the other three. The valid
images alone would be too few: of blond men who do not smile there are some dozens.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from datasets.faces.listing import Listing

TRAIN, VALID, TEST = range(3)
PROBE_EVERY = 4  # of the train partition's images of a composition, one in so many goes to judges; our choice


def classes_of(attributes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Classes and whether an image is used at all.

    Args:
        attributes: (M, 4) bool: Male, Smiling, Blond_Hair, Black_Hair.

    Returns:
        int64 (M, 3) gender, smile and hair; bool (M,), False where hair is neither blond nor black, or both.
    """
    male, smiling, blond, black = attributes.T
    return np.stack([male, ~smiling, blond], 1).astype(np.int64), blond != black


def split_parts(listing: Listing, limits: dict[str, int]) -> dict[str, np.ndarray]:
    """Rows of the listing for each part, in the order of the listing.

    Args:
        listing: images in their order.
        limits: part -> how many of a composition at most, the first ones; 0 is all.
    """
    classes, used = classes_of(listing.attributes)
    cell = np.where(used, classes @ np.array([4, 2, 1]), -1)
    drawn = listing.values is not None  # their three partitions are the three parts
    rows: dict[str, list[np.ndarray]] = {part: [] for part in limits}
    for number in range(8):
        train, valid, test = (np.flatnonzero((cell == number) & (listing.partition == p)) for p in (TRAIN, VALID, TEST))
        lent = np.arange(len(train)) % PROBE_EVERY == PROBE_EVERY - 1
        if drawn:
            lent[:] = False
        # The valid images come first: they stay whatever the limit.
        chosen = {"train": train[~lent], "probe": np.concatenate([valid, train[lent]]), "test": test}
        for part, limit in limits.items():
            rows[part].append(chosen[part][: limit or None])
    return {part: np.sort(np.concatenate(found)) for part, found in rows.items()}


def count_cells(listing: Listing) -> dict[str, Any]:
    """How many images each composition has in each partition, and how many are dropped, by reason."""
    classes, used = classes_of(listing.attributes)
    blond, black = listing.attributes[:, 2], listing.attributes[:, 3]
    cell = classes @ np.array([4, 2, 1])
    counts = {
        f"{number:03b}": {
            name: int(np.sum(used & (cell == number) & (listing.partition == part)))
            for part, name in enumerate(("train", "valid", "test"))
        }
        for number in range(8)
    }
    dropped = {"neither black nor blond": int(np.sum(~blond & ~black)), "both": int(np.sum(blond & black))}
    return {"cells": counts, "dropped": dropped}
