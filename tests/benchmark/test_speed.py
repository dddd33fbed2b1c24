"""`speed`: that it measures what a cell does, and says so in a table. How fast anything is, is measured and never tested."""

import time
from pathlib import Path

import pytest
import torch

from benchmark import local, speed
from benchmark.cell import Cell
from benchmark.cli import main, split_tokens
from benchmark.hardware import costs
from benchmark.machine import this_machine
from benchmark.models import build_model, training_batches
from benchmark.rates import measure_cell, measure_plain, measure_shared
from benchmark.registry import discover
from benchmark.runner import CellRun
from benchmark.stopwatch import rates
from benchmark.store import Store
from benchmark.tables import is_number, read_csv
from benchmark.untrained import Untrained

# As little as there can be before a cell trains; no model's shape is among it.
LITTLE = (
    *("trainer.max_steps=2", "trainer.eval_every=2", "tokenizer.vq.max_steps=1", "probe.epochs=1"),
    *(f"dataset.shapes2d.{part}_per_composition=4" for part in ("train", "probe", "test")),
)
MEASURED = (
    *("steps_per_second", "images_per_second", "flops_per_step", "matmul_flops", "utilisation", "import_seconds"),
    *(
        "curve_images_per_second",
        "final_images_per_second",
        "evaluation_seconds",
        "first_evaluation_seconds",
        "first_step_seconds",
    ),
    *("first_step_seconds", "start_seconds", "checkpoint_seconds", "peak_memory_mb", "outside_share"),
    *("cell_minutes", "bytes_per_step", "bandwidth", "most_steps_per_second"),
)


def cells(*argv: str) -> dict[str, Cell]:
    """The cells of the smallest preset, by architecture."""
    plan = speed.plan(discover(), this_machine(), "smoke", split_tokens(argv, frozenset()))
    return {cell.architecture: cell for cell in plan.cells.values()}


def untrained(cell: Cell, folder: Path) -> Untrained:
    """What a process of `speed` begins with."""
    store = Store(folder)
    cell.write(store.cell(cell.id).config)
    return Untrained(cell, store, discover())


@pytest.fixture(scope="module")
def mar(tmp_path_factory) -> list[dict]:
    """The row of MAR, whose step has most parts."""
    return measure_cell(untrained(cells(*LITTLE)["mar"], tmp_path_factory.mktemp("mar")), 0.01)


def test_a_row_has_every_column_and_no_number_that_is_not_positive(mar):
    (row,) = mar
    assert {*row} | {"times_plain", "gain"} == {*speed.COLUMNS}
    assert all(is_number(row[column]) and row[column] > 0 for column in MEASURED), row
    assert row["utilisation"] < 1 and row["outside_share"] < 1
    assert row["steps_per_second"] < row["most_steps_per_second"]
    assert row["images_per_second"] == pytest.approx(row["steps_per_second"] * 16)


def test_the_step_has_the_operations_that_a_record_counts(mar, tmp_path):
    cell = cells(*LITTLE)["mar"]
    cell.write(Store(tmp_path).cell(cell.id).config)
    record = CellRun(cell, Store(tmp_path, say=lambda line: None), discover(), lambda: None).record()
    assert record["row"]["flops"] == mar[0]["flops_per_step"] * 2


def test_the_plain_loop_does_the_work_of_dit(tmp_path):
    artefacts = untrained(cells("trunk.width=128", "trunk.depth=4")["dit"], tmp_path)
    dit = costs(build_model(artefacts), training_batches(artefacts).batch(0), 1)["flops"]
    before = torch.get_num_threads()
    rows = measure_plain(artefacts, 0.01)
    torch.set_num_threads(before)
    assert [row["threads"] for row in rows] == sorted({1, before})
    for row in rows:
        assert row["precision"] == "32" and row["compiled"] is False and row["steps_per_second"] > 0
        assert row["flops_per_step"] == pytest.approx(dit, rel=0.01)


def test_what_cells_share_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmark.rates.ENCODE_BATCH", 16)
    rows = measure_shared(untrained(cells()["dit"], tmp_path), 0.01)
    names = ["images drawn", "tokenizer, encoding", "tokenizer, decoding", "JPEG cache"]
    assert [row["measured"] for row in rows] == names
    assert all(row["images_per_second"] > 0 for row in rows)


def test_faces_that_are_not_there_are_left_out_with_the_reason(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("benchmark.rates.ENCODE_BATCH", 16)
    monkeypatch.setattr("benchmark.models.DECODE_BATCH", 16)
    cell = cells("--only", "dataset=celeba", "dataset.celeba.source=drawn")["dit"]
    rows = measure_shared(untrained(cell, tmp_path), 0.0)
    assert [row["measured"] for row in rows][-1] == "JPEG cache" and len(rows) == 3
    assert "images drawn is not measured: there is no CelebA" in capsys.readouterr().out


def test_a_rate_is_that_of_the_work():
    found = rates(lambda: time.sleep(0.01), 3, torch.device("cpu"), 0.05)
    assert len(found) == 5 and 0 < min(found) <= max(found) <= 300


# The command ---------------------------------------------------------------------------------------


def test_a_process_measures_and_the_table_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(speed, "tasks", lambda cells: [speed.Task("steps", cells[0], "dit")])
    out = tmp_path / "new" / "speed.csv"
    code = main(["speed", "--preset", "smoke", "--only", "architecture=dit", "--seconds", "0.01", "--out", str(out)])
    told = capsys.readouterr().out
    assert code == 0 and f"-> {out}" in told and "steps_per_second" in told
    (row,) = read_csv(out)
    assert tuple(row) == speed.COLUMNS and row["measured"] == "dit" and row["threads"] == 1
    assert row["steps_per_second"] > 0 and row["peak_memory_mb"] > 0


def test_cells_side_by_side_are_one_row_of_sums():
    row = {"measured": "dit", "threads": 1, "steps_per_second": 3.0, "images_per_second": 48.0, "peak_memory_mb": 500.0}
    task = speed.Task("steps", cells()["dit"], "both", copies=2)
    (both,) = speed._together(task, [[row], [row | {"steps_per_second": 4.0}]])
    assert both == {
        "measured": "both",
        "threads": 2,
        "steps_per_second": 7.0,
        "images_per_second": 96.0,
        "peak_memory_mb": 1000.0,
    }


def test_what_is_compared_has_as_many_threads(monkeypatch):
    cell = cells()["dit"]
    measured = {
        "cell": [{"measured": "dit", "cell": cell.id, "threads": 1, "steps_per_second": 30.0}],
        "steps": [{"measured": "both", "cell": cell.id, "threads": 2, "steps_per_second": 50.0}],
        "plain": [
            {"measured": "plain DiT loop", "cell": cell.id, "threads": 1, "steps_per_second": 10.0},
            {"measured": "plain DiT loop", "cell": cell.id, "threads": 2, "steps_per_second": 20.0},
        ],
        "shared": [],
    }
    monkeypatch.setattr(speed, "_run", lambda task, *_: measured[task.kind])
    monkeypatch.setattr(speed.workers, "available_cores", lambda: 2)
    rows, failed = speed.measure([cell], [], [], 0.1, lambda line: None)
    assert [row["times_plain"] for row in rows] == [3.0, 2.5, 1.0, 1.0]
    assert failed == ["shapes2d and tokenizer vq"]


def test_whole_cells_are_reckoned_one_at_a_time_and_as_many_at_once_as_pay():
    alone = {"measured": "dit", "cell": "x", "threads": 1, "steps_per_second": 2.0, "cell_minutes": 10.0}
    beside = [
        {"measured": f"{copies} dit side by side", "cell": "x", "threads": copies, "steps_per_second": steps}
        for copies, steps in ((2, 3.0), (4, 5.0), (8, 4.0))
    ]
    rows = [alone, alone | {"measured": "mar", "cell": "y", "cell_minutes": 30.0}, *beside]
    compared = [row | speed._compared(row, rows) for row in rows]
    assert [row.get("gain") for row in compared] == [None, None, 1.5, 2.5, 2.0]
    told = speed.whole(compared)
    assert told.startswith("a whole cell of each (2): 40 minutes one after another, 16 if all gain what 4 dit side by")
    assert speed.whole(rows[:2]) == "a whole cell of each (2): 40 minutes one after another"
    assert speed.whole([alone, beside[0] | {"gain": 0.9}]) == "a whole cell of each (1): 10 minutes one after another"
    assert speed.whole(beside) == ""


def test_a_gpu_is_measured_with_several_cells_on_it(monkeypatch):
    cell = cells()["dit"]
    monkeypatch.setattr(speed.workers, "available_cores", lambda: 1)

    def beside(device: str) -> list[int]:
        there = Cell({**cell.config, "trainer": {**cell.config["trainer"], "device": device}})
        return [task.copies for task in speed.tasks([there]) if task.kind == "steps"]

    assert beside("cuda") == [2, 4, 8] and beside("cpu") == []


@pytest.fixture
def measured(monkeypatch) -> None:
    """Every measurement made at once, but for that of MAR, which fails."""
    row = {"measured": "dit", "cell": "x", "threads": 1, "steps_per_second": 2.0, "evaluation_seconds": 1.0}
    monkeypatch.setattr(speed, "_run", lambda task, *_: [] if task.name == "mar" else [row])


def test_what_fails_is_named_and_the_rest_is_kept(measured, tmp_path, capsys):
    out = tmp_path / "speed.csv"
    assert main(["speed", "--preset", "smoke", "--only", "architecture=dit,mar", "--out", str(out)]) == 1
    assert "mar could not be measured" in capsys.readouterr().out
    assert {row["measured"] for row in read_csv(out)} == {"dit"}


def test_the_table_is_written_whole_or_not_at_all(measured, tmp_path, monkeypatch):
    out = tmp_path / "speed.csv"
    out.write_text("an earlier table\n")

    def full(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr("benchmark.files.os.replace", full)
    with pytest.raises(OSError):
        main(["speed", "--preset", "smoke", "--only", "architecture=dit", "--out", str(out)])
    assert out.read_text() == "an earlier table\n" and list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--only", "architecture=dti"], "did you mean 'dit'?"),
        (["trainer.devices=2"], "one device"),
        (["--out", "{folder}"], "is a folder"),
        (["--preset", "lap"], "did you mean 'laptop'?"),
    ],
)
def test_wrong_input_is_told_before_anything_is_measured(argv, said, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(local, "gpus", lambda plan: pytest.fail("it began"))
    assert main(["speed", *(text.format(folder=tmp_path) for text in argv)]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.out == ""
