"""A small disk of one's own, which can be full or read-only for some seconds. Mounting needs root, on Linux."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TRIES = 20  # to make a disk full or read-only while processes write to it


def why_not() -> str:
    """Why no disk can be mounted here; empty where one can."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return "mounting a small disk needs root"
    with tempfile.TemporaryDirectory() as folder:
        done = _mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", folder)
        if done.returncode == 0:
            subprocess.run(["umount", folder], check=False)
        return " ".join(done.stderr.split())


class SmallDisk:
    """A tmpfs on a folder, or the folder alone where nothing can be mounted; `problem` then says why."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder, self.size, self.problem = folder, megabytes * 2**20, why_not()

    def __enter__(self) -> SmallDisk:
        self.folder.mkdir(parents=True)
        if not self.problem:
            _mount("-t", "tmpfs", "-o", f"size={self.size}", "tmpfs", str(self.folder), check=True)
        return self

    def __exit__(self, *_: object) -> None:
        if not self.problem:
            self._unmount()

    @contextmanager
    def full(self, slack: int) -> Iterator[None]:
        """No room for more than `slack` bytes: the disk shrinks to what is on it, which costs no memory as ballast would."""
        try:
            _repeat(lambda: self._shrink(slack))
            yield
        finally:
            _mount("-o", f"remount,size={self.size}", str(self.folder), check=True)

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Nothing can be opened for writing any more; files that are open already can still be written to.

        A file system that has writers cannot be remounted read-only. So a read-only view of it is laid over it.
        """
        _repeat(self._cover)
        try:
            yield
        finally:
            self._unmount()

    def _shrink(self, slack: int) -> bool:
        told = os.statvfs(self.folder)
        used = max(told.f_blocks - told.f_bfree, 1) * told.f_frsize  # a size of 0 would be none
        return not _mount("-o", f"remount,size={used + slack}", str(self.folder)).returncode

    def _cover(self) -> bool:
        _mount("--bind", str(self.folder), str(self.folder), check=True)
        covered = not _mount("-o", "remount,bind,ro", str(self.folder)).returncode
        if not covered:  # somebody has just opened a file
            self._unmount()
        return covered

    def _unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


def _mount(*arguments: str, check: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=check)


def _repeat(attempt: Callable[[], bool]) -> None:
    for _ in range(TRIES):
        if attempt():
            return
        time.sleep(0.1)
    raise RuntimeError(f"the small disk was too busy to be changed, {TRIES} times in a row")
