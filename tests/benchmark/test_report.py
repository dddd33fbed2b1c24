"""The page of a results folder: that it has every part, escapes what it is given, and asks nothing of anything else."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from benchmark.cli import main
from benchmark.leaderboard import rebuild
from benchmark.pictures import Pictures
from benchmark.plots import group_cells
from benchmark.registry import Registry
from benchmark.report import PAPERS, write_report
from benchmark.report_figures import comparable
from benchmark.report_tables import WRONG, rejection_table, verdict_table
from benchmark.store import Store
from benchmark.tables import to_csv
from datasets.factors import level

COMPOSITIONS = [f"{number:03b}" for number in range(8)]
TRAIN = ("000", "001", "010", "100")
PARTS = (
    *("settings", "leaderboard", "claims", "curves", "training", "samples", "thresholds", "ceilings", "cost"),
    *("failures", "commands"),
)
VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """What a browser would load and show: tags with their attributes, and that every opened one is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = text
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str, name: str) -> list[str]:
        return [attrs[name] or "" for each, attrs in self.tags if each == tag and name in attrs]

    @property
    def ids(self) -> list[str]:
        return [attrs["id"] or "" for _, attrs in self.tags if "id" in attrs]


def record(architecture: str = "dit", seed: int = 0, dataset: str = "shapes2d", **top: Any) -> dict[str, Any]:
    shares = {f"{judge}level{number}": 1 - number * 0.2 for judge in ("", "strict_", "real_") for number in range(3)}
    shares |= {f"{judge}comp_{c}": 0.5 for judge in ("", "strict_") for c in COMPOSITIONS}
    row: dict[str, Any] = {"flops": 1e12}
    row |= {"dataset": dataset, "architecture": architecture, "tokenizer": "vq", "conditioning": "full", "seed": seed}
    row |= {"preset": "laptop", "steps": 20, "split": ",".join(TRAIN), "minutes": 1.5, "target_tokens": 1e6}
    name = f"{dataset}-{architecture}-vq-full-s{seed}-abcd"
    top = {"state": "ok", "reason": "", "setting": f"{dataset}-{architecture}"} | top
    return {"cell": name, "row": row | shares, **top}


def write(results: Path, *records: dict[str, Any]) -> None:
    """Records, and beside each a curve, pictures and judgements as a finished cell leaves them."""
    store = Store(results, say=lambda text: None)
    for each in records:
        store.write_record(each["cell"], each)
        if each["state"] == "failed":
            continue
        names = [f"{judge}{kind}" for judge in ("", "strict_") for kind in ("level0", "level1", "level2")]
        names += [f"{judge}comp_{c}" for judge in ("", "strict_") for c in COMPOSITIONS]
        folder = store.cell(each["cell"]).folder
        lines = [{"step": step, **dict.fromkeys(names, step / 20)} for step in (5, 10, 20)]
        (folder / "curve.csv").write_text(to_csv(lines, ["step", *names]))
        for name in ("samples.png", "rejected.png"):
            Image.new("RGB", (40, 30), "red").save(folder / name)
        judgements(folder / "judgements.parquet")


def judgements(path: Path) -> None:
    """Four samples a composition: novel ones are blurred once, and once taken for another composition."""
    rows = []
    for composition in COMPOSITIONS:
        for sample in range(4):
            novel = level(composition, TRAIN) > 0
            blurred, wrong = novel and sample == 0, novel and sample == 1
            verdict = {"accepted": not blurred, "reason": "blurred" * blurred, "all_correct": not (blurred or wrong)}
            for mode, judge in (("centre", "strict"), ("drawn", "strict"), ("centre", "probe")):
                rows.append({"composition": composition, "mode": mode, "judge": judge, **verdict})
    pd.DataFrame(rows).to_parquet(path)


def page_of(results: Path) -> Page:
    store = Store(results, say=lambda text: None)
    return Page(write_report(store, Registry(), rebuild(store)).read_text())


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    results = tmp_path_factory.mktemp("results")
    reason = "<script>alert('x')</script> & NaN"
    write(results, *(record(name, seed) for name in ("dit", "maskgit") for seed in range(2)))
    write(results, record(dataset="clevrer_kubric"), record("mar", state="failed", reason=reason))
    (results / "cells" / "shapes2d-givt-vq-full-s0-dead").mkdir()
    verdict = {"claim": "dit > maskgit <b>", "dataset": "shapes2d", "verdict": "supported", "effect": 0.5, "new": 1}
    (results / "verdicts.csv").write_text(to_csv([verdict], list(verdict)))
    return results


@pytest.fixture(scope="module")
def page(results: Path) -> Page:
    return page_of(results)


def test_every_dataset_has_every_part_of_its_own(page: Page) -> None:
    assert {f"{dataset}-{part}" for dataset in ("shapes2d", "clevrer_kubric") for part in PARTS} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    inside = [address[1:] for address in page.all("a", "href") if address.startswith("#")]
    assert inside and set(inside) <= set(page.ids)


def test_nothing_is_loaded_and_only_papers_are_linked_outside(page: Page) -> None:
    assert all(source.startswith("data:image/") for source in page.all("img", "src"))
    assert page.all("script", "src") == [] and page.all("link", "href") == ["data:,"]
    outside = {address for address in page.all("a", "href") if "//" in address}
    assert outside == set(PAPERS.values())
    assert "default-src 'none'" in page.text and "@import" not in page.text
    without_pictures = re.sub(r'"data:[^"]*"', "", page.text)  # letters of a picture may spell anything
    assert without_pictures.count("http") - without_pictures.count("http-equiv") == len(PAPERS)


def test_what_it_is_given_is_escaped(page: Page) -> None:
    assert "<script>alert" not in page.text
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; NaN" in page.text
    assert "dit &gt; maskgit &lt;b&gt;" in page.text


def test_it_can_be_read_without_seeing_it(page: Page) -> None:
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) >= 8 and all(attrs.get("alt") for attrs in pictures)
    assert page.text.count("<table") == page.text.count("<caption>") == page.text.count("<thead>") > 8
    assert all(scope in ("row", "col") for scope in page.all("th", "scope"))
    assert len(page.all("th", "scope")) == sum(tag == "th" for tag, _ in page.tags)
    assert "lang" in dict(page.tags)["html"]


def test_of_many_settings_those_to_compare_first_are_laid_over_each_other(tmp_path: Path) -> None:
    """Eighty curves in a panel tell nothing: first what was changed goes, then what was told less than everything."""

    def chosen(changes: int, told: tuple[str, ...], architectures: int = 3) -> list[str]:
        rows = [
            record(f"a{number}")["row"] | {"changed": change, "conditioning": conditioning, "setting": None}
            for number in range(architectures)
            for conditioning in told
            for change in ("", *(f"trunk.depth={depth}" for depth in range(changes)))
        ]
        return [title for title, _ in comparable(group_cells(rows))]

    assert len(chosen(3, ("full",))) == 3 * 4
    assert chosen(4, ("full",)) == ["a0", "a1", "a2"]
    assert len(chosen(4, ("full", "quantized"))) == 3 * 2
    assert len(chosen(4, ("full", "quantized"), architectures=8)) == 8
    assert len(chosen(0, ("quantized",), architectures=20)) == 20  # nothing tells which of these to leave

    many = [record(f"a{number}") for number in range(16)]
    for number, each in enumerate(many):
        each["row"]["changed"] = "trunk.depth=2" if number else ""
    write(tmp_path, *many)
    assert (
        page_of(tmp_path).text.count("Of the 16 settings here these are the 1 to compare first.") == 1
    )  # no thresholds


def test_figures_lie_beside_it_and_old_ones_go(results: Path) -> None:
    old = results / "report" / "shapes2d-of-before.png"
    Image.new("RGB", (4, 4)).save(old)
    page_of(results)
    names = {path.name for path in (results / "report").iterdir()}
    assert not old.exists()
    assert {"index.html", "shapes2d-level2.png", "shapes2d-costs.png", "shapes2d-curves-00.png"} <= names
    assert not any(name.startswith(".tmp") for name in names)


def test_cells_without_a_record_are_told(page: Page) -> None:
    assert "shapes2d-givt-vq-full-s0-dead" in page.text and "1 missing" in page.text


def test_further_seeds_are_linked(page: Page, results: Path) -> None:
    links = [address for address in page.all("a", "href") if address.startswith("../cells/")]
    assert "../cells/shapes2d-dit-vq-full-s1-abcd/samples.png" in links
    assert all((results / "report" / address).resolve().exists() for address in links)


@pytest.mark.parametrize("records", [[], [record(state="failed", reason="out of memory")]], ids=["none", "failed"])
def test_it_is_written_also_without_a_result(records: list[dict[str, Any]], tmp_path: Path) -> None:
    write(tmp_path, *records)
    page = page_of(tmp_path)
    assert ("out of memory" in page.text) == bool(records)
    assert "reading" in page.ids and page.all("img", "src") == []


def test_the_command_writes_it_and_takes_no_keys(tmp_path: Path, capsys) -> None:
    assert main(["report", "--results", str(tmp_path)]) == 0
    assert (tmp_path / "report" / "index.html").exists()
    assert "0 records" in capsys.readouterr().out
    assert main(["report", "--results", str(tmp_path), "trainer.max_steps=3"]) == 2


def test_reasons_are_shares_of_the_samples_of_their_level(tmp_path: Path) -> None:
    judgements(tmp_path / "one.parquet")
    table = rejection_table([{}], [tmp_path / "one.parquet"], TRAIN)
    assert table is not None
    shares = {row[0].text: [entry.value for entry in row[1:]] for row in table.rows}
    assert shares == {"blurred": [0, 0.25, 0.25], WRONG: [0, 0.25, 0.25]}
    assert rejection_table([{}], [tmp_path / "none.parquet"], TRAIN) is None


def test_verdicts_of_other_datasets_stay_out_and_unknown_columns_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.csv"
    assert verdict_table(path, "shapes2d") is None
    rows = [{"dataset": name, "claim": f"on {name}", "oddity": 7} for name in ("shapes2d", "celeba-drawn")]
    path.write_text(to_csv(rows, list(rows[0])))
    table = verdict_table(path, "shapes2d")
    assert table is not None
    assert [word for word, _ in table.columns] == ["claim", "oddity"]
    assert [row[0].text for row in table.rows] == ["on shapes2d"]


def test_a_full_page_takes_no_further_picture(tmp_path: Path) -> None:
    Image.effect_noise((200, 200), 90).save(tmp_path / "noise.png")
    (tmp_path / "text.png").write_text("no picture")
    assert Pictures(tmp_path).embed(tmp_path / "noise.png", "noise") is not None
    assert Pictures(tmp_path, room=100).embed(tmp_path / "noise.png", "noise") is None
    assert Pictures(tmp_path).embed(tmp_path / "text.png", "text") is None
    assert Pictures(tmp_path).embed(tmp_path / "missing.png", "missing") is None
