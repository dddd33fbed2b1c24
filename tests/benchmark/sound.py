"""The least that a record holds."""

from __future__ import annotations

from typing import Any

ROW = {"dataset": "shapes2d", "architecture": "dit", "tokenizer": "vq", "conditioning": "full", "seed": 0}


def sound(cell: str = "cell", state: str = "ok", **more: Any) -> dict[str, Any]:
    """A record that can be read, and what a test wants to find in it."""
    return {"cell": cell, "state": state, "row": ROW} | more


def failed(cell: str, reason: str) -> dict[str, Any]:
    """The record of a cell whose worker could not write one."""
    return sound(cell, "failed", reason=reason)
