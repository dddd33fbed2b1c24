"""Leases have one holder, die with it, and leave nothing behind."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmark import leases
from benchmark.leases import Lease, LeaseLost, holder
from benchmark.store import Store
from tests.benchmark.processes import wait_for_line


def test_a_lease_has_one_holder(store: Store) -> None:
    lease = store.cell_lease("cell")
    assert lease is not None
    assert store.cell_lease("cell") is None
    found = store.cell_holder("cell")
    assert found is not None
    assert (found.pid, found.dead) == (os.getpid(), False)
    lease.release()
    assert store.cell_holder("cell") is None
    again = store.cell_lease("cell")
    assert again is not None
    again.release()
    assert list((store.results / "leases").iterdir()) == []


def test_a_dead_holder_is_known_at_once(store: Store, python: Callable[[str], subprocess.Popen[str]]) -> None:
    other = python(
        "import time\nfrom benchmark.store import Store\n"
        f"lease = Store({str(store.results)!r}).cell_lease('cell')\nprint('ready', flush=True)\ntime.sleep(60)"
    )
    wait_for_line(other, "ready")
    assert store.cell_lease("cell") is None
    other.kill()
    other.wait()
    assert store.cell_holder("cell") is None
    lease = store.cell_lease("cell")
    assert lease is not None
    lease.release()


def test_leases_of_the_dead_are_cleared_and_those_of_the_living_are_not(
    store: Store, python: Callable[[str], subprocess.Popen[str]]
) -> None:
    """A worker may be killed between its cell's record and its lease, which nobody takes again."""
    other = python(
        "import time\nfrom benchmark.store import Store\n"
        f"leases = [Store({str(store.results)!r}).cell_lease(name) for name in ('one', 'two')]\n"
        "print('ready', flush=True)\ntime.sleep(60)"
    )
    wait_for_line(other, "ready")
    mine = store.cell_lease("mine")
    assert mine is not None
    store.clear_leases()
    assert all(store.cell_lease(name) is None for name in ("one", "two", "mine"))
    other.kill()
    other.wait()
    store.clear_leases()
    assert {name.partition(".")[0] for name in _left(store)} == {"cell-mine"}
    mine.refresh(now=True)
    mine.release()
    assert _left(store) == set()


def _left(store: Store) -> set[str]:
    """Names in the folder of leases, but for the one file that is there for good."""
    return {path.name for path in (store.results / "leases").iterdir()} - {leases.GUARD}


def test_tables_half_written_by_the_dead_are_cleared_and_those_of_the_living_are_not(
    store: Store, python: Callable[[str], subprocess.Popen[str]]
) -> None:
    """Tables and pictures are written without a lease: whoever is killed there leaves a file that nobody would remove."""
    other = python(
        "import pathlib, time\nfrom benchmark.files import replacing\n"
        f"with replacing(pathlib.Path({str(store.results / 'curves.png')!r})) as aside:\n"
        "    aside.write_text('half')\n    print('ready', flush=True)\n    time.sleep(60)"
    )
    wait_for_line(other, "ready")
    elsewhere = store.results / ".tmp-00000000-1-12345678-curves.png"  # a process of another machine: who knows
    elsewhere.write_text("half")
    store.clear_leases()
    assert len(list(store.results.glob(".tmp-*-curves.png"))) == 2
    other.kill()
    other.wait()
    store.clear_leases()
    assert list(store.results.glob(".tmp-*")) == [elsewhere]


def test_a_process_id_that_was_given_away_again_is_a_dead_holder(store: Store) -> None:
    lease = store.cell_lease("cell")
    assert lease is not None
    note = lease.path.with_suffix(".json")
    content = json.loads(note.read_text())
    note.write_text(json.dumps(content | {"since": 0.0}))  # this process began long after
    assert store.cell_holder("cell") is None
    note.write_text(json.dumps(content | {"since": 0.0, "space": "elsewhere"}))  # where we cannot look
    assert store.cell_holder("cell") is not None
    lease.release()


def test_claims_of_the_dead_are_swept_and_those_of_others_are_not(store: Store) -> None:
    """Whoever is killed while it takes a lock leaves a claim; the next lease that anybody takes clears it up."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    folder = store.results / "leases"
    folder.mkdir(parents=True)
    here = Lease(folder / "a.lock")._lock.hostname

    def claim(*parts: object) -> Path:
        path = folder / leases.SEP.join(str(part) for part in ("b.lock", *parts))
        path.write_text(str(path))
        return path

    dead, locked = claim(here, gone.pid, 1), claim(here, gone.pid, 2)
    os.link(locked, folder / "b.lock")
    alive, elsewhere, no_claim = claim(here, os.getpid(), 1), claim("elsewhere", gone.pid, 1), claim("what", "is")
    with Lease(folder / "a.lock") as lease:
        assert lease.acquire()
        assert not dead.exists()
        assert all(path.exists() for path in (locked, alive, elsewhere, no_claim))
        lease.refresh(now=True)


def test_whose_claim_is_swept_under_its_hands_tries_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = Lease(store.results / "leases" / "a.lock")
    link = os.link

    def swept(claim: str, lock: str) -> None:
        os.unlink(claim)
        link(claim, lock)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", swept)
        assert not lease.acquire()
    assert lease.acquire()
    lease.release()


def test_a_stale_lease_is_broken_and_its_holder_learns_of_it(store: Store) -> None:
    lease = store.cell_lease("cell")
    assert lease is not None
    long_ago = time.time() - leases.CLOCK_SLOP - 1
    os.utime(lease.path, (long_ago, long_ago))  # as if not refreshed for five minutes
    taken = store.cell_lease("cell")
    assert taken is not None
    lease.refresh()  # rate-limited: does not look
    with pytest.raises(LeaseLost, match=f"cell-cell was taken over by .* process {os.getpid()}"):
        lease.refresh(now=True)
    lease.release()
    taken.refresh(now=True)
    taken.release()


def test_refreshing_extends_the_lease(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "REFRESH_EVERY", 0.05)
    with Lease(store.results / "leases" / "a.lock") as lease:
        assert lease.acquire()
        soon = time.time() + 5
        os.utime(lease.path, (soon, soon))
        with lease.kept():
            time.sleep(0.5)
        assert lease.path.stat().st_mtime > soon + 60
    assert holder(lease.path) is None


def test_only_one_of_many_takes_over_from_a_dead_holder(
    store: Store, python: Callable[[str], subprocess.Popen[str]]
) -> None:
    """Five processes at once, on leases whose holder was killed: nobody ever gets what somebody else has got."""
    names = [f"cell{number}" for number in range(20)]
    victim = python(
        "import time\nfrom benchmark.store import Store\n"
        f"kept = [Store({str(store.results)!r}).cell_lease(name) for name in {names}]\n"
        "print('ready', flush=True)\ntime.sleep(60)"
    )
    wait_for_line(victim, "ready")
    victim.kill()
    victim.wait()
    start = store.results / "start"
    code = (
        "import time\nfrom pathlib import Path\nfrom benchmark.store import Store\nprint('ready', flush=True)\n"
        f"while not Path({str(start)!r}).exists(): time.sleep(0.001)\n"
        f"taken = [Store({str(store.results)!r}).cell_lease(name) for name in {names}]\n"
        f"print('taken', *[name for name, lease in zip({names}, taken) if lease], flush=True)\ntime.sleep(60)"
    )
    takers = [python(code) for _ in range(5)]
    for taker in takers:
        wait_for_line(taker, "ready")
    start.touch()
    taken = [name for taker in takers if taker.stdout for name in taker.stdout.readline().split()[1:]]
    assert sorted(taken) == sorted(names)


def test_who_comes_late_to_a_dead_holder_leaves_the_new_one_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch, python: Callable[[str], subprocess.Popen[str]]
) -> None:
    """Not even for a moment may its lock be away, in which a third could take the lease."""
    victim = python(
        "import time\nfrom benchmark.store import Store\n"
        f"kept = Store({str(store.results)!r}).cell_lease('cell')\nprint('ready', flush=True)\ntime.sleep(60)"
    )
    wait_for_line(victim, "ready")
    victim.kill()
    victim.wait()
    guard, moved, rename, first = leases._guard, [], Path.rename, []

    @contextmanager
    def late(path: Path) -> Iterator[None]:
        """Between finding the holder dead and being alone, somebody else takes the lease."""
        with monkeypatch.context() as inner:
            inner.setattr(leases, "_guard", guard)
            first.append(store.cell_lease("cell"))
        moved.clear()
        with guard(path):
            yield

    def watched(path: Path, target: Path) -> Path:
        moved.append(path.name)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", watched)
    monkeypatch.setattr(leases, "_guard", late)
    assert store.cell_lease("cell") is None
    assert first[0] is not None
    assert "cell-cell.lock" not in moved
    first[0].refresh(now=True)
    first[0].release()


def test_a_file_system_without_locks_breaks_leases_all_the_same(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    lease = store.cell_lease("cell")
    assert lease is not None
    long_ago = time.time() - leases.CLOCK_SLOP - 1
    os.utime(lease.path, (long_ago, long_ago))
    monkeypatch.setattr(fcntl, "flock", refuse)
    taken = store.cell_lease("cell")
    assert taken is not None
    taken.release()


def test_a_file_system_without_hard_links_is_one_sentence(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(leases.NoHardLinks, match="no hard links"):
        store.cell_lease("cell")


def test_a_separator_in_the_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must not have"):
        Store(tmp_path / "a|b").cell_lease("cell")
