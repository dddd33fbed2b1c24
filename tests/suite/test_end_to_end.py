"""The main job at the smallest preset: one command from nothing to a leaderboard, and what it leaves behind."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from safetensors import safe_open

from tests.suite import running

ARCHITECTURES = ["maskgit", "maskgit-jepa", "givt", "mar", "dit"]
FIRST_COLUMNS = (
    "cell,dataset,architecture,tokenizer,conditioning,changed,seed,preset,state,reason,steps,"
    "level0,level1,level2,strict_level0,strict_level1,strict_level2"
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid") / "results"
    # Nothing is learned in 40 steps, so that every cell ends suspicious (level 0 below .90), which is not ok: code 1.
    running.run("run", "--grid", "all", "--only", "dataset=shapes2d", "--preset", "smoke", results=folder, code=1)
    return folder


def test_the_leaderboard_has_every_architecture(results: Path) -> None:
    rows = running.table(results / "leaderboard.csv")
    assert sorted(row["architecture"] for row in rows) == sorted(ARCHITECTURES), running.logs(results)
    assert {row["state"] for row in rows} == {"suspicious"}, running.logs(results)
    assert (results / "leaderboard.csv").read_text().startswith(FIRST_COLUMNS)
    for row in rows:
        shares = [float(value) for key, value in row.items() if "level" in key and key[-1].isdigit()]
        assert all(0 <= share <= 1 for share in shares)
        assert float(row["minutes"]) > 0 and float(row["flops"]) > 0


def test_every_cell_shows_what_it_made(results: Path) -> None:
    for cell in (results / "cells").iterdir():
        for name in ("samples.png", "rejected.png"):
            with Image.open(cell / name) as picture:
                assert min(picture.size) > 64
        points = running.table(cell / "curve.csv")
        assert len(points) == 2  # 40 steps, an evaluation every 20
        of_its_own = {"-givt-": "log_std_at_floor", "-maskgit-jepa-": "log_target_std"}
        wanted = {"log_gradient_norm", *(column for name, column in of_its_own.items() if name in cell.name)}
        assert wanted <= points[0].keys()
        assert all(float(point[column]) >= 0 for point in points for column in wanted)
        assert len(list((cell / "checkpoints").glob("average-*.safetensors"))) == 3


def test_shares_are_sums_over_the_kept_judgements(results: Path) -> None:
    record = running.records(results)["dit"]
    folder = results / "cells" / record["cell"]
    judgements = pd.read_parquet(folder / "judgements.parquet")
    strict = judgements[(judgements.judge == "strict") & (judgements["mode"] == "centre")]
    for composition, group in strict.groupby("composition"):
        assert math.isclose(record["row"][f"strict_comp_{composition}"], group.all_correct.mean(), abs_tol=1e-9)
    with safe_open(folder / "samples.safetensors", "pt") as samples:
        shapes = {name: samples.get_slice(name).get_shape() for name in samples.keys()}  # noqa: SIM118
    assert any(shape[1:] == [3, 32, 32] for shape in shapes.values())


def test_artefacts_are_shared(results: Path) -> None:
    assert {kind.name: len(list(kind.iterdir())) for kind in (results / "artefacts").iterdir()} == {
        "data": 1,
        "tokenizer": 1,
        "probe": 1,
        "latents": 1,
        "ceiling": 1,
    }


def test_the_same_cell_gives_the_same_record(results: Path, tmp_path: Path) -> None:
    running.run(
        "run", "--preset", "smoke", "--only", "dataset=shapes2d", "architecture=maskgit", results=tmp_path, code=1
    )
    first, second = (running.records(folder)["maskgit"] for folder in (results, tmp_path))
    assert first["cell"] == second["cell"]
    assert running.outcome(first, results / "cells" / first["cell"]) == running.outcome(
        second, tmp_path / "cells" / second["cell"]
    )


def test_another_run_does_nothing(results: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in results.glob("cells/*/record.json")}
    running.run("run", "--only", "dataset=shapes2d", "--preset", "smoke", results=results, code=1)
    assert {path: path.stat().st_mtime_ns for path in results.glob("cells/*/record.json")} == before


def test_evaluate_again_adds_and_leaves_the_record(results: Path) -> None:
    record = running.records(results)["maskgit"]
    folder = results / "cells" / record["cell"]
    before = (folder / "record.json").read_bytes()
    running.run(
        "evaluate", "--cell", record["cell"], "--name", "one", "sampling.decode_steps=0", results=results, code=0
    )
    assert (folder / "evaluations" / "one.json").is_file()
    assert (folder / "record.json").read_bytes() == before


def test_pictures_stand_beside_the_tables(results: Path) -> None:
    for name in ("curves.png", "dots.png"):
        with Image.open(results / name) as picture:
            assert min(picture.size) > 200


def test_suspicious_cells_decide_no_claim(results: Path) -> None:
    running.run("claims", "--preset", "smoke", results=results, code=0)
    rows = [row for row in running.table(results / "verdicts.csv") if row["claim"] == "dit-beats-maskgit"]
    (row,) = [row for row in rows if row["dataset"] == "shapes2d"]
    assert (row["verdict"], row["n"], row["suspicious"]) == ("undecided", "0 + 0", "2")
