"""Tables of digits: look-up."""

from __future__ import annotations

import random
from typing import Any

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


def _sample_table(rng: random.Random) -> dict[str, Any]:
    heads = rng.sample(NAMED, 4)
    return {
        "rows": [[head, rng.sample(range(10), 4)] for head in heads],
        "first": rng.choice(heads),
        "letter": rng.choice(LETTERS),
    }


def _table_row(f: Facts, s: Slots) -> Slots:
    digits = dict(f["rows"])[s["target"]]
    return {"head": s["target"]} | {slot: str(digit) for slot, digit in zip(_DIGITS, digits, strict=True)}


_DIGITS = ("d1", "d2", "d3", "d4")
_READ_ROW = (
    "The {head} row reads " + " ".join(f"{letter} {{{d}}}" for letter, d in zip(LETTERS, _DIGITS, strict=True)) + "."
)
_digit_near = {slot: numbers_near(slot, 0, 9) for slot in _DIGITS}

table_lookup = SyntheticTask(
    "table_lookup",
    "table",
    _sample_table,
    lambda f: draw.table([(head, digits) for head, digits in f["rows"]]),
    lambda f: f"Which number stands in the {f['first']} row under {f['letter']}?",
    (
        step(
            "Find the number in the {target} row under {letter}.",
            lambda f, s: {"target": f["first"], "letter": f["letter"]},
            target=seen("rows"),
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


def _under(f: Facts, s: Slots) -> Slots:
    digits = [s[slot] for slot in _DIGITS]
    # A misread row may not hold the number that was called its largest; the eye then stays on the first column.
    place = digits.index(s["largest"]) if s["largest"] in digits else 0
    return {"same": s["largest"], "result": LETTERS[place]}


table_largest = SyntheticTask(
    "table_largest",
    "table",
    _sample_table,
    lambda f: draw.table([(head, digits) for head, digits in f["rows"]]),
    lambda f: f"Which letter stands over the largest number in the {f['first']} row?",
    (
        step(
            "Find the largest number in the {target} row.",
            lambda f, s: {"target": f["first"]},
            target=seen("rows"),
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
