"""What a synthetic task is: facts, image, question, and five steps with slots; and the parts that steps share.

A task is a list of five `SyntheticStep`s after DreamPRM's structured prompt: what is asked, what the image shows,
what else is known, the two put together, the conclusion. A step is a sentence with slots; `fill` computes the slots
from the facts and from what the chain has *written* so far, so that a slip early in a chain is carried on faithfully,
as a reader would. The same templates, read backwards, are the exact checker (`chain.py`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

Facts = Mapping[str, Any]
Slots = dict[str, str]
Near = Callable[[Facts, Slots], Sequence[str]]

LETTERS = "ABCD"
NAMED = ("red", "blue", "green", "orange", "purple")


@dataclass(frozen=True)
class SyntheticStep:
    """One sentence: `fill(facts, written)` gives its right slots, `near[slot]` the wrong values one could write."""

    template: str
    fill: Callable[[Facts, Slots], Slots]
    near: Mapping[str, Near]


@dataclass(frozen=True)
class SyntheticTask:
    """A family of problems with exact answers; `facts` are plain JSON values."""

    name: str
    family: str
    sample: Callable[[random.Random], Facts]
    image: Callable[[Facts], Image.Image]
    question: Callable[[Facts], str]
    steps: tuple[SyntheticStep, ...]
    answer_type: str = "number"
    choices: tuple[str, ...] = ()


def numbers_near(slot: str, low: int, high: int, reach: int = 3) -> Near:
    """Neighbours of the right number, at most `reach` away."""

    def near(facts: Facts, slots: Slots) -> Sequence[str]:
        right = int(slots[slot])
        return [str(n) for n in range(max(low, right - reach), min(high, right + reach) + 1) if n != right]

    return near


def among(*values: str) -> Near:
    return lambda facts, slots: values


def seen(key: str) -> Near:
    """Colours that the image shows."""
    return lambda facts, slots: [item[0] if isinstance(item, list | tuple) else item for item in facts[key]]


def conclude(near: Near) -> SyntheticStep:
    return SyntheticStep("The answer is {answer}.", lambda facts, slots: {"answer": slots["result"]}, {"answer": near})


def step(template: str, fill: Callable[[Facts, Slots], Slots], **near: Near) -> SyntheticStep:
    return SyntheticStep(template, fill, near)


PAIR_RULES: dict[str, tuple[str, Callable[[int, int], int]]] = {
    "subtracting": ("minus", lambda a, b: abs(a - b)),
    "adding": ("plus", lambda a, b: a + b),
}


def combine(f: Facts, s: Slots) -> Slots:
    word, apply = PAIR_RULES[s["rule"]]
    return {"x": s["a"], "op": word, "y": s["b"], "result": str(apply(int(s["a"]), int(s["b"])))}
