"""The synthetic tasks: facts, picture, question and the five steps that lead to the answer.

A task is a list of five `Step`s after DreamPRM's structured prompt: what is asked, what the picture shows, what else is
known, the two put together, the conclusion. A step is a sentence with slots; `fill` computes the slots from the facts
and from what the chain has *written* so far, so that a slip early in a chain is carried on faithfully, as a reader
would. The same templates, read backwards, are the exact checker (`chain.py`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from curate.sources.synthetic import draw

Facts = Mapping[str, Any]
Slots = dict[str, str]
Near = Callable[[Facts, Slots], Sequence[str]]

LETTERS = "ABCD"
NAMED = ("red", "blue", "green", "orange", "purple")


@dataclass(frozen=True)
class Step:
    """One sentence: `fill(facts, written)` gives its right slots, `near[slot]` the wrong values one could write."""

    template: str
    fill: Callable[[Facts, Slots], Slots]
    near: Mapping[str, Near]


@dataclass(frozen=True)
class Task:
    """A family of problems with exact answers; `facts` are plain JSON values."""

    name: str
    family: str
    sample: Callable[[random.Random], Facts]
    picture: Callable[[Facts], Image.Image]
    question: Callable[[Facts], str]
    steps: tuple[Step, ...]
    answer_type: str = "number"
    choices: tuple[str, ...] = ()


def _numbers(slot: str, low: int, high: int, reach: int = 3) -> Near:
    """Neighbours of the right number, at most `reach` away."""

    def near(facts: Facts, slots: Slots) -> Sequence[str]:
        right = int(slots[slot])
        return [str(n) for n in range(max(low, right - reach), min(high, right + reach) + 1) if n != right]

    return near


def _among(*values: str) -> Near:
    return lambda facts, slots: values


def _seen(key: str) -> Near:
    """Colours that the picture shows."""
    return lambda facts, slots: [item[0] if isinstance(item, list | tuple) else item for item in facts[key]]


def _conclude(near: Near) -> Step:
    return Step("The answer is {answer}.", lambda facts, slots: {"answer": slots["result"]}, {"answer": near})


def _step(template: str, fill: Callable[[Facts, Slots], Slots], **near: Near) -> Step:
    return Step(template, fill, near)


# ---------------------------------------------------------------- bars: read-off and arithmetic on read-off values


def _sample_bars(rng: random.Random) -> dict[str, Any]:
    colours = rng.sample(NAMED, 4)
    heights = [rng.randint(1, 9) for _ in colours]
    first, second = rng.sample(range(4), 2)
    while heights[first] <= heights[second]:
        heights[first], heights[second] = rng.randint(1, 9), rng.randint(1, 9)
    return {"colours": colours, "heights": heights, "first": colours[first], "second": colours[second]}


def _bars_picture(facts: Facts) -> Image.Image:
    return draw.bars(facts["heights"], facts["colours"])


def _height(facts: Facts, colour: str) -> int:
    return int(facts["heights"][facts["colours"].index(colour)])


_BAR_RULES = {"the top": 0, "the line above the top": 1}

bars_read = Task(
    "bars_read",
    "read-off",
    _sample_bars,
    _bars_picture,
    lambda f: f"What is the value of the {f['first']} bar?",
    (
        _step("Find the value of the {target} bar.", lambda f, s: {"target": f["first"]}, target=_seen("colours")),
        _step(
            "The {bar} bar reaches {read}.",
            lambda f, s: {"bar": s["target"], "read": str(_height(f, s["target"]))},
            read=_numbers("read", 1, 11),
        ),
        _step("The value is at {rule} of a bar.", lambda f, s: {"rule": "the top"}, rule=_among(*_BAR_RULES)),
        _step(
            "So the value is {result}.",
            lambda f, s: {"result": str(int(s["read"]) + _BAR_RULES[s["rule"]])},
            result=_numbers("result", 1, 12),
        ),
        _conclude(_numbers("answer", 1, 12)),
    ),
)

_PAIR_RULES: dict[str, tuple[str, Callable[[int, int], int]]] = {
    "subtracting": ("minus", lambda a, b: abs(a - b)),
    "adding": ("plus", lambda a, b: a + b),
}


def _combine(f: Facts, s: Slots) -> Slots:
    word, apply = _PAIR_RULES[s["rule"]]
    return {"x": s["a"], "op": word, "y": s["b"], "result": str(apply(int(s["a"]), int(s["b"])))}


def _bars_pair(name: str, question: str, goal: str, rule: str) -> Task:
    return Task(
        name,
        "arithmetic",
        _sample_bars,
        _bars_picture,
        lambda f: question.format(**f),
        (
            _step(
                f"Find {goal} of the {{first}} bar and the {{second}} bar.",
                lambda f, s: {"first": f["first"], "second": f["second"]},
                first=_seen("colours"),
                second=_seen("colours"),
            ),
            _step(
                "The {c} bar reaches {a} and the {d} bar reaches {b}.",
                lambda f, s: {
                    "c": s["first"],
                    "a": str(_height(f, s["first"])),
                    "d": s["second"],
                    "b": str(_height(f, s["second"])),
                },
                a=_numbers("a", 1, 11),
                b=_numbers("b", 1, 11),
            ),
            _step("It is found by {rule}.", lambda f, s: {"rule": rule}, rule=_among(*_PAIR_RULES)),
            _step("{x} {op} {y} is {result}.", _combine, result=_numbers("result", 0, 22)),
            _conclude(_numbers("answer", 0, 22)),
        ),
    )


bars_difference = _bars_pair(
    "bars_difference",
    "How much higher is the {first} bar than the {second} bar?",
    "the difference",
    "subtracting",
)
bars_sum = _bars_pair("bars_sum", "What do the {first} bar and the {second} bar make together?", "the total", "adding")


# ---------------------------------------------------------------- dial: read-off


def _sample_dial(rng: random.Random) -> dict[str, Any]:
    marks, colours = rng.sample(range(1, 13), 2), rng.sample(NAMED, 2)
    return {"hands": [[colours[0], marks[0]], [colours[1], marks[1]]], "first": rng.choice(colours)}


_DIAL_RULES = {"the mark at the tip": 0, "the mark after the tip": 1}

dial_read = Task(
    "dial_read",
    "read-off",
    _sample_dial,
    lambda f: draw.dial([(mark, colour) for colour, mark in f["hands"]]),
    lambda f: f"Which number from 1 to 12 does the {f['first']} hand show?",
    (
        _step("Find the number of the {target} hand.", lambda f, s: {"target": f["first"]}, target=_seen("hands")),
        _step(
            "The {hand} hand points at {read}.",
            lambda f, s: {"hand": s["target"], "read": str(dict(f["hands"])[s["target"]])},
            read=_numbers("read", 1, 12),
        ),
        _step("The number is {rule}.", lambda f, s: {"rule": "the mark at the tip"}, rule=_among(*_DIAL_RULES)),
        _step(
            "So the number is {result}.",
            lambda f, s: {"result": str((int(s["read"]) + _DIAL_RULES[s["rule"]] - 1) % 12 + 1)},
            result=_numbers("result", 1, 12),
        ),
        _conclude(_numbers("answer", 1, 12)),
    ),
)


# ---------------------------------------------------------------- dots: counting and comparing


def _sample_dots(rng: random.Random) -> dict[str, Any]:
    colours = rng.sample(NAMED, 3)
    more, fewer = sorted(rng.sample(range(1, 8), 2), reverse=True)
    counts = [more, fewer, rng.randint(1, 6)]
    cells = rng.sample([(c, r) for c in range(draw.CELLS) for r in range(draw.CELLS)], sum(counts))
    hues = [colour for colour, count in zip(colours, counts, strict=True) for _ in range(count)]
    dots = [[c, r, hue] for (c, r), hue in zip(cells, hues, strict=True)]
    return {"dots": sorted(dots), "colours": colours, "first": colours[0], "second": colours[1]}


def _dots_picture(facts: Facts) -> Image.Image:
    return draw.discs([(c, r, hue) for c, r, hue in facts["dots"]])


def _in_row(facts: Facts, colour: str, row: int) -> int:
    return sum(1 for _, r, hue in facts["dots"] if hue == colour and r == row)


def _count(facts: Facts, colour: str) -> int:
    return sum(1 for *_, hue in facts["dots"] if hue == colour)


_ROWS = tuple(f"r{row}" for row in range(draw.CELLS))
_ROW_RULES: dict[str, Callable[[Sequence[int]], int]] = {
    "adding the rows": sum,
    "counting the rows that are not empty": lambda rows: sum(1 for n in rows if n),
}

dots_count = Task(
    "dots_count",
    "counting",
    _sample_dots,
    _dots_picture,
    lambda f: f"How many {f['first']} dots are there?",
    (
        _step("Count the {target} dots.", lambda f, s: {"target": f["first"]}, target=_seen("colours")),
        _step(
            "The rows hold " + " ".join(f"{{{row}}}" for row in _ROWS) + ".",
            lambda f, s: {slot: str(_in_row(f, s["target"], row)) for row, slot in enumerate(_ROWS)},
            **{slot: _numbers(slot, 0, 6, reach=1) for slot in _ROWS},
        ),
        _step("The total is found by {rule}.", lambda f, s: {"rule": "adding the rows"}, rule=_among(*_ROW_RULES)),
        _step(
            "That gives {result}.",
            lambda f, s: {"result": str(_ROW_RULES[s["rule"]]([int(s[row]) for row in _ROWS]))},
            result=_numbers("result", 0, 12),
        ),
        _conclude(_numbers("answer", 0, 12)),
    ),
)

dots_more = Task(
    "dots_more",
    "counting",
    _sample_dots,
    _dots_picture,
    lambda f: f"How many more {f['first']} dots than {f['second']} dots are there?",
    (
        _step(
            "Compare the {first} dots and the {second} dots.",
            lambda f, s: {"first": f["first"], "second": f["second"]},
            first=_seen("colours"),
            second=_seen("colours"),
        ),
        _step(
            "There are {a} {c} dots and {b} {d} dots.",
            lambda f, s: {
                "a": str(_count(f, s["first"])),
                "c": s["first"],
                "b": str(_count(f, s["second"])),
                "d": s["second"],
            },
            a=_numbers("a", 0, 9),
            b=_numbers("b", 0, 9),
        ),
        _step("It is found by {rule}.", lambda f, s: {"rule": "subtracting"}, rule=_among(*_PAIR_RULES)),
        _step("{x} {op} {y} is {result}.", _combine, result=_numbers("result", 0, 18)),
        _conclude(_numbers("answer", 0, 18)),
    ),
)


# ---------------------------------------------------------------- grid and rectangle: geometry and space


def _sample_grid(rng: random.Random) -> dict[str, Any]:
    colours = rng.sample(NAMED, 3)
    cells = rng.sample([(c, r) for c in range(draw.CELLS) for r in range(draw.CELLS)], 3)
    return {
        "colours": colours,
        "places": [[c + 1, r + 1] for c, r in cells],
        "first": colours[0],
        "second": colours[1],
    }


def _place(facts: Facts, colour: str) -> tuple[int, int]:
    column, row = facts["places"][facts["colours"].index(colour)]
    return int(column), int(row)


def _two_places(f: Facts, s: Slots) -> Slots:
    (c1, r1), (c2, r2) = _place(f, s["first"]), _place(f, s["second"])
    return {"p": s["first"], "c1": str(c1), "r1": str(r1), "q": s["second"], "c2": str(c2), "r2": str(r2)}


def _walk(f: Facts, s: Slots) -> Slots:
    across = abs(int(s["c1"]) - int(s["c2"]))
    down = abs(int(s["r1"]) - int(s["r2"])) if s["rule"] == "along columns and rows" else 0
    return {"across": str(across), "down": str(down), "result": str(across + down)}


grid_distance = Task(
    "grid_distance",
    "geometry",
    _sample_grid,
    lambda f: draw.discs([(c - 1, r - 1, hue) for (c, r), hue in zip(f["places"], f["colours"], strict=True)]),
    lambda f: f"How many cells apart are the {f['first']} disc and the {f['second']} disc, along the grid?",
    (
        _step(
            "Find the way from the {first} disc to the {second} disc.",
            lambda f, s: {"first": f["first"], "second": f["second"]},
            first=_seen("colours"),
            second=_seen("colours"),
        ),
        _step(
            "The {p} disc is at column {c1} row {r1} and the {q} disc is at column {c2} row {r2}.",
            _two_places,
            **{slot: _numbers(slot, 1, 6, reach=2) for slot in ("c1", "r1", "c2", "r2")},
        ),
        _step(
            "Cells are counted {rule}.",
            lambda f, s: {"rule": "along columns and rows"},
            rule=_among("along columns and rows", "along columns only"),
        ),
        _step("{across} across and {down} down is {result}.", _walk, result=_numbers("result", 0, 12)),
        _conclude(_numbers("answer", 0, 12)),
    ),
)


def _sample_rectangle(rng: random.Random) -> dict[str, Any]:
    width, height = rng.randint(1, 6), rng.randint(1, 6)
    return {
        "width": width,
        "height": height,
        "column": rng.randint(0, draw.CELLS - width),
        "row": rng.randint(0, draw.CELLS - height),
        "colour": rng.choice(NAMED),
    }


_SIZE_RULES: dict[str, Callable[[int, int], int]] = {
    "the product": lambda w, h: w * h,
    "the sum": lambda w, h: w + h,
    "twice the sum": lambda w, h: 2 * (w + h),
}
_QUANTITIES = {"area": "the product", "perimeter": "twice the sum"}


def _rectangle(quantity: str) -> Task:
    return Task(
        f"rectangle_{quantity}",
        "geometry",
        _sample_rectangle,
        lambda f: draw.rectangle(f["column"], f["row"], f["width"], f["height"], f["colour"]),
        lambda f: f"What is the {quantity} of the {f['colour']} rectangle?",
        (
            _step(
                "Find the {quantity} of the rectangle.",
                lambda f, s: {"quantity": quantity},
                quantity=_among(*_QUANTITIES),
            ),
            _step(
                "It is {w} wide and {h} high.",
                lambda f, s: {"w": str(f["width"]), "h": str(f["height"])},
                w=_numbers("w", 1, 6, reach=2),
                h=_numbers("h", 1, 6, reach=2),
            ),
            _step(
                "Take {rule} of width and height.",
                lambda f, s: {"rule": _QUANTITIES[s["quantity"]]},
                rule=_among(*_SIZE_RULES),
            ),
            _step(
                "For {w2} and {h2} that is {result}.",
                lambda f, s: {
                    "w2": s["w"],
                    "h2": s["h"],
                    "result": str(_SIZE_RULES[s["rule"]](int(s["w"]), int(s["h"]))),
                },
                result=_numbers("result", 1, 36),
            ),
            _conclude(_numbers("answer", 1, 36)),
        ),
    )


rectangle_area = _rectangle("area")
rectangle_perimeter = _rectangle("perimeter")


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
_READ_ROW = "The {head} row reads " + " ".join(f"{{{slot}}}" for slot in _DIGITS) + "."
_digit_near = {slot: _numbers(slot, 0, 9) for slot in _DIGITS}

table_lookup = Task(
    "table_lookup",
    "table",
    _sample_table,
    lambda f: draw.table([(head, digits) for head, digits in f["rows"]]),
    lambda f: f"Which number stands in the {f['first']} row under {f['letter']}?",
    (
        _step(
            "Find the number in the {target} row under {letter}.",
            lambda f, s: {"target": f["first"], "letter": f["letter"]},
            target=_seen("rows"),
            letter=_among(*LETTERS),
        ),
        _step(_READ_ROW, _table_row, **_digit_near),
        _step(
            "{letter2} is column {number}.",
            lambda f, s: {"letter2": s["letter"], "number": str(LETTERS.index(s["letter"]) + 1)},
            number=_among("1", "2", "3", "4"),
        ),
        _step(
            "So the number is {result}.",
            lambda f, s: {"result": s[f"d{s['number']}"]},
            result=lambda f, s: [s[slot] for slot in _DIGITS],
        ),
        _conclude(_numbers("answer", 0, 9)),
    ),
)


def _under(f: Facts, s: Slots) -> Slots:
    digits = [s[slot] for slot in _DIGITS]
    # A misread row may not hold the number that was called its largest; the eye then stays on the first column.
    place = digits.index(s["largest"]) if s["largest"] in digits else 0
    return {"same": s["largest"], "result": LETTERS[place]}


table_largest = Task(
    "table_largest",
    "table",
    _sample_table,
    lambda f: draw.table([(head, digits) for head, digits in f["rows"]]),
    lambda f: f"Which letter stands over the largest number in the {f['first']} row?",
    (
        _step(
            "Find the largest number in the {target} row.",
            lambda f, s: {"target": f["first"]},
            target=_seen("rows"),
        ),
        _step(_READ_ROW, _table_row, **_digit_near),
        _step(
            "The largest is {largest}.",
            lambda f, s: {"largest": max((s[slot] for slot in _DIGITS), key=int)},
            largest=lambda f, s: [s[slot] for slot in _DIGITS],
        ),
        _step("{same} stands under {result}.", _under, result=_among(*LETTERS)),
        _conclude(_among(*LETTERS)),
    ),
    answer_type="choice",
    choices=tuple(LETTERS),
)


# ---------------------------------------------------------------- needles: too hard for the demo policy


def _crosses(p: Sequence[int], q: Sequence[int]) -> bool:
    """Do the open segments p and q, each (x0, y0, x1, y1), cross?"""

    def side(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> int:
        turn = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        return (turn > 0) - (turn < 0)

    a, b, c, d = (p[0], p[1]), (p[2], p[3]), (q[0], q[1]), (q[2], q[3])
    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0


def _sample_needles(rng: random.Random) -> dict[str, Any]:
    def segment() -> list[int]:
        return [rng.randint(2, draw.SIDE - 3) for _ in range(4)]

    def across() -> list[int]:
        return [2, rng.randint(8, draw.SIDE - 9), draw.SIDE - 3, rng.randint(8, draw.SIDE - 9)]

    hues = rng.sample(("red", "blue", "green"), 2)
    return {
        "targets": [[hue, across()] for hue in hues],
        "lines": [segment() for _ in range(rng.randint(14, 40))],
        "first": hues[0],
    }


def _crossings(facts: Facts, colour: str) -> int:
    target = dict(facts["targets"])[colour]
    return sum(_crosses(target, line) for line in facts["lines"])


needles = Task(
    "needles",
    "geometry",
    _sample_needles,
    lambda f: draw.needles(
        [*f["lines"], *(line for _, line in f["targets"])],
        ["black"] * len(f["lines"]) + [hue for hue, _ in f["targets"]],
    ),
    lambda f: f"How many black lines cross the {f['first']} line?",
    (
        _step("Follow the {target} line.", lambda f, s: {"target": f["first"]}, target=_seen("targets")),
        _step(
            "It meets {read} black lines.",
            lambda f, s: {"read": str(_crossings(f, s["target"]))},
            read=_numbers("read", 0, 40, reach=8),
        ),
        _step(
            "Count {rule}.", lambda f, s: {"rule": "each line once"}, rule=_among("each line once", "each line twice")
        ),
        _step(
            "That gives {result}.",
            lambda f, s: {"result": str(int(s["read"]) * (2 if s["rule"] == "each line twice" else 1))},
            result=_numbers("result", 0, 80),
        ),
        _conclude(_numbers("answer", 0, 80)),
    ),
)

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        bars_read,
        bars_difference,
        bars_sum,
        dial_read,
        dots_count,
        dots_more,
        grid_distance,
        rectangle_area,
        rectangle_perimeter,
        table_lookup,
        table_largest,
        needles,
    )
}
