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


def install(folder: Path, module: str) -> None:
    """A package whose entry point names a module."""
    info = folder / "toy_package-1.dist-info"
    info.mkdir()
    write(info, "METADATA", "Metadata-Version: 2.1\nName: toy-package\nVersion: 1\n")
    write(info, "entry_points.txt", f"[compositional_benchmark]\ntoy = {module}\n")


def test_entry_points_are_found_without_being_imported(tmp_path, monkeypatch):
    write(tmp_path, "toy_package.py", f"{PLUGIN}\nraise RuntimeError('imported')")
    install(tmp_path, "toy_package")
    monkeypatch.syspath_prepend(tmp_path)
    assert "toy" in discover().names("architecture")


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("toy_absent", "names toy_absent, which is missing"),
        ("toy_absent.model", "names toy_absent.model, which cannot be imported"),
        ("toy_broken.model", "names toy_broken.model, which cannot be imported \\(RuntimeError"),
    ],
)
def test_an_entry_point_without_its_module_is_set_aside(tmp_path, monkeypatch, module, reason):
    (tmp_path / "toy_broken").mkdir()
    write(tmp_path / "toy_broken", "__init__.py", "raise RuntimeError('no licence')")
    install(tmp_path, module)
    monkeypatch.syspath_prepend(tmp_path)
    registry = discover()
    assert set(registry.names("architecture")) >= {"dit", "maskgit"}
    with pytest.raises(
        ConfigError, match=rf"entry point toy of toy-package {reason}.*; repair toy-package or uninstall it"
    ):
        registry.entry("architecture", "toy")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"toy", ToyConfig', "NAME, ToyConfig"),
        ('"toy", ToyConfig', 'config=ToyConfig, name="toy"'),
        ("    pass", "    views = VIEWS"),
        ("    pass", "    views = (*VIEWS,)"),
    ],
)
def test_a_plugin_may_name_constants_of_its_own(tmp_path, old, new):
    text = PLUGIN.replace("CHOICES =", 'NAME, VIEWS = "toy", ("codes",)\nCHOICES =')
    entry = discover([write(tmp_path, "toy.py", text.replace(old, new))]).entry("architecture", "toy")
    assert entry.views == (("codes",) if "views" in new else discover().entry("architecture", "dit").views)
    assert entry.config_class()().number == "one" and entry.load().name == "toy"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"toy", ToyConfig', '"toy", None', r"toy.py, line 15: write @architecture\("),
        ('"toy", ToyConfig', '"toy"', r"toy.py, line 15: write @architecture\("),
        ('("toy", ToyConfig)', "", r"toy.py, line 15: write @architecture\("),
        ('"toy", ToyConfig', '"to y", ToyConfig', "line 15: @architecture\\('to y'\\): a name is a word of letters"),
        ('"toy", ToyConfig', '"a/toy", ToyConfig', "a name is a word of letters"),
        ('"toy", ToyConfig', '"a.toy", ToyConfig', "a name is a word of letters"),
        ('"toy", ToyConfig', '"", ToyConfig', "a name is a word of letters"),
        ('"toy", ToyConfig', "3, ToyConfig", "a name is a word of letters"),
        ('"toy", ToyConfig', "NOWHERE, ToyConfig", "the name in @architecture cannot be read.*write it out"),
        ('"toy", ToyConfig', "open('x').read(), ToyConfig", "the name in @architecture cannot be read.*write it out"),
    ],
)
def test_a_registration_that_says_too_little_is_told_by_line(tmp_path, old, new, message):
    assert old in PLUGIN
    with pytest.raises(ConfigError, match=message):
        discover([write(tmp_path, "toy.py", PLUGIN.replace(old, new))])


@pytest.mark.parametrize("views", ["VIEWS", "tuple(NAMES)", "[name for name in open('x')]"])
def test_views_that_cannot_be_read_are_told_by_line(tmp_path, views):
    path = write(tmp_path, "toy.py", PLUGIN.replace("    pass", f"    views = {views}"))
    with pytest.raises(
        ConfigError, match=r"architecture toy cannot be used: .*toy.py, line 17: Toy.views cannot be read"
    ):
        _ = discover([path]).entry("architecture", "toy").views


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("@dataclass\n", "", "ToyConfig of .*toy.py is no dataclass; put @dataclass above it"),
        ('"toy", ToyConfig', '"toy", CHOICES', "CHOICES of .*toy.py is no dataclass"),
        ('"toy", ToyConfig', '"toy", Absent', "toy.py failed to import .NameError"),
        ('number: str = "one"', "number: list = []", "toy.py failed to import .ValueError"),
    ],
)
def test_a_config_that_is_none_is_told(tmp_path, old, new, message):
    registry = discover([write(tmp_path, "toy.py", PLUGIN.replace(old, new))])
    with pytest.raises(ConfigError, match=f"^architecture toy cannot be used: .*{message}"):
        Schema(registry)


def test_a_plugin_may_say_in_what_it_is_encoded_and_is_refused_where_it_cannot_be_decoded(tmp_path):
    text = PLUGIN.replace("CHOICES =", 'AUTHOR = "Andr\xe9"\nCHOICES =')
    for name, head in (("declared.py", "# -*- coding: latin-1 -*-\n"), ("silent.py", "")):
        (tmp_path / name).write_bytes((head + text).encode("latin-1"))
    assert "toy" in discover([tmp_path / "declared.py"]).names("architecture")
    with pytest.raises(ConfigError, match=r"silent.py cannot be read: .*utf-8"):
        discover([tmp_path / "silent.py"])


def test_a_name_used_twice_in_one_file_is_wrong_input(tmp_path):
    with pytest.raises(ConfigError, match="'toy' is registered twice"):
        discover([write(tmp_path, "toy.py", f"{PLUGIN}\n@architecture('toy', ToyConfig)\nclass Second(Toy): pass\n")])


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
