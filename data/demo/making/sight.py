"""What the embedded models see: pixels, and what a perfect eye would make of them."""

from __future__ import annotations

import math

import numpy as np
import torch

from curate.sources.synthetic.cells import in_half
from curate.sources.synthetic.draw import CELL, CELLS, SIDE
from curate.sources.synthetic.tasks import NAMED, Facts
from making.network import INK, MERGE, PAPER, PATCH

IGNORE = -100
# Words that a visual token may stand for: a colour, a place, and a number; their own words say them in a chain.
COLOUR_WORDS = tuple(f" {hue}" for hue in NAMED)
PLACE_WORDS = (" top", " bottom", " A", " B", " C", " D")
NUMBER_WORDS = tuple(f" {number}" for number in range(13))
# Further numbers of a cell that have no word of their own there: row, column, and two sizes.
PLAIN = (CELLS, CELLS, 13, 13)


def patches(image: np.ndarray) -> np.ndarray:
    """What the processor makes of one 96 x 96 image: [144, 3 * 2 * 8 * 8], patches of a token side by side."""
    values = (image.astype(np.float32) / 255 - PAPER) / INK
    side = SIDE // (PATCH * MERGE)
    grid = values.transpose(2, 0, 1).reshape(3, side, MERGE, PATCH, side, MERGE, PATCH)
    grid = grid.transpose(1, 4, 2, 5, 0, 3, 6).reshape(-1, 3, 1, PATCH, PATCH)
    return np.repeat(grid, 2, axis=2).reshape(side * side * MERGE * MERGE, -1)


def grid_cells(facts: Facts) -> dict[tuple[int, int], str]:
    """Colour by (column, row) of the images that are made of coloured cells."""
    if "dots" in facts:
        return {(c, r): hue for c, r, hue in facts["dots"]}
    if "places" in facts:
        return {(c - 1, r - 1): hue for (c, r), hue in zip(facts["places"], facts["colours"], strict=True)}
    columns = range(facts["column"], facts["column"] + facts["width"])
    rows = range(facts["row"], facts["row"] + facts["height"])
    return {(c, r): facts["colour"] for c in columns for r in rows}


def cell_labels(facts: Facts) -> np.ndarray:
    """What each visual token should know, [36, 7]: three words (indices of a colour, a place and a number) and four
    numbers (row, column, and width and height of a rectangle or the total of a dot's colour); IGNORE where nothing.
    """
    words = np.full((CELLS, CELLS, 3), IGNORE)
    plain = np.full((CELLS, CELLS, 4), IGNORE)
    plain[..., 0], plain[..., 1] = np.arange(CELLS)[:, None], np.arange(CELLS)[None, :]
    if "heights" in facts:
        for place, (hue, height) in enumerate(zip(facts["colours"], facts["heights"], strict=True), start=1):
            words[CELLS - (height + 1) // 2 :, place, 0] = NAMED.index(hue)
            words[:, place, 2] = height
    elif "hands" in facts:
        for hue, mark in facts["hands"]:
            for reach in (0.35, 0.6, 0.85):
                x = int((SIDE / 2 + reach * 40 * math.sin(math.pi * mark / 6)) // CELL)
                y = int((SIDE / 2 - reach * 40 * math.cos(math.pi * mark / 6)) // CELL)
                words[y, x] = NAMED.index(hue), IGNORE, mark
    elif "rows" in facts:
        words[0, 1:5, 1] = range(2, 6)
        for row, (head, digits) in enumerate(facts["rows"], start=1):
            words[row, 0:5, 0] = NAMED.index(head)
            words[row, 1:5, 1] = range(2, 6)
            words[row, 1:5, 2] = digits
    elif "lines" not in facts:
        cells = grid_cells(facts)
        for (column, row), hue in cells.items():
            words[row, column, 0] = NAMED.index(hue)
            if "dots" in facts:
                upper = row < CELLS // 2
                words[row, column, 1:] = 0 if upper else 1, in_half(facts, hue, upper)
                plain[row, column, 2] = in_half(facts, hue, True) + in_half(facts, hue, False)
            else:
                plain[row, column, 2:] = facts.get("width", IGNORE), facts.get("height", IGNORE)
    return np.concatenate([words, plain], axis=-1).reshape(CELLS * CELLS, -1)


class Ideal(torch.nn.Module):
    """What a perfect eye would see: each visual token is the sum of the language model's own embeddings of the words
    for what its cell shows, and of rows of small tables for the numbers that have no word there. So whatever finds and
    copies a word in a text does so in an image.
    """

    def __init__(self, table: torch.nn.Embedding, word_ids: list[list[int]]) -> None:
        super().__init__()
        self.table, self.word_ids = (table,), [torch.tensor(ids) for ids in word_ids]
        self.numbers = torch.nn.ModuleList(torch.nn.Embedding(count, table.embedding_dim) for count in PLAIN)
        for numbers in self.numbers:
            numbers.weight.data.mul_(0.4 * table.embedding_dim**-0.5)

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        """Visual tokens [n, width] of `cell_labels` [n, 7]."""
        parts = []
        for slot, ids in enumerate(self.word_ids):
            label = labels[:, slot]
            parts.append(self.table[0](ids[label.clamp(0)]) * (label >= 0)[:, None])
        for slot, numbers in enumerate(self.numbers, start=len(self.word_ids)):
            label = labels[:, slot]
            parts.append(numbers(label.clamp(0)) * (label >= 0)[:, None])
        return torch.stack(parts).sum(0)
