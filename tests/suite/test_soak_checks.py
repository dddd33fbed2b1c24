"""What the soak looks for is found: half a file, a row too many, a reason that nothing explains, other numbers, litter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.numpy import save_file

from tests.soak import check
from tests.soak.tally import Tally, table

WRITERS = {
    "a.npy": lambda path: np.save(path, np.arange(999)),
    "a.safetensors": lambda path: save_file({"a": np.arange(999)}, path),
    "a.parquet": lambda path: pd.DataFrame({"a": range(999)}).to_parquet(path),
    "a.png": lambda path: Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), "uint8")).save(path),
    "a.json": lambda path: path.write_text(json.dumps({"a": list(range(99))})),
    "a.ckpt": lambda path: np.savez(path.open("wb"), a=np.arange(999)),  # a zip archive, as torch's
}


@pytest.mark.parametrize("name", WRITERS)
def test_half_a_file_is_damaged(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    assert check.unreadable(path) == ""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert check.unreadable(path) != ""


def test_a_reason_must_be_one_sentence_about_something_that_was_done() -> None:
    calm, full = Tally("jobs"), Tally("jobs", full=1)
    reason = "DiskFull: no space left to write /results/record.json; free some"
    assert check.explained(reason, calm) == "" and check.explained(reason, full) == "full disk"
    assert check.explained(f"{reason}\nTraceback", full) == ""
    assert check.explained("ended by signal 9, probably out of memory; 3 times in a row", calm) == "ended by signals"
    assert check.explained("NonFiniteLoss: the loss became nan", full) == ""


def test_what_is_lost_double_or_left_over_is_told(tmp_path: Path) -> None:
    for name in ("one", "two"):
        cell = tmp_path / "cells" / name
        cell.mkdir(parents=True)
        (cell / "record.json").write_text(json.dumps({"state": "ok", "reason": ""}))
    (tmp_path / "cells" / "one" / "record.1.json").write_text(json.dumps({"state": "ok", "reason": ""}))
    (tmp_path / "cells" / "two" / ".tmp-0-curve.csv").write_text("half")
    (tmp_path / "leases").mkdir()
    (tmp_path / "leases" / "cell-two.json").write_text(json.dumps({"pid": 1}))
    (tmp_path / "leaderboard.csv").write_text("cell\none\none\n")
    tally = Tally("jobs")
    check.whole_table(tmp_path, tally)
    check.at_the_end(tmp_path, 2, tally)
    told = (
        "is damaged",
        "is not whole",
        "2 have a folder and 2 a row",
        "one was done twice",
        ".tmp-0-curve.csv is left over",
        "leases/cell-two.json is left over",
    )
    assert [sum(what in wrong for wrong in tally.wrong) for what in told] == [1] * 6, tally.wrong
    assert "| lost, double, damaged or different | 6 |" in table([tally])


def test_other_numbers_are_told(tmp_path: Path) -> None:
    for number, run in enumerate(("one", "other")):
        cell = tmp_path / run / "cells" / "cell"
        cell.mkdir(parents=True)
        record = {"state": "ok", "row": {"level0": number}, "weights_sha256": "same"}
        (cell / "record.json").write_text(json.dumps(record))
        (cell / "curve.csv").write_text("step,seconds\n1,2\n")
        (tmp_path / run / "artefacts" / "data" / "key").mkdir(parents=True)
        np.save(tmp_path / run / "artefacts" / "data" / "key" / "images.npy", np.full(9, number))
    tally = Tally("jobs")
    assert check.same(tmp_path / "one", tmp_path / "other", tally) == 1
    assert len(tally.wrong) == 2
    assert check.same(tmp_path / "one", tmp_path / "one", calm := Tally("jobs")) == 1 and not calm.wrong
