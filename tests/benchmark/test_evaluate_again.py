"""What a later evaluation of a finished cell refuses: in a sentence, at once, and without touching the record."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from benchmark import evaluate
from benchmark.cell import Cell
from benchmark.cli import main
from benchmark.composer import Composer
from benchmark.config import Override
from benchmark.files import write_text
from benchmark.fit import average_path
from benchmark.grid import Choice, load_grid
from benchmark.machine import Machine
from benchmark.registry import discover
from benchmark.store import Store
from benchmark.untrained import Untrained

LITTLE = (
    *("trainer.max_steps=4", "tokenizer.vq.max_steps=1", "probe.epochs=1", "trainer.precision=32"),
    *(f"dataset.shapes2d.{part}_per_composition=4" for part in ("train", "probe", "test")),
)


def finished(results: Path, architecture: str) -> Cell:
    """A cell's folder as far as `evaluate` looks into it before it builds the model."""
    composer = Composer(
        discover(), Machine("cpu", 0, 2, bf16=True), load_grid("all"), "smoke", list(map(Override.parse, LITTLE))
    )
    cell = Cell(composer.resolve(Choice("shapes2d", architecture, "vq", "full", 0)))
    paths = Store(results).cell(cell.id)
    cell.write(paths.config)
    write_text(average_path(paths.checkpoints, 4), "weights")
    write_text(paths.record, "the record")
    return cell


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["evaluate", *argv]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1
    return told


def test_a_cell_that_is_worked_on_is_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell = finished(tmp_path, "maskgit")
    lease = Store(tmp_path).cell_lease(cell.id)
    assert lease is not None
    told: list[str] = []
    argv = ("--cell", cell.id, "--results", str(tmp_path))
    asking = threading.Thread(target=lambda: told.append(refused(capsys, *argv)), daemon=True)
    asking.start()
    asking.join(60)
    lease.release()
    assert told and f"{cell.id} is being worked on" in told[0] and "process" in told[0]


@pytest.mark.parametrize(
    ("architecture", "setting", "sentence"),
    [
        ("maskgit", "sampling.decode_steps=99", "sampling.decode_steps=99 exceeds the 16 tokens"),
        ("mar", "sampling.decode_steps=-1", "sampling.decode_steps=-1 must be at least 0"),
        ("dit", "diffusion.steps=0", "diffusion.steps=0 must lie between"),
        ("givt", "sampling.guidance=2", "givt has no guidance"),
        ("mar", "sampling.order=confidence", "sampling.order=confidence needs a model with token probabilities"),
    ],
)
def test_a_sampler_that_cannot_be_is_a_sentence(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    setting: str,
    sentence: str,
) -> None:
    cell = finished(tmp_path, architecture)
    monkeypatch.setattr(evaluate, "Artefacts", Untrained)  # what is trained matters to no refusal
    monkeypatch.setattr(evaluate, "load_file", lambda path: {})
    monkeypatch.setattr("architectures.averages.Average.load", lambda self, weights: None)
    assert sentence in refused(capsys, "--cell", cell.id, "--results", str(tmp_path), setting)
    paths = Store(tmp_path).cell(cell.id)
    assert paths.record.read_text() == "the record" and not paths.evaluations.exists()
