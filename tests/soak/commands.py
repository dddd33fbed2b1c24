"""Commands that work on a results folder under fire: started, killed, and judged by how they end."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from tests.soak.tally import Tally
from tests.suite import running

ENDS = (0, 1, 75, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGUSR1)  # the last two: before it had begun to listen
DISK = {"full disk": r"[Nn]o space left|make room", "read-only": r"[Rr]ead-only"}  # how a sentence names what was wrong


class Commands:
    """Processes ``python -m benchmark ...`` on one results folder."""

    def __init__(self, results: Path, outputs: Path, tally: Tally) -> None:
        self.results, self.outputs, self.tally = results, outputs, tally
        self._running: list[tuple[subprocess.Popen[str], Path]] = []
        self._started = 0

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Begin a command; its output goes to a file on another disk, since a pipe that nobody reads would fill up."""
        self._started += 1
        output = self.outputs / f"{self.tally.way}-{self._started}.txt"
        process = running.start(*arguments, results=self.results, output=output)
        self._running.append((process, output))
        return process

    def run(self, *arguments: object) -> None:
        """A command to its end."""
        self.start(*arguments).wait()
        self.alive()

    def alive(self) -> int:
        """How many still work; those that have ended are judged."""
        for each in [each for each in self._running if each[0].poll() is not None]:
            self._running.remove(each)
            self._judge(each[0].returncode, each[1].read_text(errors="replace"))
        return len(self._running)

    def kill(self) -> None:
        """End all at once, with all that they have started."""
        for process, _ in self._running:
            with suppress(psutil.Error):
                running.kill_tree(process.pid)
            process.wait()
        self.alive()

    def _judge(self, code: int, output: str) -> None:
        """An end is fine that says 0, 1 or 75, is by a signal, or refuses to begin because of the disk."""
        last = next((line for line in reversed(output.splitlines()) if line.strip()), "")
        why = disk_named(last, self.tally) if last.startswith("error: ") else ""
        self.tally.ends[f"{code} ({why})" if why else str(code)] += 1
        if "Traceback" in output or not (code in ENDS or (code == 2 and why)):
            self.tally.wrong.append(f"a command ended with {code}: {output[-1500:]}")


def disk_named(sentence: str, tally: Tally) -> str:
    """Which of the things that were done to the disk a sentence names; nothing if it names none that was done."""
    done: Sequence[str] = [name for name, count in (("full disk", tally.full), ("read-only", tally.read_only)) if count]
    return next((name for name in done if re.search(DISK[name], sentence)), "")
