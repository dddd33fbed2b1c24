"""``report/index.html``: one page that holds all it shows, and its figures as PNG beside it.

The page asks nothing of a network or of other files; what is only linked (papers, the pictures of further seeds) is not
loaded. Datasets stand apart: no number and no figure is over two of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import published, report_tables
from benchmark.again import Commands
from benchmark.cell import Cell
from benchmark.config import ConfigError
from benchmark.files import write_text
from benchmark.pictures import Picture, Pictures
from benchmark.plots import Group, dot_figure, group_cells, read_curve
from benchmark.registry import Registry
from benchmark.report_figures import comparable, composition_figure, cost_figure, threshold_figure
from benchmark.report_tables import Table
from benchmark.schema import Schema
from benchmark.states import state_of
from benchmark.store import Store
from benchmark.tables import Row
from benchmark.thresholds import Curve, NoThresholds, Redrawer
from datasets.factors import level

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATES = Path(__file__).parent / "templates"
PAPERS = {
    "Farid et al., What Drives Compositional Generalization in Visual Generative Models?": "https://arxiv.org/abs/2510.03075",
    "Bradley, Local Mechanisms of Compositional Generalization in Conditional Diffusion": "https://arxiv.org/abs/2509.16447",
}


@dataclass
class Samples:
    """Pictures of one setting: those of its first good seed shown, those of the others linked."""

    title: str
    cell: str
    shown: list[Picture]
    reasons: Table | None
    links: list[tuple[str, str]]  # what, and where from the page


@dataclass
class Chapter:
    """All that the page says of one dataset."""

    dataset: str
    slug: str
    counts: str
    leaderboard: Table | None = None
    summary: Table | None = None
    verdicts: Table | None = None
    dots: Picture | None = None
    curves: list[tuple[str, Picture]] = field(default_factory=list)
    costs: Picture | None = None
    samples: list[Samples] = field(default_factory=list)
    compared: str = ""  # which of its settings are laid over each other, where those are not all
    thresholds: Picture | None = None
    no_thresholds: list[str] = field(default_factory=list)  # why cells are not in that figure
    ceilings: Table | None = None
    cost_table: Table | None = None
    troubles: Table | None = None
    commands: list[tuple[str, str]] = field(default_factory=list)  # cell, command


def write_report(store: Store, registry: Registry, rows: Sequence[Row]) -> Path:
    """Write the page and its figures from the rows of the leaderboard; returns the page's path.

    Raises:
        Unwritable: if there is no room, or the file system is read-only.
    """
    pictures = Pictures(store.results / "report")
    writer = _Writer(store, registry, pictures)
    unfinished = _unfinished(store, {row["cell"] for row in rows})
    names = sorted({str(row.get("dataset")) for row in (*rows, *unfinished)})
    chapters = [writer.chapter(name, _of(rows, name), _of(unfinished, name)) for name in names]
    page = pictures.folder / "index.html"
    write_text(page, _render(chapters=chapters, **_heading(rows, store)))
    pictures.sweep()
    return page


class _Writer:
    """Chapters, with what they share: the registry, the commands and the room that pictures may take."""

    def __init__(self, store: Store, registry: Registry, pictures: Pictures) -> None:
        self.store, self.registry, self.pictures = store, registry, pictures
        self.commands = Commands(registry)

    def chapter(self, dataset: str, rows: Sequence[Row], unfinished: Sequence[Row]) -> Chapter:
        slug = re.sub(r"[^\w-]+", "-", dataset)
        states = [str(row.get("state")) for row in (*rows, *unfinished)]
        counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        chapter = Chapter(dataset, slug, counted)
        chapter.troubles = report_tables.trouble_table(rows, unfinished)
        chapter.verdicts = report_tables.verdict_table(self.store.results / "verdicts.csv", dataset)
        chapter.commands = [(row["cell"], self._command(row["cell"])) for row in (*rows, *unfinished)]
        groups = group_cells([row for row in rows if row.get("state") in ("ok", "suspicious")])
        if rows:
            chapter.leaderboard = report_tables.leaderboard_table(rows)
        if groups:
            self._results(chapter, rows, groups)
        return chapter

    def _results(self, chapter: Chapter, rows: Sequence[Row], groups: Sequence[Group]) -> None:
        curves = {row["cell"]: read_curve(self.store.cell(row["cell"]).curve) for row in rows}
        chapter.summary = report_tables.summary_table(groups)
        chapter.ceilings = report_tables.ceiling_table(rows)
        chapter.cost_table = report_tables.cost_table(rows)
        compared = comparable(groups)
        if len(compared) < len(groups):
            chapter.compared = f"Of the {len(groups)} settings here these are the {len(compared)} to compare first."
        about = f"{chapter.dataset}: strict accuracy at level 2; the numbers are in the table of settings"
        chapter.dots = self._figure(chapter, "level2", dot_figure(groups), about)
        if any(curves.values()):
            about = f"{chapter.dataset}: strict accuracy of levels 0, 1 and 2 against steps, target tokens and FLOPs"
            chapter.costs = self._figure(chapter, "costs", cost_figure(compared, curves), about)
        for place, (title, cells) in enumerate(groups):
            if any(curves[row["cell"]] for row in cells) and composition_levels(cells[0]):
                picture = self._composition_curves(chapter, place, title, cells, curves)
                chapter.curves.append((title, picture))
            chapter.samples.append(self._samples(title, cells))
        self._thresholds(chapter, compared)

    def _composition_curves(
        self, chapter: Chapter, place: int, title: str, cells: Sequence[Row], curves: Mapping[str, Sequence[Row]]
    ) -> Picture:
        levels = composition_levels(cells[0])
        names = self._describe(cells[0]["cell"], list(levels))
        figure = composition_figure(cells, curves, levels, names)
        finals = ", ".join(f"{c} (level {k}) {_final(cells, c)}" for c, k in levels.items())
        about = (
            f"{title}: accuracy of each composition against training step; strict at the end, mean of seeds: {finals}"
        )
        return self._figure(chapter, f"curves-{place:02d}", figure, about)

    def _samples(self, title: str, cells: Sequence[Row]) -> Samples:
        first = next((row for row in cells if row["state"] == "ok"), cells[0])
        folder = self.store.cell(first["cell"]).folder
        captions = {
            "samples.png": f"{title}, seed {first.get('seed')}: samples of every composition, level by its colour and word",
            "samples.webp": f"{title}, seed {first.get('seed')}: the same clips as they move",
            "rejected.png": f"{title}, seed {first.get('seed')}: samples that the strict judge refused, each with its reason",
        }
        shown = [picture for name, text in captions.items() if (picture := self.pictures.embed(folder / name, text))]
        embedded = {picture.file for picture in shown}
        links = [
            (f"{row['cell']}/{name}", f"../cells/{row['cell']}/{name}")
            for row in cells
            for name in captions
            if (path := self.store.cell(row["cell"]).folder / name).exists() and path not in embedded
        ]
        good = [row for row in cells if row["state"] == "ok"] or list(cells)
        judgements = [self.store.cell(row["cell"]).folder / "judgements.parquet" for row in good]
        reasons = report_tables.rejection_table(good, judgements, train_of(first))
        return Samples(title, first["cell"], shown, reasons, links)

    def _thresholds(self, chapter: Chapter, groups: Sequence[Group]) -> None:
        redrawn: dict[str, Curve] = {}
        reasons: dict[str, list[str]] = {}
        redrawer = Redrawer(self.registry)
        for _, cells in groups:
            for row in cells:
                if row["state"] == "ok":
                    judgements = self.store.cell(row["cell"]).folder / "judgements.parquet"
                    try:
                        cell = Cell.read(self.store.cell(row["cell"]).config)
                        redrawn[row["cell"]] = redrawer.curve(cell, judgements, train_of(row))
                    except (NoThresholds, ConfigError) as error:
                        reasons.setdefault(str(error).rstrip("."), []).append(row["cell"])
        chapter.no_thresholds = [f"{', '.join(cells)}: {reason}." for reason, cells in reasons.items()]
        if redrawn:
            about = f"{chapter.dataset}: strict accuracy of each level with the judge's limits tightened and loosened"
            chapter.thresholds = self._figure(chapter, "thresholds", threshold_figure(groups, redrawn), about)

    def _figure(self, chapter: Chapter, name: str, figure: Figure, about: str) -> Picture:
        return self.pictures.figure(f"{chapter.slug}-{name}.png", figure, about)

    def _command(self, cell_id: str) -> str:
        try:
            return self.commands.command(Cell.read(self.store.cell(cell_id).config))
        except ConfigError as error:  # no command makes a cell again whose config is gone
            return f"# {error}"

    def _describe(self, cell_id: str, compositions: Sequence[str]) -> dict[str, str]:
        """Compositions in words, where the dataset is known here."""
        try:
            config = Cell.read(self.store.cell(cell_id).config).config
            space = Schema(self.registry).validate({"dataset": config["dataset"]})["dataset"].space
            return {composition: space.describe(composition) for composition in compositions}
        except (ConfigError, KeyError, TypeError, AttributeError, IndexError, ValueError):
            return {}


def train_of(row: Row) -> tuple[str, ...]:
    """The training compositions of a cell, from its row."""
    return tuple(re.findall(r"\d+", str(row.get("split") or "")))


def composition_levels(row: Row) -> dict[str, int]:
    """Every composition that a cell was judged on, with its level; empty where the row does not tell the split."""
    train = train_of(row)
    judged = sorted(name.removeprefix("comp_") for name in row if re.fullmatch(r"comp_\d+", name))
    return {composition: level(composition, train) for composition in judged} if train else {}


def _final(cells: Sequence[Row], composition: str) -> str:
    shares = [row[f"strict_comp_{composition}"] for row in cells if row.get(f"strict_comp_{composition}") is not None]
    return f"{sum(shares) / len(shares):.2f}" if shares else "not judged"


def _of(rows: Sequence[Row], dataset: str) -> list[Row]:
    return [row for row in rows if str(row.get("dataset")) == dataset]


def _unfinished(store: Store, finished: set[str]) -> list[Row]:
    """Cells that have a folder and no record that can be read."""
    rows: list[Row] = []
    for cell_id in store.cell_ids():
        if cell_id in finished:
            continue
        state = state_of(store, cell_id)
        try:
            dataset = Cell.read(store.cell(cell_id).config).dataset
        except ConfigError:
            dataset = cell_id.partition("-")[0]
        rows.append({"cell": cell_id, "dataset": dataset, "state": state.name, "reason": state.reason})
    return rows


def _heading(rows: Sequence[Row], store: Store) -> dict[str, Any]:
    def told(name: str) -> str:
        return ", ".join(sorted({str(row[name]) for row in rows if row.get(name)}))

    facts = {name.replace("_", " "): told(name) for name in ("preset", "device", "git_commit")}
    return {
        "facts": {name: text for name, text in facts.items() if text},
        "date": max((str(row["date"])[:10] for row in rows if row.get("date")), default=""),
        "results": store.results.name,
        "papers": PAPERS,
        "published": report_tables.published_table(published.highlights(published.published_curves())),
    }


def _render(**values: Any) -> str:
    import jinja2

    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html").render(**values)
