"""Many processes that finish at once: no row is lost, and who reads the leaderboard meanwhile always reads a whole one."""

from __future__ import annotations

import csv
import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path

from benchmark.leaderboard import rebuild
from benchmark.store import Store
from tests.benchmark.test_leaderboard import record

WRITERS = 64


def _write_one(results: Path, seed: int, start: Barrier) -> None:
    store, one = Store(results, say=lambda _: None), record(seed=seed)
    start.wait(60)
    store.write_record(one["cell"], one)
    rebuild(store)


def test_records_of_64_processes_are_64_rows_and_every_look_finds_a_whole_table(tmp_path: Path) -> None:
    forked = multiprocessing.get_context("fork")  # light enough to have them all at once
    start = forked.Barrier(WRITERS)
    writers = [forked.Process(target=_write_one, args=(tmp_path, seed, start)) for seed in range(WRITERS)]
    for writer in writers:
        writer.start()
    counts = [0]
    while any(writer.is_alive() for writer in writers):
        if (tmp_path / "leaderboard.csv").exists():
            with (tmp_path / "leaderboard.csv").open(newline="") as file:
                header, *rows = csv.reader(file)
            assert header[0] == "cell" and {len(row) for row in rows} == {len(header)}
            counts.append(len(rows))
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    assert counts == sorted(counts)  # rows never go away
    with (tmp_path / "leaderboard.csv").open(newline="") as file:
        seeds = sorted(int(row["seed"]) for row in csv.DictReader(file))
    assert seeds == list(range(WRITERS))
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name or path.suffix == ".tmp"]
