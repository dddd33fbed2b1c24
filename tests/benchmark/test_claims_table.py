"""A table that is none, or not whole, decides nothing: one sentence says where."""

import pytest

from benchmark import ROOT
from benchmark.cli import main

LAPTOP = ROOT / "results" / "reference" / "laptop.csv"

BROKEN = {
    "binary": (lambda text: bytes(range(256)), "is no table"),
    "empty": (lambda text: b"", "has no column 'cell'"),
    "no states": (lambda text: text.replace("state,", "stage,", 1).encode(), "has no column 'state'"),
    "no seeds": (lambda text: text.replace(",seed,", ",sown,", 1).encode(), "has no column 'seed'"),
    "no datasets": (lambda text: text.replace("dataset,", "data,", 1).encode(), "has no column 'dataset'"),
    "no measure": (
        lambda text: text.replace(",strict_level2,", ",strict_two,", 1).encode(),
        "no column 'strict_level2'",
    ),
    "a share of 7": (lambda text: changed(text, "strict_level2", "7"), "line 2: strict_level2 cannot be 7"),
    "a seed in words": (lambda text: changed(text, "seed", "three"), "line 2: seed cannot be 'three'"),
    "a state of its own": (lambda text: changed(text, "state", "fine"), "line 2: state cannot be 'fine'"),
    "cut off": (lambda text: text[:-20].encode(), "was cut off in its last line"),
    "a short row": (
        lambda text: "\n".join([*text.split("\n")[:2], "shapes2d", ""]).encode(),
        "line 3: state cannot be",
    ),
}


def changed(text: str, column: str, value: str) -> bytes:
    head, first, *rest = (line.split(",") for line in text.split("\n"))
    first[head.index(column)] = value
    return "\n".join(",".join(line) for line in (head, first, *rest)).encode()


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_table_decides_nothing(tmp_path, capsys, how):
    damage, message = BROKEN[how]
    table = tmp_path / "table.csv"
    table.write_bytes(damage(LAPTOP.read_text()))
    assert main(["claims", "--preset", "laptop", "--table", str(table)]) == 2
    told = capsys.readouterr()
    assert message in told.err and told.err.count("\n") == 1 and not told.out
