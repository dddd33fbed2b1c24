"""LevelProbe: a curve that is a function of weights, seed and step, whatever interrupts the run that writes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from datasets.factors import seed_for
from probes.callbacks import LevelProbe, read_curve, write_curve
from probes.evaluation import Evaluator

TRAIN = ("000", "001", "010", "100")
STEPS = (2, 4, 5, 7, 8)


class Painter(LightningModule):
    """Learns to draw what it is asked: asked for the wrong shape at first, less often as its weight grows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("average", torch.zeros(()))
        self.entered = 0
        self.in_average = False

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        return (self.weight - batch).square()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.average.lerp_(self.weight.detach(), 0.5)  # before callbacks save or evaluate it

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.06)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        self.entered += 1
        self.in_average = True
        yield
        self.in_average = False


class Monitored(Painter):
    """Tells of every batch what it was, as architectures do."""

    def __init__(self) -> None:
        super().__init__()
        self.last_logs: dict[str, Tensor] = {}

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        self.last_logs = {"spread": batch.square()}
        return super().training_step(batch, batch_index)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.last_logs["weight"] = self.weight.detach().clone()


class Batches:
    """A batch is a function of the step; after a resume they go on from there."""

    def __init__(self, trainer: Trainer, each: int) -> None:
        self.trainer, self.each = trainer, each

    def __iter__(self) -> Iterator[Tensor]:
        index = self.trainer.global_step * self.each
        while True:
            yield torch.tensor(1 + math.sin(index))
            index += 1


class SaveAt(Callback):
    """Writes a checkpoint when a step is done."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.fixture
def make_probe(laptop, tmp_path) -> Callable[..., LevelProbe]:
    """A probe of a painter, of two samples a composition."""

    def make(model: Painter, name: str = "curve", **options) -> LevelProbe:
        def sample(classes: Tensor, values: Tensor, generator: torch.Generator) -> Tensor:
            assert model.in_average, "samples are made with the averaged weights"
            wrong = torch.rand(len(classes), generator=generator) > model.average
            shown = classes.clone()
            shown[:, 0] = torch.where(wrong, 1 - shown[:, 0], shown[:, 0])
            return laptop.data.render(values, shown)

        evaluator = Evaluator(laptop.space, [laptop.judge], laptop.data.draw_values)
        defaults = {"steps": STEPS, "curve": tmp_path / f"{name}.csv", "seed": 3, "count": 2}
        return LevelProbe(evaluator, sample, TRAIN, **defaults | options)

    return make


def train(model: Painter, callbacks: list[Callback], until: int, resume: Path | None = None, each: int = 1) -> None:
    """Up to so many steps; ``each`` batches make one."""
    trainer = Trainer(
        max_steps=until,
        max_epochs=-1,
        accumulate_grad_batches=each,
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, Batches(trainer, each), ckpt_path=resume, weights_only=True)


def curve(path: Path) -> pd.DataFrame:
    return pd.read_csv(path).drop(columns="seconds")


@pytest.fixture
def uninterrupted(make_probe, tmp_path) -> pd.DataFrame:
    """The curve of eight steps at one go."""
    model = Painter()
    train(model, [make_probe(model, "uninterrupted")], 8)
    return curve(tmp_path / "uninterrupted.csv")


# -- rows -------------------------------------------------------------------------------------------------------------


def test_a_row_at_each_step_asked_for(make_probe, tmp_path) -> None:
    model = Painter()
    probe = make_probe(model, steps=(0, 2, 5, 6, 50), val_loss=lambda: 10.0 if model.in_average else math.nan)
    train(model, [probe], 7)
    table = pd.read_csv(tmp_path / "curve.csv")
    assert table["step"].tolist() == [2, 5, 6]
    assert model.entered == 3
    assert (table["val_loss"] == 10).all()
    assert (table["seconds"].diff().iloc[1:] > 0).all()
    assert 0 < probe.spent <= table["seconds"].iloc[-1] + 1
    assert probe.rows == table.to_dict("records")
    shares = [f"strict_level{k}" for k in range(3)] + [f"strict_comp_{c}" for c in probe.evaluator.space.compositions]
    assert table.columns.tolist() == ["step", "seconds", "train_loss", "val_loss", *shares]


def test_train_loss_is_the_mean_since_the_last_row(make_probe, tmp_path) -> None:
    model, losses = Painter(), []

    class Note(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, *_) -> None:
            losses.append(float(outputs["loss"]))

    train(model, [make_probe(model), Note()], 8)
    found = curve(tmp_path / "curve.csv")["train_loss"].tolist()
    starts = (0, *STEPS[:-1])
    assert found == pytest.approx([sum(losses[a:b]) / (b - a) for a, b in zip(starts, STEPS, strict=True)])
    assert curve(tmp_path / "curve.csv")["val_loss"].isna().all(), "not recorded unless asked for"


def test_monitors_of_the_model_are_recorded(make_probe, tmp_path) -> None:
    model = Monitored()
    train(model, [make_probe(model)], 8)
    table = curve(tmp_path / "curve.csv")
    assert table.columns.tolist()[-2:] == ["log_spread", "log_weight"]
    assert table["log_spread"].tolist() == pytest.approx([(1 + math.sin(step - 1)) ** 2 for step in STEPS])
    assert 0 < table["log_weight"].iloc[0] < table["log_weight"].iloc[-1] < model.weight


def test_a_made_up_row_has_its_monitors(make_probe, tmp_path) -> None:
    """Killed with the row of step 4 unwritten: the checkpoint holds what the monitors said there."""
    model = Monitored()
    train(model, [make_probe(model), SaveAt(4, tmp_path / "last.ckpt")], 8)
    path = tmp_path / "curve.csv"
    whole = curve(path)
    assert whole["log_weight"].notna().all()
    write_curve(path, read_curve(path, up_to=3))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    (state,) = saved["callbacks"].values()
    state |= {"batches": 1}  # as if the row had not been reached
    torch.save(saved, tmp_path / "last.ckpt")
    resumed = Monitored()
    train(resumed, [make_probe(resumed)], 8, resume=tmp_path / "last.ckpt")
    pd.testing.assert_frame_equal(curve(path).drop(columns="train_loss"), whole.drop(columns="train_loss"))


def test_a_curve_from_before_monitors_goes_on(make_probe, tmp_path) -> None:
    model = Painter()
    train(model, [make_probe(model), SaveAt(4, tmp_path / "last.ckpt")], 4)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    (state,) = saved["callbacks"].values()
    del state["logs"]
    torch.save(saved, tmp_path / "last.ckpt")
    model = Monitored()
    train(model, [make_probe(model)], 8, resume=tmp_path / "last.ckpt")
    table = curve(tmp_path / "curve.csv")
    assert table["step"].tolist() == list(STEPS)
    assert table["log_weight"].notna().tolist() == [False, False, True, True, True]


def test_a_step_of_several_batches_gets_one_row(make_probe, tmp_path) -> None:
    model = Painter()
    train(model, [make_probe(model)], 8, each=3)
    assert curve(tmp_path / "curve.csv")["step"].tolist() == list(STEPS)
    assert model.entered == len(STEPS)


def test_the_curve_shows_what_was_learned(uninterrupted) -> None:
    for k in range(3):
        assert uninterrupted[f"strict_level{k}"].iloc[-1] > uninterrupted[f"strict_level{k}"].iloc[0]
    compositions = [f"strict_comp_{c}" for c in TRAIN]
    assert uninterrupted["strict_level0"].tolist() == pytest.approx(uninterrupted[compositions].mean(axis=1).tolist())


def test_samples_depend_on_seed_and_step_only(make_probe, tmp_path, uninterrupted) -> None:
    model = Painter()
    train(model, [make_probe(model, "fewer", steps=(5, 8))], 8)
    fewer = curve(tmp_path / "fewer.csv").drop(columns="train_loss")
    of_all = uninterrupted[uninterrupted["step"].isin([5, 8])].drop(columns="train_loss").reset_index(drop=True)
    pd.testing.assert_frame_equal(fewer, of_all)
    model = Painter()
    train(model, [make_probe(model, "other", seed=4)], 8)
    assert not curve(tmp_path / "other.csv").equals(uninterrupted)


def test_every_step_has_a_generator_of_its_own(make_probe) -> None:
    model, seeds = Painter(), []
    probe = make_probe(model)
    sample = probe.sample_images
    probe.sample_images = lambda *asked: seeds.append(asked[-1].initial_seed()) or sample(*asked)
    train(model, [probe], 8)
    assert seeds == [seed_for(3, "probe", step) for step in STEPS]


def test_only_the_levels_asked_for_are_sampled(make_probe, tmp_path) -> None:
    model = Painter()
    probe = make_probe(model, levels=(2,))
    assert probe.compositions == ("111",)
    train(model, [probe], 2)
    assert curve(tmp_path / "curve.csv").columns.tolist() == [
        "step", "train_loss", "val_loss", "strict_level2", "strict_comp_111",
    ]  # fmt: skip
    assert make_probe(model, levels=(0, 1)).compositions == ("000", "001", "010", "011", "100", "101", "110")


def test_levels_without_a_composition_are_refused(make_probe) -> None:
    with pytest.raises(ValueError, match=r"no composition has a level in \[3\]"):
        make_probe(Painter(), levels=(3,))


# -- resume -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("saved", "probe_first"),
    [(3, True), (4, True), (4, False)],
    ids=["saved between rows", "saved after a row", "saved before the row of its step"],
)
def test_a_resumed_run_writes_the_curve_of_an_uninterrupted_one(
    saved, probe_first, make_probe, tmp_path, uninterrupted
) -> None:
    """The run is cut at step 7; rows past the checkpoint are written again."""
    model = Painter()
    callbacks = [make_probe(model), SaveAt(saved, tmp_path / "last.ckpt")]
    train(model, callbacks if probe_first else callbacks[::-1], 7)
    assert curve(tmp_path / "curve.csv")["step"].tolist() == [2, 4, 5, 7]
    model = Painter()
    train(model, [make_probe(model)], 8, resume=tmp_path / "last.ckpt")
    pd.testing.assert_frame_equal(curve(tmp_path / "curve.csv"), uninterrupted)


def test_a_row_that_the_cut_prevented_is_made_up_for(make_probe, tmp_path, uninterrupted) -> None:
    """Killed after the checkpoint of step 4 and before its evaluation."""
    model = Painter()
    train(model, [SaveAt(4, tmp_path / "last.ckpt"), make_probe(model)], 4)
    path = tmp_path / "curve.csv"
    write_curve(path, read_curve(path, up_to=3))
    model = Painter()
    train(model, [make_probe(model)], 8, resume=tmp_path / "last.ckpt")
    shares = [name for name in uninterrupted if name != "train_loss"]
    pd.testing.assert_frame_equal(curve(path)[shares], uninterrupted[shares])
    others = uninterrupted["step"] != 4  # whose own last batch is not in the checkpoint
    assert curve(path)["train_loss"][others].tolist() == uninterrupted["train_loss"][others].tolist()


def test_rows_past_the_resumed_step_are_dropped_at_once(make_probe, tmp_path) -> None:
    model = Painter()
    train(model, [make_probe(model), SaveAt(3, tmp_path / "last.ckpt")], 8)
    seen = []

    class Look(Callback):
        def on_train_batch_start(self, *_: object) -> None:
            seen.append(curve(tmp_path / "curve.csv")["step"].tolist())

    model = Painter()
    train(model, [make_probe(model), Look()], 4, resume=tmp_path / "last.ckpt")
    assert seen == [[2]]


def test_a_fresh_run_leaves_nothing_of_an_older_curve(make_probe, tmp_path) -> None:
    path = tmp_path / "curve.csv"
    write_curve(path, [{"step": 1, "seconds": 0.5}])
    model = Painter()
    train(model, [make_probe(model)], 2)
    assert curve(path)["step"].tolist() == [2]
    train(Painter(), [make_probe(model)], 1)
    assert not path.exists()


def test_seconds_go_on_from_the_earlier_process(make_probe, tmp_path) -> None:
    model = Painter()
    first = make_probe(model)
    train(model, [first], 4)
    state = first.state_dict()
    assert state["seconds"] >= first.rows[-1]["seconds"] > 0
    second = make_probe(model, "second")
    second.load_state_dict({**state, "seconds": 1000.0, "spent": 500.0})
    train(model, [second], 4)
    assert all(row["seconds"] > 1000 for row in second.rows)
    assert second.spent > 500


# -- the file ---------------------------------------------------------------------------------------------------------


def test_numbers_survive_the_disk_exactly(tmp_path) -> None:
    rows = [
        {"step": 1, "train_loss": 0.1 + 0.2, "strict_level0": 1 / 3},
        {"step": 2, "train_loss": 1e-17, "strict_level0": 1.0},
    ]
    write_curve(tmp_path / "curve.csv", rows)
    assert read_curve(tmp_path / "curve.csv", up_to=2) == rows
    assert read_curve(tmp_path / "curve.csv", up_to=1) == rows[:1]
    assert read_curve(tmp_path / "curve.csv", up_to=0) == []
    assert [path.name for path in tmp_path.iterdir()] == ["curve.csv"]


def test_no_file_is_an_empty_curve(tmp_path) -> None:
    assert read_curve(tmp_path / "curve.csv", up_to=9) == []
    write_curve(tmp_path / "curve.csv", [])
    assert not (tmp_path / "curve.csv").exists()
