"""What the README tells newcomers to do, done."""

from __future__ import annotations

import re
from pathlib import Path

from tests.suite import running

README = (running.ROOT / "README.md").read_text()
PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "results/**/*.md")


def test_the_architecture_of_the_readme_lands_on_the_leaderboard(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    source = next(block for block in blocks if "@architecture(" in block)
    assert len(source.splitlines()) <= 45
    name = re.search(r'@architecture\("(.+?)"', source)
    assert name
    plugin = tmp_path / "mine.py"
    plugin.write_text(source)
    results = tmp_path / "results"
    planned = running.run("plan", "--grid", "all", "--plugin", plugin, results=results, code=0)
    assert f"-{name[1]}-" in planned  # part of the whole grid, beside the others

    only = ("dataset=shapes2d", f"architecture={name[1]}")
    running.run("run", "--preset", "smoke", "--plugin", plugin, "--only", *only, results=results, code=1)
    (row,) = running.table(results / "leaderboard.csv")
    assert (row["architecture"], row["state"]) == (name[1], "suspicious"), running.logs(results)


def test_the_first_commands_are_those_of_the_continuous_integration() -> None:
    install, tests = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)[:2]
    assert "-m benchmark run --grid all" in install and "constraints.txt" in install
    checks = (running.ROOT / ".ci" / "run").read_text()
    assert "pytest" in tests and "pytest" in checks
    assert ".[test]" in tests and ".[test]" in checks


def test_links_lead_somewhere() -> None:
    pages = [page for pattern in PAGES for page in running.ROOT.glob(pattern)]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#]+)\)", page.read_text())]
    names = [
        (page, name)
        for page in pages
        for name in re.findall(r"`((?:docs|results/reference)/[\w./-]+\.\w+)`", page.read_text())
    ]
    assert len(pages) >= 8 and len(links) > 9 and len(names) > 5
    lost = [f"{page.name}: {link}" for page, link in links if "://" not in link and not (page.parent / link).exists()]
    lost += [f"{page.name}: {name}" for page, name in names if not (running.ROOT / name).exists()]
    assert not lost
