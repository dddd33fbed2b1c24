"""After a change of sources nothing old is taken for what the new ones make; what was begun goes on with what it has."""

import pytest

from benchmark import ROOT
from benchmark.artefacts import LEARNED_FROM, Artefacts
from benchmark.cell import Cell
from benchmark.composer import Composer
from benchmark.config import Override
from benchmark.fingerprints import KINDS, artefact_keys, of_cell, sources_of_cell
from benchmark.grid import Choice, load_grid
from benchmark.machine import Machine
from benchmark.registry import Registry, discover
from benchmark.sources import source
from benchmark.store import Store

LADDER = ("maskgit", "maskgit-jepa", "givt", "mar", "dit")


SMALL = {"dataset": ("dataset.toy.resolution=32",)}  # the smoke preset speaks of the datasets that it knows


def a_cell(registry: Registry, *overrides: str, seed: int = 0, **names: str) -> Cell:
    axes = {"dataset": "shapes2d", "architecture": "dit", "tokenizer": "vq", "conditioning": "full"} | names
    composer = Composer(
        registry,
        Machine("cpu", 0, 2, bf16=True),
        load_grid("all"),
        "smoke",
        [Override.parse(text) for text in overrides],
    )
    return Cell(composer.resolve(Choice(**axes, seed=seed)))


@pytest.fixture
def changed(tmp_path):
    """Keys of artefacts, and the fingerprint, before and after a change of a plug-in that stands in for one of ours."""

    def of(kind: str) -> tuple[set[str], bool]:
        plugin, found = tmp_path / "toy.py", []
        own = {"dataset": "shapes2d", "tokenizer": "vq", "architecture": "dit"}[kind]
        text = (discover().entry(kind, own).path).read_text().replace(f'@{kind}("{own}"', f'@{kind}("toy"')
        for version in (text, text + "\n# changed\n"):
            plugin.write_text(version)
            source.cache_clear()
            registry = discover([plugin])
            cell = a_cell(registry, *SMALL.get(kind, ()), **{kind: "toy"})
            found.append((dict(artefact_keys(cell, registry)), of_cell(cell, registry)))
        (before, print_before), (after, print_after) = found
        return {key for key in KINDS if before[key] != after[key]}, print_before != print_after

    return of


@pytest.mark.parametrize(
    ("kind", "artefacts"),
    [("dataset", set(KINDS)), ("tokenizer", {"tokenizer", "latents", "ceiling"}), ("architecture", set())],
)
def test_a_change_of_sources_is_a_change_of_exactly_what_they_make(changed, kind, artefacts):
    assert changed(kind) == (artefacts, True)


def test_each_architecture_has_a_fingerprint_and_seeds_share_it():
    registry = discover()
    prints = {name: of_cell(a_cell(registry, architecture=name), registry) for name in LADDER}
    assert len(set(prints.values())) == len(LADDER)
    assert prints["dit"] == of_cell(a_cell(discover(), seed=1), registry)


@pytest.mark.parametrize(
    "path", ["datasets/latents.py", "benchmark/hardware.py", "benchmark/leaderboard.py", "probes/linear.py"]
)
def test_what_turns_a_config_into_numbers_is_in_it(path):
    registry = discover()
    assert ROOT / path in sources_of_cell(a_cell(registry), registry)


def test_what_was_begun_goes_on_with_what_it_learned_from(tmp_path, monkeypatch):
    store, registry = Store(tmp_path), discover()
    cell = a_cell(registry)
    begun = Artefacts(cell, store, registry)
    keys = {kind: begun.key(kind) for kind in KINDS}
    for kind, key in keys.items():
        (tmp_path / "artefacts" / kind / key).mkdir(parents=True)
    store.cell(cell.id).folder.mkdir(parents=True)
    begun.keep()
    monkeypatch.setattr("benchmark.fingerprints.of_artefact", lambda *_: "of other sources")
    later = Artefacts(cell, store, registry)
    assert {kind for kind in KINDS if later.key(kind) == keys[kind]} == set(LEARNED_FROM)
    (tmp_path / "artefacts" / "tokenizer" / keys["tokenizer"]).rmdir()
    assert later.key("tokenizer") != keys["tokenizer"]  # gone: made anew
    store.start_over(cell.id)
    assert not {kind for kind in KINDS if Artefacts(cell, store, registry).key(kind) == keys[kind]}
