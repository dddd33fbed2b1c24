"""A batch that several processes share: whatever is random is drawn for all of it, and each process keeps its own rows.

So two devices train what one device trains. A process works on a `share_of` the batch; code that draws numbers for the
rows of a batch does it through `draw`, which hands a share its part of the numbers that one process would have drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from datasets.factors import seed_for


class Share(torch.Generator):
    """The generator of one process's rows.

    Numbers that are drawn from it directly, as a plug-in may, are independent of those of the other processes.
    """

    whole: torch.Generator  # of the whole batch, in the same state in all processes
    rank: int
    world: int

    def __new__(cls, whole: torch.Generator, rank: int, world: int) -> Share:
        share = super().__new__(cls, whole.device)  # type: ignore[call-arg]
        share.whole, share.rank, share.world = whole, rank, world
        share.manual_seed(seed_for(whole.initial_seed(), "rank", rank))
        return share


def share_of(batch: dict[str, Any], rank: int, world: int) -> dict[str, Any]:
    """The rows of a batch that one of ``world`` processes trains on, with a generator that knows.

    Raises:
        ValueError: if the rows cannot be shared out equally.
    """
    own: dict[str, Any] = {}
    for name, value in batch.items():
        if isinstance(value, torch.Generator):
            own[name] = Share(value, rank, world)
        elif len(value) % world:
            raise ValueError(f"{len(value)} rows cannot be shared out among {world} processes")
        else:
            own[name] = value.chunk(world)[rank]
    return own


def draw(law: Callable[..., Tensor], shape: Sequence[int], generator: torch.Generator, copies: int = 1) -> Tensor:
    """Random numbers for the rows of a batch, which lie along the first axis of ``shape``.

    Args:
        law: what draws them, such as ``torch.randn``.
        copies: so many batches one after another make up the first axis.
    """
    if not isinstance(generator, Share):
        return law(shape, generator=generator, device=generator.device)
    world, rows = generator.world, shape[0] // copies
    whole = law((shape[0] * world, *shape[1:]), generator=generator.whole, device=generator.device)
    return whole.view(copies, world, rows, *shape[1:])[:, generator.rank].reshape(shape)
