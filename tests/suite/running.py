"""Helpers of the tests that run the real command line in processes of their own."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]


def start(*arguments: object, results: Path, output: Path | None = None) -> subprocess.Popen[str]:
    """``python -m benchmark ...`` in a process group of its own; what it prints into a pipe, or a file."""
    command = [sys.executable, "-m", "benchmark", *map(str, arguments), "--results", str(results)]
    with output.open("w") if output else nullcontext(subprocess.PIPE) as told:
        return subprocess.Popen(
            command, cwd=ROOT, stdout=told, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )


def run(*arguments: object, results: Path, code: int | None = None) -> str:
    """Run a command to its end; its output. ``code`` is the exit code it must have."""
    process = start(*arguments, results=results)
    output, _ = process.communicate(timeout=280)
    if code is not None and process.returncode != code:
        raise AssertionError(f"exit code {process.returncode} instead of {code}:\n{output}\n{logs(results)}")
    return output


def kill_when(process: subprocess.Popen[str], condition: Callable[[], bool]) -> bool:
    """SIGKILL a process and all its descendants as soon as the condition holds; False if it ended before that."""
    while process.poll() is None:
        if condition():
            kill_tree(process.pid)
            process.wait()
            return True
        time.sleep(0.003)
    return False


def kill_tree(pid: int) -> None:
    """End a process and all that it started, at once and without a chance to save anything."""
    parent = psutil.Process(pid)
    for process in [parent, *parent.children(recursive=True)]:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def records(results: Path) -> dict[str, dict[str, Any]]:
    """Architecture -> record, of a results folder with one cell an architecture."""
    found = [json.loads(path.read_text()) for path in sorted(results.glob("cells/*/record.json"))]
    return {record["config"]["architecture"]["name"]: record for record in found}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def logs(results: Path) -> str:
    """The ends of all logs, for the message of a failure."""
    tails = [f"--- {path.parent.name}\n{path.read_text()[-2000:]}" for path in results.glob("cells/*/log.txt")]
    return "\n".join(tails)


SHARES = ("level", "strict_", "drawn_", "comp_", "factor_")


def outcome(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What must not depend on how often a run was cut off: weights, shares, and the curve except for times."""
    shares = {key: value for key, value in record["row"].items() if key.startswith(SHARES)}
    curve = [{k: v for k, v in row.items() if k != "seconds"} for row in table(folder / "curve.csv")]
    return {"weights": record["weights_sha256"], "shares": shares, "curve": curve}


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, **extra}
