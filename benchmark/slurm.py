"""Cells as SLURM job arrays: scripts that one can read, submitted with sbatch, found again with squeue.

A submission is a folder ``RESULTS/slurm/NAME``: for each set of artefacts a script that builds them, for its cells a
script for a job array, a list of cell ids (line i is task i), and ``jobs.json`` with the job numbers. A task is the
public command, ``python -m benchmark run --cell ID``; nothing else happens on a node.
"""

from __future__ import annotations

import math
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmark import ROOT
from benchmark.config import ConfigError
from benchmark.files import read_json, write_json, write_text
from benchmark.machine import Machine, this_machine
from benchmark.ranks import PORT
from benchmark.states import BEGUN
from benchmark.store import Store
from benchmark.workers import CUT_OFF, GRACE
from datasets.ranges import check_ranges

JOB = "SLURM_JOB_ID"  # set in every task
MAX_ARRAY_SIZE = 1000  # Slurm's default, where scontrol does not say
WAITING_SECONDS = 60  # for an answer of Slurm's commands


@dataclass
class SlurmConfig:
    """What a site wants to be told. Nothing else is taken from the shell that submits."""

    partition: str = ""  # empty: the site's default
    time: str = "12:00:00"  # limit of a task; what needs longer is requeued and goes on from its checkpoint
    gpus: int = 1  # a node of a cell, at least trainer.devices; 0 where there are none
    gpu_request: str = "--gres=gpu:{gpus}"  # some sites want --gpus-per-node={gpus}
    cpus_per_task: int = 8  # a task is a cell, or one of its devices where it has several
    mem: str = "32G"  # a node of a cell
    max_running: int = 32  # tasks of a submission at once
    setup: list[str] = field(default_factory=list)  # shell lines before python, such as `module load cuda`
    python: str = ""  # on the nodes; empty: the interpreter that submits
    launcher: str = ""  # in front of python, such as `apptainer exec --nv image.sif`
    extra: list[str] = field(default_factory=list)  # raw options, such as --account=vision
    warn_seconds: int = 120  # from the warning to the end of a task's time: enough for a step and a checkpoint
    requeue: bool = True  # false where it is forbidden: then submit again

    def validate(self) -> None:
        """Raise ValueError for what no script can be made of."""
        least = (1, math.inf)
        check_ranges("slurm", self, gpus=(0, math.inf), cpus_per_task=least, max_running=least, warn_seconds=least)
        if not re.fullmatch(r"\d+|(\d+-)?\d+(:\d+){0,2}|UNLIMITED", self.time):
            raise ValueError(f"slurm.time={self.time} is no time; write hours:minutes:seconds, such as 12:00:00")
        wrong = next((option for option in self.extra if not option.startswith("-")), None)
        if wrong is not None:
            raise ValueError(f"slurm.extra: {wrong} is no option of sbatch; write it as --account=NAME")


@dataclass(frozen=True)
class Group:
    """Cells that share all artefacts and take the same number of devices."""

    cells: tuple[str, ...]
    build: bool = False  # whether the artefacts have to be made first
    devices: int = 1  # of a node, a task each
    nodes: int = 1  # of a cell


@dataclass(frozen=True)
class Job:
    """A script for an array of cells, and the jobs that it waits for."""

    name: str
    cells: tuple[str, ...]
    text: str
    after: str = ""  # must end well: it makes the artefacts
    behind: str = ""  # must have ended, however: it takes the same place among those that run at once


def node(config: SlurmConfig) -> Machine:
    """The machine that a task will find: GPUs of a cluster compute in bfloat16, its CPUs are as the one that submits."""
    if config.gpus:
        return Machine("cuda", config.gpus, config.cpus_per_task, bf16=True)
    return replace(this_machine(), device="cpu", gpus=0, cores=config.cpus_per_task)


def make_jobs(
    folder: Path,
    groups: Sequence[Group],
    store: Store,
    config: SlurmConfig,
    options: Sequence[str] = (),
    array_size: int = MAX_ARRAY_SIZE,
    only_states: Sequence[str] = (),
) -> list[Job]:
    """The scripts of a submission, in the order in which they must be submitted.

    At no time do more than `max_running` tasks run: arrays share that number out among them, and where there are more
    arrays than that, each runs one task at a time, behind another array.

    Args:
        folder: where `submit` will write them.
        options: of every task, such as ``--plugin FILE``.
        array_size: the most tasks that an array may have.
        only_states: of the cells that were asked for, for their tasks to select by; empty: all that have not ended.
    """
    # A requeued task finds its cell begun.
    run = ["run", *(["--only-state", ",".join(sorted({*only_states, *BEGUN}))] if only_states else []), "--cell"]
    parts = [
        (number, first // array_size, replace(group, cells=group.cells[first : first + array_size]))
        for number, group in enumerate(groups)
        for first in range(0, len(group.cells), array_size)
    ]
    limits = shared_out([len(part.cells) for _, _, part in parts], config.max_running)
    jobs: list[Job] = []
    names: list[str] = []
    for index, ((number, place, part), limit) in enumerate(zip(parts, limits, strict=True)):
        behind = names[index - config.max_running] if index >= config.max_running else ""
        builder = f"artefacts-{number}" if part.build else ""
        if builder and place == 0:
            one = Group(part.cells[:1])
            text = _script(folder, builder, one, ["prepare", "--cell"], store, config, options, 1)
            jobs.append(Job(builder, one.cells, text, behind=behind))
        names.append(f"cells-{number}-{place}")
        text = _script(folder, names[-1], part, run, store, config, options, limit)
        jobs.append(Job(names[-1], part.cells, text, builder, behind))
    return jobs


def shared_out(sizes: Sequence[int], total: int) -> list[int]:
    """How many tasks of each array may run at once, so that arrays end at about the same time; at least one of each."""
    limits = [1] * len(sizes)
    for _ in range(total - len(sizes) if sizes else 0):
        waiting = max(range(len(sizes)), key=lambda index: sizes[index] / limits[index])
        if limits[waiting] >= sizes[waiting]:
            break  # all run at once
        limits[waiting] += 1
    return limits


def _script(
    folder: Path,
    name: str,
    group: Group,
    command: Sequence[str],
    store: Store,
    config: SlurmConfig,
    options: Sequence[str],
    limit: int,
) -> str:
    ranks = group.devices * group.nodes
    python = shlex.join([*shlex.split(config.launcher), config.python or sys.executable])
    srun = f"srun --ntasks={ranks} --cpus-per-task={config.cpus_per_task} --kill-on-bad-exit=1 --export=ALL"
    rest = shlex.join(["--results", str(store.results), *options])
    return SCRIPT.format(
        directives="\n".join(f"#SBATCH {option}" for option in _options(folder, name, group, limit, config)),
        path=shlex.quote(str(ROOT)),
        grace=f"{GRACE}={max(1, config.warn_seconds - 20)}",  # seconds to save in, after the warning
        setup="\n".join(config.setup) or ":",
        cells=shlex.quote(str(folder / f"{name}.txt")),
        port=f"export {PORT}=$({python} -m benchmark.ranks)  # where the ranks meet" if ranks > 1 else ":",
        command=f'{srun} {python} -m benchmark {shlex.join(command)} "$cell" {rest}',
        # Of several ranks one may be killed, and srun then kills all; a single task has a launcher that sees to that.
        unfinished=f'"$code" = {CUT_OFF}' + (' ] || [ "$code" -gt 128' if ranks > 1 else ""),
        requeue='scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}" || true' if config.requeue else ":",
    )


SCRIPT = """\
#!/bin/bash
{directives}

export PYTHONPATH={path} PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 {grace}
{setup}
{port}
cell=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {cells})
echo "--- $(date '+%F %T') $cell on $(hostname), start $((${{SLURM_RESTART_COUNT:-0}} + 1))"
{command}
code=$?
if [ {unfinished} ]; then  # cut off with its checkpoint written: it goes on from there
    {requeue}
fi
exit "$code"
"""


def _options(folder: Path, name: str, group: Group, limit: int, config: SlurmConfig) -> Iterator[str]:
    yield f"--job-name=benchmark-{name}"
    yield f"--array=0-{len(group.cells) - 1}%{limit}"
    yield f"--output={folder}/%x-%a.log"
    yield "--open-mode=append"
    yield "--export=NONE"  # nothing of the submitting shell; srun, which would follow, is told to hand on the script's own
    yield f"--nodes={group.nodes}"
    yield f"--ntasks-per-node={group.devices}"
    yield f"--cpus-per-task={config.cpus_per_task}"
    yield f"--mem={config.mem}"
    yield f"--time={config.time}"
    yield f"--signal=USR1@{config.warn_seconds}"
    yield "--requeue" if config.requeue else "--no-requeue"
    if config.partition:
        yield f"--partition={config.partition}"
    if config.gpus:
        yield config.gpu_request.format(gpus=max(config.gpus, group.devices))
    yield from config.extra


def submit(folder: Path, jobs: Sequence[Job]) -> dict[str, str]:
    """Write scripts and submit them in their order; name -> job number, which ``jobs.json`` holds after every one.

    Raises:
        ConfigError: if sbatch refuses, with its words; what was submitted before stays in ``jobs.json``.
    """
    numbers: dict[str, str] = {}
    for job in jobs:
        write_text(folder / f"{job.name}.txt", "".join(f"{cell}\n" for cell in job.cells))
        write_text(folder / f"{job.name}.sh", job.text)
        conditions = [
            f"{kind}:{numbers[name]}" for kind, name in (("afterok", job.after), ("afterany", job.behind)) if name
        ]
        after = [f"--dependency={','.join(conditions)}", "--kill-on-invalid-dep=yes"] if conditions else []
        answer = _ask("sbatch", "--parsable", *after, str(folder / f"{job.name}.sh"))
        numbers[job.name] = answer.strip().partition(";")[0]  # JOB;CLUSTER
        listed = [{"name": j.name, "job": numbers[j.name], "cells": list(j.cells)} for j in jobs if j.name in numbers]
        write_json(folder / "jobs.json", {"jobs": listed})
    return numbers


def submissions(results: Path) -> list[dict[str, Any]]:
    """Every array that was submitted for a results folder: name, job and cells.

    Raises:
        ConfigError: if a list of submitted jobs is damaged: nobody else knows what is in the queue.
    """
    found: list[dict[str, Any]] = []
    for path in sorted((results / "slurm").glob("*/jobs.json")):
        try:
            found += (read_json(path) or {}).get("jobs", [])
        except (ValueError, OSError) as error:
            advice = "move it elsewhere, and look for its jobs with squeue"
            raise ConfigError(f"{' '.join(str(error).split())}: {advice}") from error
    return found


def queued(results: Path) -> dict[str, str]:
    """Cell -> where its task stands in the queue, such as ``pending in job 12_3 (Resources)``; empty without Slurm."""
    arrays = {array["job"]: array for array in submissions(results) if array["name"].startswith("cells-")}
    if not arrays or shutil.which("squeue") is None:
        return {}
    found: dict[str, str] = {}
    for line in _queue(list(arrays)):
        job, task, state, reason = line.split("|", 3)
        why = f" ({reason})" if reason not in ("None", "") else ""
        if job in arrays and task.isdecimal() and int(task) < len(arrays[job]["cells"]):
            found[arrays[job]["cells"][int(task)]] = f"{state.lower()} in job {job}_{task}{why}"
    return found


def cancel(results: Path) -> list[str]:
    """Cancel what is left of our submissions; the numbers of the jobs."""
    ours = {array["job"] for array in submissions(results)}
    left = sorted({line.split("|", 1)[0] for line in _queue(list(ours))} & ours, key=int) if ours else []
    if left:
        _ask("scancel", *left)
    return left


def max_array_size() -> int:
    """The most tasks of an array on this cluster."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config"))
    return max(1, int(found.group(1)) - 1) if found else MAX_ARRAY_SIZE


def new_folder(results: Path) -> Path:
    """Where a submission will be: the time, and a few random digits, since two login nodes may submit at once."""
    return results / "slurm" / f"{time.strftime('%Y-%m-%d-%H%M%S')}-{secrets.token_hex(4)}"


def _queue(jobs: list[str]) -> list[str]:
    """``JOB|TASK|STATE|REASON`` of every task in the queue; jobs that ended long ago are no error."""
    lines = _ask("squeue", "--array", "--noheader", "--me", "--format=%F|%K|%T|%r").splitlines()
    return [line for line in lines if line.split("|", 1)[0] in jobs]


def _ask(*command: str) -> str:
    """What a command of Slurm prints.

    Raises:
        ConfigError: if it is not there, does not answer, or refuses.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAITING_SECONDS, check=False)
    except FileNotFoundError as error:
        raise ConfigError(f"There is no {command[0]} here: submit from a login node of a SLURM cluster") from error
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"{command[0]} did not answer within {WAITING_SECONDS} s: try again later") from error
    if done.returncode:
        raise ConfigError(f"{command[0]} refused: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
    return done.stdout
