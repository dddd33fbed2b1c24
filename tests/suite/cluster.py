"""A real SLURM of one node, as root and without systemd: what a test of submitting needs, started in a second."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "runuser")
CONFIG = """\
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={first}
SlurmdPort={second}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=5
MpiDefault=none
SchedulerParameters=sched_interval=2,batch_sched_delay=0
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Why no cluster can be started here; empty where it can."""
    if os.geteuid() != 0:
        return "a SLURM of one's own needs root"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    return f"{', '.join(missing)} not installed (Debian: slurm-wlm munge)" if missing else ""


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start a cluster whose files lie in a folder; yields the environment in which its commands find it."""
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(parents=True)
    config = folder / "slurm.conf"
    memory = psutil.virtual_memory().total // 2**20  # MB
    config.write_text(CONFIG.format(host=host, folder=folder, first=_free_port(), second=_free_port(), memory=memory))
    _start_munge(folder / "munge")
    silent = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}  # they write logs besides
    daemons = [subprocess.Popen([name, "-D", "-f", str(config)], **silent) for name in ("slurmctld", "slurmd")]
    environment = {**os.environ, "SLURM_CONF": str(config)}
    try:
        _wait_until_idle(environment)
        yield environment
    finally:
        subprocess.run(["scancel", "--user=root"], env=environment, check=False, timeout=30)
        _wait_until_empty(environment)  # a step's own daemon outlives slurmd, and would wait for it for ever
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:  # slurmd waits for a step that does not end
                daemon.kill()
        subprocess.run(["pkill", "-f", f"munged.*{folder}"], check=False)


def _start_munge(folder: Path) -> None:
    """munged wants a user of its own, and folders that nobody else may write to."""
    (folder / "key").write_bytes(os.urandom(1024))
    for path in (folder, folder / "key"):
        shutil.chown(path, "munge", "munge")
    folder.chmod(0o711)
    (folder / "key").chmod(0o400)
    for parent in folder.parents:  # pytest's folders are for their owner alone
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    files = {"key": "key", "socket": "socket", "pid": "pid", "log": "log", "seed": "seed"}
    options = [
        f"--key-file={folder / files['key']}",
        f"--socket={folder / files['socket']}",
        f"--pid-file={folder / files['pid']}",
        f"--log-file={folder / files['log']}",
        f"--seed-file={folder / files['seed']}",
    ]
    subprocess.run(["runuser", "-u", "munge", "--", "munged", "--force", *options], check=True)


def queue(environment: dict[str, str]) -> str:
    """What is in the queue, a line a task."""
    done = subprocess.run(["squeue", "--noheader"], env=environment, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _wait_until_empty(environment: dict[str, str], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while queue(environment) and time.monotonic() < deadline:
        time.sleep(0.5)


def _wait_until_idle(environment: dict[str, str], seconds: float = 60) -> None:
    deadline, seen = time.monotonic() + seconds, ""
    while time.monotonic() < deadline:
        done = subprocess.run(
            ["sinfo", "--noheader", "--format=%T"], env=environment, capture_output=True, text=True, check=False
        )
        seen = (done.stdout + done.stderr).strip()
        if seen == "idle":
            return
        time.sleep(0.5)
    raise RuntimeError(f"the cluster did not come up: {seen}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
