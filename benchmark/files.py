"""Files that are either whole or absent: written aside in the same folder, then renamed into place."""

from __future__ import annotations

import errno
import functools
import json
import math
import os
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ASIDE = ".tmp-"  # prefix of files being written; whatever is still called so after a kill is litter
LITTER = ".tmp*"  # these, and what safetensors writes beside its files in the same way


class Unwritable(RuntimeError):
    """Nothing can be written any more; the message says where and what to do."""


class DiskFull(Unwritable):
    """The disk is full or a quota is used up."""


class ReadOnly(Unwritable):
    """The file system has become read-only, as many do after an error of their disk."""


class NoHardLinks(RuntimeError):
    """The file system cannot link files (some cloud drives and memory cards cannot)."""


@contextmanager
def unwritable_explained(path: Path) -> Iterator[None]:
    """Turn the operating system's "no space left" and "read-only file system" into one sentence about `path`.

    Raises:
        DiskFull: if the block ends with ENOSPC or EDQUOT, or with another library's error that quotes one of them.
        ReadOnly: the same with EROFS.
    """
    try:
        yield
    except Unwritable:
        raise
    except Exception as error:
        number = _number(error)
        if number == errno.EROFS:
            raise ReadOnly(
                f"read-only file system, so that {path} cannot be written; {_remedy('mount it anew')}"
            ) from error
        if number is not None:
            raise DiskFull(f"no space left to write {path}; {_remedy('free some')}") from error
        raise


def _number(error: Exception) -> int | None:
    """Which of the system's errors lies behind this one; safetensors has only its text. Wrong input never does."""
    known = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    if isinstance(error, OSError | ValueError):
        return error.errno if isinstance(error, OSError) and error.errno in known else None
    return next((number for number in known if os.strerror(number) in str(error)), None)


def _remedy(first: str) -> str:
    goes_on = "then run the same command again: it goes on from what is already there"
    return f"{first} or choose another folder with --results, {goes_on}"


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """A path for any writer (`torch.save`, `savefig`) that takes the place of `path` if the block succeeds.

    The folder is made if it is missing. A `durable` file is flushed to the disk before the rename, so that not even a
    power cut leaves one that is named right and empty.

    Raises:
        Unwritable: if there is no room, or the file system is read-only.
    """
    aside = path.with_name(f"{ASIDE}{machine_digits()}-{os.getpid()}-{uuid.uuid4().hex[:8]}-{path.name}")
    with unwritable_explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield aside
            if durable:
                flush(aside)
            os.replace(aside, path)
        except BaseException:
            with suppress(OSError):
                aside.unlink()
            raise
        if durable:
            flush(path.parent)


def write_bytes(path: Path, content: bytes, durable: bool = True) -> None:
    """Write a file whole or not at all.

    Raises:
        Unwritable: if there is no room, or the file system is read-only.
    """
    with replacing(path, durable) as aside:
        aside.write_bytes(content)


def write_text(path: Path, content: str, durable: bool = True) -> None:
    """`write_bytes` for text, as UTF-8."""
    write_bytes(path, content.encode(), durable)


def write_json(path: Path, content: Any, durable: bool = True) -> None:
    """`write_bytes` for what JSON can hold; it is serialised before the disk is touched."""
    write_text(path, json_text(content), durable)


def json_text(content: Any) -> str:
    """JSON as all files of a results folder have it: a value a line, for `diff`, and null for NaN, which JSON lacks."""
    return json.dumps(_finite(content), indent=1, allow_nan=False) + "\n"


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file; None if the file is missing.

    Raises:
        ValueError: if the file is not a JSON object, with the path in the message.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (ValueError, IsADirectoryError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} cannot be read: it holds no JSON object")
    return content


def flush(path: Path) -> None:
    """Have the operating system write a file or a folder's list of names to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@functools.cache
def machine_digits() -> str:
    """Host and process namespace in eight digits: within one of them a process id says who writes a file."""
    namespace = ""
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return f"{zlib.crc32(f'{os.uname().nodename} {namespace}'.encode()):08x}"


def sweep(folder: Path) -> None:
    """Remove what killed writers left in a folder. Only for who holds the lease on it."""
    for litter in folder.rglob(LITTER):
        with suppress(OSError):
            litter.unlink()
