"""A results folder that is none, that may not be read or written, or that was mistyped."""

import errno
import os
from pathlib import Path

import pytest

from benchmark.cli import main
from tests.benchmark.commandline import fails, run


def test_an_unwritable_results_folder_is_wrong_input(capsys, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert "choose another with --results" in fails(capsys, "run", "--preset", "smoke", "--results", str(blocked / "x"))


COMMANDS = {
    **{name: [] for name in ("plan", "status", "cancel", "leaderboard", "report", "claims")},
    "run": ["--preset", "smoke"],
    "evaluate": ["--cell", "x"],
    "prepare": ["--cell", "x"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("below", [".", "x", "cells"])
def test_a_results_folder_that_is_a_file_is_wrong_input(capsys, tmp_path, command, below):
    blocked = tmp_path / ("cells" if below == "cells" else "file")
    blocked.write_text("somebody's")
    results = tmp_path if below == "cells" else blocked / below
    told = fails(capsys, command, *COMMANDS[command], "--results", str(results))
    assert f"{blocked}" in told and "is no folder: choose another with --results" in told
    assert blocked.read_text() == "somebody's"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_results_folder_that_may_not_be_read_is_wrong_input(capsys, results, monkeypatch, command):
    def refused(folder):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))

    results.mkdir()
    monkeypatch.setattr("benchmark.plan.os.listdir", refused)  # root may read whatever its mode says
    told = fails(capsys, command, *COMMANDS[command], "--results", str(results))
    assert f"{results} cannot be read (Permission denied): choose another" in told


@pytest.mark.parametrize("command", ["leaderboard", "report", "claims", "evaluate", "prepare"])
def test_a_mistyped_results_folder_is_not_made(capsys, results, command):
    told = fails(capsys, command, *COMMANDS[command], "--results", str(results))
    assert f"There is no {'cell x' if command in ('evaluate', 'prepare') else 'results folder'}" in told
    assert not results.exists()


@pytest.mark.parametrize(
    ("command", "unwritten"),
    [
        ("leaderboard", "leaderboard.csv and summary.csv"),
        ("claims", "verdicts.csv"),
        ("status", ""),
        ("plan", ""),
    ],
)
@pytest.mark.parametrize("form", [(), ("--format", "csv")])
def test_a_folder_that_cannot_be_written_can_be_shown(capsys, results, launched, monkeypatch, command, unwritten, form):
    main(run(results, "--only", "architecture=dit"))
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    capsys.readouterr()

    def refused(self, *_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("mkdir", "touch", "write_bytes", "write_text"):
        monkeypatch.setattr(Path, name, refused)
    preset = ["--preset", "smoke"] * (command in ("claims", "plan"))
    code = main([command, *preset, "--results", str(results), *form])
    monkeypatch.undo()
    told = capsys.readouterr()
    assert code == int(bool(unwritten) and not form)  # what was asked for has been shown
    assert "dit" in told.out and "-> " not in told.out
    if unwritten:
        assert told.err.startswith(f"{unwritten} not written: Nothing can be written to {results}")
        assert told.err.count("\n") == 1
    else:
        assert told.err == ""
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before
