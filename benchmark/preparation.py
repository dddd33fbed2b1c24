"""What cells share, made or checked without training any: a dataset's images alone, or all that a cell needs."""

from __future__ import annotations

import signal
import traceback
from types import FrameType

from benchmark.artefacts import Artefacts
from benchmark.cell import Cell
from benchmark.config import ConfigError
from benchmark.fit import Preempted, quiet_threads
from benchmark.registry import Registry
from benchmark.runner import CellRun, reason_of
from benchmark.signals import STOP_SIGNALS
from benchmark.store import Store
from benchmark.workers import CUT_OFF, NOT_OK
from benchmark.workers import OK as ENDED_OK
from datasets.base import PARTS, CompositionalDataModule


def prepare_data(cell: Cell, store: Store, registry: Registry) -> int:
    """Draw a dataset's images, or check those that are there against their checksums."""
    data = Artefacts(cell, store, registry).data
    data.verify()
    print(f"{cell.dataset}: {data.folder}")
    for part in PARTS:
        print(f"  {part}: {len(data.images(part))} images of {len(data.space.compositions)} compositions")
    _tell_origin(data)
    return 0


def _tell_origin(data: CompositionalDataModule) -> None:
    """Of images that were read: which files, how sound they are, how many there are of each composition."""
    for name, told in data.origin.items():
        for key, value in told.items() if isinstance(told, dict) else [("", told)]:
            counts = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            print(f"  {name} {key}: {counts}" if key else f"  {name}: {counts}")


def compare_renderers(cell: Cell, store: Store, registry: Registry, count: int) -> int:
    """Render some scenes by both renderers of a dataset into the results folder, and print how far apart they are.

    Raises:
        ConfigError: the dataset has one renderer, or the other one is not installed or failed.
    """
    cls, config = Artefacts(cell, store, registry).part("dataset")
    if count < 1:
        raise ConfigError(f"--compare-renderers {count} must be at least 1")
    if not hasattr(cls, "compare_renderers"):
        raise ConfigError(f"{cell.dataset} has one renderer: --compare-renderers is for clevrer_kubric")
    try:
        print(cls(config, cell.seed_of("data"), store.results).compare_renderers(store.results, count))
    except RuntimeError as error:
        raise ConfigError(str(error)) from error
    print(f"-> {store.results / 'renderers.csv'}, renderers.png")
    return 0


def prepare_cell(cell: Cell, store: Store, registry: Registry) -> int:
    """Build all that a cell shares with others. If that fails, the unfinished cells that share it fail with its reason."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Preempted

    for number in STOP_SIGNALS:  # anywhere: artefacts are built aside; `fit` sets its own handlers while it trains
        signal.signal(number, stop)
    quiet_threads(cell.threads)
    try:
        Artefacts(cell, store, registry).prepare()
    except Preempted:
        print("cut off; the same command goes on from what is there")
        return CUT_OFF
    except Exception as error:
        traceback.print_exc()
        reason = f"what it shares with other cells could not be made: {reason_of(error)}"
        for name in store.cell_ids():
            try:
                other = Cell.read(store.cell(name).config)
            except ConfigError as damaged:
                store.warn(f"left out: {damaged}")
                continue
            if other.shared_parts == cell.shared_parts and not store.record_count(name):
                store.write_record(name, CellRun(other, store, registry, lambda: None).failure(reason))
        return NOT_OK
    return ENDED_OK
