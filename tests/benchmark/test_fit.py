"""The trainer: a signal ends it between two steps, and what it took from the process it gives back."""

import os
import signal
import time

import pytest
import torch
from lightning import LightningModule

from benchmark.fit import LAST, InPlace, Preempted, Watch, fit, log_spaced


class Line(LightningModule):
    """The smallest thing that can be trained."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch, batch_index):
        return (self.weight * batch["x"]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_signal_ends_training_with_a_checkpoint_and_handlers_are_given_back(tmp_path):
    asked = []
    before = signal.signal(signal.SIGUSR1, lambda *_: asked.append("after"))

    def batch(step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
        return {"x": torch.ones(4)}

    try:
        with pytest.raises(Preempted):
            fit(Line(), batch, 10, tmp_path)
        assert asked == []  # the signal was the trainer's business
        assert torch.load(tmp_path / LAST, weights_only=True)["global_step"] in (2, 3)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert asked == ["after"]
        fit(Line(), lambda step: {"x": torch.ones(4)}, 10, tmp_path)
        assert torch.load(tmp_path / LAST, weights_only=True)["global_step"] == 10
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("asked", [True, False])
def test_a_step_that_fails_after_a_signal_is_cut_off_and_not_a_failure(tmp_path, asked):
    """SLURM's signals reach all processes of a task: a compiler dies of them, which the step that waits for it raises."""

    def batch(step):
        if step == 5:
            if asked:
                os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError("compile error")
        return {"x": torch.ones(4)}

    with pytest.raises(Preempted if asked else RuntimeError, match="RuntimeError" if asked else "compile error"):
        fit(Line(), batch, 10, tmp_path, checkpoint_every=2)
    assert torch.load(tmp_path / LAST, weights_only=True)["global_step"] == 4


def test_the_seconds_of_a_run_are_summed_over_its_legs(tmp_path):
    first, second = (Watch(lambda **told: None, lambda: None, log_every=1, checkpoint_every=1) for _ in range(2))

    def batch(step):
        if step == 2:
            time.sleep(0.5)  # what only the first leg spends
            os.kill(os.getpid(), signal.SIGTERM)
        return {"x": torch.ones(4)}

    with pytest.raises(Preempted):
        fit(Line(), batch, 10, tmp_path, [first])
    fit(Line(), lambda step: {"x": torch.ones(4)}, 10, tmp_path, [second])
    assert second.seconds >= second.this_leg + 0.5


def test_a_checkpoint_is_written_beside_its_place_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "no such folder"))
    InPlace().save_checkpoint({"step": torch.tensor(3)}, tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True) == {"step": torch.tensor(3)}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(
    ("count", "last", "steps"),
    [(1, 2500, [2500]), (2, 2500, [25, 2500]), (3, 1000, [10, 100, 1000]), (4, 3, [1, 2, 3]), (9, 1, [1])],
)
def test_averages_are_kept_at_steps_of_which_the_last_is_one(count, last, steps):
    """`evaluate` needs the last, however few are kept."""
    assert log_spaced(count, last) == steps
