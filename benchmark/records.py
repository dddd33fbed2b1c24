"""What a record must hold to be read: a file may have been cut, emptied, edited or copied from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Record = dict[str, Any]

ENDS = ("ok", "suspicious", "failed")
DESCRIBED = ("dataset", "architecture", "tokenizer", "conditioning")  # in the row of every record
SECTIONS = (*DESCRIBED, "trainer", "trunk", "probe", "evaluation")  # of a config, where the record has one


def flaw(record: Mapping[str, Any], cell_id: str) -> str:
    """Why nothing can be made of a cell's record; empty where it is sound."""
    if record.get("cell") != cell_id:
        return f"its 'cell' is not {cell_id}"
    if record.get("state") not in ENDS:
        return f"its 'state' is none of {', '.join(ENDS)}"
    row, config = record.get("row"), record.get("config")
    if not isinstance(row, Mapping):
        return "it has no 'row'"
    if lacking := [key for key in DESCRIBED if not isinstance(row.get(key), str)]:
        return f"its 'row' has no '{lacking[0]}'"
    if not isinstance(row.get("seed"), int):
        return "its 'row' has no 'seed'"
    if config is None:
        return ""
    broken = [key for key in SECTIONS if not isinstance(config, Mapping) or not isinstance(config.get(key), Mapping)]
    return f"its 'config' has no '{broken[0]}'" if broken else ""
