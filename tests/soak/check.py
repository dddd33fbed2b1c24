"""What must hold at every look, and what must hold at the end: rows, records, files, numbers, litter."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image
from safetensors.numpy import load_file

from tests.soak.blows import survivors
from tests.soak.commands import disk_named
from tests.soak.tally import Tally
from tests.suite import running

LITTER = (".tmp*", "*.tmp", "*.partial", ".writable-*", "leases/*")  # files being written, builds; locks, claims, notes
LOG = 5000  # characters of a log that are told where a failure has no explanation
BLOWS = {  # reasons for which a cell may have been given up, besides the disk
    "ended by signals": r"^ended by signal \d+",
    "ended by a signal with its disk full": r"^ended by signal 7\b",
    "cut off too often": r"^cut off \d+ times without a new checkpoint",
}


def whole_table(results: Path, tally: Tally) -> None:
    """At every moment the leaderboard is a whole table with at most a row a cell."""
    path = results / "leaderboard.csv"
    if path.exists():
        rows = running.table(path)
        names = [row["cell"] for row in rows]
        if len(set(names)) != len(names) or any(None in row or None in row.values() for row in rows):
            tally.wrong.append(f"a leaderboard with {len(names)} rows is not whole")


def at_the_end(results: Path, cells: int, tally: Tally) -> None:
    """Every cell is there once and has a result, every file can be read, and nothing is left over or still at work."""
    tally.wrong += [f"{left} outlived its launcher" for left in survivors(results)]
    found = sorted(path.name for path in (results / "cells").iterdir())
    listed = sorted(row["cell"] for row in running.table(results / "leaderboard.csv"))
    if len(found) != cells or found != listed:
        tally.wrong.append(f"{cells} cells, of which {len(found)} have a folder and {len(listed)} a row")
    for name in found:
        _check_records(results / "cells" / name, tally)
        log = results / "cells" / name / "log.txt"
        tally.starts += log.read_text(errors="replace").count(" of this run\n") if log.exists() else 0
    tally.cells = len(found)
    for path in (path for path in results.rglob("*") if path.is_file()):
        problem = unreadable(path)
        if problem:
            tally.wrong.append(f"{path.relative_to(results)} is damaged: {problem}")
    litter = {path.relative_to(results) for pattern in LITTER for path in results.rglob(pattern)}
    tally.wrong += [f"{path} is left over" for path in sorted(litter)]


def _check_records(cell: Path, tally: Tally) -> None:
    record = _record(cell)
    if record.get("state") not in ("ok", "suspicious"):
        tally.wrong.append(f"{cell.name} is {record.get('state', 'missing')}: {record.get('reason')}")
    for path in sorted(cell.glob("record.*.json")):  # earlier ones
        earlier = json.loads(path.read_text())
        why = explained(str(earlier["reason"]), tally)
        if earlier["state"] != "failed" or not why:
            log = (cell / "log.txt").read_text(errors="replace") if (cell / "log.txt").exists() else ""
            before = f"{earlier['state']} before ({earlier['reason']})"
            tally.wrong.append(f"{cell.name} was done twice: {before}; its log ends with: {log[-LOG:]}")
        tally.reasons[why or "unexplained"] += 1


def explained(reason: str, tally: Tally) -> str:
    """What was done to a cell of which a record says in one sentence that it failed; nothing if that says no such thing."""
    if len(reason.splitlines()) != 1:
        return ""
    return disk_named(reason, tally) or next((name for name, said in BLOWS.items() if re.search(said, reason)), "")


def _record(cell: Path) -> dict[str, Any]:
    path = cell / "record.json"
    return json.loads(path.read_text()) if path.exists() else {}


def unreadable(path: Path) -> str:
    """Why a file cannot be read as what it is called; empty if it can, or is of a kind that can hold anything."""
    try:
        READERS.get(path.suffix, lambda path: None)(path)
    except Exception as error:  # whatever a reader has to say of half a file
        return " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return ""


def _read_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
    if bad:
        raise ValueError(f"{bad} has another checksum")


def _read_picture(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def _read_table(path: Path) -> None:
    if pd.read_csv(path).empty:
        raise ValueError("it has no rows")


READERS: dict[str, Callable[[Path], object]] = {
    ".json": lambda path: json.loads(path.read_text()),
    ".yaml": lambda path: yaml.safe_load(path.read_text())["seed"],
    ".safetensors": load_file,
    ".npy": np.load,
    ".ckpt": _read_archive,
    ".parquet": pd.read_parquet,
    ".csv": _read_table,
    ".png": _read_picture,
}


def same(one: Path, other: Path, tally: Tally) -> int:
    """Cells that two results folders both have, and all that they share, are bit-equal; how many those are.

    Differences are the tally's.
    """
    names = sorted({path.name for path in one.glob("cells/*")} & {path.name for path in other.glob("cells/*")})
    for name in names:
        cells = one / "cells" / name, other / "cells" / name
        outcomes = [running.outcome(_record(cell), cell) if _record(cell).get("row") else None for cell in cells]
        if outcomes[0] is None or outcomes[0] != outcomes[1]:
            tally.wrong.append(f"{name} has other numbers than in another run")
    for path in sorted(_artefacts(one) | _artefacts(other)):
        if not _equal(one / path, other / path):
            tally.wrong.append(f"{path} is another one than in another run")
    return len(names)


def _artefacts(results: Path) -> set[Path]:
    """Files of artefacts that must be equal bit for bit: tensors and images, not checkpoints, which tell times."""
    found = (results / "artefacts").rglob("*")
    return {path.relative_to(results) for path in found if path.suffix in (".safetensors", ".npy")}


def _equal(one: Path, other: Path) -> bool:
    """Whether both are there and hold the same numbers; the order of a file's metadata is left to chance."""
    if not (one.exists() and other.exists()):
        return False
    if one.suffix == ".npy":
        return one.read_bytes() == other.read_bytes()
    tensors = load_file(one), load_file(other)
    return tensors[0].keys() == tensors[1].keys() and all(
        tensors[0][name].tobytes() == tensors[1][name].tobytes() for name in tensors[0]
    )
