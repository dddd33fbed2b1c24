"""Hashes of the sources behind a result: after a change nothing that the old sources made is taken for the new ones'."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from benchmark import ROOT
from benchmark.cell import ARTEFACT_DIGITS, Cell
from benchmark.config import stable_hash
from benchmark.registry import Registry
from benchmark.sources import ROOMS, find_module, source

# Of `benchmark`: config in, numbers out. `hardware` counts operations, `leaderboard` tells a curve in numbers.
USED_BY_EVERY_CELL = (
    *("runner", "artefacts", "models", "samplers", "fit", "evaluate", "intervals"),
    *("hardware", "leaderboard", "statistics"),
)
USED_BY_ARTEFACTS = ("artefacts", "fit")
KINDS = ("data", "tokenizer", "latents", "probe", "ceiling")  # what a cell shares with others; `strict` is in `ceiling`
MADE_BY = {"data": ("dataset",), "probe": ("dataset",), "strict": ("dataset",)}  # others: by the tokenizer as well
JUDGES = ("probe", "strict", "ceiling")


def of_cell(cell: Cell, registry: Registry) -> str:
    """Hash of the sources that can change the result: of the cell's own modules and all they import from our rooms.

    Another fingerprint than the one in a record makes that record stale.
    """
    return _digest(sources_of_cell(cell, registry))


def sources_of_cell(cell: Cell, registry: Registry) -> set[Path]:
    """Files whose change can change the result."""
    own = _modules(cell, registry, ("dataset", "tokenizer", "architecture"))
    return {*_closure(own), *_of_benchmark(USED_BY_EVERY_CELL), *_judges()}


def of_artefact(kind: str, cell: Cell, registry: Registry) -> str:
    """Hash of the sources that make an artefact: those of the dataset, of the tokenizer, of the judges."""
    paths = _closure(_modules(cell, registry, MADE_BY.get(kind, ("dataset", "tokenizer"))))
    if kind != "data":
        paths |= _of_benchmark(USED_BY_ARTEFACTS)
    return _digest(paths | _judges() if kind in JUDGES else paths)


def artefact_key(kind: str, cell: Cell, registry: Registry) -> str:
    """Name of an artefact in its folder: its part of the config, and the sources that make it."""
    parts = [getattr(cell, f"{kind}_key"), of_artefact(kind, cell, registry)]
    return stable_hash(parts, ARTEFACT_DIGITS)


def artefact_keys(cell: Cell, registry: Registry) -> tuple[tuple[str, str], ...]:
    """Kind and key of everything that a cell shares with other cells."""
    return tuple((kind, artefact_key(kind, cell, registry)) for kind in KINDS)


def _modules(cell: Cell, registry: Registry, kinds: Iterable[str]) -> list[Path]:
    return [registry.entry(kind, cell.config[kind]["name"]).path for kind in kinds]


def _of_benchmark(names: Iterable[str]) -> set[Path]:
    """These modules, and what they use of other rooms; of `benchmark` itself only what is named."""
    own = {path for name in names if (path := find_module(f"benchmark.{name}"))}
    rooms = {path for each in own for path in source(each, _module_name(each)).imported_files}
    return own | _closure(path for path in rooms if path.relative_to(ROOT).parts[0] != "benchmark")


def _judges() -> set[Path]:
    return set((ROOT / "probes").glob("*.py"))


def _closure(paths: Iterable[Path]) -> set[Path]:
    """Files and what they import from our rooms, and so on; `benchmark` is never imported by another room."""
    found: set[Path] = set()
    waiting = list(paths)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting.extend(source(path, _module_name(path)).imported_files)
    return found


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:ARTEFACT_DIGITS]


def _module_name(path: Path) -> str:
    if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ROOMS:
        return ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return f"plugin:{path}"
