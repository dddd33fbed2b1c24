"""Damaged cells, and names that lead out of a folder: one sentence each, and nothing that is whole is lost."""

import json

import pytest

from benchmark.cell import Cell
from benchmark.cli import main
from benchmark.composer import Composer
from benchmark.config import ConfigError
from benchmark.grid import Choice, load_grid
from benchmark.leases import Lease
from benchmark.machine import Machine
from benchmark.registry import discover
from benchmark.store import Store

SHARES = {
    "level0": 1.0,
    "level1": 0.5,
    "level2": 0.25,
    "strict_level0": 1.0,
    "strict_level1": 0.5,
    "strict_level2": 0.25,
}


@pytest.fixture
def results(tmp_path):
    """A folder with two finished cells."""
    composer = Composer(discover(), Machine("cpu", 0, 2, bf16=True), load_grid("all"), "smoke")
    store = Store(tmp_path / "results")
    for architecture in ("dit", "maskgit"):
        cell = Cell(composer.resolve(Choice("shapes2d", architecture, "vq", "full", 0)))
        cell.write(store.cell(cell.id).config)
        row = cell.row() | SHARES | {"steps": 40}
        identity = {"cell": cell.id, "state": "ok", "reason": "", "setting": cell.setting}
        store.write_record(cell.id, identity | {"row": row, "config": dict(cell.config)})
    return store.results


def cells(results):
    return sorted(path for path in (results / "cells").iterdir())


def a_folder(path):
    path.unlink()
    path.mkdir()


DAMAGE = {
    "config.yaml": {
        "empty": lambda path: path.write_text(""),
        "another": lambda path: path.write_text("a: 1\n"),
        "parts that are none": lambda path: path.write_text("dataset: 1\narchitecture: 2\n"),
        "binary": lambda path: path.write_bytes(bytes(range(255, 0, -1))),
        "gone": lambda path: path.unlink(),
    },
    "record.json": {
        "empty": lambda path: path.write_text(""),
        "no keys": lambda path: path.write_text("{}"),
        "state alone": lambda path: path.write_text('{"state": "ok"}'),
        "binary": lambda path: path.write_bytes(bytes(range(255, 0, -1))),
        "a folder": a_folder,
    },
}
SLOW = ("report", "claims")
DRAWN = (("config.yaml", "another"), ("record.json", "state alone"), ("record.json", "a folder"))
CASES = [(file, how) for file, ways in DAMAGE.items() for how in ways]


@pytest.mark.parametrize(("file", "how"), CASES)
def test_a_damaged_cell_brings_down_no_other(results, capsys, file, how):
    hurt, whole = cells(results)
    DAMAGE[file][how](hurt / file)
    for command in ("status", "leaderboard", *SLOW * ((file, how) in DRAWN)):
        argv = [command, "--results", str(results)] + ["--preset=smoke"] * (command == "claims")
        assert main(argv) in (0, 1), command
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        if command == "status":
            assert whole.name in told.out
        if command == "leaderboard":
            rows = (results / "leaderboard.csv").read_text()
            assert whole.name in rows and (hurt.name in rows) == (file == "config.yaml")
            assert (f"left out: {hurt / file}" in told.out) == (file == "record.json")


@pytest.mark.parametrize("how", DAMAGE["config.yaml"])
def test_what_asks_for_the_damaged_cell_itself_is_told_what_to_do(results, capsys, how):
    hurt, _ = cells(results)
    DAMAGE["config.yaml"][how](hurt / "config.yaml")
    assert main(["plan", "--results", str(results), "--cell", hurt.name]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and str(hurt / "config.yaml") in told


@pytest.mark.parametrize("option", ["--name", "--cell"])
@pytest.mark.parametrize("name", ["../record", "a/b", "/tmp/x", ".hidden", "", "a b"])
def test_a_name_cannot_lead_out_of_its_folder(results, capsys, option, name):
    cell = cells(results)[0]
    before = (cell / "record.json").read_bytes()
    given = {"--cell": cell.name, "--name": "again"} | {option: name}
    argv = ["evaluate", "--results", str(results), *(f"{key}={value}" for key, value in given.items())]
    assert main(argv) == 2
    assert f"{option} {name!r} is no name" in capsys.readouterr().err
    assert (cell / "record.json").read_bytes() == before


@pytest.mark.parametrize("command", [["run"], ["plan"], ["prepare"]])
@pytest.mark.parametrize("name", ["", "../x"])
def test_no_cell_is_no_grid(tmp_path, capsys, command, name):
    assert main([*command, "--results", str(tmp_path / "r"), f"--cell={name}"]) == 2
    assert f"--cell {name!r} is no name" in capsys.readouterr().err


def test_a_cell_that_is_being_worked_on_is_not_evaluated(results, capsys):
    cell = cells(results)[0]
    from benchmark.fit import average_path

    kept = average_path(cell / "checkpoints", json.loads((cell / "record.json").read_text())["row"]["max_steps"])
    kept.parent.mkdir()
    kept.touch()
    lease = Store(results).cell_lease(cell.name)
    assert isinstance(lease, Lease)
    with lease:
        assert main(["evaluate", "--results", str(results), "--cell", cell.name]) == 2
    assert "is being worked on" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["leaderboard", "report", "claims"])
def test_what_only_reads_makes_no_folder(tmp_path, capsys, command):
    assert main([command, "--results", str(tmp_path / "mistyped")]) == 2
    assert "There is no folder" in capsys.readouterr().err and not (tmp_path / "mistyped").exists()


@pytest.mark.parametrize("command", ["plan", "status", "cancel", "leaderboard", "run"])
def test_results_that_are_a_file_are_refused(tmp_path, capsys, command):
    (tmp_path / "file").write_text("mine")
    assert main([command, "--results", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err and (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--cell", "x", "--seeds", "5"], "leave --preset, --only, --seeds"),
        (["--only", "seed=9", "--seeds", "3"], "leave one of the two out"),
        (["--seeds", "100000"], "between 1 and 1000"),
    ],
)
def test_what_would_be_ignored_is_refused(tmp_path, capsys, argv, message):
    assert main(["plan", "--results", str(tmp_path), *argv]) == 2
    assert message in capsys.readouterr().err


def test_plan_lists_the_states_that_were_asked_for(results, capsys):
    argv = ["plan", "--preset", "smoke", "--results", str(results), "--only", "dataset=shapes2d", "--seeds", "1"]
    assert main([*argv, "--only-state", "missing", "--format", "json"]) == 0
    states = {row["state"] for row in json.loads(capsys.readouterr().out)}
    assert states == {"missing"}


def test_results_of_somebody_else_can_be_read(results, tmp_path, capsys, monkeypatch):
    def refuse(folder, option="--results"):
        if str(folder).startswith(str(results)):
            raise ConfigError(
                f"Nothing can be written to {folder} (Read-only file system): choose another with {option}"
            )

    monkeypatch.setattr("benchmark.commands.check_writable", refuse)
    monkeypatch.setattr("benchmark.plan.check_writable", refuse)
    before = sorted(results.rglob("*"))
    assert main(["leaderboard", "--results", str(results)]) == 0
    told = capsys.readouterr().out
    assert all(cell.name in told for cell in cells(results)) and "not written: Nothing can be written" in told
    claims = ["claims", "--preset", "smoke", "--results", str(results)]
    assert main([*claims, "--out", str(tmp_path / "verdicts.csv")]) == 0
    assert (tmp_path / "verdicts.csv").is_file() and sorted(results.rglob("*")) == before
    assert main(claims) == 2
