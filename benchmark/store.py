"""What runs leave on the disk: artefacts by content hash, and cells with their records. Nothing is ever half there.

An artefact (a dataset, a tokenizer, latents) is a folder ``artefacts/KIND/HASH`` that exists only when it is complete:
it is built in ``HASH.partial`` and renamed. A killed builder leaves the partial folder to the next one, so that
checkpoints inside survive. A cell is a folder ``cells/ID``; its record is written once, when the cell has ended.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.files import flush, json_text, read_json, replacing, sweep, unwritable_explained, write_json
from benchmark.leases import Holder, Lease, LeaseLost, clear, holder, sweep_dead
from benchmark.records import Record, flaw

POLL_EVERY = 0.5  # seconds between two looks at an artefact that somebody else builds
OWN_PHASES = ("training", "judging", "writing")  # of a cell, in which its progress tells steps
REPEAT_EVERY = 60.0  # seconds between two lines that say for whom we wait


class Request(NamedTuple):
    """An artefact that is wanted, and how to make it.

    `builder` fills the folder it is given, which may hold what a killed builder left. It must be a pure function of
    `key`: whoever asks for the same key gets what somebody else built.
    """

    kind: str  # dataset, tokenizer, latents, ...: the folder
    key: str  # content hash
    builder: Callable[[Path], None]
    note: str  # for people: what this is


class CellPaths:
    """The files of one cell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        self.record = folder / "record.json"
        self.curve = folder / "curve.csv"
        self.samples = folder / "samples.png"
        self.rejected = folder / "rejected.png"
        self.log = folder / "log.txt"
        self.progress = folder / "progress.json"
        self.artefacts = folder / "artefacts.json"
        self.again = folder / "again.json"
        self.checkpoints = folder / "checkpoints"
        self.last_checkpoint = self.checkpoints / "last.ckpt"
        self.evaluations = folder / "evaluations"


class Store:
    """A results folder."""

    def __init__(self, results: Path | str, say: Callable[[str], None] = print) -> None:
        self.results = Path(results).absolute()
        self.say = say
        self._warned: set[str] = set()

    def warn(self, line: str) -> None:
        """Tell on stderr, once, what was left out: stdout may be a table that somebody keeps."""
        if line not in self._warned:
            self._warned.add(line)
            print(line, file=sys.stderr, flush=True)

    # --- artefacts

    def artefact(self, kind: str, key: str) -> Path | None:
        """The folder of a finished artefact, or None."""
        path = self._artefact_path(kind, key)
        return path if path.is_dir() else None

    def build(self, kind: str, key: str, builder: Callable[[Path], None], note: str) -> Path:
        """The folder of an artefact, built now unless it exists; waits while somebody else builds it."""
        return self.build_all([Request(kind, key, builder, note)])[0]

    def build_all(self, requests: Sequence[Request | tuple[str, str, Callable[[Path], None], str]]) -> list[Path]:
        """The folders of several artefacts that do not need each other, in the order of the requests.

        What is free is built first; then it waits for those that others are building, and builds what they give up.

        Raises:
            Unwritable: if there is no room, or the file system is read-only.
            LeaseLost: if this process slept so long that another one has taken over what it was building.
        """
        wanted = [Request(*request) for request in requests]
        waiting = {(request.kind, request.key): request for request in wanted}
        told: dict[tuple[str, str], float] = {}
        while waiting:
            done = [identity for identity, request in waiting.items() if self._try_build(request)]
            for identity in done:
                del waiting[identity]
            if waiting and not done:
                for request in waiting.values():
                    self._tell_wait(request, told)
                time.sleep(POLL_EVERY)
        return [self._artefact_path(request.kind, request.key) for request in wanted]

    def _try_build(self, request: Request) -> bool:
        """Build an artefact unless it exists or somebody else is at it. True if it exists afterwards."""
        if self.artefact(request.kind, request.key):
            return True
        lease = Lease(self._artefact_lease(request))
        if not lease.acquire():
            return False
        with lease, lease.kept():
            if not self.artefact(request.kind, request.key):  # else it was finished since we looked
                self._build_aside(request, lease)
        return True

    def _build_aside(self, request: Request, lease: Lease) -> None:
        final = self._artefact_path(request.kind, request.key)
        partial = final.with_name(f"{final.name}.partial")
        with unwritable_explained(partial):
            self.say(f"{'resuming' if partial.is_dir() else 'building'} {request.kind} {request.key}: {request.note}")
            partial.mkdir(parents=True, exist_ok=True)
            sweep(partial)
            try:
                request.builder(partial)
                lease.refresh(now=True)
            except (OSError, LeaseLost):
                if final.is_dir():  # somebody took over while we slept, and has finished it under our hands
                    return
                raise
            _settle(partial, final)

    def _tell_wait(self, request: Request, told: dict[tuple[str, str], float]) -> None:
        identity = (request.kind, request.key)
        found = holder(self._artefact_lease(request))
        if found and time.monotonic() - told.get(identity, float("-inf")) > REPEAT_EVERY:
            told[identity] = time.monotonic()
            self.say(f"waiting for {request.kind} {request.key} ({request.note}): {found} builds it")

    def _artefact_path(self, kind: str, key: str) -> Path:
        return self.results / "artefacts" / kind / key

    def _artefact_lease(self, request: Request) -> Path:
        return self.results / "leases" / f"{request.kind}-{request.key}.lock"

    # --- cells

    def cell(self, cell_id: str) -> CellPaths:
        """Where the files of a cell are."""
        return CellPaths(self.results / "cells" / cell_id)

    def cell_ids(self) -> list[str]:
        """Every cell that has a folder, sorted."""
        folder = self.results / "cells"
        return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []

    def cell_lease(self, cell_id: str) -> Lease | None:
        """The lease on a cell, taken; None if somebody else holds it."""
        lease = Lease(self._cell_lease_path(cell_id))
        if not lease.acquire():
            return None
        sweep(self.cell(cell_id).folder)
        return lease

    def cell_holder(self, cell_id: str) -> Holder | None:
        """Who works on a cell now."""
        return holder(self._cell_lease_path(cell_id))

    def start_over(self, cell_id: str) -> None:
        """Forget everything from which a cell could be resumed; records and log stay."""
        cell = self.cell(cell_id)
        shutil.rmtree(cell.checkpoints, ignore_errors=True)
        for path in (cell.curve, cell.progress, cell.artefacts):
            path.unlink(missing_ok=True)

    def begin_again(self, cell_id: str, fingerprint: str) -> None:
        """Start a cell over that has ended, once: when it is cut off, the next start goes on from its checkpoint.

        Args:
            fingerprint: of the sources that it is now made with; with others it starts over once more.
        """
        note, now = self.cell(cell_id).again, {"records": self.record_count(cell_id), "fingerprint": fingerprint}
        with suppress(ValueError):
            if read_json(note) == now:
                return
        self.start_over(cell_id)
        write_json(note, now)

    def clear_leases(self) -> None:
        """Remove leases of processes that were killed, which nobody would ask for again, and tables half written by them."""
        clear(self.results / "leases")
        sweep_dead(self.results)

    def _cell_lease_path(self, cell_id: str) -> Path:
        return self.results / "leases" / f"cell-{cell_id}.lock"

    # --- records

    def write_record(self, cell_id: str, record: Record) -> None:
        """Write how a cell ended. An earlier record moves to ``record.N.json``; at no moment is there none."""
        path, content = self.cell(cell_id).record, json_text(record)
        with replacing(path) as aside:
            aside.write_text(content)
            earlier = path.with_name(f"record.{self.record_count(cell_id)}.json")
            if path.is_dir():  # somebody's: no record, and in its way
                path.rename(earlier)
            elif path.exists():
                with suppress(FileExistsError):  # the same file already, when we were killed here before
                    os.link(path, earlier)

    def read_record(self, cell_id: str) -> Record | None:
        """How a cell ended; None while it has not.

        Raises:
            ValueError: if the file is damaged or cannot be read, with what to do.
        """
        path = self.cell(cell_id).record
        again = f"python -m benchmark run --cell {cell_id}"
        remedy = f"run the cell again ({again}), which keeps the file beside the new one"
        try:
            record = read_json(path)
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror}): {remedy}") from error
        except ValueError as error:
            raise ValueError(f"{error}: {remedy}") from error
        if record is not None and (wrong := flaw(record, cell_id)):
            raise ValueError(f"{path} cannot be read, since {wrong}: {remedy}")
        return record

    def record_count(self, cell_id: str) -> int:
        """How often a cell has ended: tells a record that is new from one that was there before."""
        return len({path.stat().st_ino for path in self.cell(cell_id).folder.glob("record*.json")})

    def history(self, cell_id: str) -> list[Record]:
        """All records of a cell that can be read, oldest first."""
        path = self.cell(cell_id).record
        earlier = [path.with_name(f"record.{number}.json") for number in range(1, self.record_count(cell_id))]
        found = []
        for each in [*earlier, path]:
            with suppress(ValueError, OSError):
                record = read_json(each)
                if record is not None:
                    found.append(record)
        return found

    def records(self) -> Iterator[Record]:
        """The current record of every cell that has one; a damaged one is reported in a line and left out."""
        for cell_id in self.cell_ids():
            try:
                record = self.read_record(cell_id)
            except ValueError as error:
                self.warn(f"left out: {error}")
                continue
            if record is not None:
                yield record

    # --- progress

    def write_progress(self, cell_id: str, **progress: Any) -> None:
        """Say how far a cell is: phase, step, max_steps, rate (steps a second), saved (what a restart goes on from); or share."""
        content = {"pid": os.getpid(), "time": time.time(), **progress}
        write_json(self.cell(cell_id).progress, content, durable=False)

    def steps_trained(self, cell_id: str) -> int:
        """How many steps of its own a cell has got; a tokenizer's do not count."""
        progress = self.read_progress(cell_id)
        return int(progress.get("step") or 0) if progress.get("phase") in OWN_PHASES else 0

    def read_progress(self, cell_id: str) -> dict[str, Any]:
        """What `write_progress` wrote last; empty if nothing."""
        try:
            return read_json(self.cell(cell_id).progress) or {}
        except (ValueError, OSError):
            return {}


def _settle(partial: Path, final: Path) -> None:
    """Make a built folder the artefact, or drop it if there is one already."""
    for path in partial.rglob("*"):
        flush(path)
    try:
        partial.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(partial, ignore_errors=True)
    flush(final.parent)
