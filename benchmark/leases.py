"""Leases: a claim on a cell or an artefact that dies with its holder and needs no server, also on NFS.

A lease is a `flufl.lock` (claim files and hard links) with a lifetime of five minutes, refreshed by its holder. Whoever
wants it next breaks it when it has run out, or at once when the holder was a process of this machine that is dead: a
killed run can be started again without waiting. Correctness does not rest on leases (what is built is renamed into
place, and the first wins); they keep work from being done twice, and say who is doing it.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from flufl.lock import SEP, Lock, NotLockedError, TimeOutError

from benchmark.files import ASIDE, NoHardLinks, machine_digits, read_json, unwritable_explained, write_json

LIFETIME = 300  # seconds without a refresh after which anybody may break a lease
REFRESH_EVERY = 30.0  # seconds between two touches of the disk, however often refresh() is called
CLOCK_SLOP = 10.0  # seconds by which the clocks of two machines may differ
GUARD = ".guard"  # file in a folder of leases that is locked while one of them is broken

logging.getLogger("flufl.lock").setLevel(logging.CRITICAL)  # it logs a lease that somebody else holds as an error


class LeaseLost(RuntimeError):
    """Somebody else broke the lease, because it had not been refreshed for its lifetime."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease."""

    host: str
    pid: int
    since: float  # seconds since the epoch
    space: str  # host and process namespace: only within one of them can a process id be looked up; "" is unknown
    job: str = ""  # the SLURM job, where there is one
    claim: str = ""  # the claim file of the lock, which ties this note to it

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"{self.host}, process {self.pid}{job}, for {duration(time.time() - self.since)}"

    @property
    def dead(self) -> bool:
        """True when the holder ran on this machine and does not any more; False when it lives or nobody can know."""
        return self.space == process_space() and not _is_alive(self.pid, self.since)


class Lease:
    """A claim on whatever the lock file `path` stands for; a note beside it (``.json``) tells waiters who holds it."""

    def __init__(self, path: Path) -> None:
        """Prepare a claim without making it.

        Raises:
            ValueError: if the path contains the character that separates the parts of a claim.
        """
        if SEP in str(path):
            raise ValueError(f"the results folder must not have '{SEP}' in its path: {path}")
        self.path = path
        self._lock = Lock(str(path), lifetime=LIFETIME)
        self._refreshed = 0.0

    def acquire(self) -> bool:
        """Take the lease if it is free or abandoned, without waiting. True if it is ours now.

        Raises:
            Unwritable: if there is no room for it, or the file system is read-only.
            NoHardLinks: if the results folder is on a file system that leases cannot be made on.
        """
        with unwritable_explained(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _break_abandoned(self.path)
            try:
                self._lock.lock(timeout=0)
            except (TimeOutError, FileNotFoundError):  # held; or our claim was swept by who cannot see that we live
                return False
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                raise NoHardLinks(
                    f"the file system of {self.path.parent} has no hard links, which the suite needs to keep processes "
                    "apart; choose a results folder on another one with --results"
                ) from error
        self._refreshed = time.monotonic()
        job, claim = os.environ.get("SLURM_JOB_ID", ""), self._lock.claimfile
        note = Holder(self._lock.hostname, os.getpid(), time.time(), process_space(), job, claim)
        write_json(_note_path(self.path), asdict(note), durable=False)
        _sweep_claims(self.path.parent)
        return True

    def refresh(self, now: bool = False) -> None:
        """Say that the holder is alive: cheap enough for every training step. `now` touches the disk in any case.

        Raises:
            LeaseLost: if somebody else has taken over; stop working on what the lease stood for.
        """
        if not now and time.monotonic() - self._refreshed < REFRESH_EVERY:
            return
        for last_try in (False, True):
            try:
                self._lock.refresh()
                break
            except NotLockedError:
                if last_try:
                    raise LeaseLost(f"{self.path.stem} was taken over by {holder(self.path)}") from None
                time.sleep(0.1)  # who tries to break a lease that was just taken moves it aside and puts it back
        self._refreshed = time.monotonic()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Refresh from a thread while the block runs, for work that has no loop to call `refresh` from."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(REFRESH_EVERY):
                with suppress(LeaseLost, OSError):  # a loss is the holder's to notice, at its own next refresh
                    self.refresh(now=True)

        thread = threading.Thread(target=beat, name=f"lease {self.path.stem}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def release(self) -> None:
        """Give the lease back; harmless if it was lost."""
        with suppress(NotLockedError):
            self._lock.refresh()
            _note_path(self.path).unlink(missing_ok=True)
            self._lock.unlock()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def holder(path: Path) -> Holder | None:
    """Who holds the lease at `path`; None if it is free, or abandoned, which is as good."""
    _, found = _inspect(path)
    return found


def _inspect(path: Path) -> tuple[str | None, Holder | None]:
    """The claim written in a lock file (None if there is none) and its holder (None if there is none alive)."""
    try:
        claim, expires = path.read_text().strip(), path.stat().st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return None, None
    found = _read_note(path, claim) or _from_claim(claim, since=expires - LIFETIME)
    abandoned = time.time() > expires + CLOCK_SLOP or found.dead
    return claim, None if abandoned else found


def _break_abandoned(path: Path) -> None:
    """Remove the lock of a holder that is gone, if it still is when nobody else of this machine removes one.

    Without the guard, one that looked before another took the lease would move away the new holder's lock, and a third
    could slip in before it is put back. Where the file system has no locks, and between machines (which can only break
    leases that have run out), this is left to chance: who loses a lease so learns of it when it refreshes.
    """
    if not _is_abandoned(path):
        return
    with _guard(path.with_name(GUARD)):
        claim = _is_abandoned(path)
        if not claim:
            return
        aside = path.with_name(f"{ASIDE}{uuid.uuid4().hex[:8]}-{path.name}")
        try:
            path.rename(aside)
        except FileNotFoundError:
            return
        if aside.read_text().strip() != claim:
            with suppress(FileExistsError):
                os.link(aside, path)
        elif SEP in claim:
            if _read_note(path, claim):
                _note_path(path).unlink(missing_ok=True)
            path.with_name(Path(claim).name).unlink(missing_ok=True)
        aside.unlink()


def _is_abandoned(path: Path) -> str | None:
    """The claim of a lock file whose holder is gone; None if there is no lock, or a holder."""
    claim, found = _inspect(path)
    return None if found else claim


@contextmanager
def _guard(path: Path) -> Iterator[None]:
    """Alone among the processes of this machine while the block runs; the kernel frees what a killed one held."""
    with path.open("a") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with suppress(OSError):  # a child forked meanwhile would keep it locked
                fcntl.flock(file, fcntl.LOCK_UN)


def sweep_dead(folder: Path) -> None:
    """Remove what killed processes of this machine were writing in a folder where anybody may write, without a lease."""
    for litter in folder.glob(f"{ASIDE}{machine_digits()}-*"):
        with suppress(OSError, ValueError):
            pid = int(litter.name.removeprefix(ASIDE).split("-")[1])
            if not _is_alive(pid, litter.stat().st_mtime):
                litter.unlink()


def clear(folder: Path) -> None:
    """Remove whatever the dead have left in a folder of leases: also of cells that were done, which nobody takes again.

    Raises:
        Unwritable: if the file system is read-only.
    """
    with unwritable_explained(folder):
        for path in sorted(folder.glob("*.lock")):
            _break_abandoned(path)
        _sweep_claims(folder)


def _sweep_claims(folder: Path) -> None:
    """Remove the claims of processes that were killed while they took a lock: nobody else would ever look at them.

    A claim that is linked is a lock, alive or abandoned, and is left to whoever wants that lock next.
    """
    for path in folder.glob(f"*{SEP}*"):
        with suppress(OSError, ValueError):  # it is gone by now, or is no claim
            stat = path.stat()
            old = time.time() > stat.st_ctime + LIFETIME + CLOCK_SLOP
            if stat.st_nlink == 1 and (old or _from_claim(path.name, since=stat.st_ctime).dead):
                path.unlink()


def _note_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _read_note(path: Path, claim: str) -> Holder | None:
    """The note beside a lock file, unless it is unreadable or belongs to another claim than the lock's."""
    try:
        note = Holder(**(read_json(_note_path(path)) or {}))
    except (TypeError, ValueError, OSError):
        return None
    return note if note.claim == claim else None


def _from_claim(claim: str, since: float) -> Holder:
    """What the claim alone tells, for the moment between taking a lease and writing the note."""
    _, host, pid, _ = claim.split(SEP) if claim.count(SEP) == 3 else ("", "unknown host", "0", "")
    return Holder(host, int(pid), since, space=process_space() if host == _hostname() else "", claim=claim)


@functools.cache
def _hostname() -> str:
    return socket.getfqdn()  # as flufl.lock names the host; may ask a name server, hence once


@functools.cache
def process_space() -> str:
    """Host and process namespace: two containers may share a host name and number their processes apart."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{_hostname()} {namespace}".strip()


def _is_alive(pid: int, since: float) -> bool:
    """Whether the process that was `pid` at the time `since` still runs; a zombie or a younger namesake does not."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() < since + CLOCK_SLOP
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def duration(seconds: float) -> str:
    """A time span as a person would say it: ``45 s``, ``3.5 min``, ``2.1 h``."""
    if seconds < 60:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
