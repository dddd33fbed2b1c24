"""Workers that are forked from one import: the server may die, a whole group may be told to stop, a launcher may vanish."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.suite import running

SELECTION = ("--only", "dataset=shapes2d", "architecture=maskgit,givt", "trainer.max_steps=20000")
COMMAND = ("run", "--preset", "smoke", "--jobs", "2", *SELECTION, "trainer.checkpoint_every_steps=5")


def workers(launcher: int) -> list[psutil.Process]:
    """Those that lead a session of their own below a launcher."""
    return [each for each in psutil.Process(launcher).children(recursive=True) if os.getsid(each.pid) == each.pid]


def server(launcher: int) -> psutil.Process:
    parents = {each.ppid() for each in workers(launcher)}
    assert len(parents) == 1 and launcher not in parents, "workers are no children of one server"
    return psutil.Process(parents.pop())


def saved(results: Path) -> dict[str, float]:
    """Cell -> when it wrote its last checkpoint."""
    return {path.parts[-3]: path.stat().st_mtime for path in results.glob("cells/*/checkpoints/last.ckpt")}


def wait_for(condition: Callable[[], bool], seconds: float, what: str, results: Path) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never seen: {what}\n{running.logs(results)}"
        time.sleep(0.1)


@pytest.mark.timeout(400)
def test_server_and_workers_end_as_they_should(tmp_path: Path) -> None:
    process = running.start(*COMMAND, results=tmp_path)
    try:
        wait_for(lambda: len(saved(tmp_path)) == 2, 200, "two checkpoints", tmp_path)

        lost = [server(process.pid), *workers(process.pid)]
        server(process.pid).kill()
        wait_for(
            lambda: not any(running.alive(each.pid) for each in lost), 20, "the end of all it had forked", tmp_path
        )
        before = saved(tmp_path)
        wait_for(lambda: all(saved(tmp_path)[cell] > when for cell, when in before.items()), 90, "both again", tmp_path)

        os.killpg(process.pid, signal.SIGTERM)  # the server too, as a shell or a scheduler does it
        told, _ = process.communicate(timeout=60)
    finally:
        running.kill_tree(process.pid) if running.alive(process.pid) else None
    assert process.returncode == 75, told
    assert told.count("ended by signal 9; it goes on from its last checkpoint") == 2
    logs = running.logs(tmp_path)
    assert logs.count("start 2 of this run") == 2
    assert logs.count("the same command goes on from the last checkpoint") == 2  # told by workers that had time to save


@pytest.mark.timeout(300)
def test_a_server_that_is_killed_while_it_imports_is_opened_again(tmp_path: Path) -> None:
    process = running.start(*COMMAND, "--seeds", "2", results=tmp_path)
    try:
        below = psutil.Process(process.pid).children
        wait_for(lambda: any("forkserver" in " ".join(each.cmdline()) for each in below()), 60, "a server", tmp_path)
        for each in below():
            each.kill()  # what tracks resources for it as well
        wait_for(lambda: bool(list(tmp_path.glob("leases/*.lock"))), 200, "a worker of the next one", tmp_path)
        process.terminate()
        told, _ = process.communicate(timeout=60)
    finally:
        running.kill_tree(process.pid) if running.alive(process.pid) else None
    assert process.returncode == 75 and "Traceback" not in told, told


@pytest.mark.timeout(300)
def test_forked_workers_end_with_their_launcher(tmp_path: Path) -> None:
    process = running.start(*COMMAND, results=tmp_path)
    wait_for(lambda: len(saved(tmp_path)) == 2, 200, "two checkpoints", tmp_path)
    below = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    wait_for(lambda: not any(running.alive(each.pid) for each in below), 10, "the end of its processes", tmp_path)
