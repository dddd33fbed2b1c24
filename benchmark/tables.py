"""Tables as lists of rows: exact CSV in and out, and the short forms that people read.

A row is a dict of scalars. Plain rows rather than data frames, because ``leaderboard`` promises to answer in under a
second and importing pandas takes most of one.
"""

from __future__ import annotations

import csv
import html
import io
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

# A hash of digits only, or one like 12e4567, is still a word: these columns are never read as numbers.
TEXT = frozenset(
    (
        *("cell", "dataset", "architecture", "tokenizer", "conditioning", "preset", "state", "reason"),
        *("device", "split", "setting", "recipe", "view", "git_commit", "date", "composition"),
        *("figure", "claims_file", "published", "means"),  # of verdicts
    )
)


def is_number(value: Any) -> bool:
    """Whether a value is a finite or infinite number (a boolean, a text, None and NaN are not)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def to_csv(rows: Iterable[Row], columns: Sequence[str]) -> str:
    """Rows as CSV text. Floats are written so that they read back bit-equal; None and NaN are empty cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return text.getvalue()


def read_csv(path: Path) -> list[Row]:
    """Rows of a CSV file, with numbers and booleans as such and empty cells as None.

    A last line without its line break was cut off while being written, and is dropped: its last number may lack digits.
    """
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    return [
        {column: _value(column, cell) for column, cell in row.items() if column is not None}
        for row in csv.DictReader(io.StringIO(whole))
    ]


def render(rows: Sequence[Row], columns: Sequence[str], form: str) -> str:
    """Rows as ``csv``, ``md``, ``json``, ``latex`` or ``html`` text, rounded for reading in all but csv and json.

    Raises:
        ValueError: for a form that is none of these.
    """
    if form not in FORMS:
        raise ValueError(f"there is no format {form}; use one of {', '.join(FORMS)}")
    return FORMS[form](rows, columns)


def terminal(rows: Sequence[Row], shown: Sequence[str]) -> str:
    """Columns of equal width, for the terminal."""
    lines = [list(shown), *([short(column, row.get(column)) for column in shown] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)


def short(column: str, value: Any) -> str:
    """A value as people read it: three decimals for a share, three digits for a large number, nothing for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    if abs(value) >= 1e4:
        return f"{value:.3g}"
    return f"{value:.1f}" if column in ("minutes", "images_per_second") else f"{value:.3f}"


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(value) if isinstance(value, float) else str(value)


def _value(column: str, cell: str | None) -> Any:
    if cell is None or cell == "":
        return None
    if column in TEXT:
        return cell
    if cell in ("True", "False"):
        return cell == "True"
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell


def _markdown(rows: Sequence[Row], columns: Sequence[str]) -> str:
    def cell(row: Row, column: str) -> str:
        return short(column, row.get(column)).replace("|", "\\|").replace("\n", " ")

    cells = [[cell(row, column) for column in columns] for row in rows]
    widths = [max(3, len(column), *(len(line[i]) for line in cells)) for i, column in enumerate(columns)]
    lines = [columns, ["-" * width for width in widths], *cells]
    padded = ([text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)


def _json(rows: Sequence[Row], columns: Sequence[str]) -> str:
    plain = [{c: None if isinstance(v := row.get(c), float) and math.isnan(v) else v for c in columns} for row in rows]
    return json.dumps(plain, indent=1) + "\n"


def _latex(rows: Sequence[Row], columns: Sequence[str]) -> str:
    escaped = str.maketrans({c: f"\\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "\\": r"\textbackslash{}"})

    def line(cells: Iterable[str]) -> str:
        return " & ".join(cell.translate(escaped) for cell in cells) + r" \\" + "\n"

    body = "".join(line(short(column, row.get(column)) for column in columns) for row in rows)
    head = f"\\begin{{tabular}}{{{'l' * len(columns)}}}\n\\toprule\n{line(columns)}\\midrule\n"
    return head + body + "\\bottomrule\n\\end{tabular}\n"


def _html(rows: Sequence[Row], columns: Sequence[str]) -> str:
    def line(tag: str, cells: Iterable[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>\n"

    body = "".join(line("td", (short(column, row.get(column)) for column in columns)) for row in rows)
    return f"<table>\n<thead>\n{line('th', columns)}</thead>\n<tbody>\n{body}</tbody>\n</table>\n"


FORMS: dict[str, Callable[[Sequence[Row], Sequence[str]], str]] = {
    "csv": to_csv,
    "md": _markdown,
    "json": _json,
    "latex": _latex,
    "html": _html,
}
