"""Waiting for a process that says in a line that it is where a test wants it."""

from __future__ import annotations

import subprocess


def wait_for_line(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if word in line:
            return
    raise AssertionError(f"the process ended without printing {word}")
