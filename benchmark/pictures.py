"""Pictures in a page of one file: as data, so that nothing is loaded, and no more of them than a page can carry."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

ROOM = 6 * 2**20  # bytes that embedded samples may take in a page; what comes after is linked
WIDEST = 1100  # px; more than a page shows
SCALE = 1.5  # pixels of a figure for each that a page shows it in, so that it is sharp on finer screens
QUALITY = 80  # of WebP: labels in the pictures stay readable


@dataclass(frozen=True)
class Picture:
    """A picture as the page holds it."""

    source: str  # a data: address
    text: str  # what it shows, for who does not see it
    width: int  # in which it is shown where there is room, px
    height: int
    file: Path


class Pictures:
    """Makes pictures for the page in `folder`, and counts what they take."""

    def __init__(self, folder: Path, room: int = ROOM) -> None:
        self.folder, self.room = folder, room
        self._written: set[Path] = set()

    def figure(self, name: str, figure: Figure, text: str) -> Picture:
        """Write a figure beside the page, and hold it."""
        from PIL import Image

        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=SCALE * 96, format="png")
        image = Image.open(drawn).convert("RGB")
        path = self.folder / name
        with replacing(path) as aside:
            image.save(aside, "PNG", optimize=True)
        self._written.add(path)
        held = io.BytesIO()
        image.save(held, "WEBP", lossless=True)  # the same pixels in half the room
        width, height = (round(side / SCALE) for side in image.size)
        return Picture(_data(held.getvalue(), "webp"), text, width, height, path)

    def embed(self, path: Path, text: str) -> Picture | None:
        """A cell's picture, smaller; None where there is none, it cannot be read, or the page is full."""
        from PIL import Image

        try:
            with Image.open(path) as image:
                size, moves = image.size, getattr(image, "n_frames", 1) > 1
                content = path.read_bytes() if moves else _smaller(image)
        except OSError:
            return None
        if len(content) > self.room:
            return None
        self.room -= len(content)
        return Picture(_data(content, "webp"), text, *size, path)

    def sweep(self) -> None:
        """Remove figures that an earlier page had and this one has not."""
        for path in self.folder.glob("*.png"):
            if path not in self._written:
                path.unlink(missing_ok=True)


def _smaller(image: Image.Image) -> bytes:
    image = image.convert("RGB")
    image.thumbnail((WIDEST, 10 * WIDEST))
    content = io.BytesIO()
    image.save(content, "WEBP", quality=QUALITY, method=4)
    return content.getvalue()


def _data(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
