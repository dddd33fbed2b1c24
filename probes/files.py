"""Files that a config names: what they hold is hashed, and not where they lie. No torch: configs are read without it."""

from __future__ import annotations

import hashlib
from pathlib import Path


def settle_file(key: str, path: str, remedy: str) -> dict[str, str]:
    """What a config's ``settle`` tells of a file that it names: ``{"NAME_sha256": digest}``; nothing where it names none.

    Args:
        key: of the config, section first: ``probe.weights``, whose last part is the NAME.
        path: what stands there.
        remedy: what to do where that is no file.

    Raises:
        ValueError: there is no such file.
    """
    if not path:
        return {}
    if not Path(path).is_file():
        raise ValueError(f"{key}={path} is no file; {remedy}")
    with Path(path).open("rb") as file:
        return {f"{key.rpartition('.')[2]}_sha256": hashlib.file_digest(file, "sha256").hexdigest()}
