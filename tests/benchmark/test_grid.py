"""Grid + filters -> choices -> cells; and what a cell's id and its artefacts' keys depend on."""

from functools import cache
from itertools import product

import pytest

from benchmark.cell import Cell, DamagedConfig
from benchmark.composer import Composer, LeftOut, evaluation_config
from benchmark.config import ConfigError, Override
from benchmark.estimate import Estimate, Estimator, disk_bytes, total_minutes
from benchmark.fingerprints import of_cell
from benchmark.grid import Choice, choices, load_grid, parse_only
from benchmark.machine import Machine
from benchmark.plan import plan_grid
from benchmark.registry import discover
from benchmark.store import Store

CPU = Machine("cpu", 0, 2, bf16=True)
LADDER = ["maskgit", "maskgit-jepa", "givt", "mar", "dit"]


def select(*only: str, seeds: int = 1, first_seed: int = 0) -> list[Choice]:
    return choices(load_grid("all"), discover(), parse_only(["dataset=shapes2d", *only]), first_seed, seeds)


@cache
def composer(overrides: tuple[str, ...]) -> Composer:
    return Composer(discover(), CPU, load_grid("all"), "smoke", [Override.parse(text) for text in overrides])


def cell(*overrides: str, seed: int = 0, **axes: str) -> Cell:
    values = {"dataset": "shapes2d", "architecture": "dit", "tokenizer": "vq", "conditioning": "full"} | axes
    return Cell(composer(overrides).resolve(Choice(**values, seed=seed)))


def test_grid_all_is_the_ladder_on_one_tokenizer_on_every_dataset():
    selected = choices(load_grid("all"), discover(), {}, 0, 1)
    datasets = ("shapes2d", "clevrer_kubric", "celeba")
    assert [(choice.dataset, choice.architecture) for choice in selected] == list(product(datasets, LADDER))
    assert {(choice.tokenizer, choice.conditioning) for choice in selected} == {("vq", "full")}


def test_filters_select_defaults_and_offers_in_the_order_given():
    assert [c.architecture for c in select("architecture=dit,maskgit")] == ["dit", "maskgit"]
    assert {c.tokenizer for c in select("tokenizer=kl")} == {"kl"}
    assert {c.conditioning for c in select("conditioning=full,quantized+dropout")} == {"full", "quantized+dropout"}
    assert len(select("architecture=dit", "architecture=mar")) == 2
    assert [c.seed for c in select("architecture=dit", "seed=4,2")] == [4, 2]
    assert [c.seed for c in select("architecture=dit", seeds=3, first_seed=100)] == [100, 101, 102]


def test_seeds_come_one_after_the_other_so_that_the_first_table_is_there_early():
    assert [(c.seed, c.architecture) for c in select(seeds=2)] == [(seed, name) for seed in (0, 1) for name in LADDER]


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("architecture=dti", "no architecture 'dti'; did you mean 'dit'"),
        ("tokenizer=vqq", "no tokenizer 'vqq'; did you mean 'vq'"),
        ("conditioning=center", "does not offer conditioning 'center'; did you mean 'centres'"),
        ("arch=dit", "'arch' is no axis; did you mean 'architecture'"),
        ("seed=one", "seed=one is no seed"),
        ("architecture=", "selects nothing"),
        ("architecture", "selects nothing"),
    ],
)
def test_wrong_filters_are_told_with_the_nearest_right_one(only, message):
    with pytest.raises(ConfigError, match=message):
        select(only)


def test_an_unknown_grid_is_told_with_the_nearest():
    with pytest.raises(ConfigError, match="no grid 'al'; did you mean 'all'"):
        load_grid("al")


def test_maskgit_is_left_out_on_a_tokenizer_without_codes():
    with pytest.raises(LeftOut, match="maskgit models codes, and kl gives kl"):
        cell(architecture="maskgit", tokenizer="kl")
    with pytest.raises(LeftOut, match="vq gives embeddings"):
        cell("tokenizer.vq.view=embeddings", architecture="maskgit")


def test_a_plan_prints_what_it_leaves_out_and_refuses_to_be_empty(tmp_path):
    plan = plan_grid(Store(tmp_path), discover(), CPU, "all", "smoke", ["dataset=shapes2d", "tokenizer=kl"])
    assert {each.architecture for each in plan.cells.values()} == {"givt", "mar", "dit"}
    assert sum("left out: " in note for note in plan.notes) == 2
    with pytest.raises(ConfigError, match="No cell is left"):
        plan_grid(Store(tmp_path), discover(), CPU, "all", "smoke", ["tokenizer=kl", "architecture=maskgit"])


# Identity ------------------------------------------------------------------------------------------


def test_the_id_is_readable_and_stable():
    one = cell()
    assert one.id.startswith("shapes2d-dit-vq-full-s0-") and len(one.id.rpartition("-")[2]) == 8
    assert one.id == cell().id
    assert one.id == cell("architecture.givt.mixtures=3").id  # of another architecture
    assert one.id == Cell(dict(reversed(one.config.items()))).id


@pytest.mark.parametrize(
    "override",
    [
        "trainer.max_steps=41",
        "trainer.threads=2",
        "trainer.precision=32",
        "trainer.compile=true",
        "optimiser.lr=2e-3",
        "seeds.tokenizer=1",
        "split.base=111",
        "tokenizer.vq.view=embeddings",
        "dataset.shapes2d.colour_jitter=.05",
    ],
)
def test_whatever_can_change_the_result_changes_the_id(override):
    assert cell(override).id != cell().id


def test_a_key_that_came_later_does_not_change_the_ids_of_what_was_there():
    jepa = cell(architecture="maskgit-jepa")
    before = {k: v for k, v in jepa.config["architecture"].items() if k not in ("target", "predictor")}
    assert Cell({**jepa.config, "architecture": before}).id == jepa.id
    for override in ("target=frozen", "predictor=linear"):
        assert cell(f"architecture.maskgit-jepa.{override}", architecture="maskgit-jepa").id != jepa.id


def test_the_seed_is_in_the_id_and_not_in_the_setting():
    assert cell(seed=1).id != cell().id
    assert cell(seed=1).setting == cell().setting
    assert cell("seeds.data=7").setting == cell().setting
    assert cell("seeds.data=follow").setting != cell().setting  # another question: does it hold for other data?
    assert cell("optimiser.lr=2e-3").setting != cell().setting


def test_following_seeds_are_the_models_and_others_their_own():
    follows = cell("seeds.tokenizer=follow", "seeds.data=7", seed=3)
    assert [follows.seed_of(kind) for kind in ("data", "tokenizer", "probe")] == [7, 3, 0]


KEYS = ("data_key", "tokenizer_key", "latents_key", "probe_key", "ceiling_key")


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("optimiser.lr=2e-3", ()),
        ("tokenizer.vq.view=embeddings", ()),
        ("trainer.max_steps=7", ()),
        ("tokenizer.vq.max_steps=7", ("tokenizer_key", "latents_key", "ceiling_key")),
        ("split.base=111", ("latents_key", "ceiling_key")),
        ("seeds.tokenizer=2", ("tokenizer_key", "latents_key", "ceiling_key")),
        ("evaluation.final_samples=8", ()),
        ("probe.lr=1e-2", ("probe_key", "ceiling_key")),
        ("seeds.probe=2", ("probe_key", "ceiling_key")),
        ("seeds.data=2", KEYS),
        ("dataset.shapes2d.edge_width=1.5", KEYS),
        ("trainer.threads=2", ("tokenizer_key", "latents_key", "probe_key", "ceiling_key")),
    ],
)
def test_artefact_keys_change_with_exactly_what_can_change_the_artefact(override, changed):
    before, after = cell(), cell(override)
    assert tuple(key for key in KEYS if getattr(before, key) != getattr(after, key)) == changed


def test_all_rungs_share_one_tokenizer_artefact():
    assert len({cell(architecture=name).tokenizer_key for name in LADDER}) == 1
    assert len({cell(architecture=name).latents_key for name in LADDER}) == 1
    assert len({cell(architecture=name).ceiling_key for name in LADDER}) == 1


def test_a_tokenizer_trained_on_the_split_depends_on_it():
    one, other = (cell("tokenizer.vq.train_on=train", f"split.base={base}") for base in ("000", "111"))
    assert one.tokenizer_key != other.tokenizer_key


@pytest.mark.parametrize("overrides", [(), ("seeds.data=012", "split.train=000,011", "optimiser.lr=1e-7")])
def test_a_written_config_makes_the_same_cell(tmp_path, overrides):
    one = cell(*overrides, architecture="maskgit-jepa")
    path = tmp_path / one.id / "config.yaml"
    one.write(path)
    assert Cell.read(path).id == one.id and Cell.read(path).config == one.config


def test_a_config_changed_by_hand_is_refused(tmp_path):
    one = cell()
    path = tmp_path / one.id / "config.yaml"
    one.write(path)
    path.write_text(path.read_text().replace("max_steps: 40", "max_steps: 41"))
    with pytest.raises(ConfigError, match="was changed"):
        Cell.read(path)


@pytest.mark.parametrize(
    "content",
    [None, b"", b"a: 1", b"- 1", b"{", b"\xff\xfe\x00", b"dataset: shapes2d\nprobe: 3", b"a: ${", b"seed: [", b"word"],
    ids=["gone", "empty", "a: 1", "a list", "cut", "no text", "words for sections", "a template", "cut too", "a word"],
)
def test_a_config_that_is_none_is_refused_with_a_way_out(tmp_path, content):
    path = tmp_path / cell().id / "config.yaml"
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DamagedConfig, match=rf"^{path} .*: run the grid that {cell().id} came from again") as told:
        Cell.read(path)
    assert "\n" not in str(told.value)
    with pytest.raises(ConfigError, match="no cell absent"):
        Cell.read(tmp_path / "absent" / "config.yaml")


# Estimates -----------------------------------------------------------------------------------------


def test_an_estimate_names_its_basis_and_prefers_what_was_measured_here():
    one = cell()
    assert "constant" in Estimator().estimate(one).basis
    like = {"dataset": "shapes2d", "architecture": "dit", "preset": "smoke", "steps": 20, "minutes": 2.0}
    other = Estimator([{"state": "ok", "setting": "another", "row": like, "config": one.config}])
    scaled = other.estimate(one)
    assert scaled.minutes == pytest.approx(4.0) and "by steps and size of the trunk" in scaled.basis
    depth = one.config["trunk"]["depth"]
    assert other.estimate(cell("trunk.depth=" + str(3 * depth))).minutes == pytest.approx(12.0)
    same = Estimator([{"state": "ok", "setting": one.setting, "row": like | {"minutes": 5.0}}]).estimate(one)
    assert same.minutes == 5.0 and "of this setting here" in same.basis
    assert "constant" in Estimator([{"state": "failed", "setting": one.setting, "row": like}]).estimate(one).basis


def test_totals_count_shared_artefacts_once_and_jobs_side_by_side():
    one = cell()
    estimates = [Estimator().estimate(one)] * 4
    assert total_minutes(estimates, 2) == pytest.approx(total_minutes(estimates, 1) / 2)
    assert total_minutes(estimates, 100) == estimates[0].minutes
    assert disk_bytes([one, cell(seed=1)]) < 2 * disk_bytes([one])


def test_seed_by_seed_the_longest_cells_start_first(tmp_path):
    plan = plan_grid(Store(tmp_path), discover(), CPU, "all", "smoke", ["dataset=shapes2d", "architecture=dit,mar"], 2)
    plan.estimates = {
        name: Estimate({"dit": 1.0, "mar": 2.0}[cell.architecture], "") for name, cell in plan.cells.items()
    }
    ordered = [(plan.cells[name].seed, plan.cells[name].architecture) for name in plan.longest_first(list(plan.cells))]
    assert ordered == [(0, "mar"), (0, "dit"), (1, "mar"), (1, "dit")]


LABELLED = """
from dataclasses import dataclass

from datasets.base import CompositionalDataModule, dataset
from datasets.factors import Factor, FactorSpace


@dataclass
class LabelledConfig:
    source: str = "auto"
    resolution: int = 32

    @property
    def space(self):
        return FactorSpace(tuple(Factor(name, ("no", "yes")) for name in "abc"))

    @staticmethod
    def settle(values):
        if values["source"] == "nowhere":
            raise ValueError("dataset.labelled.source=nowhere: use here")
        return {"source": "here", "label": "labelled-here"} if values["source"] == "auto" else {}


@dataset("labelled", LabelledConfig)
class Labelled(CompositionalDataModule):
    pass
"""


def test_what_a_dataset_finds_out_is_settled_before_it_is_hashed_and_labels_are_one_cell(tmp_path):
    (tmp_path / "labelled.py").write_text(LABELLED)
    registry = discover([tmp_path / "labelled.py"])

    def resolve(conditioning, *overrides):
        grid = load_grid("all")
        composer = Composer(registry, CPU, grid, "smoke", [Override.parse(text) for text in overrides])
        return Cell(composer.resolve(Choice("labelled", "dit", "vq", conditioning, 0)))

    full, quantized = resolve("full"), resolve("quantized")
    assert full.id == quantized.id and full.id.startswith("labelled-here-dit-vq-labels-s0-")
    assert full.dataset == "labelled-here" and full.config["dataset"]["source"] == "here"
    assert of_cell(full, registry)  # found by its name, not by its label
    assert resolve("full", "dataset.labelled.source=here").id.startswith("labelled-dit")
    with pytest.raises(ConfigError, match="source=nowhere: use here"):
        resolve("full", "dataset.labelled.source=nowhere")


def test_the_judges_weights_are_hashed_by_what_they_hold(tmp_path):
    def resolve(name, content):
        (tmp_path / name).write_bytes(content)
        overrides = [f"probe.weights={tmp_path / name}", "probe.backbone=resnet18"]
        composer = Composer(discover(), CPU, load_grid("all"), "smoke", [Override.parse(text) for text in overrides])
        return Cell(composer.resolve(Choice("shapes2d", "dit", "vq", "full", 0)))

    one, elsewhere, other = resolve("a.pt", b"1"), resolve("b.pt", b"1"), resolve("c.pt", b"2")
    assert one.config["probe"]["weights"] == str(tmp_path / "a.pt")
    assert one.id == elsewhere.id and one.probe_key == elsewhere.probe_key
    assert one.id != other.id and one.probe_key != other.probe_key


def test_a_later_evaluation_changes_sampling_alone_also_where_a_dataset_settled_under_a_label():
    trained = cell(dataset="celeba").config
    assert trained["dataset"]["label"] == "celeba-drawn"
    changed = evaluation_config(trained, discover(), [Override.parse("sampling.decode_steps=3")])
    assert changed == {**trained, "sampling": {**trained["sampling"], "decode_steps": 3}}
    with pytest.raises(ConfigError, match=r"trainer.max_steps was fixed when the cell was trained"):
        evaluation_config(trained, discover(), [Override.parse("trainer.max_steps=3")])
    with pytest.raises(ConfigError, match=r"evaluation.curve_samples is of the curve"):
        evaluation_config(trained, discover(), [Override.parse("evaluation.curve_samples=3")])
    with pytest.raises(ConfigError, match=r"evaluation.inception=absent is no file"):
        evaluation_config(trained, discover(), [Override.parse("evaluation.inception=absent")])
