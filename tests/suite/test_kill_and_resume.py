"""A run that is killed at any point goes on by the same command, and ends exactly like one that was not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.suite import running

CELL = ("--preset", "smoke", "--jobs", "1", "trainer.max_steps=80")
COMMAND = ("run", *CELL, "--only", "dataset=shapes2d", "architecture=mar")
VIDEO = (
    "run",
    *CELL,
    "--only",
    "architecture=mar",
    "dataset=clevrer_kubric",
)  # drawn by a process a core; else like any


def _phase(results: Path) -> str:
    for path in results.glob("cells/*/progress.json"):
        try:
            return str(json.loads(path.read_text()).get("phase", ""))
        except (OSError, ValueError):
            continue
    return ""


def _recorded(results: Path) -> bool:
    return any(results.glob("cells/*/record.json"))


STAGES: dict[str, Callable[[Path], bool]] = {
    "drawing the data": lambda r: any(r.glob("artefacts/data/*.partial/*.npy")),
    "training the tokenizer": lambda r: any(r.glob("artefacts/tokenizer/*.partial/checkpoints/last.ckpt")),
    "encoding": lambda r: any(r.glob("artefacts/latents/*.partial")) or any(r.glob("artefacts/latents/*")),
    "training": lambda r: any(r.glob("cells/*/checkpoints/last.ckpt")) and not _recorded(r),
    "judging": lambda r: _phase(r) == "judging" and not _recorded(r),
    "writing": lambda r: any(r.glob("cells/*/samples.safetensors")) and not _recorded(r),
}


@pytest.mark.timeout(900)  # eight runs one after the other, of which most is importing torch
def test_killed_at_every_stage_it_ends_the_same(tmp_path: Path) -> None:
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    command = (*VIDEO, "trainer.compile=true")  # as the laptop preset: each process compiles, or reads torch's cache
    running.run(*command, results=whole, code=1)
    for stage, reached in STAGES.items():
        process = running.start(*command, results=pieces)
        assert running.kill_when(process, lambda reached=reached: reached(pieces)), f"never seen: {stage}"
        assert not _recorded(pieces), f"too late to be killed while {stage}"
    running.run(*command, results=pieces, code=1)

    first, second = running.records(whole)["mar"], running.records(pieces)["mar"]
    cell = Path("cells") / first["cell"]
    assert running.outcome(first, whole / cell) == running.outcome(second, pieces / cell)
    assert len(running.table(whole / "leaderboard.csv")) == len(running.table(pieces / "leaderboard.csv")) == 1

    running.run("evaluate", "--cell", first["cell"], "--name", "again", results=pieces, code=0)
    again = json.loads((pieces / cell / "evaluations" / "again.json").read_text())["row"]
    assert again.items() <= second["row"].items()  # compiled anew, or read from torch's cache: the same bits


def test_without_its_launcher_a_worker_ends(tmp_path: Path) -> None:
    process = running.start(*COMMAND, results=tmp_path)
    workers: list[int] = []
    while not workers:
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        found = (json.loads(path.read_text()) for path in tmp_path.glob("cells/*/progress.json"))
        workers = [progress["pid"] for progress in found if "pid" in progress]
        time.sleep(0.02)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 5
    while any(map(running.alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(running.alive, workers))


def test_two_launchers_share_a_grid(tmp_path: Path) -> None:
    command = ("run", "--preset", "smoke", "--only", "dataset=shapes2d", "architecture=maskgit,dit", "--jobs", "1")
    both = [running.start(*command, results=tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=280)[0] for process in both]
    assert [process.returncode for process in both] == [1, 1], outputs
    assert len(running.table(tmp_path / "leaderboard.csv")) == 2
    assert not list(tmp_path.glob("cells/*/record.1.json"))  # nothing was done twice
    logs = "".join(log.read_text() for log in tmp_path.glob("cells/*/log.txt"))
    assert logs.count("building ") == 5, logs  # data, tokenizer, probe, latents, ceiling: each by one of the workers
