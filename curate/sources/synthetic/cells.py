"""Dots, discs and rectangles on a grid: counting, comparing, geometry and space."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from curate.sources.synthetic import draw
from curate.sources.synthetic.base import (
    NAMED,
    PAIR_RULES,
    Facts,
    Slots,
    SyntheticTask,
    among,
    combine,
    conclude,
    numbers_near,
    seen,
    step,
)

# ---------------------------------------------------------------- dots: counting and comparing


@dataclass(frozen=True)
class DotFacts(Facts):
    """Dots as (column, row, colour) from 0, and the colours that are asked for."""

    dots: Sequence[tuple[int, int, str]]
    colours: Sequence[str]
    first: str
    second: str


def _sample_dots(rng: random.Random) -> DotFacts:
    colours = rng.sample(NAMED, 3)
    more, fewer = sorted(rng.sample(range(1, 7), 2), reverse=True)
    counts = [more, fewer, rng.randint(1, 5)]
    cells = rng.sample([(c, r) for c in range(draw.CELLS) for r in range(draw.CELLS)], sum(counts))
    hues = [colour for colour, count in zip(colours, counts, strict=True) for _ in range(count)]
    dots = [(c, r, hue) for (c, r), hue in zip(cells, hues, strict=True)]
    return DotFacts(sorted(dots), colours, first=colours[0], second=colours[1])


def _dots_image(facts: DotFacts) -> Image.Image:
    return draw.discs([(c, r, hue) for c, r, hue in facts.dots])


def in_half(facts: DotFacts, colour: str, upper: bool) -> int:
    """Dots of a colour in the upper or the lower three rows."""
    return sum(1 for _, r, hue in facts.dots if hue == colour and (r < draw.CELLS // 2) == upper)


def _count(facts: DotFacts, colour: str) -> int:
    return sum(1 for *_, hue in facts.dots if hue == colour)


_HALF_RULES: dict[str, Callable[[Sequence[int]], int]] = {"adding the halves": sum, "taking the fuller half": max}

dots_count = SyntheticTask[DotFacts](
    "dots_count",
    "counting",
    DotFacts,
    _sample_dots,
    _dots_image,
    lambda f: f"How many {f.first} dots are there?",
    (
        step("Count the {target} dots.", lambda f, s: {"target": f.first}, target=seen(lambda f: f.colours)),
        step(
            "The top half holds {upper} and the bottom half holds {lower}.",
            lambda f, s: {half: str(in_half(f, s["target"], half == "upper")) for half in ("upper", "lower")},
            upper=numbers_near("upper", 0, 7, reach=2),
            lower=numbers_near("lower", 0, 7, reach=2),
        ),
        step("The total is found by {rule}.", lambda f, s: {"rule": "adding the halves"}, rule=among(*_HALF_RULES)),
        step(
            "For {x} and {y} that gives {result}.",
            lambda f, s: {
                "x": s["upper"],
                "y": s["lower"],
                "result": str(_HALF_RULES[s["rule"]]([int(s["upper"]), int(s["lower"])])),
            },
            result=numbers_near("result", 0, 12),
        ),
        conclude(numbers_near("answer", 0, 12)),
    ),
)

dots_more = SyntheticTask[DotFacts](
    "dots_more",
    "counting",
    DotFacts,
    _sample_dots,
    _dots_image,
    lambda f: f"How many more {f.first} dots than {f.second} dots are there?",
    (
        step(
            "Compare the {first} dots and the {second} dots.",
            lambda f, s: {"first": f.first, "second": f.second},
            first=seen(lambda f: f.colours),
            second=seen(lambda f: f.colours),
        ),
        step(
            "There are {a} {c} dots and {b} {d} dots.",
            lambda f, s: {
                "a": str(_count(f, s["first"])),
                "c": s["first"],
                "b": str(_count(f, s["second"])),
                "d": s["second"],
            },
            a=numbers_near("a", 0, 9),
            b=numbers_near("b", 0, 9),
        ),
        step("It is found by {rule}.", lambda f, s: {"rule": "subtracting"}, rule=among(*PAIR_RULES)),
        step("{x} {op} {y} is {result}.", combine, result=numbers_near("result", 0, 18)),
        conclude(numbers_near("answer", 0, 18)),
    ),
)


# ---------------------------------------------------------------- grid and rectangle: geometry and space


@dataclass(frozen=True)
class GridFacts(Facts):
    """A disc of each colour at a place (column, row) from 1, and the two that are asked for."""

    colours: Sequence[str]
    places: Sequence[tuple[int, int]]
    first: str
    second: str


def _sample_grid(rng: random.Random) -> GridFacts:
    colours = rng.sample(NAMED, 3)
    cells = rng.sample([(c, r) for c in range(draw.CELLS) for r in range(draw.CELLS)], 3)
    return GridFacts(
        colours=colours,
        places=[(c + 1, r + 1) for c, r in cells],
        first=colours[0],
        second=colours[1],
    )


def _place(facts: GridFacts, colour: str) -> tuple[int, int]:
    column, row = facts.places[facts.colours.index(colour)]
    return column, row


def _two_places(f: GridFacts, s: Slots) -> Slots:
    (c1, r1), (c2, r2) = _place(f, s["first"]), _place(f, s["second"])
    return {"p": s["first"], "c1": str(c1), "r1": str(r1), "q": s["second"], "c2": str(c2), "r2": str(r2)}


def _walk(f: Facts, s: Slots) -> Slots:
    across, down = abs(int(s["c1"]) - int(s["c2"])), abs(int(s["r1"]) - int(s["r2"]))
    result = across + down if s["rule"] == "along columns and rows" else across
    ends = {"x1": s["c1"], "x2": s["c2"], "y1": s["r1"], "y2": s["r2"]}
    return ends | {"across": str(across), "down": str(down), "result": str(result)}


grid_distance = SyntheticTask[GridFacts](
    "grid_distance",
    "geometry",
    GridFacts,
    _sample_grid,
    lambda f: draw.discs([(c - 1, r - 1, hue) for (c, r), hue in zip(f.places, f.colours, strict=True)]),
    lambda f: f"How many cells is it from the {f.first} disc to the {f.second} disc, along the grid?",
    (
        step(
            "Find the way from the {first} disc to the {second} disc.",
            lambda f, s: {"first": f.first, "second": f.second},
            first=seen(lambda f: f.colours),
            second=seen(lambda f: f.colours),
        ),
        step(
            "The {p} disc is at column {c1} row {r1} and the {q} disc is at column {c2} row {r2}.",
            _two_places,
            **{slot: numbers_near(slot, 1, 6, reach=2) for slot in ("c1", "r1", "c2", "r2")},
        ),
        step(
            "Cells are counted {rule}.",
            lambda f, s: {"rule": "along columns and rows"},
            rule=among("along columns and rows", "along columns only"),
        ),
        step(
            "Columns {x1} and {x2} are {across} apart and rows {y1} and {y2} are {down} apart, so {result}.",
            _walk,
            result=numbers_near("result", 0, 12),
        ),
        conclude(numbers_near("answer", 0, 12)),
    ),
)


@dataclass(frozen=True)
class RectangleFacts(Facts):
    """A rectangle in cells, its upper left cell at (column, row) from 0."""

    width: int
    height: int
    column: int
    row: int
    colour: str


def _sample_rectangle(rng: random.Random) -> RectangleFacts:
    width, height = rng.randint(1, 6), rng.randint(1, 6)
    return RectangleFacts(
        width=width,
        height=height,
        column=rng.randint(0, draw.CELLS - width),
        row=rng.randint(0, draw.CELLS - height),
        colour=rng.choice(NAMED),
    )


_SIZE_RULES: dict[str, Callable[[int, int], int]] = {
    "the product": lambda w, h: w * h,
    "the sum": lambda w, h: w + h,
    "twice the sum": lambda w, h: 2 * (w + h),
}
_QUANTITIES = {"area": "the product", "perimeter": "twice the sum"}


def _rectangle(quantity: str) -> SyntheticTask[RectangleFacts]:
    return SyntheticTask[RectangleFacts](
        f"rectangle_{quantity}",
        "geometry",
        RectangleFacts,
        _sample_rectangle,
        lambda f: draw.rectangle(f.column, f.row, f.width, f.height, f.colour),
        lambda f: f"What is the {quantity} of the {f.colour} rectangle?",
        (
            step(
                "Find the {quantity} of the rectangle.",
                lambda f, s: {"quantity": quantity},
                quantity=among(*_QUANTITIES),
            ),
            step(
                "It is {w} wide and {h} high.",
                lambda f, s: {"w": str(f.width), "h": str(f.height)},
                w=numbers_near("w", 1, 6, reach=2),
                h=numbers_near("h", 1, 6, reach=2),
            ),
            step(
                "Take {rule} of width and height.",
                lambda f, s: {"rule": _QUANTITIES[s["quantity"]]},
                rule=among(*_SIZE_RULES),
            ),
            step(
                "For {w2} and {h2} that is {result}.",
                lambda f, s: {
                    "w2": s["w"],
                    "h2": s["h"],
                    "result": str(_SIZE_RULES[s["rule"]](int(s["w"]), int(s["h"]))),
                },
                result=numbers_near("result", 1, 36),
            ),
            conclude(numbers_near("answer", 1, 36)),
        ),
    )


rectangle_area = _rectangle("area")
rectangle_perimeter = _rectangle("perimeter")
