"""Several processes a cell: they train what one process trains, and end together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmark import ranks, workers
from benchmark.cli import main
from benchmark.config import ConfigError
from tests.benchmark import small_training
from tests.benchmark.small_training import MODELS, STEPS, train
from tests.suite.running import ROOT


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks made of every architecture."""
    folder = tmp_path_factory.mktemp("ranks")
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ranks.free_port()), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, small_training.__file__, str(folder)]
    both = [subprocess.Popen(command, env=os.environ | shared | {"LOCAL_RANK": str(rank)}) for rank in (0, 1)]
    assert [process.wait(timeout=280) for process in both] == [0, 0]
    return folder


@pytest.mark.ddp
@pytest.mark.parametrize("name", MODELS)
def test_two_processes_train_what_one_trains(trained, tmp_path, name):
    one, both = train(name, tmp_path), [torch.load(trained / f"{name}-{rank}.pt") for rank in (0, 1)]
    assert len(one["losses"]) == STEPS
    for rank in both:
        torch.testing.assert_close(rank["losses"], one["losses"], rtol=1e-5, atol=0)
        torch.testing.assert_close(rank["weights"], one["weights"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(both[0]["weights"], both[1]["weights"], rtol=0, atol=0)  # averages too


@pytest.mark.ddp
def test_a_stop_that_one_is_asked_for_stops_both_and_what_goes_on_ends_the_same(trained):
    whole = torch.load(trained / f"{next(iter(MODELS))}-0.pt")
    for rank in (0, 1):
        stopped, resumed = (torch.load(trained / f"{kind}-{rank}.pt") for kind in ("stopped", "resumed"))
        assert len(stopped["losses"]) == 23
        assert stopped["losses"] + resumed["losses"] == whole["losses"]
        torch.testing.assert_close(resumed["weights"], whole["weights"], rtol=0, atol=0)


def test_a_place_is_told_by_who_started_the_process(monkeypatch):
    assert ranks.here(1, 1).world == 1
    assert ranks.here(2, 1) == ranks.Place(2, 1, 0, 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert ranks.here(2, 1) == ranks.Place(2, 1, 1, 1)
    assert ranks.here(1, 1).rank == 0  # somebody else's variable
    with pytest.raises(ConfigError, match=r"trainer.nodes=2 needs SLURM"):
        ranks.here(2, 2)
    for key, value in {"STEP_NUM_TASKS": "4", "PROCID": "3", "LOCALID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    assert ranks.here(2, 2) == ranks.Place(2, 2, 3, 1, by_slurm=True)
    assert not ranks.here(2, 1).by_slurm  # a step of another size, such as a shell's


def test_gpus_are_shared_out_in_groups():
    assert workers.gpu_groups(["0", "1", "2", "3", "4"], 2) == ["0,1", "2,3"]
    assert workers.gpu_groups(["0", "1"], 1) == ["0", "1"]
    assert workers.gpu_groups(["0"], 2) == []
    assert [e["CUDA_VISIBLE_DEVICES"] for e in workers.environments("auto", 1, ["0,1", "2,3"])] == ["0,1", "2,3"]


def test_what_cannot_be_shared_out_is_refused_before_anything_is_written(tmp_path, capsys):
    for wrong, message in (
        (["trainer.devices=3"], "trainer.batch_size=16 must be a multiple of devices x nodes=3"),
        (["trainer.devices=0"], "trainer.devices=0 must be at least 1"),
        (["trainer.nodes=2"], "trainer.nodes=2 needs SLURM"),
    ):
        assert main(["run", "--preset", "smoke", "--results", str(tmp_path / "r"), *wrong]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "r" / "cells").exists()
