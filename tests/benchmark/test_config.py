"""Merge order, checks with the nearest right key, presets and recipes, and the hash."""

import json
from dataclasses import asdict
from functools import cache

import pytest

from benchmark.cell import Cell
from benchmark.composer import Composer
from benchmark.config import (
    CONFIGS,
    ConfigError,
    Layer,
    Override,
    dataset_layer,
    hashed_part,
    instantiate,
    names_in,
    native_layer,
    preset_layer,
    read_yaml,
    stable_hash,
)
from benchmark.grid import Choice, load_grid
from benchmark.machine import Machine
from benchmark.registry import discover
from benchmark.schema import Schema

CPU = Machine("cpu", 0, 2, bf16=True)
ARCHITECTURES = ("maskgit", "maskgit-jepa", "givt", "mar", "dit")


@pytest.fixture(scope="module")
def schema() -> Schema:
    return Schema(discover())


@cache
def composer(preset: str, machine: Machine, overrides: tuple[str, ...]) -> Composer:
    return Composer(discover(), machine, load_grid("all"), preset, [Override.parse(text) for text in overrides])


def resolve(*overrides: str, preset: str = "smoke", machine: Machine = CPU, seed: int = 0, **axes: str) -> dict:
    values = {"dataset": "shapes2d", "architecture": "dit", "tokenizer": "vq", "conditioning": "full"} | axes
    return composer(preset, machine, overrides).resolve(Choice(**values, seed=seed))


def test_later_layers_win_and_overrides_win_over_all(schema):
    layers = [Layer("one", {"trainer": {"max_steps": 1, "batch_size": 2}}), Layer("two", {"trainer": {"max_steps": 3}})]
    config = schema.compose(layers, [Override("optimiser.lr", "1e-2")])
    assert config["trainer"]["max_steps"] == 3 and config["trainer"]["batch_size"] == 2
    assert config["optimiser"]["lr"] == 0.01
    assert schema.compose(layers, [Override("trainer.max_steps", "4")])["trainer"]["max_steps"] == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trainer.compile=true", True),
        ("trainer.max_steps=7", 7),
        ("optimiser.lr=1", 1.0),
        ("optimiser.betas=[.8,.9]", [0.8, 0.9]),
        ("optimiser.betas=.8,.9", [0.8, 0.9]),
        ("architecture.maskgit-jepa.layers=1", [1]),
        ("seeds.data=3", "3"),  # a str field takes the text as it stands
        ("split.train=000,011", "000,011"),
        ("split.base=012", "012"),
        ("seed=5", 5),
        ("recipe=native", "native"),
    ],
)
def test_values_are_read_by_the_type_of_their_field(schema, text, expected):
    override = Override.parse(text)
    value = schema.compose([], [override])
    for part in override.key.split("."):
        value = value[part]
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    "text",
    [
        "trainer.max_steps=1.5",
        "trainer.max_steps=abc",
        "trainer.max_steps=true",
        "trainer.compile=maybe",
        "optimiser.lr=fast",
        "optimiser.betas=[a,b]",
        "architecture.maskgit-jepa.layers=upper",
        "seed=one",
        "trunk=3",
    ],
)
def test_a_wrong_type_names_key_value_and_origin(schema, text):
    with pytest.raises(ConfigError) as error:
        schema.compose([], [Override.parse(text)])
    assert text.split("=")[0] in str(error.value) and "command line" in str(error.value)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("trainer.max_step", "trainer.max_steps"),
        ("training.max_steps", "trainer.max_steps"),
        ("lr", "optimiser.lr"),
        ("optimizer.lr", "optimiser.lr"),
        ("architecture.dti.mixtures", "architecture.givt.mixtures"),
        ("architecture.givt.mixture", "architecture.givt.mixtures"),
        ("dataset.shapes2d.radius_larg", "dataset.shapes2d.radius_large"),
        ("conditioning.droput", "conditioning.dropout"),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest_right_one(schema, key, nearest):
    with pytest.raises(ConfigError, match=f"no key '{key}'.*did you mean '{nearest}'"):
        schema.compose([], [Override(key, "1")])


def test_an_unknown_key_in_a_file_names_the_file(schema):
    with pytest.raises(ConfigError, match=r"'trainer.max_stebs' \(presets/x.yaml\); did you mean 'trainer.max_steps'"):
        schema.compose([Layer("presets/x.yaml", {"trainer": {"max_stebs": 3}})])
    with pytest.raises(ConfigError, match=r"trainer.max_steps=few \(presets/x.yaml\).*whole number"):
        schema.compose([Layer("presets/x.yaml", {"trainer": {"max_steps": "few"}})])


def test_an_axis_given_as_a_key_is_told_apart(schema):
    with pytest.raises(ConfigError, match="--only architecture=dit"):
        schema.compose([], [Override("architecture", "dit")])
    with pytest.raises(ConfigError, match="--preset smoke"):
        schema.compose([], [Override("preset", "smoke")])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("conditioning.information=ful", "conditioning.information=ful is unknown"),
        ("conditioning.information=labels", "labels is for datasets without values; use quantized"),
        ("trainer.precision=16", "trainer.precision=16 is unknown"),
        ("trainer.threads=0", "at least 1"),
        ("seeds.tokenizer=new", "seeds.tokenizer=new is no seed"),
        ("recipe=naive", "recipe=naive is unknown; did you mean 'native'"),
        ("trainer.device=cuda", "no GPU here"),
        ("tokenizer.vq.view=code", "did you mean 'codes'"),
        ("dataset.shapes2d.resolution=36", "36x36"),  # laptop's f is 8
    ],
)
def test_what_a_part_refuses_is_told_before_any_work(override, message):
    with pytest.raises(ConfigError, match=message):
        resolve(override, preset="laptop")


def test_an_override_for_a_name_that_is_not_selected_is_checked_and_then_unused():
    assert resolve("architecture.givt.mixtures=4") == resolve()
    with pytest.raises(ConfigError, match="mixtures=few"):
        resolve("architecture.givt.mixtures=few")


def test_a_resolved_config_holds_only_its_own_parts():
    config = resolve(architecture="givt")
    assert [config[kind]["name"] for kind in ("dataset", "tokenizer", "architecture")] == ["shapes2d", "vq", "givt"]
    assert "mixtures" in config["architecture"] and "head_width" not in config["architecture"]
    assert "auto" not in json.dumps(config)


def test_auto_is_resolved_for_the_machine():
    assert resolve()["trainer"]["precision"] == "bf16-mixed"
    assert resolve(machine=Machine("cpu", 0, 2, bf16=False))["trainer"]["precision"] == "32"
    assert resolve(machine=Machine("cuda", 1, 8, bf16=True))["trainer"]["device"] == "cuda"
    for device, preset in (("cpu", "laptop"), ("cuda", "paper")):
        machine = Machine(device, int(device == "cuda"), 8, bf16=True)
        assert resolve(preset="auto", machine=machine)["preset"] == preset


def test_each_architecture_gets_the_view_that_it_models():
    views = {name: resolve(architecture=name)["tokenizer"]["view"] for name in ARCHITECTURES}
    assert views == {
        "maskgit": "codes",
        "maskgit-jepa": "codes",
        "givt": "pre_quant",
        "mar": "pre_quant",
        "dit": "pre_quant",
    }
    assert resolve("tokenizer.vq.view=embeddings")["tokenizer"]["view"] == "embeddings"
    assert resolve(tokenizer="kl")["tokenizer"]["view"] == "kl"


def test_conditioning_names_set_information_and_dropout():
    config = resolve(conditioning="centres+dropout")
    assert config["conditioning"]["information"] == "centres" and config["conditioning"]["dropout"] == 0.1
    assert Cell(config).conditioning == "centres+dropout"
    assert Cell(resolve("conditioning.dropout=.3")).conditioning == "full+dropout"  # an override shows in the id


@pytest.mark.parametrize("preset", names_in("presets"))
@pytest.mark.parametrize("recipe", ["controlled", "native"])
def test_every_preset_resolves_for_every_architecture_and_tokenizer(preset, recipe):
    for name in ARCHITECTURES:
        config = resolve(f"recipe={recipe}", preset=preset, architecture=name)
        assert config["preset"] == preset and config["recipe"] == recipe
    resolve(f"recipe={recipe}", preset=preset, tokenizer="kl")


@pytest.mark.parametrize("preset", names_in("presets"))
def test_presets_hold_only_differences_from_the_dataclasses(schema, preset):
    defaults = schema.compose([])

    def repeated(values, default, key=""):
        for name, value in values.items():
            if isinstance(value, dict):
                yield from repeated(value, default[name], f"{key}{name}.")
            elif value == default[name]:
                yield f"{key}{name}"

    values = {key: value for key, value in preset_layer(preset).values.items() if key != "preset"}
    assert not list(repeated(values, defaults))


def test_every_yaml_begins_with_its_question_and_expected_time():
    own = [CONFIGS / "ladder.yaml", CONFIGS / "native.yaml"]
    for path in [*own, *CONFIGS.glob("presets/*.yaml"), *CONFIGS.glob("grids/*.yaml")]:
        head = path.read_text()
        assert "question:" in head and "expected:" in head, path


def test_native_recipes_differ_from_the_controlled_one_only_where_they_say():
    assert set(read_yaml(CONFIGS / "native.yaml")) == set(ARCHITECTURES)
    for name in ARCHITECTURES:
        controlled, native = (
            resolve(f"recipe={recipe}", preset="paper", architecture=name) for recipe in ("controlled", "native")
        )
        changed = {key.partition(".")[0] for key in differences(controlled, native)}
        assert changed == {"recipe", *native_layer(name).values}, name


def differences(first: dict, second: dict, prefix: str = "") -> set[str]:
    """Dotted keys in which two configs differ; a key that only one has counts."""
    found = set()
    for key in first.keys() | second.keys():
        one, other = first.get(key), second.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found |= differences(one, other, f"{prefix}{key}.")
        elif one != other:
            found.add(prefix + key)
    return found


@pytest.mark.parametrize("preset", names_in("presets"))
def test_neighbours_on_the_ladder_differ_in_exactly_what_is_declared(preset):
    ladder = read_yaml(CONFIGS / "ladder.yaml")
    for pair in [*ladder["rungs"], *ladder["beside"]]:
        configs = [resolve(preset=preset, architecture=pair[end]) for end in ("from", "to")]
        found = differences(*configs)
        undeclared = {key for key in found if not any(f"{key}.".startswith(f"{d}.") for d in pair["differs"])}
        unused = {d for d in pair["differs"] if not any(f"{key}.".startswith(f"{d}.") for key in found)}
        assert not undeclared and not unused, (pair["from"], pair["to"])


def test_the_ladder_is_a_path_of_the_four_objectives():
    rungs = read_yaml(CONFIGS / "ladder.yaml")["rungs"]
    assert [rung["from"] for rung in rungs] + [rungs[-1]["to"]] == ["maskgit", "givt", "mar", "dit"]


def test_hash_depends_on_values_and_not_on_order():
    config = resolve()
    assert stable_hash(config) == stable_hash(dict(reversed(config.items())))
    assert stable_hash({"a": 1.0}) != stable_hash({"a": 1})
    assert stable_hash({"a": [1, 2]}) == "01530d16"  # pinned: ids must not change between versions


def test_where_and_how_a_cell_runs_is_not_hashed():
    config = resolve()
    elsewhere = config | {"slurm": {"time": "12:00:00"}, "paths": {"results": "/x"}, "jobs": 4}
    assert stable_hash(hashed_part(config)) == stable_hash(hashed_part(elsewhere))


def test_a_section_builds_the_dataclass_it_came_from(schema):
    config = resolve(architecture="maskgit-jepa")
    built = instantiate(schema.classes["architecture.maskgit-jepa"], config["architecture"])
    assert {"name": "maskgit-jepa", **json.loads(json.dumps(asdict(built)))} == config["architecture"]


@pytest.mark.parametrize("preset", names_in("presets"))
def test_what_a_preset_does_for_one_dataset_reaches_its_cells_alone(preset):
    own = read_yaml(CONFIGS / "presets" / f"{preset}.yaml").get("per_dataset", {})
    assert set(own) <= set(discover().names("dataset"))
    for dataset in own:
        assert dataset_layer(preset, dataset).values == own[dataset]
    images = resolve(preset=preset)
    assert dataset_layer(preset, "shapes2d").values == {} and images["tokenizer"]["patch_frames"] == 1
    for tokenizer in ("vq", "kl"):
        videos = resolve(preset=preset, dataset="clevrer_kubric", tokenizer=tokenizer)
        assert videos["tokenizer"]["patch_frames"] == 4 and "per_dataset" not in videos
    changed = resolve("tokenizer.vq.patch_frames=2", preset=preset, dataset="clevrer_kubric")
    assert changed["tokenizer"]["patch_frames"] == 2  # the command line stands above


def test_frames_that_the_tokenizer_cannot_fold_are_refused_before_any_work():
    with pytest.raises(ConfigError, match=r"tokenizer.vq.patch_frames=3 does not divide 8 frames"):
        resolve("tokenizer.vq.patch_frames=3", preset="laptop", dataset="clevrer_kubric")
