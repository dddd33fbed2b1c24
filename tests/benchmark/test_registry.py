"""What exists is found without importing it; what cannot work is set aside and fails only for who selects it."""

import sys
from contextlib import suppress
from pathlib import Path

import pytest

from benchmark.config import ConfigError
from benchmark.grid import choices, load_grid
from benchmark.registry import discover
from benchmark.schema import Schema
from benchmark.sources import source

PLUGIN = """
from dataclasses import dataclass
from architectures.base import GenerativeModel, architecture

CHOICES = ("one", "two")

@dataclass
class ToyConfig:
    number: str = "one"  # one | two

    def validate(self):
        if self.number not in CHOICES:
            raise ValueError(f"architecture.toy.number={self.number} is unknown; use one of {', '.join(CHOICES)}")

@architecture("toy", ToyConfig)
class Toy(GenerativeModel):
    pass
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_the_rooms_register_five_architectures_two_tokenizers_and_shapes2d():
    registry = discover()
    assert set(registry.names("architecture")) >= {"maskgit", "maskgit-jepa", "givt", "mar", "dit"}
    assert set(registry.names("tokenizer")) >= {"kl", "vq"}
    assert "shapes2d" in registry.names("dataset")
    assert not registry.aside


def test_views_are_read_through_base_classes():
    registry = discover()
    assert registry.entry("architecture", "maskgit-jepa").views == ("codes",)  # of MaskGIT, in another file
    assert registry.entry("architecture", "dit").views[0] == "pre_quant"  # of GenerativeModel, annotated
    assert "codes" in registry.entry("tokenizer", "vq").views


def test_declared_configs_are_those_of_the_real_modules():
    registry = discover()
    for kind in ("dataset", "tokenizer", "architecture"):
        for name in registry.names(kind):
            entry = registry.entry(kind, name)
            real = getattr(entry.module(), entry.registration.config_name)
            assert vars(entry.config_class()()) == vars(real()), name
            assert entry.views == tuple(getattr(entry.load(), "views", ())), name


def test_every_declared_config_can_be_checked_without_the_real_module():
    registry = discover()
    for kind in ("dataset", "tokenizer", "architecture"):
        for name in registry.names(kind):
            config = registry.entry(kind, name).config_class()()
            if hasattr(config, "validate"):
                with suppress(ValueError):  # what has no default, such as a folder, is asked for
                    config.validate()  # a NameError here means that it needs more than its own file declares


def test_a_plugin_file_joins_the_grid_and_the_schema(tmp_path):
    registry = discover([write(tmp_path, "toy.py", PLUGIN)])
    names = [choice.architecture for choice in choices(load_grid("all"), registry, {})]
    assert names[-1] == "toy" and names[0] == "maskgit"  # after the ladder
    assert "architecture.toy.number" in Schema(registry).keys
    assert registry.entry("architecture", "toy").load().__name__ == "Toy"


def test_a_plugin_that_is_missing_broken_or_empty_is_wrong_input(tmp_path):
    for path in (
        tmp_path / "absent.py",
        write(tmp_path, "broken.py", "def ("),
        write(tmp_path, "empty.py", "import math"),
    ):
        with pytest.raises(ConfigError, match=path.name):
            discover([path])


def test_a_module_that_needs_a_missing_package_is_set_aside(tmp_path):
    path = write(tmp_path, "needy.py", f"import no_such_package\n{PLUGIN}")
    registry = discover([path])
    assert "no_such_package" in registry.aside["toy"]
    assert "toy" not in [choice.architecture for choice in choices(load_grid("all"), registry, {})]
    with pytest.raises(ConfigError, match="no_such_package, which is not installed"):
        choices(load_grid("all"), registry, {"architecture": ("toy",)})


def test_a_module_that_fails_to_import_fails_only_when_loaded(tmp_path):
    registry = discover([write(tmp_path, "failing.py", f"{PLUGIN}\nraise RuntimeError('no licence')")])
    entry = registry.entry("architecture", "toy")
    assert entry.config_class()().number == "one"  # its declarations can be read
    with pytest.raises(ConfigError, match="no licence"):
        entry.load()
    assert entry.source.module not in sys.modules


def test_a_name_used_twice_is_wrong_input(tmp_path):
    with pytest.raises(ConfigError, match="'dit' is registered twice"):
        discover([write(tmp_path, "other.py", PLUGIN.replace('"toy"', '"dit"'))])


def test_entry_points_are_found_without_being_imported(tmp_path, monkeypatch):
    write(tmp_path, "toy_package.py", f"{PLUGIN}\nraise RuntimeError('imported')")
    folder = tmp_path / "toy_package-1.dist-info"
    folder.mkdir()
    write(folder, "METADATA", "Metadata-Version: 2.1\nName: toy-package\nVersion: 1\n")
    write(folder, "entry_points.txt", "[compositional_benchmark]\ntoy = toy_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "toy" in discover().names("architecture")


@pytest.mark.parametrize("module", ["gone_package", "gone_package.models", "not a module", ".relative"])
def test_an_entry_point_to_nothing_is_set_aside(tmp_path, monkeypatch, module):
    folder = tmp_path / "toy_package-1.dist-info"
    folder.mkdir()
    write(folder, "METADATA", "Metadata-Version: 2.1\nName: toy-package\nVersion: 1\n")
    write(folder, "entry_points.txt", f"[compositional_benchmark]\ntoy = {module}\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry = discover()
    assert "dit" in registry.names("architecture")
    with pytest.raises(ConfigError, match="toy cannot be used: its entry point names"):
        registry.entry("architecture", "toy")


def test_a_name_and_views_may_be_constants(tmp_path):
    text = PLUGIN.replace('@architecture("toy"', "@architecture(NAME").replace("    pass", "    views = VIEWS")
    text = text.replace("CHOICES =", 'NAME, VIEWS = "toy", ("kl",)\nCHOICES =')
    entry = discover([write(tmp_path, "constants.py", text)]).entry("architecture", "toy")
    assert entry.views == ("kl",)


@pytest.mark.parametrize("name", ["to y", "to/y", "../toy", ".toy", ""])
def test_a_name_that_no_file_can_have_is_set_aside(tmp_path, name):
    path = write(tmp_path, "odd.py", PLUGIN.replace('@architecture("toy"', f'@architecture("{name}"'))
    with pytest.raises(ConfigError, match="no file can have"):
        discover([path]).entry("architecture", name)


@pytest.mark.parametrize("config", ["None", "3", "lambda: 1"])
def test_what_registers_no_config_registers_nothing(tmp_path, config):
    path = write(tmp_path, "odd.py", PLUGIN.replace("ToyConfig)\nclass", f"{config})\nclass"))
    with pytest.raises(ConfigError, match="registers nothing"):
        discover([path])


def test_a_plugin_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "binary.py"
    path.write_bytes(bytes(range(128, 256)))
    with pytest.raises(ConfigError, match="cannot be read"):
        discover([path])


def test_a_config_that_needs_the_real_import_is_had_by_importing(tmp_path):
    text = PLUGIN.replace('number: str = "one"', "number: float = np.pi").replace(
        "from dataclasses", "import numpy as np\nfrom dataclasses"
    )
    registry = discover([write(tmp_path, "numeric.py", text)])
    assert registry.entry("architecture", "toy").config_class()().number == pytest.approx(3.14159, abs=1e-4)


def test_declarations_are_executed_without_side_effects(tmp_path):
    path = write(tmp_path, "loud.py", f"print('imported')\nVALUE = open('nowhere')\nLIMIT = 3\n{PLUGIN}")
    module = source(path, "loud")
    assert module.declared("LIMIT") == 3
    assert not hasattr(module._declarations, "VALUE")
