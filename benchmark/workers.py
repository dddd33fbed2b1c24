"""The worker's side of `benchmark.launch`: what a worker is started with, and what it must do.

A worker is ``python -m benchmark run --cell ID``. It calls `end_with_launcher` first, takes the cell's lease, asks
`ended_meanwhile`, works, writes a record, and says with its exit code how it ended:

    0   ended ok; the record says what came out
    1   ended failed or suspicious; the record says why
    74  nothing can be written, not even a record: the disk is full, or read-only
    75  cut off and resumable, or somebody else holds the cell's lease
"""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from benchmark import ROOT
from benchmark.store import Store

OK, NOT_OK, IO_ERROR, CUT_OFF = 0, 1, 74, 75  # exit codes; the last two are EX_IOERR and EX_TEMPFAIL of sysexits.h
PIPE = "BENCHMARK_LAUNCHER"  # set to "pipe" in a worker whose standard input ends when its launcher does
GRACE = "BENCHMARK_GRACE"  # seconds that a launcher gives its workers to save in, once it is told to stop
ENDED_BEFORE = "BENCHMARK_ENDED_BEFORE"  # how often the cell had ended when the launcher chose to run it
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

# glibc gives large blocks back to the system at once, and a training step on a CPU then spends a tenth of its time on page
# faults: let it keep up to a gigabyte.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30)}


def auto_jobs(threads: int, gpus: Sequence[str] = ()) -> int:
    """How many workers this machine has room for: one for each of the ``gpus``, or cores // threads."""
    return len(gpus) or max(1, available_cores() // threads)


def available_cores() -> int:
    """Cores that this process may use: those it is bound to, and no more than its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, math.ceil(int(quota) / int(period))))  # no quota reads "max", a ValueError
    return cores


def gpu_names(count: int) -> list[str]:
    """The `count` GPUs of this process as ``CUDA_VISIBLE_DEVICES`` names them for its children."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return chosen.split(",")[:count] if chosen else [str(index) for index in range(count)]


def gpu_groups(gpus: Sequence[str], devices: int) -> list[str]:
    """GPUs shared out to cells that take so many each, such as ``0,1`` and ``2,3``; what is left over stays idle."""
    return [",".join(gpus[first : first + devices]) for first in range(0, len(gpus) - devices + 1, devices)]


def environments(jobs: int | str, threads: int, gpus: Sequence[str]) -> list[dict[str, str]]:
    """What each of the workers side by side finds in its environment.

    That is its number of threads, our packages first on the path, the way it learns that the launcher is gone, and the
    GPUs that it sees, an entry of ``gpus``.
    """
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH")) if part)
    common = {PIPE: "pipe", "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    common |= dict.fromkeys(THREAD_VARIABLES, str(threads)) | KEEP_MEMORY
    common["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # torch.compile in the worker itself: no processes of its own
    count = auto_jobs(threads, gpus) if jobs == "auto" else int(jobs)
    return [common | ({"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} if gpus else {}) for index in range(count)]


def arguments_of(store: Store, cell_id: str, extra_args: Sequence[str] = ()) -> list[str]:
    """What stands behind ``python -m benchmark`` to run a cell whose ``config.yaml`` is in the store."""
    return ["run", "--cell", cell_id, "--results", str(store.results), *extra_args]


def end_with_launcher() -> None:
    """In a worker: end at once, children included, when the launcher is gone. Does nothing without a launcher.

    The launcher holds the other end of standard input and never writes; the system closes it however the launcher
    ends. Nothing is saved, which is safe: a cell goes on from its last checkpoint after any kind of end.
    """
    if os.environ.get(PIPE) != "pipe":
        return

    def watch() -> None:
        with suppress(OSError):
            while os.read(0, 1):
                pass
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(CUT_OFF)

    threading.Thread(target=watch, name="end with launcher", daemon=True).start()


def ended_meanwhile(store: Store, cell_id: str) -> int | None:
    """In a worker that holds the cell's lease: the exit code if another process has ended the cell since it was chosen.

    Between the launcher's choice and the worker's lease lie seconds, in which another launcher's worker may have
    finished the cell. None if there is work to do.
    """
    before = os.environ.get(ENDED_BEFORE)
    if before is None or store.record_count(cell_id) <= int(before):
        return None
    return OK if state_and_reason(store, cell_id)[0] == "ok" else NOT_OK


def state_and_reason(store: Store, cell_id: str) -> tuple[str, str]:
    """How a cell's record says that it ended; a damaged record counts as failed."""
    try:
        record = store.read_record(cell_id) or {}
    except ValueError as error:
        return "failed", str(error)
    return str(record.get("state", "failed")), str(record.get("reason") or "")
