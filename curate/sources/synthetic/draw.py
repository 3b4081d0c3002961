"""Images of the synthetic problems, 96 x 96 pixels on a raster of 6 x 6 cells of 16 pixels.

The demo model sees one visual token per cell, so everything that a question asks about sits on that raster. The paper
of every image is tinted from left to right (less red) and from top to bottom (less blue): a vision tower with
relative positions only can then tell where a cell lies. Glyphs are our own bitmaps, so that an image does not depend
on the fonts of the machine.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

SIDE = 96
CELL = 16
CELLS = SIDE // CELL

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 30, 40),
    "blue": (30, 60, 220),
    "green": (20, 140, 50),
    "orange": (245, 140, 20),
    "purple": (140, 40, 170),
    "black": (20, 20, 20),
}

# 5 x 7 bitmaps, one string of rows per glyph; '#' is ink.
_GLYPHS = {
    "0": " ### |#   #|#  ##|# # #|##  #|#   #| ### ",
    "1": "  #  | ##  |  #  |  #  |  #  |  #  | ### ",
    "2": " ### |#   #|    #|   # |  #  | #   |#####",
    "3": " ### |#   #|    #|  ## |    #|#   #| ### ",
    "4": "   # |  ## | # # |#  # |#####|   # |   # ",
    "5": "#####|#    |#### |    #|    #|#   #| ### ",
    "6": "  ## | #   |#    |#### |#   #|#   #| ### ",
    "7": "#####|    #|   # |  #  |  #  | #   | #   ",
    "8": " ### |#   #|#   #| ### |#   #|#   #| ### ",
    "9": " ### |#   #|#   #| ####|    #|   # | ##  ",
    "A": " ### |#   #|#   #|#####|#   #|#   #|#   #",
    "B": "#### |#   #|#   #|#### |#   #|#   #|#### ",
    "C": " ### |#   #|#    |#    |#    |#   #| ### ",
    "D": "#### |#   #|#   #|#   #|#   #|#   #|#### ",
}


@functools.cache
def _paper() -> np.ndarray:
    ramp = np.linspace(0, 64, SIDE)
    paper = np.empty((SIDE, SIDE, 3), np.uint8)
    paper[..., 0] = (255 - ramp)[None, :].round()
    paper[..., 1] = 250
    paper[..., 2] = (255 - ramp)[:, None].round()
    return paper


def canvas() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """A fresh sheet of tinted paper and the pen for it."""
    image = Image.fromarray(_paper())
    return image, ImageDraw.Draw(image)


def glyph(pen: ImageDraw.ImageDraw, text: str, column: int, row: int) -> None:
    """One character, twice the size of its bitmap, centred in the cell."""
    left, top = column * CELL + 3, row * CELL + 1
    for y, line in enumerate(_GLYPHS[text].split("|")):
        for x, ink in enumerate(line):
            if ink == "#":
                pen.rectangle((left + 2 * x, top + 2 * y, left + 2 * x + 1, top + 2 * y + 1), fill=(20, 20, 20))


def bars(heights: Sequence[int], colours: Sequence[str]) -> Image.Image:
    """Bars on columns 1, 2, ...; one unit of height is half a cell (8 pixels)."""
    image, pen = canvas()
    for unit in range(1, 12):
        y = SIDE - 8 * unit
        pen.line((4 if unit % 2 else 0, y, 11, y), fill=(120, 120, 120))
    for index, (height, colour) in enumerate(zip(heights, colours, strict=True)):
        left = CELL * (index + 1)
        pen.rectangle((left + 2, SIDE - 8 * height, left + 13, SIDE - 1), fill=COLOURS[colour])
    return image


def dial(hands: Sequence[tuple[int, str]]) -> Image.Image:
    """A round dial with twelve marks and coloured hands, given as (mark, colour)."""
    image, pen = canvas()
    centre = SIDE / 2
    pen.ellipse((3, 3, SIDE - 4, SIDE - 4), outline=(60, 60, 60), width=2)
    for mark in range(1, 13):
        x, y = _on_dial(mark, 38)
        pen.rectangle((x - 1, y - 1, x + 1, y + 1), fill=(60, 60, 60))
    for mark, colour in hands:
        pen.line((centre, centre, *_on_dial(mark, 34)), fill=COLOURS[colour], width=5)
    return image


def _on_dial(mark: int, radius: float) -> tuple[float, float]:
    angle = math.pi * mark / 6
    return SIDE / 2 + radius * math.sin(angle), SIDE / 2 - radius * math.cos(angle)


def discs(places: Sequence[tuple[int, int, str]]) -> Image.Image:
    """Discs in cells, given as (column, row, colour), on a ruled sheet."""
    image, pen = canvas()
    for line in range(0, SIDE, CELL):
        pen.line((line, 0, line, SIDE), fill=(205, 205, 205))
        pen.line((0, line, SIDE, line), fill=(205, 205, 205))
    for column, row, colour in places:
        x, y = column * CELL, row * CELL
        pen.ellipse((x + 3, y + 3, x + 13, y + 13), fill=COLOURS[colour])
    return image


def rectangle(column: int, row: int, width: int, height: int, colour: str) -> Image.Image:
    """One filled rectangle of width x height cells with its unit lines."""
    image, pen = canvas()
    x, y = column * CELL, row * CELL
    pen.rectangle((x, y, x + width * CELL - 1, y + height * CELL - 1), fill=COLOURS[colour])
    for line in range(0, SIDE, CELL):
        pen.line((line, 0, line, SIDE), fill=(235, 235, 235))
        pen.line((0, line, SIDE, line), fill=(235, 235, 235))
    return image


def table(rows: Sequence[tuple[str, Sequence[int]]]) -> Image.Image:
    """Digits under the letters A to D; each row is (colour of its head, digits)."""
    image, pen = canvas()
    for column, letter in enumerate("ABCD"):
        glyph(pen, letter, column + 1, 0)
    for row, (colour, digits) in enumerate(rows, start=1):
        pen.rectangle((2, row * CELL + 3, 13, row * CELL + 13), fill=COLOURS[colour])
        for column, digit in enumerate(digits):
            glyph(pen, str(digit), column + 1, row)
    pen.line((0, CELL, SIDE, CELL), fill=(60, 60, 60))
    pen.line((CELL, 0, CELL, SIDE), fill=(60, 60, 60))
    return image


def needles(segments: Sequence[Sequence[int]], colours: Sequence[str]) -> Image.Image:
    """Thin lines, each (x0, y0, x1, y1) in pixels; far below what one visual token resolves."""
    image, pen = canvas()
    for (x0, y0, x1, y1), colour in zip(segments, colours, strict=True):
        pen.line((x0, y0, x1, y1), fill=COLOURS[colour])
    return image
