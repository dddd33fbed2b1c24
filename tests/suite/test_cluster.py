"""The suite on a real SLURM: submitted, preempted, requeued, and the same numbers as without all that."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from benchmark.slurm import submissions
from tests.suite import running
from tests.suite.cluster import cluster, queue, why_not

LENGTH = ("trainer.max_steps=400", "trainer.eval_every=100")  # seconds between the first checkpoint and the end
SELECTION = ("--preset", "smoke", "--only", "dataset=shapes2d", "architecture=maskgit,dit", *LENGTH)
SITE = ("slurm.gpus=0", "slurm.cpus_per_task=1", "slurm.mem=3G", "slurm.time=00:10:00")

MAY_SKIP = "BENCHMARK_NEEDS_SLURM" not in os.environ  # where it is set, a missing SLURM is a failure
pytestmark = [pytest.mark.slurm, pytest.mark.skipif(MAY_SKIP and bool(why_not()), reason=why_not() or "never")]


@pytest.fixture(autouse=True)
def slurm_is_there() -> None:
    if why_not():
        pytest.fail(f"BENCHMARK_NEEDS_SLURM is set, and {why_not()}")


def wait_for(condition: Callable[[], bool], seconds: float, what: str, results: Path) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never seen: {what}\n{slurm_logs(results)}"
        time.sleep(0.2)


def slurm_logs(results: Path) -> str:
    return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in results.glob("slurm/*/*.log"))


def status(results: Path) -> str:
    return running.run("status", "--format", "csv", results=results, code=0)


@pytest.mark.timeout(600)
def test_a_grid_goes_through_the_queue_and_survives_a_preemption(tmp_path, monkeypatch):
    results, undisturbed = tmp_path / "results", tmp_path / "undisturbed"
    with cluster(tmp_path / "cluster") as environment:
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        running.run("run", "--slurm", *SELECTION, *SITE, results=results, code=0)
        _, cells = submissions(results)
        waiting = f"pending in job {cells['job']}_"
        wait_for(
            lambda: "Dependency" in status(results), 60, "why the cells wait, which SLURM tells a moment later", results
        )
        assert status(results).count(waiting) == 2

        name = cells["cells"][1]
        folder = results / "cells" / name
        wait_for((folder / "checkpoints" / "last.ckpt").exists, 240, "a checkpoint of the second cell", results)
        told = status(results)
        assert f"running in job {cells['job']}_1" in told
        task = f"{cells['job']}_1"
        assert not (folder / "record.json").exists(), "too late to be preempted"
        subprocess.run(["scontrol", "requeue", task], check=True, timeout=60)
        time.sleep(1)
        running.run("run", "--slurm", *SELECTION, *SITE, results=results, code=0)
        assert len(submissions(results)) == 2  # all are queued: nothing was sent
        subprocess.run(["scontrol", "update", f"jobid={task}", "StartTime=now"], check=False, timeout=60)
        wait_for(lambda: len(running.records(results)) == 2, 300, "two records", results)
        wait_for(lambda: not queue(environment), 60, "an empty queue", results)
        running.run("run", "--slurm", *SELECTION, *SITE, results=results, code=0)
        assert len(submissions(results)) == 2  # all are done

    assert "start 2" in slurm_logs(results)
    assert not list(results.glob("cells/*/record.1.json"))  # each was done once
    running.run("run", *SELECTION, results=undisturbed, code=1)
    for architecture, record in running.records(undisturbed).items():
        same, cell = running.records(results)[architecture], Path("cells") / record["cell"]
        assert running.outcome(same, results / cell) == running.outcome(record, undisturbed / cell)


def rank(number: int) -> psutil.Process | None:
    """The process that srun has started as a rank, once it is there."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            told = process.environ()
            place = told.get("SLURM_PROCID"), told.get("SLURM_STEP_NUM_TASKS")
            if place == (str(number), "2") and process.cmdline()[1:3] == ["-m", "benchmark"]:
                return process
    return None


@pytest.mark.ddp
@pytest.mark.timeout(900)
def test_a_cell_on_two_devices_goes_on_after_one_of_its_ranks_was_killed(tmp_path, monkeypatch):
    results, undisturbed = tmp_path / "results", tmp_path / "undisturbed"
    only = ("--only", "dataset=shapes2d", "architecture=mar")
    selection = ("--preset", "smoke", *only, "trainer.max_steps=120", "trainer.devices=2")
    running.run("run", *selection, results=undisturbed, code=1)  # by the launcher's own ranks
    shutil.copytree(undisturbed / "artefacts", results / "artefacts")
    with cluster(tmp_path / "cluster") as environment:
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        running.run("run", "--slurm", *selection, *SITE, "slurm.setup=[export TOLD=yes]", results=results, code=0)
        (cells,) = submissions(results)
        name = cells["cells"][0]
        wait_for((results / "cells" / name / "checkpoints" / "last.ckpt").exists, 240, "a checkpoint", results)
        both = [rank(0), rank(1)]
        assert both[0] is not None and both[1] is not None and both[1].environ()["TOLD"] == "yes"
        assert both[0].environ()["MASTER_PORT"] == both[1].environ()["MASTER_PORT"]
        both[1].kill()
        wait_for(lambda: not any(running.alive(each.pid) for each in both), 60, "the end of both ranks", results)
        assert not running.records(results), "too late to be killed, or the end of a rank was taken for a failure"

        def released() -> bool:
            """Held for two minutes after a requeue, unless it is told to start."""
            time.sleep(2)
            command = ["scontrol", "update", f"jobid={cells['job']}_0", "StartTime=now"]
            subprocess.run(command, capture_output=True, check=False)
            return len(running.records(results)) == 1

        wait_for(released, 400, "a record", results)
    assert "start 2" in slurm_logs(results)
    record, same = (running.records(folder)["mar"] for folder in (results, undisturbed))
    assert running.outcome(record, results / "cells" / name) == running.outcome(same, undisturbed / "cells" / name)


SLOW = '''
"""An architecture whose steps take long, so that a cell outlives its task's time limit."""

import time
from dataclasses import dataclass

import torch

from architectures.base import GenerativeModel, architecture


@dataclass
class SlowConfig:
    seconds: float = 3.0  # of a step


@architecture("slow", SlowConfig)
class Slow(GenerativeModel):
    views = ("codes",)

    def __init__(self, config, context):
        super().__init__(config, context)
        self.logits = torch.nn.Parameter(torch.zeros(context.tokens, len(context.codebook)))

    def training_loss(self, latents, condition, generator):
        time.sleep(self.config.seconds)
        noise = torch.rand(latents.shape, generator=generator)  # the numbers depend on every step that was made
        each = torch.nn.functional.cross_entropy(self.logits.T.expand(len(latents), -1, -1), latents, reduction="none")
        return (each * noise).mean(), {}

    def sample(self, condition, generator):
        drawn = torch.multinomial(self.logits.softmax(-1), len(condition), replacement=True, generator=generator)
        return drawn.T
'''


@pytest.mark.timeout(900)
def test_a_cell_that_outlives_its_time_limit_is_requeued_until_it_is_done(tmp_path, monkeypatch):
    results, plugin = tmp_path / "results", tmp_path / "slow.py"
    plugin.write_text(SLOW)
    only = ("--only", "dataset=shapes2d", "architecture=slow")
    selection = ("--plugin", plugin, "--preset", "smoke", *only, "trainer.max_steps=45")
    undisturbed = tmp_path / "undisturbed"
    running.run("run", *selection, results=undisturbed, code=1)
    shutil.copytree(undisturbed / "artefacts", results / "artefacts")  # they take longer than the limit
    with cluster(tmp_path / "cluster") as environment:
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        site = (*SITE, "slurm.time=00:02:00", "slurm.warn_seconds=15")  # in minutes; it may warn one too early
        running.run("run", "--slurm", *selection, *site, results=results, code=0)
        cells = submissions(results)[-1]

        held = 0  # looks in a row at which the task was pending

        def done() -> bool:
            nonlocal held
            held = held + 1 if "PD" in queue(environment) else 0
            if held == 2:  # held for two minutes after a requeue; started in the same second it would be refused
                command = ["scontrol", "update", f"jobid={cells['job']}_0", "StartTime=now"]
                subprocess.run(command, capture_output=True, check=False)
            time.sleep(2)
            return len(running.records(results)) == 1

        wait_for(done, 600, "a record", results)
        wait_for(lambda: not queue(environment), 60, "an empty queue", results)
    assert "start 2" in slurm_logs(results)
    record = running.records(results)["slow"]
    cell = Path("cells") / record["cell"]
    assert running.outcome(record, results / cell) == running.outcome(
        running.records(undisturbed)["slow"], undisturbed / cell
    )
