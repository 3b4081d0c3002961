"""Tables of digits: look-up."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from curate.sources.synthetic import draw
from curate.sources.synthetic.base import (
    LETTERS,
    NAMED,
    Facts,
    Slots,
    SyntheticTask,
    among,
    conclude,
    numbers_near,
    seen,
    step,
)

# ---------------------------------------------------------------- table: look-up


@dataclass(frozen=True)
class TableFacts(Facts):
    """Rows of four digits under the letters A to D, and the cell that is asked for."""

    rows: Sequence[tuple[str, Sequence[int]]]
    first: str
    letter: str

    @property
    def heads(self) -> list[str]:
        """What the rows are called."""
        return [head for head, _ in self.rows]


def _sample_table(rng: random.Random) -> TableFacts:
    heads = rng.sample(NAMED, 4)
    return TableFacts(
        rows=[(head, rng.sample(range(10), 4)) for head in heads],
        first=rng.choice(heads),
        letter=rng.choice(LETTERS),
    )


def _table_image(facts: TableFacts) -> Image.Image:
    return draw.table([(head, digits) for head, digits in facts.rows])


def _table_row(f: TableFacts, s: Slots) -> Slots:
    digits = dict(f.rows)[s["target"]]
    return {"head": s["target"]} | {slot: str(digit) for slot, digit in zip(_DIGITS, digits, strict=True)}


_DIGITS = ("d1", "d2", "d3", "d4")
_READ_ROW = (
    "The {head} row reads " + " ".join(f"{letter} {{{d}}}" for letter, d in zip(LETTERS, _DIGITS, strict=True)) + "."
)
_digit_near = {slot: numbers_near(slot, 0, 9) for slot in _DIGITS}

table_lookup = SyntheticTask[TableFacts](
    "table_lookup",
    "table",
    TableFacts,
    _sample_table,
    _table_image,
    lambda f: f"Which number stands in the {f.first} row under {f.letter}?",
    (
        step(
            "Find the number in the {target} row under {letter}.",
            lambda f, s: {"target": f.first, "letter": f.letter},
            target=seen(lambda f: f.heads),
            letter=among(*LETTERS),
        ),
        step(_READ_ROW, _table_row, **_digit_near),
        step(
            "The number after {column} is wanted.",
            lambda f, s: {"column": s["letter"]},
            column=among(*LETTERS),
        ),
        step(
            "It reads {place} {result}.",
            lambda f, s: {"place": s["column"], "result": s[_DIGITS[LETTERS.index(s["column"])]]},
            result=lambda f, s: [s[slot] for slot in _DIGITS],
        ),
        conclude(numbers_near("answer", 0, 9)),
    ),
)


def _under(f: TableFacts, s: Slots) -> Slots:
    digits = [s[slot] for slot in _DIGITS]
    # A misread row may not hold the number that was called its largest; the eye then stays on the first column.
    place = digits.index(s["largest"]) if s["largest"] in digits else 0
    return {"same": s["largest"], "result": LETTERS[place]}


table_largest = SyntheticTask[TableFacts](
    "table_largest",
    "table",
    TableFacts,
    _sample_table,
    _table_image,
    lambda f: f"Which letter stands over the largest number in the {f.first} row?",
    (
        step(
            "Find the largest number in the {target} row.",
            lambda f, s: {"target": f.first},
            target=seen(lambda f: f.heads),
        ),
        step(_READ_ROW, _table_row, **_digit_near),
        step(
            "The largest is {largest}.",
            lambda f, s: {"largest": max((s[slot] for slot in _DIGITS), key=int)},
            largest=lambda f, s: [s[slot] for slot in _DIGITS],
        ),
        step("{same} stands under {result}.", _under, result=among(*LETTERS)),
        conclude(among(*LETTERS)),
    ),
    answer_type="choice",
    choices=tuple(LETTERS),
)
