"""The processes that train one cell together, called ranks: who is which, how they start, and how they end together.

Off SLURM a worker is rank 0 and starts the others itself; they end with it, and it ends with any of them. Under SLURM srun
starts them all, and ``--kill-on-bad-exit`` ends them. Only rank 0 holds the lease, builds artefacts, writes and judges.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from benchmark.config import ConfigError
from benchmark.workers import CUT_OFF, PIPE

LOCAL_RANK, PORT, ADDRESS = "LOCAL_RANK", "MASTER_PORT", "MASTER_ADDR"  # as Lightning reads them
PATIENCE = 10.0  # seconds in which the end of one rank reaches the others


@dataclass(frozen=True)
class Place:
    """Where a process stands among those that train a cell."""

    devices: int = 1  # of a node: a process each
    nodes: int = 1
    rank: int = 0  # from 0, over all nodes
    local: int = 0  # from 0, on this node
    by_slurm: bool = False  # who started the ranks

    @property
    def world(self) -> int:
        """How many ranks there are."""
        return self.devices * self.nodes


def here(devices: int, nodes: int) -> Place:
    """The place of this process in a cell of so many devices and nodes.

    Raises:
        ConfigError: for several nodes without the srun that starts a rank a device.
    """
    if started_by_srun(devices * nodes):
        return Place(devices, nodes, int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_LOCALID"]), True)
    if nodes > 1:
        raise ConfigError(f"trainer.nodes={nodes} needs SLURM: submit the cell with run --slurm")
    local = int(os.environ.get(LOCAL_RANK, 0)) if devices > 1 else 0
    return Place(devices, nodes, local, local)


def started_by_srun(world: int) -> bool:
    """Whether this process is a rank that srun has started; a batch script's own processes are not."""
    return world > 1 and os.environ.get("SLURM_STEP_NUM_TASKS") == str(world)


@contextmanager
def together(place: Place) -> Iterator[None]:
    """While a rank works: off SLURM, rank 0 starts the others by its own command line, and ends them after the block.

    If another rank fails meanwhile, rank 0 dies of SIGKILL: what is left is to go on from the last checkpoint, which is
    its launcher's business. Errors in a rank are mostly the echo of another's end, which is why they leave this block late:
    by then a process with an echo is dead, and what survives has a cause of its own. Rank 0 is the first to tell.
    """
    if place.world == 1:
        yield
        return
    others = [] if place.rank or place.by_slurm else _start_others(place)
    over = threading.Event()
    threading.Thread(target=_end_with, args=(others, over), name="end with other ranks", daemon=True).start()
    try:
        yield
    except Exception:
        time.sleep(PATIENCE * (1 + (place.rank > 0)))
        raise
    finally:
        over.set()
        for other in others:
            _end(other)


def _start_others(place: Place) -> list[subprocess.Popen[bytes]]:
    """In this process's group, as a signal to it is meant for all; each ends when its standard input does."""
    os.environ |= {ADDRESS: "127.0.0.1", PORT: str(free_port()), LOCAL_RANK: "0"}
    command = [sys.executable, *sys.orig_argv[1:]]
    environments = [os.environ | {LOCAL_RANK: str(rank), PIPE: "pipe"} for rank in range(1, place.world)]
    return [subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) for environment in environments]


def _end_with(others: list[subprocess.Popen[bytes]], over: threading.Event) -> None:
    while not over.wait(0.1):
        for rank, code in enumerate((other.poll() for other in others), 1):
            if code in (None, 0):  # one that has trained its part leaves; rank 0 goes on to judge
                continue
            if code == CUT_OFF and over.wait(PATIENCE):  # all are: this process as well
                return
            how = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            print(f"rank {rank} {how}: all ranks end here", file=sys.stderr, flush=True)
            for other in others:
                _end(other)
            os.kill(os.getpid(), signal.SIGKILL)


def _end(other: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        other.kill()
    other.wait()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":  # for a batch script, on the node of rank 0
    print(free_port())
