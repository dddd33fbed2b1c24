"""Work that comes in blocks, done by a process a core and handed over in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset


def cores() -> int:
    """Cores that this process may use; 1 on systems where processes cannot share what their parent has loaded."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def in_order(
    make: Callable[[int], Any], count: int, parallel: bool = True, told: type[Exception] = ValueError
) -> Iterator[Any]:
    """What ``make`` gives for 0 to ``count - 1``, one after the other, made by as many processes as there are cores.

    Give arrays, no tensors: those would travel between processes through a memory that may be small.

    Args:
        make: must not depend on the process it runs in.
        parallel: False makes everything in this process.
        told: exceptions of this type, which take one sentence, keep it; from another process torch puts a traceback before it.
    """
    processes = min(count, cores()) if parallel else 1
    # torch's loader keeps the order, gives each process one thread, and ends them with this one however it ends.
    loader = DataLoader(
        _Numbered(make, count),
        batch_size=None,
        num_workers=processes if processes > 1 else 0,
        collate_fn=_unchanged,
        generator=torch.Generator(),  # or it would take a number from the global one
        multiprocessing_context="fork" if processes > 1 else None,
    )
    try:
        yield from loader
    except told as error:
        kind = type(error)
        raise kind(str(error).rpartition(f"{kind.__name__}: ")[2].strip()) from error


class _Numbered(Dataset):
    def __init__(self, make: Callable[[int], Any], count: int) -> None:
        self.make, self.count = make, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Any:
        if number >= self.count:
            raise IndexError(number)
        return self.make(number)


def _unchanged(made: Any) -> Any:
    return made
