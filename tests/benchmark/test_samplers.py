"""Points of the curve may be sampled with fewer steps than the end: by a twin that changes nothing but the curve."""

import os
import shutil
import signal
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import torch

from architectures.base import GenerativeModel
from benchmark import evaluate
from benchmark.cell import Cell
from benchmark.composer import Composer, evaluation_config
from benchmark.config import ConfigError, Override
from benchmark.fit import Preempted
from benchmark.grid import Choice, load_grid
from benchmark.machine import Machine
from benchmark.models import build_model, curve_model, curve_sampler, image_sampler
from benchmark.rates import whole_cell
from benchmark.registry import discover
from benchmark.runner import CellRun
from benchmark.samplers import at_the_curve, samplers
from benchmark.store import Store
from benchmark.untrained import Untrained

FEW_SOLVER, FEW_PARALLEL = "evaluation.curve_diffusion_steps=1", "evaluation.curve_decode_steps=2"  # of 4 and 4
FEW = {
    "dit": FEW_SOLVER,
    "mar": FEW_SOLVER,
    "givt": FEW_PARALLEL,
    "maskgit": FEW_PARALLEL,
    "maskgit-jepa": FEW_PARALLEL,
}
CPU = Machine("cpu", 0, 2, bf16=True)
LITTLE = (  # as little as there can be before a cell trains
    *("trainer.max_steps=4", "trainer.eval_every=2", "tokenizer.vq.max_steps=1", "probe.epochs=1"),
    *(f"dataset.shapes2d.{part}_per_composition=4" for part in ("train", "probe", "test")),
    "trainer.precision=32",
)


@cache
def cell(architecture: str, *overrides: str) -> Cell:
    given = [Override.parse(text) for text in (*LITTLE, *overrides)]
    composer = Composer(discover(), CPU, load_grid("all"), "smoke", given)
    return Cell(composer.resolve(Choice("shapes2d", architecture, "vq", "full", 0)))


def untrained(architecture: str, folder: Path, *overrides: str) -> Untrained:
    return Untrained(cell(architecture, *overrides), Store(folder), discover())


def learned(artefacts: Untrained, model: GenerativeModel, seed: int) -> dict[str, torch.Tensor]:
    """Give a model weights and averages as after some training, different ones, and return the averages."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
        for shadow in model.ema.shadows:
            shadow.add_(torch.randn(shadow.shape, generator=generator), alpha=0.1)
    return {name: shadow.clone() for name, shadow in zip(model.ema.names, model.ema.shadows, strict=True)}


def conditions(artefacts: Untrained) -> tuple[torch.Tensor, torch.Tensor]:
    space = artefacts.data.space
    names = space.compositions
    return torch.tensor([space.class_indices(c) for c in names]), torch.tensor([space.centre(c) for c in names])


# The twin ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", FEW)
def test_the_curve_is_sampled_with_its_own_steps_and_the_averaged_weights_of_the_moment(architecture, tmp_path):
    """As by a model that was built with these steps and holds these averages, bit for bit."""
    artefacts = untrained(architecture, tmp_path, FEW[architecture])
    model = build_model(artefacts)
    probe = evaluate.curve_probe(artefacts, model, [1], tmp_path / "curve.csv")
    final = image_sampler(artefacts, model)
    asked = conditions(artefacts)
    for seed in range(2):  # two points of a curve
        averages = learned(artefacts, model, seed)
        reference = build_model(artefacts, at_the_curve(artefacts.config))
        reference.ema.load(averages)
        with reference.averaged():
            expected = image_sampler(artefacts, reference)(*asked, torch.Generator().manual_seed(5))
        raw = probe.sample_images(*asked, torch.Generator().manual_seed(5))
        with model.averaged():
            found = probe.sample_images(*asked, torch.Generator().manual_seed(5))
            at_the_end = final(*asked, torch.Generator().manual_seed(5))
        assert torch.equal(found, expected)
        assert not torch.equal(found, raw), "of the averages, not of the weights in training"
        assert not torch.equal(found, at_the_end), "with the steps of the curve, not the final ones"


@pytest.mark.parametrize("architecture", FEW)
def test_by_default_there_is_no_twin(architecture, tmp_path):
    for same in ((), ("evaluation.curve_diffusion_steps=4", "evaluation.curve_decode_steps=4")):
        artefacts = untrained(architecture, tmp_path, *same)
        model = build_model(artefacts)
        assert curve_model(artefacts, model) is model


def test_a_twin_changes_nothing_of_its_model(tmp_path):
    """It shares every tensor, is not compiled, draws from no global generator, and follows to other tensors."""
    artefacts = untrained("maskgit-jepa", tmp_path, FEW_PARALLEL)
    model = build_model(artefacts)
    model.compile_networks()
    before = {name: (value.data_ptr(), value.clone()) for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    twin = curve_model(artefacts, model)
    assert torch.equal(torch.get_rng_state(), state)
    assert twin is not model and not twin.training and model.training
    for name, value in twin.state_dict().items():
        assert value.data_ptr() == before[name][0], name
    assert all(torch.equal(value, before[name][1]) for name, value in model.state_dict().items())
    assert all(module._compiled_call_impl is None for module in twin.modules())
    assert model.trunk._compiled_call_impl is not None


def test_a_compiled_twin_follows_its_model_without_another_graph(tmp_path):
    """Tensors are replaced at every point of a curve; a graph that held them would be made anew, or sample old ones."""
    torch.compiler.reset()  # of other tests' graphs
    artefacts = untrained("dit", tmp_path, FEW["dit"], "trainer.compile=true")
    model = build_model(artefacts)
    sample, asked = curve_sampler(artefacts, model), conditions(artefacts)
    graphs = torch._dynamo.utils.counters["frames"]
    made = []
    for seed in range(3):
        learned(artefacts, model, seed)
        reference = build_model(artefacts, at_the_curve(artefacts.config))
        reference.load_state_dict(model.state_dict())
        expected = image_sampler(artefacts, reference)(*asked, torch.Generator().manual_seed(5))
        before = graphs["total"]
        found = sample(*asked, torch.Generator().manual_seed(5))
        made.append(graphs["total"] - before)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert made[0] > 0 and made[1:] == [0, 0]


# Settings ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["curve_diffusion_steps=-1"],
            r"evaluation.curve_diffusion_steps=-1 must be at least 0; 0 means as at the end",
        ),
        (["curve_decode_steps=-2"], r"evaluation.curve_decode_steps=-2 must be at least -1; -1 means as at the end"),
        (["curve_decode_steps=few"], r"evaluation.curve_decode_steps=few .*a whole number"),
    ],
)
def test_what_is_no_number_of_steps_is_refused_before_any_work(overrides, message):
    with pytest.raises(ConfigError, match=message):
        cell("dit", *(f"evaluation.{text}" for text in overrides))


@pytest.mark.parametrize("steps", [1, 1001])
def test_steps_that_the_process_cannot_take_are_refused_before_any_work(steps):
    ddpm = ("diffusion.kind=ddpm", "diffusion.solver=ancestral")
    with pytest.raises(ConfigError, match=rf"^evaluation.curve_diffusion_steps={steps} must lie between 2 and 1000$"):
        cell("dit", *ddpm, f"evaluation.curve_diffusion_steps={steps}")
    assert cell("dit", *ddpm, "evaluation.curve_diffusion_steps=2")


MASKED = ["maskgit", "maskgit-jepa", "givt", "mar"]


@pytest.mark.parametrize("architecture", MASKED)
@pytest.mark.parametrize("key", ["evaluation.curve_decode_steps", "sampling.decode_steps"])
def test_more_steps_than_tokens_are_refused_before_any_work(architecture, key):
    with pytest.raises(ConfigError, match=rf"^{key}=17 exceeds the 16 tokens; use at most 16, or 0$"):
        cell(architecture, f"{key}=17")
    assert cell(architecture, f"{key}=16")
    later = "is of the curve" if "curve" in key else "=17 exceeds the 16 tokens"
    with pytest.raises(ConfigError, match=rf"^{key} ?{later}"):
        evaluation_config(cell(architecture).config, discover(), [Override.parse(f"{key}=17")])


@pytest.mark.parametrize(
    ("architecture", "setting", "sentence"),
    [
        ("mar", "sampling.order=confidence", "sampling.order=confidence needs a model with token probabilities"),
        ("givt", "sampling.guidance=2", "givt has no guidance; sampling.guidance=2"),
    ],
)
def test_a_sampler_that_an_architecture_has_not_is_refused_before_any_work(architecture, setting, sentence):
    with pytest.raises(ConfigError, match=sentence):
        cell(architecture, setting, "conditioning.dropout=0.1")
    assert cell("maskgit", setting, "conditioning.dropout=0.1")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("solver=ddim steps=300", r"diffusion\.steps=300: DDIM cannot take 300 of 1000"),
        ("timesteps=20 steps=4", r"diffusion\.timesteps=20: linear betas reach 1; use more than 20"),
        ("timesteps=1", r"diffusion\.timesteps=1 must be at least 2"),
        ("solver=ddim steps=50 eta=5", r"diffusion\.eta=5\.0 must be"),
        ("clip_x0=-1", r"diffusion\.clip_x0=-1\.0 must be at least 0"),
    ],
)
def test_a_chain_that_gives_no_numbers_is_refused_before_any_work(settings, sentence):
    given = ["kind=ddpm", *(["solver=ancestral"] * ("solver" not in settings)), *settings.split()]
    with pytest.raises(ConfigError, match=sentence):
        cell("dit", *(f"diffusion.{setting}" for setting in given))


def test_the_curves_stride_is_refused_by_its_own_key():
    ddim = ("diffusion.kind=ddpm", "diffusion.solver=ddim", "diffusion.steps=50")
    with pytest.raises(ConfigError, match=r"^evaluation\.curve_diffusion_steps=300: DDIM cannot"):
        cell("dit", *ddim, "evaluation.curve_diffusion_steps=300")


def test_guidance_needs_a_null_that_was_trained():
    with pytest.raises(ConfigError, match=r"sampling\.guidance=3\.0 .* conditioning\.dropout"):
        cell("dit", "sampling.guidance=3")
    assert cell("dit", "sampling.guidance=3", "conditioning.dropout=0.1")


def test_steps_of_decoding_mean_nothing_to_who_does_not_decode():
    assert cell("dit", "sampling.decode_steps=17")


@pytest.mark.parametrize("architecture", MASKED)
def test_more_steps_than_tokens_are_refused_before_training(architecture, tmp_path):
    """Also where a dataset does not tell its resolution before it is there."""
    plain = cell(architecture).config
    many = [
        {**plain, "evaluation": {**plain["evaluation"], "curve_decode_steps": 17}},
        {**plain, "sampling": {**plain["sampling"], "decode_steps": 17}},
    ]
    curve, final = (Untrained(Cell(config), Store(tmp_path), discover()) for config in many)
    with pytest.raises(ConfigError, match=r"^evaluation.curve_decode_steps=17 exceeds the 16 tokens; use at most 16"):
        curve_model(curve, build_model(curve))
    with pytest.raises(ValueError, match=r"^sampling.decode_steps=17 exceeds the 16 tokens"):
        build_model(final)


def test_no_steps_of_decoding_mean_one_token_a_step():
    config = cell("mar", "evaluation.curve_decode_steps=0").config
    assert at_the_curve(config)["sampling"] == {**config["sampling"], "decode_steps": 0}
    assert samplers(config) == {
        "curve": {"diffusion.steps": 4, "sampling.decode_steps": 0},
        "final": {"diffusion.steps": 4, "sampling.decode_steps": 4},
    }


def test_ids_tell_of_the_curves_steps_only_where_they_are_not_the_final_ones():
    new = cell("dit")
    own = {key: value for key, value in new.config["evaluation"].items() if not key.startswith("curve_d")}
    old = Cell({**new.config, "evaluation": own})  # from before there were such keys
    assert len(own) == len(new.config["evaluation"]) - 2
    assert old.id == new.id and old.setting == new.setting and at_the_curve(old.config) == old.config
    few = cell("dit", FEW_SOLVER)
    assert few.id != new.id and FEW_SOLVER in few.config["changed"].split()
    later = evaluation_config(old.config, discover(), [Override.parse("sampling.decode_steps=3")])
    assert later["sampling"]["decode_steps"] == 3 and Cell({**later, "sampling": old.config["sampling"]}).id == old.id


def test_what_the_end_takes_longer_is_in_the_share_of_time_that_is_no_step(tmp_path):
    row = dict.fromkeys(("import_seconds", "start_seconds", "first_step_seconds", "checkpoint_seconds"), 0.0)
    row |= {"evaluation_seconds": 1.0, "first_evaluation_seconds": 1.0, "steps_per_second": 1.0}
    row |= {"curve_images_per_second": 32.0, "final_images_per_second": 8.0}
    # 2 points of 4 samples and 2 x 8 at the end are 6 evaluations; 128 images take 16 s and not 4
    assert whole_cell(untrained("dit", tmp_path), row) == pytest.approx({"cell_minutes": 10 / 60, "outside_share": 0.6})
    compiled = row | {"first_evaluation_seconds": 3.0}
    assert whole_cell(untrained("dit", tmp_path), compiled)["outside_share"] == pytest.approx(8 / (8 + 4))
    few = whole_cell(untrained("dit", tmp_path, FEW_SOLVER), row)
    assert few == pytest.approx({"cell_minutes": 22 / 60, "outside_share": 18 / 22})


# Cells -------------------------------------------------------------------------------------------------------------------


def run(cell: Cell, store: Store, stop_after: int | None = None) -> dict:
    """The record of a cell, trained in this process; it is asked to end after a step, if so wished."""
    beats = iter(range(1, 100))

    def heartbeat() -> None:
        if next(beats) == stop_after:
            os.kill(os.getpid(), signal.SIGUSR1)

    cell.write(store.cell(cell.id).config)
    return CellRun(cell, store, discover(), heartbeat).record()


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store(tmp_path_factory.mktemp("results"), say=lambda line: None)


@pytest.mark.parametrize(
    ("architecture", "few", "evaluations", "steps"),
    [
        ("dit", FEW_SOLVER, (1, 4), {"diffusion.steps": 1, "sampling.decode_steps": 4}),
        ("maskgit", FEW_PARALLEL, (2, 4), {"diffusion.steps": 4, "sampling.decode_steps": 2}),
    ],
)
def test_fewer_steps_change_the_curve_alone(architecture, few, evaluations, steps, store):
    cells = cell(architecture), cell(architecture, few)
    plain, own = (run(each, store) for each in cells)
    assert own["weights_sha256"] == plain["weights_sha256"]
    samples, verdicts, curves = (
        [store.cell(each.id).folder / name for each in cells]
        for name in ("samples.safetensors", "judgements.parquet", "curve.csv")
    )
    assert samples[0].read_bytes() == samples[1].read_bytes()
    pd.testing.assert_frame_equal(*map(pd.read_parquet, verdicts))
    usual, quick = map(pd.read_csv, curves)
    assert usual["step"].tolist() == quick["step"].tolist() == [2, 4]
    for loss in ("train_loss", "val_loss"):
        assert usual[loss].tolist() == quick[loss].tolist()
    row = own["row"]
    assert (row["curve_evaluations_per_sample"], row["evaluations_per_sample"]) == evaluations
    assert row["curve_sample_flops"] < row["sample_flops"]
    assert own["samplers"] == {"curve": steps, "final": {"diffusion.steps": 4, "sampling.decode_steps": 4}}
    assert plain["samplers"]["curve"] == plain["samplers"]["final"]
    assert plain["row"]["curve_evaluations_per_sample"] == plain["row"]["evaluations_per_sample"] == evaluations[1]
    assert plain["row"]["curve_sample_flops"] == plain["row"]["sample_flops"]


def test_a_resumed_run_goes_on_to_the_same_weights_and_curve(store, tmp_path):
    quick = cell("dit", FEW_SOLVER)
    whole = run(quick, store)
    other = Store(tmp_path, say=lambda line: None)
    shutil.copytree(store.results / "artefacts", tmp_path / "artefacts", dirs_exist_ok=True)
    with pytest.raises(Preempted):
        run(quick, other, stop_after=3)
    assert pd.read_csv(other.cell(quick.id).curve)["step"].tolist() == [2]
    resumed = run(quick, other)
    assert resumed["weights_sha256"] == whole["weights_sha256"]
    both = [pd.read_csv(place.cell(quick.id).curve).drop(columns="seconds") for place in (store, other)]
    pd.testing.assert_frame_equal(*both)
