"""Bars, dials and needles: reading values off an image, and arithmetic on them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from curate.sources.synthetic import draw
from curate.sources.synthetic.base import (
    NAMED,
    PAIR_RULES,
    Facts,
    SyntheticTask,
    among,
    combine,
    conclude,
    numbers_near,
    seen,
    step,
)

# ---------------------------------------------------------------- bars: read-off and arithmetic on read-off values


@dataclass(frozen=True)
class BarFacts(Facts):
    """A bar of each colour, and the two that are asked for, of which the first is higher."""

    colours: Sequence[str]
    heights: Sequence[int]
    first: str
    second: str


def _sample_bars(rng: random.Random) -> BarFacts:
    colours = rng.sample(NAMED, 4)
    heights = [rng.randint(1, 9) for _ in colours]
    first, second = rng.sample(range(4), 2)
    while heights[first] <= heights[second]:
        heights[first], heights[second] = rng.randint(1, 9), rng.randint(1, 9)
    return BarFacts(colours, heights, first=colours[first], second=colours[second])


def _bars_image(facts: BarFacts) -> Image.Image:
    return draw.bars(facts.heights, facts.colours)


def _height(facts: BarFacts, colour: str) -> int:
    return facts.heights[facts.colours.index(colour)]


_BAR_RULES = {"the top": 0, "the line above the top": 1}

bars_read = SyntheticTask[BarFacts](
    "bars_read",
    "read-off",
    BarFacts,
    _sample_bars,
    _bars_image,
    lambda f: f"What is the value of the {f.first} bar?",
    (
        step("Find the value of the {target} bar.", lambda f, s: {"target": f.first}, target=seen(lambda f: f.colours)),
        step(
            "The {bar} bar reaches {read}.",
            lambda f, s: {"bar": s["target"], "read": str(_height(f, s["target"]))},
            read=numbers_near("read", 1, 11),
        ),
        step("The value is at {rule} of a bar.", lambda f, s: {"rule": "the top"}, rule=among(*_BAR_RULES)),
        step(
            "So the value is {result}.",
            lambda f, s: {"result": str(int(s["read"]) + _BAR_RULES[s["rule"]])},
            result=numbers_near("result", 1, 12),
        ),
        conclude(numbers_near("answer", 1, 12)),
    ),
)


def _bars_pair(name: str, question: str, goal: str, rule: str) -> SyntheticTask[BarFacts]:
    return SyntheticTask[BarFacts](
        name,
        "arithmetic",
        BarFacts,
        _sample_bars,
        _bars_image,
        lambda f: question.format(first=f.first, second=f.second),
        (
            step(
                f"Find {goal} of the {{first}} bar and the {{second}} bar.",
                lambda f, s: {"first": f.first, "second": f.second},
                first=seen(lambda f: f.colours),
                second=seen(lambda f: f.colours),
            ),
            step(
                "The {c} bar reaches {a} and the {d} bar reaches {b}.",
                lambda f, s: {
                    "c": s["first"],
                    "a": str(_height(f, s["first"])),
                    "d": s["second"],
                    "b": str(_height(f, s["second"])),
                },
                a=numbers_near("a", 1, 11),
                b=numbers_near("b", 1, 11),
            ),
            step("It is found by {rule}.", lambda f, s: {"rule": rule}, rule=among(*PAIR_RULES)),
            step("{x} {op} {y} is {result}.", combine, result=numbers_near("result", 0, 22)),
            conclude(numbers_near("answer", 0, 22)),
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


@dataclass(frozen=True)
class DialFacts(Facts):
    """Hands by colour with the mark that each points at, and the hand that is asked for."""

    hands: Sequence[tuple[str, int]]
    first: str

    @property
    def colours(self) -> list[str]:
        """Colours of the hands."""
        return [colour for colour, _ in self.hands]


def _sample_dial(rng: random.Random) -> DialFacts:
    marks, colours = rng.sample(range(1, 13), 2), rng.sample(NAMED, 2)
    return DialFacts([(colours[0], marks[0]), (colours[1], marks[1])], first=rng.choice(colours))


_DIAL_RULES = {"the mark at the tip": 0, "the mark after the tip": 1}

dial_read = SyntheticTask[DialFacts](
    "dial_read",
    "read-off",
    DialFacts,
    _sample_dial,
    lambda f: draw.dial([(mark, colour) for colour, mark in f.hands]),
    lambda f: f"Which number from 1 to 12 does the {f.first} hand show?",
    (
        step(
            "Find the number of the {target} hand.", lambda f, s: {"target": f.first}, target=seen(lambda f: f.colours)
        ),
        step(
            "The {hand} hand points at {read}.",
            lambda f, s: {"hand": s["target"], "read": str(dict(f.hands)[s["target"]])},
            read=numbers_near("read", 1, 12),
        ),
        step("The number is {rule}.", lambda f, s: {"rule": "the mark at the tip"}, rule=among(*_DIAL_RULES)),
        step(
            "So the number is {result}.",
            lambda f, s: {"result": str((int(s["read"]) + _DIAL_RULES[s["rule"]] - 1) % 12 + 1)},
            result=numbers_near("result", 1, 12),
        ),
        conclude(numbers_near("answer", 1, 12)),
    ),
)


# ---------------------------------------------------------------- needles: too hard for the demo policy


def _crosses(p: Sequence[int], q: Sequence[int]) -> bool:
    """Do the open segments p and q, each (x0, y0, x1, y1), cross?"""

    def side(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> int:
        turn = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        return (turn > 0) - (turn < 0)

    a, b, c, d = (p[0], p[1]), (p[2], p[3]), (q[0], q[1]), (q[2], q[3])
    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0


@dataclass(frozen=True)
class NeedleFacts(Facts):
    """Segments (x0, y0, x1, y1) in pixels: a target of each colour across the image, and the black lines."""

    targets: Sequence[tuple[str, Sequence[int]]]
    lines: Sequence[Sequence[int]]
    first: str

    @property
    def colours(self) -> list[str]:
        """Colours of the targets."""
        return [colour for colour, _ in self.targets]


def _sample_needles(rng: random.Random) -> NeedleFacts:
    def segment() -> list[int]:
        return [rng.randint(2, draw.SIDE - 3) for _ in range(4)]

    def across() -> list[int]:
        return [2, rng.randint(8, draw.SIDE - 9), draw.SIDE - 3, rng.randint(8, draw.SIDE - 9)]

    hues = rng.sample(("red", "blue", "green"), 2)
    return NeedleFacts(
        targets=[(hue, across()) for hue in hues],
        lines=[segment() for _ in range(rng.randint(14, 40))],
        first=hues[0],
    )


def _crossings(facts: NeedleFacts, colour: str) -> int:
    target = dict(facts.targets)[colour]
    return sum(_crosses(target, line) for line in facts.lines)


needles = SyntheticTask[NeedleFacts](
    "needles",
    "geometry",
    NeedleFacts,
    _sample_needles,
    lambda f: draw.needles(
        [*f.lines, *(line for _, line in f.targets)],
        ["black"] * len(f.lines) + [hue for hue, _ in f.targets],
    ),
    lambda f: f"How many black lines cross the {f.first} line?",
    (
        step("Follow the {target} line.", lambda f, s: {"target": f.first}, target=seen(lambda f: f.colours)),
        step(
            "It meets {read} black lines.",
            lambda f, s: {"read": str(_crossings(f, s["target"]))},
            read=numbers_near("read", 0, 40, reach=8),
        ),
        step("Count {rule}.", lambda f, s: {"rule": "each line once"}, rule=among("each line once", "each line twice")),
        step(
            "That gives {result}.",
            lambda f, s: {"result": str(int(s["read"]) * (2 if s["rule"] == "each line twice" else 1))},
            result=numbers_near("result", 0, 80),
        ),
        conclude(numbers_near("answer", 0, 80)),
    ),
)
