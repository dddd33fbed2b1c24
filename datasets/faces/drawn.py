"""Paints a drawn face: flat shapes, like a simple portrait, in CelebA's frame of 178x218 px.

Lengths are CelebA's pixels, x to the right and y down, from the middle of the face; ``_Canvas`` moves, scales and turns
them and paints at twice the size, whose mean over 2x2 px smooths the edges. Most of the hair has exactly the colour in the
face's values. What draws gender: length of the hair, jaw, neck, weight of the brows, lashes, lips and stubble.
"""

from __future__ import annotations

import colorsys
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from datasets.faces.people import NUISANCES, People

WIDTH, HEIGHT = 178, 218  # px; CelebA's aligned images
QUALITY = 95  # of the JPEGs
_OVER = 2  # painted at so many times the size
_CENTRE = (89.0, 120.0)  # px; where CelebA's aligned faces have their middle
_IRIS = ((0.25, 0.16, 0.1), (0.2, 0.38, 0.6), (0.25, 0.42, 0.28), (0.3, 0.3, 0.33))
_PALE, _DARK = np.array([0.97, 0.83, 0.73]), np.array([0.50, 0.33, 0.24])  # skin
_INK = np.array([0.13, 0.10, 0.10])
_AROUND = np.linspace(0, 2 * math.pi, 49)[:-1]
_ACROSS = np.linspace(-1, 1, 17)

Colour = Sequence[float] | np.ndarray


def paint(people: People, row: int) -> Image.Image:
    """One face, RGB of 178x218 px."""
    face = _Face(people, row)
    canvas = _Canvas(face)
    for layer in (_shoulders, _back_hair, _neck_and_head, _eyes, _nose, _mouth, _front_hair, _glasses):
        layer(canvas, face)
    return canvas.finished()


def encode(image: Image.Image) -> bytes:
    """The JPEG file of a face."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


class _Face:
    """The numbers of one face; a nuisance is asked for with the range that it has."""

    def __init__(self, people: People, row: int) -> None:
        self._uniform = dict(zip(NUISANCES, people.nuisances[row].tolist(), strict=True))
        self.male = bool(people.classes[row, 0])
        self.curve, *hair = people.values[row].tolist()
        self.hair = np.array(hair)
        self.half_width = self("face_width", 40, 46) + 3 * self.male
        self.half_height = self("face_height", 53, 59)
        tone = self("skin", 0, 1)
        self.skin = _PALE + tone * (_DARK - _PALE) + np.array([0.03, 0, -0.03]) * self("warmth", -1, 1)
        self.eye_line = self("eye_height", -10, -5)
        self.eye_gap = self.half_width * self("eye_spacing", 0.41, 0.47)

    def __call__(self, nuisance: str, low: float, high: float) -> float:
        return low + (high - low) * self._uniform[nuisance]

    def hue(
        self, kind: str, depth: tuple[float, float], light: tuple[float, float], first: float, last: float
    ) -> Colour:
        """A colour between two hues, in turns; of a ground or of clothes."""
        return colorsys.hsv_to_rgb(
            self(f"{kind}_hue", first, last) % 1, self(f"{kind}_depth", *depth), self(f"{kind}_light", *light)
        )


class _Canvas:
    """Shapes given in the face's own coordinates, painted at twice the size."""

    def __init__(self, face: _Face) -> None:
        # From green over blue to pink: no ground has a colour of hair.
        top = np.array(face.hue("ground", (0.15, 0.5), (0.5, 0.85), 0.25, 0.95))
        darker = 1 + (face("ground_shade", 0.7, 1.0) - 1) * np.linspace(0, 1, HEIGHT * _OVER)[:, None]
        rows = np.rint(255 * darker * top).astype(np.uint8)[:, None]
        self.image = Image.fromarray(np.repeat(rows, WIDTH * _OVER, axis=1))
        self.draw = ImageDraw.Draw(self.image)
        angle, scale = face("tilt", -0.08, 0.08), face("scale", 0.92, 1.06) * _OVER
        self.unit = scale
        self._turn = scale * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        self._shift = _OVER * np.array([_CENTRE[0] + face("x", -5, 5), _CENTRE[1] + face("y", -4, 4)])

    def polygon(self, x: np.ndarray, y: np.ndarray, colour: Colour) -> None:
        self.draw.polygon(self._points(x, y), fill=_rgb(colour))

    def line(self, x: np.ndarray, y: np.ndarray, colour: Colour, width: float) -> None:
        self.draw.line(self._points(x, y), fill=_rgb(colour), width=max(1, round(width * self.unit)), joint="curve")

    def ellipse(self, x: float, y: float, a: float, b: float, colour: Colour, power: float = 2.0) -> None:
        """An ellipse; one of a higher power is squarer."""
        self.polygon(*_oval(x, y, a, b, power), colour)

    def finished(self) -> Image.Image:
        return self.image.reduce(_OVER)

    def _points(self, x: np.ndarray, y: np.ndarray) -> list[float]:
        points = np.empty((len(x), 2))
        points[:, 0], points[:, 1] = x, y
        return (points @ self._turn + self._shift).ravel().tolist()


def _shoulders(canvas: _Canvas, face: _Face) -> None:
    cloth = np.array(face.hue("cloth", (0.1, 0.75), (0.25, 0.9), 0, 1))
    width = 86 if face.male else 72
    canvas.ellipse(0, 128, width, 52, cloth, 2.6)


def _back_hair(canvas: _Canvas, face: _Face) -> None:
    """Women's hair falls beside the face, at least to the chin."""
    if face.male:
        return
    a, b = face.half_width, face.half_height
    side = a + face("hair_volume", 10, 17)
    end = face("hair_length", b + 2, b + 34)
    top = b + face("hair_volume", 10, 16)
    arch = np.linspace(math.pi, 2 * math.pi, 25)
    bottom = np.linspace(0, math.pi, 13)
    x = np.concatenate([side * np.cos(arch), (side + 2) * np.cos(bottom)])
    y = np.concatenate([-4 + (top - 4) * np.sin(arch), end - 16 + 16 * np.abs(np.sin(bottom)) ** 0.6])
    canvas.polygon(x, y, face.hair)
    for place in (-0.85, -0.72, 0.72, 0.85):  # strands
        strand = np.array([place * side, place * (side + 2)])
        canvas.line(strand, np.array([-10, end - 8]), face.hair * (0.78 + 0.04 * face("strands", -1, 1)), 0.9)


def _neck_and_head(canvas: _Canvas, face: _Face) -> None:
    a, b, skin = face.half_width, face.half_height, face.skin
    neck = 24 if face.male else 17
    collar = b + face("collar", 24, 32)
    shade = skin * 0.82
    canvas.polygon(
        np.array([-neck, neck, neck + 3, 0, -neck - 3]), np.array([b - 25, b - 25, b + 20, collar, b + 20]), shade
    )
    for side in (-1, 1):
        canvas.ellipse(side * (a - 1), -3, 7, 11, skin * 0.93)
    outline = _head(face)
    canvas.polygon(*outline, skin)
    if face.male and (depth := face("stubble", -0.25, 0.25)) > 0:
        x, y = outline
        low = y > 8
        across = np.linspace(-0.97, 0.97, 17)
        chin = 8 + 0.58 * b * (1 - np.abs(across) ** 2.5)  # its upper edge, below the mouth
        order = np.argsort(-x[low])
        canvas.polygon(
            np.concatenate([across * a, x[low][order]]),
            np.concatenate([chin, y[low][order]]),
            skin * (1 - depth) + _INK * depth,
        )
    blush = face("blush", -0.3, 0.3)
    if blush > 0:
        for side in (-1, 1):
            canvas.ellipse(side * a * 0.56, 15, 9, 6, skin * (1 - blush * np.array([0, 0.45, 0.4])))


def _head(face: _Face) -> tuple[np.ndarray, np.ndarray]:
    """The outline of the face: an ellipse above, below squarer for men and narrower for women."""
    a, b = face.half_width, face.half_height
    x, y = _oval(0, 0, a, b, 2.0)
    power = face("jaw", 2.5, 2.9) if face.male else face("jaw", 1.75, 2.05)
    lower_x, lower_y = _oval(0, 0, a, b, power)
    low = y > 0
    return np.where(low, lower_x, x), np.where(low, lower_y, y)


def _eyes(canvas: _Canvas, face: _Face) -> None:
    size, line = face("eye_size", 0.88, 1.12), face.eye_line
    iris = _IRIS[int(face("iris", 0, len(_IRIS)))]
    brow = face.skin * 0.25 + _INK * 0.55
    weight = face("brow_weight", 3.4, 4.4) if face.male else face("brow_weight", 1.5, 2.2)
    height, tilt = line - face("brow_height", 12, 16), face("brow_tilt", -2, 2)
    for side in (-1, 1):
        x = side * face.eye_gap
        canvas.ellipse(x, line, 9 * size, 5.2 * size, (0.97, 0.97, 0.96))
        canvas.ellipse(x, line, 4.4 * size, 4.8 * size, iris)
        canvas.ellipse(x, line, 2.2 * size, 2.3 * size, (0.04, 0.04, 0.05))
        canvas.ellipse(x + 1.4, line - 1.6, 1.0, 1.0, (1, 1, 1))
        lid = x + 10 * size * _ACROSS
        canvas.line(lid, line - 5.4 * size * (1 - _ACROSS**2), _INK, 1.1 if face.male else 2.2)
        arch = height + 3.5 * _ACROSS**2 + tilt * side * _ACROSS
        canvas.line(x + 11.5 * _ACROSS, arch, brow, weight)


def _nose(canvas: _Canvas, face: _Face) -> None:
    width, end = face("nose_width", 5.5, 8.5), face("nose_length", 13, 18)
    canvas.line(width * _ACROSS, end + 3 * (1 - _ACROSS**2), face.skin * 0.72, 1.5)
    canvas.line(np.array([-1.5, -width * 0.55]), np.array([face.eye_line + 6, end - 3]), face.skin * 0.86, 1.2)


def _mouth(canvas: _Canvas, face: _Face) -> None:
    """Lips along a parabola whose ends stand above its middle by ``curve`` half widths."""
    half = face("mouth_width", 25, 31)
    middle = face("mouth_height", 31, 35)
    axis = middle + face.curve * half * (1 - _ACROSS**2 - 2 / 3)  # its mean height does not depend on the curve
    bow = 1 - _ACROSS**2
    gap = max(0.0, face("mouth_open", -5, 5))  # px; half of all mouths are closed
    tone = face("lips", 0, 1)
    if face.male:
        lips, full = face.skin * np.array([0.70, 0.44, 0.42]) * (0.95 + 0.1 * tone), 3.6
    else:
        lips, full = np.array([0.70 + 0.12 * tone, 0.14 + 0.12 * tone, 0.22 + 0.1 * tone]), 4.4
    x = half * _ACROSS
    upper, lower = axis - (full + gap) * bow - 0.7, axis + (full * 1.3 + gap) * bow + 0.7
    canvas.polygon(np.concatenate([x, x[::-1]]), np.concatenate([upper, lower[::-1]]), lips)
    if gap > 0.6:
        inside = np.concatenate([0.86 * x, 0.86 * x[::-1]])
        canvas.polygon(inside, np.concatenate([axis - gap * bow, (axis + gap * bow)[::-1]]), (0.97, 0.96, 0.94))
    else:
        canvas.line(x, axis, lips * 0.5, 1.4)


def _front_hair(canvas: _Canvas, face: _Face) -> None:
    """The hair above the forehead, down to the temples; its lower edge is highest at the parting."""
    a, b = face.half_width, face.half_height
    rise, reach = (10, 16) if face.male else (9, 14)
    top, side = b + face("hair_volume", rise, reach), a + (5 if face.male else 6)
    foot = face("hair_length", -14, 0) if face.male else face("hair_length", -2, 8)
    arch = np.linspace(math.pi, 2 * math.pi, 33)
    inner = np.linspace(1, -1, 33)
    parting = face("parting", -0.45, 0.45)
    forehead = -b * face("hairline", 0.50, 0.60)
    away = np.abs(inner - parting) / (1 + np.sign(inner - parting) * -parting)  # 0 at the parting, 1 at the temples
    edge = forehead + (foot - forehead) * away ** face("fringe", 2.2, 4.5)
    x = np.concatenate([side * np.cos(arch), 0.93 * a * inner])
    y = np.concatenate([foot + (top + foot) * np.sin(arch), edge])
    canvas.polygon(x, y, face.hair)
    shade = face.hair * (0.78 + 0.04 * face("strands", -1, 1))
    for place in (-0.6, -0.25, 0.3, 0.65):
        ends = np.array([parting * a * 0.5 + 4 * place, place * a])
        canvas.line(ends, np.array([-top + 6, -b * 0.66]), shade, 0.9)


def _glasses(canvas: _Canvas, face: _Face) -> None:
    if face("glasses", 0, 1) > 0.15:
        return
    for side in (-1, 1):
        x, y = _oval(side * face.eye_gap, face.eye_line + 1, 14, 11, 2.6)
        canvas.line(np.append(x, x[:2]), np.append(y, y[:2]), _INK, 1.5)
    inner = face.eye_gap - 14
    canvas.line(np.array([-inner, inner]), np.full(2, face.eye_line), _INK, 1.5)


def _oval(x: float, y: float, a: float, b: float, power: float) -> tuple[np.ndarray, np.ndarray]:
    """Points around a superellipse |x/a|^n + |y/b|^n = 1."""
    cosine, sine = np.cos(_AROUND), np.sin(_AROUND)
    bend = 2 / power
    return x + a * np.sign(cosine) * np.abs(cosine) ** bend, y + b * np.sign(sine) * np.abs(sine) ** bend


def _rgb(colour: Colour) -> tuple[int, ...]:
    return tuple(round(255 * min(max(float(share), 0.0), 1.0)) for share in colour)
