"""Numbers with which nothing can be trained are refused by `plan` already, by the key that a user writes."""

import pytest

from benchmark.cli import main

REFUSED = {
    "optimiser.lr=nan": "optimiser.lr=nan must be finite and above 0",
    "optimiser.lr=-1": "optimiser.lr=-1.0 must be above 0",
    "optimiser.lr=inf": "optimiser.lr=inf must be finite and above 0",
    "tokenizer.vq.betas=[0.5]": "tokenizer.vq.betas=[0.5] must be two numbers",
    "optimiser.betas=[0.9,1.0]": "optimiser.betas=[0.9, 1.0] must be at least 0 and below 1",
    "optimiser.ema_decay=5": "optimiser.ema_decay=5.0 must be at least 0 and below 1",
    "optimiser.clip_norm=-1": "optimiser.clip_norm=-1.0 must be above 0",
    "optimiser.warmup_steps=-1": "optimiser.warmup_steps=-1 must be at least 0",
    "optimiser.weight_decay=-1": "optimiser.weight_decay=-1.0 must be at least 0",
    "trunk.depth=0": "trunk.depth=0 must be at least 1",
    "trunk.width=0": "trunk.width=0 must be at least 1",
    "trunk.heads=0": "trunk.heads=0 must be at least 1",
    "trainer.keep_checkpoints=-1": "trainer.keep_checkpoints=-1 must be at least 1",
    "masking.min_ratio=nan": "masking.min_ratio=nan must be finite and at least 0 and at most 1",
    "sampling.temperature=-1": "sampling.temperature=-1.0 must be at least 0",
    "sampling.guidance=nan": "sampling.guidance=nan must be finite",
    "probe.lr=nan": "probe.lr=nan must be finite and above 0",
    "probe.epochs=-1": "probe.epochs=-1 must be at least 0",
    "tokenizer.vq.codes=0": "tokenizer.vq.codes=0 must be at least 1",
    "tokenizer.vq.max_steps=-1": "tokenizer.vq.max_steps=-1 must be at least 1",
    "tokenizer.vq.batch_size=0": "tokenizer.vq.batch_size=0 must be at least 1",
    "tokenizer.vq.learning_rate=0": "tokenizer.vq.learning_rate=0.0 must be above 0",
    "architecture.givt.mixtures=0": "architecture.givt.mixtures=0 must be at least 1",
    "architecture.givt.std_floor=0": "architecture.givt.std_floor=0.0 must be above 0",
    "architecture.mar.head_depth=0": "architecture.mar.head_depth=0 must be at least 1",
    "architecture.maskgit.input=pixels": "architecture.maskgit.input=pixels is unknown",
    "architecture.maskgit-jepa.half_life=0": "architecture.maskgit-jepa.half_life=0.0 must be above 0 and at most 0.05",
    "architecture.maskgit-jepa.layers=[99]": "architecture.maskgit-jepa.layers=[99] must name blocks from 0 to 1",
    "trunk.depth=1": "architecture.maskgit-jepa.layers=[0, 1] must name blocks from 0 to 0",
}


@pytest.mark.parametrize("override", REFUSED)
def test_what_cannot_be_trained_is_refused_before_any_work(tmp_path, capsys, override):
    assert (
        main(["plan", "--preset", "smoke", "--results", str(tmp_path / "r"), "--only", "dataset=shapes2d", override])
        == 2
    )
    told = capsys.readouterr()
    assert REFUSED[override] in told.err and told.err.count("\n") == 1 and not told.out


@pytest.mark.parametrize("time", ["abc", "", "1:2:3:4", "-1", "12 hours"])
def test_a_time_that_slurm_would_refuse_is_refused_first(tmp_path, capsys, time):
    argv = ["run", "--slurm", "--dry-run", "--preset", "smoke", "--results", str(tmp_path / "r"), f"slurm.time={time}"]
    assert main(argv) == 2
    assert "12:00:00" in capsys.readouterr().err


@pytest.mark.parametrize("time", ["90", "12:00:00", "2-12", "1-00:30:00", "UNLIMITED"])
def test_every_form_of_a_time_is_taken(tmp_path, time):
    argv = ["run", "--slurm", "--dry-run", "--preset", "smoke", "--results", str(tmp_path / "r"), f"slurm.time={time}"]
    assert main(argv) == 0
