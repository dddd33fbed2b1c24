"""One cell that goes wrong is a row with a reason; the others go on."""

from __future__ import annotations

from pathlib import Path

from tests.suite import running

BROKEN = '''
"""Two architectures that fail, for the tests."""
from dataclasses import dataclass

import torch

from architectures.base import GenerativeModel, architecture


@dataclass
class Nothing:
    """No settings."""


class Broken(GenerativeModel):
    views = ("codes",)

    def __init__(self, config, context):
        super().__init__(config, context)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def sample(self, condition, generator):
        return torch.zeros(len(condition), self.context.tokens, dtype=torch.int64)


@architecture("explodes", Nothing)
class Explodes(Broken):
    def training_loss(self, latents, condition, generator):
        return self.scale * float("nan"), {}


@architecture("raises", Nothing)
class Raises(Broken):
    def training_loss(self, latents, condition, generator):
        raise RuntimeError("the flux capacitor is empty")


@architecture("greedy", Nothing)
class Greedy(Broken):
    def training_loss(self, latents, condition, generator):
        torch.empty(2**60)
'''


def test_failed_cells_are_rows_and_the_rest_goes_on(tmp_path: Path) -> None:
    plugin = tmp_path / "broken.py"
    plugin.write_text(BROKEN)
    only = "architecture=explodes,raises,greedy,maskgit"
    results = tmp_path / "results"
    running.run(
        "run", "--preset", "smoke", "--plugin", plugin, "--only", "dataset=shapes2d", only, results=results, code=1
    )
    rows = {row["architecture"]: row for row in running.table(results / "leaderboard.csv")}
    assert {name: row["state"] for name, row in rows.items()} == {
        "explodes": "failed",
        "raises": "failed",
        "greedy": "failed",
        "maskgit": "suspicious",
    }, running.logs(results)
    assert "loss became nan" in rows["explodes"]["reason"]
    assert "flux capacitor" in rows["raises"]["reason"]
    assert "memory" in rows["greedy"]["reason"]
    assert rows["explodes"]["level0"] == ""
