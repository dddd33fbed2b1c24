"""One damaged cell does not bring down the commands that read a whole folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from benchmark import fingerprints
from benchmark.artefacts import Artefacts
from benchmark.cell import Cell
from benchmark.cli import main
from benchmark.composer import Composer
from benchmark.grid import Choice, load_grid
from benchmark.machine import this_machine
from benchmark.registry import discover
from benchmark.store import Store

WHOLE_FOLDER = {
    "status": [],
    "plan": ["--preset", "smoke", "--only", "dataset=shapes2d"],
    "leaderboard": [],
    "report": [],
    "claims": ["--preset", "smoke"],
}
DAMAGE = [
    *(("config.yaml", content) for content in (b"", b"a: 1", b"\xff\xfe\x00", None)),
    *(("record.json", content) for content in (b"{}", b'{"state": "ok"}', b"word", None)),
]


@cache
def cells() -> list[Cell]:
    composer = Composer(discover(), this_machine(), load_grid("all"), "smoke")
    return [Cell(composer.resolve(Choice("shapes2d", name, "vq", "full", 0))) for name in ("dit", "mar")]


def folder(results: Path) -> tuple[str, str]:
    """Two finished cells; the ids of the one that stays whole and of the one to be damaged."""
    store, registry = Store(results), discover()
    for cell in cells():
        cell.write(store.cell(cell.id).config)
        row = {**cell.row(), "steps": 4, "minutes": 1.0}
        end = {
            "cell": cell.id,
            "state": "ok",
            "reason": "",
            "setting": cell.setting,
            "fingerprint": fingerprints.of_cell(cell, registry),
        }
        store.write_record(cell.id, end | {"row": row, "config": dict(cell.config)})
    return cells()[0].id, cells()[1].id


def damage(path: Path, content: bytes | None) -> None:
    path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)


@pytest.mark.parametrize("command", WHOLE_FOLDER)
@pytest.mark.parametrize(("name", "content"), DAMAGE)
def test_the_others_are_told(command: str, name: str, content: bytes | None, tmp_path: Path, capsys) -> None:
    whole, damaged = folder(tmp_path)
    path = Store(tmp_path).cell(damaged).folder / name
    damage(path, content)
    assert main([command, *WHOLE_FOLDER[command], "--results", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    if command in ("status", "plan", "leaderboard"):
        assert whole in told.out
    tells = (
        command == "status" if name == "config.yaml" else command != "status"
    )  # which gives it as the state's reason
    if tells:
        (line,) = told.err.splitlines()
        advice = f"run --cell {damaged}" if name == "record.json" else f"run the grid that {damaged} came from again"
        assert line.startswith(f"left out: {path} ") and advice in line
    else:
        assert told.err == ""
    if command == "status" and name == "record.json":
        assert f"{path} cannot be read" in told.out


@pytest.mark.parametrize("command", ["run", "plan", "status", "evaluate", "prepare"])
@pytest.mark.parametrize("content", [b"", b"a: 1", b"\xff\xfe\x00", None])
def test_who_asks_for_that_cell_is_told_what_to_do(command: str, content: bytes | None, tmp_path: Path, capsys) -> None:
    _, damaged = folder(tmp_path)
    path = Store(tmp_path).cell(damaged).config
    damage(path, content)
    assert main([command, "--cell", damaged, "--results", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {path} ") and told.count("\n") == 1
    assert f"run the grid that {damaged} came from again" in told and "--cell" not in told


@pytest.mark.parametrize("content", [b"", b"a: 1", None])
def test_the_grid_writes_the_config_anew_and_keeps_what_was_there(content: bytes | None, tmp_path: Path) -> None:
    _, damaged = folder(tmp_path)
    path = Store(tmp_path).cell(damaged).config
    damage(path, content)
    only = ["--only", "dataset=shapes2d", "architecture=mar"]
    assert main(["run", "--preset", "smoke", "--results", str(tmp_path), *only]) == 0  # it has ended: nothing to train
    assert Cell.read(path).id == damaged
    kept = path.with_name("config.damaged.yaml")
    assert kept.is_dir() if content is None else kept.read_bytes() == content


def test_a_config_changed_by_hand_is_not_written_over(tmp_path: Path) -> None:
    _, changed = folder(tmp_path)
    path = Store(tmp_path).cell(changed).config
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))
    before = path.read_text()
    main(["run", "--preset", "smoke", "--results", str(tmp_path), "--only", "dataset=shapes2d", "architecture=mar"])
    assert path.read_text() == before


def test_a_page_tells_why_there_is_no_command(tmp_path: Path) -> None:
    _, damaged = folder(tmp_path)
    Store(tmp_path).cell(damaged).config.unlink()
    assert main(["report", "--results", str(tmp_path)]) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert f"run the grid that {damaged} came from again" in page and f"run --cell {damaged}" not in page


def test_what_cells_share_fails_for_those_that_can_be_read(tmp_path: Path, capsys, monkeypatch) -> None:
    def failing(self: Artefacts) -> None:
        raise RuntimeError("no room on the shelf")

    whole, damaged = folder(tmp_path)
    store = Store(tmp_path)
    store.cell(whole).record.unlink()
    store.cell(damaged).config.write_text("a: 1")
    monkeypatch.setattr(Artefacts, "prepare", failing)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert main(["prepare", "--cell", whole, "--results", str(tmp_path)]) == 1
    assert f"left out: {store.cell(damaged).config} is no cell's config" in capsys.readouterr().err
    record = store.read_record(whole)
    assert record is not None and "no room on the shelf" in record["reason"]


@pytest.mark.parametrize("command", ["status", "cancel"])
@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe\x00"])
def test_a_list_of_submitted_jobs_that_cannot_be_read_is_a_sentence(
    command: str, content: bytes, tmp_path: Path, capsys
) -> None:
    path = tmp_path / "slurm" / "then" / "jobs.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert main([command, "--results", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {path} cannot be read") and "squeue" in told and told.count("\n") == 1


@pytest.mark.parametrize("name", ["../record", "a/b", "/tmp/x", ".hidden", "", "a b"])
def test_a_name_cannot_lead_out_of_its_folder(name: str, tmp_path: Path, capsys) -> None:
    cell, _ = folder(tmp_path)
    before = Store(tmp_path).cell(cell).record.read_bytes()
    assert main(["evaluate", "--results", str(tmp_path), "--cell", cell, f"--name={name}"]) == 2
    assert f"--name {name!r} is no name" in capsys.readouterr().err
    assert Store(tmp_path).cell(cell).record.read_bytes() == before
