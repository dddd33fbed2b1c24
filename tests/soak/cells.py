"""The cells of the soak: the smoke preset, made as small as configs allow, so that a cell costs little but its imports."""

from __future__ import annotations

from collections.abc import Sequence

ARCHITECTURES = ("maskgit", "dit")
LIGHT = (
    *("trainer.max_steps=24", "trainer.checkpoint_every_steps=3", "trainer.eval_every=24"),
    *("trainer.batch_size=4", "trainer.keep_checkpoints=1", "trunk.depth=1", "trunk.width=32"),
    *("evaluation.curve_samples=1", "evaluation.final_samples=1", "probe.epochs=1", "tokenizer.vq.max_steps=10"),
    *(f"dataset.shapes2d.{part}_per_composition=16" for part in ("train", "probe", "test")),
)
MEGABYTES = 11  # of disk a cell; `run` refuses to begin where there is less than it expects to need


def selection(seeds: Sequence[int]) -> tuple[str, ...]:
    """What stands behind ``run`` for the cells of some seeds; each seed has two."""
    axes = ("dataset=shapes2d", f"architecture={','.join(ARCHITECTURES)}", f"seed={','.join(map(str, seeds))}")
    return ("--preset", "smoke", "--only", *axes, *LIGHT)
