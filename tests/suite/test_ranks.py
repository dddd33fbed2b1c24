"""A cell on two devices, by the command line: the numbers of one device, and what the end of a rank costs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
import torch
from safetensors.torch import load_file

from benchmark.ranks import LOCAL_RANK
from benchmark.workers import PIPE
from tests.suite import running

T = TypeVar("T")
RUN = ("run", "--preset", "smoke", "--only", "dataset=shapes2d")
CELL = (*RUN, "architecture=mar", "trainer.precision=32", "trainer.max_steps=120")
pytestmark = pytest.mark.ddp


def ranks(launcher: psutil.Process) -> list[psutil.Process]:
    """The processes that train, rank 0 first; not the other programs that a launcher or rank 0 asks, such as git."""
    workers = [child for child in launcher.children() if PIPE in environment(child)]
    others = [child for worker in workers for child in worker.children()]
    return [*workers, *(child for child in others if environment(child).get(LOCAL_RANK, "0") != "0")]


def environment(process: psutil.Process) -> dict[str, str]:
    """What a process was started with; nothing of one that has ended."""
    try:
        return process.environ()
    except psutil.Error:
        return {}


def both(launcher: psutil.Process) -> list[psutil.Process]:
    """Two ranks, once there are two."""
    return found if len(found := ranks(launcher)) == 2 else []


def wait_for(condition: Callable[[], T], seconds: float, what: str, results: Path) -> T:
    """What the condition gives, as soon as it holds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"never seen: {what}\n{running.logs(results)}"
        time.sleep(0.02)
    return found


def written(results: Path) -> list[int]:
    """When the checkpoint was written, if there is one."""
    return [path.stat().st_mtime_ns for path in results.glob("cells/*/checkpoints/last.ckpt")]


def record(results: Path) -> dict:
    (found,) = results.glob("cells/*/record.json")
    return json.loads(found.read_text())


@pytest.mark.timeout(600)
def test_whichever_rank_is_killed_all_end_and_the_cell_goes_on_to_the_same_numbers(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    running.run(*CELL, results=one, code=1)
    two.mkdir()
    (one / "artefacts").rename(two / "artefacts")  # devices are nothing that an artefact depends on

    process = running.start(*CELL, "trainer.devices=2", "trainer.checkpoint_every_steps=1", results=two)
    launcher = psutil.Process(process.pid)
    for victim in (1, 0):
        before = wait_for(lambda: both(launcher), 120, "two ranks", two)
        mark = written(two)
        wait_for(lambda mark=mark: written(two) != mark, 120, "a step", two)
        before[victim].kill()
        wait_for(lambda before=before: not any(running.alive(p.pid) for p in before), 10, "the end of all", two)
    process.communicate(timeout=280)
    (log,) = two.glob("cells/*/log.txt")
    assert "rank 1 ended by signal 9: all ranks end here" in log.read_text()
    assert log.read_text().count("start ") == 3

    first, second = record(one), record(two)
    assert first["cell"] != second["cell"] and second["config"]["trainer"]["devices"] == 2
    weights = [load_file(next(folder.glob("cells/*/checkpoints/average-120.safetensors"))) for folder in (one, two)]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-2, atol=1e-4)
    losses = [running.table(next(folder.glob("cells/*/curve.csv")))[-1]["train_loss"] for folder in (one, two)]
    assert float(losses[1]) == pytest.approx(float(losses[0]), rel=1e-4)


FAULTY = '''
"""An architecture that one rank cannot train."""

import os
from dataclasses import dataclass

import torch

from architectures.base import GenerativeModel, architecture


@dataclass
class Nothing:
    """No settings."""


@architecture("faulty", Nothing)
class Faulty(GenerativeModel):
    views = ("codes",)

    def __init__(self, config, context):
        super().__init__(config, context)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def training_loss(self, latents, condition, generator):
        if os.environ["LOCAL_RANK"] == "1":
            raise RuntimeError("the flux capacitor is empty")
        return self.scale.square(), {}

    def sample(self, condition, generator):
        return torch.zeros(len(condition), self.context.tokens, dtype=torch.int64)
'''


def test_what_goes_wrong_in_one_rank_is_the_reason_of_the_cell(tmp_path):
    plugin = tmp_path / "faulty.py"
    plugin.write_text(FAULTY)
    results = tmp_path / "results"
    command = (*RUN, "architecture=faulty", "--plugin", plugin, "trainer.devices=2")
    running.run(*command, results=results, code=1)
    assert record(results)["state"] == "failed"
    assert record(results)["reason"] == "rank 1: RuntimeError: the flux capacitor is empty"
    assert not list(results.glob("cells/*/record.1.json"))


def test_without_their_launcher_all_ranks_end(tmp_path):
    process = running.start(*CELL, "trainer.devices=2", results=tmp_path)
    launcher = psutil.Process(process.pid)
    trained_by = wait_for(lambda: both(launcher), 120, "two ranks", tmp_path)
    process.kill()
    process.wait()
    wait_for(lambda: not any(running.alive(rank.pid) for rank in trained_by), 5, "the end of all", tmp_path)
