"""The report in a real browser: it says nothing on its console, shows its pictures, sorts, and asks for nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from PIL import Image

from benchmark.leaderboard import rebuild
from benchmark.registry import Registry
from benchmark.report import write_report
from benchmark.store import Store
from tests.benchmark.sound import ROW, sound

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(not BROWSER, reason="there is no Chromium here (Debian: apt-get install chromium)")

# Runs in the page: sorts its leaderboard by seed twice, scrolls a table to its end, opens every picture, and says on the
# console what it found.
PROBE = """<script>
addEventListener("load", async () => {
  const pictures = [...document.images];
  for (const fold of document.querySelectorAll("details")) fold.open = true;
  for (const picture of pictures) picture.loading = "eager";
  await Promise.allSettled(pictures.map((picture) => picture.decode()));
  const table = document.querySelector("#shapes2d-leaderboard ~ .table table");
  const column = [...table.tHead.rows[0].cells].findIndex((head) => head.textContent.trim() === "seed");
  const press = () => {
    table.tHead.rows[0].cells[column].querySelector("button").click();
    return [...table.tBodies[0].rows].map((row) => Number(row.cells[column].dataset.value));
  };
  const scrolled = document.querySelector("#shapes2d-settings ~ .table .scroll");
  const edge = () => scrolled.querySelector("tbody th").getBoundingClientRect().left;
  const before = edge();
  scrolled.scrollLeft = scrolled.scrollWidth;
  const outcome = {
    orders: [press(), press()],
    hidden: [...table.querySelectorAll(".more")].filter((cell) => cell.offsetParent).length,
    pictures: pictures.map((picture) => picture.naturalWidth),
    requested: performance.getEntriesByType("resource").map((entry) => entry.name).filter((name) => !name.startsWith("data:")),
    scrolled: [scrolled.scrollLeft, edge() - before],
    wide: document.documentElement.scrollWidth - innerWidth,
  };
  console.log("outcome " + JSON.stringify(outcome));
});
</script></body>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A report on three seeds, with one picture of samples."""
    store = Store(tmp_path_factory.mktemp("results"), say=lambda text: None)
    for seed in range(3):
        name = f"shapes2d-dit-vq-full-s{seed}-abcd"
        row = ROW | {"seed": seed, "device": "cpu " * 40, "split": "000,001,010,100", "strict_level2": 0.1 * seed}
        store.write_record(name, sound(name, reason="", setting="a", row=row | {"steps": 10, "minutes": 2.0}))
        Image.new("RGB", (1000, 300), "navy").save(store.cell(name).samples)
    return write_report(store, Registry(), rebuild(store))


def look(page: Path, width: int, tmp_path: Path) -> tuple[dict[str, Any], str]:
    """What the probe finds in a window so wide, in pixels, and what the browser writes before. It may take its time: the
    browser is ended when the probe has spoken, not after so many seconds."""
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("</body>", PROBE))
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--remote-debugging-port=0")
    options += (f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900")
    said = ""
    with subprocess.Popen([str(BROWSER), *options, probed.as_uri()], stderr=subprocess.PIPE, text=True) as browser:
        too_long = Timer(240, browser.kill)
        too_long.start()
        assert browser.stderr
        try:
            for line in browser.stderr:
                if found := re.search(r'"outcome (\{.*\})", source', line):
                    return json.loads(found[1]), said
                said += line
                assert "Uncaught" not in line, line  # the probe will not speak
        finally:
            too_long.cancel()
            browser.terminate()
    raise AssertionError(f"The probe said nothing in 240 s: {said}")


@pytest.mark.parametrize("width", [1400, 500])  # the narrowest window that Chromium opens without a phone's emulation
def test_it_works_as_it_opens_from_the_disk(page: Path, width: int, tmp_path: Path) -> None:
    found, said = look(page, width, tmp_path)
    assert "CONSOLE" not in said, said
    assert found["orders"] == [[2, 1, 0], [0, 1, 2]]
    assert found["hidden"] == 0
    assert len(found["pictures"]) >= 2 and min(found["pictures"]) > 0
    assert found["requested"] == []
    over, left = found["scrolled"]
    assert abs(left) < 1 and (over > 0 or width > 1000)  # whose row it is can be read wherever one is
    assert found["wide"] <= 0  # wide tables and figures scroll by themselves, the page does not
