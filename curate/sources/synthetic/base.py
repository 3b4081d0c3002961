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
from typing import Generic, TypeVar

from PIL import Image


@dataclass(frozen=True)
class Facts:
    """What a problem is about, and what its image shows; a task's facts are fields that JSON has a form for."""


F = TypeVar("F", bound=Facts)
Slots = dict[str, str]
Near = Callable[[F, Slots], Sequence[str]]
# Whatever the facts are.
AnyNear = Callable[[Facts, Slots], Sequence[str]]

LETTERS = "ABCD"
NAMED = ("red", "blue", "green", "orange", "purple")


@dataclass(frozen=True)
class SyntheticStep(Generic[F]):
    """One sentence: `fill(facts, written)` gives its right slots, `near[slot]` the wrong values one could write."""

    template: str
    fill: Callable[[F, Slots], Slots]
    near: Mapping[str, Near[F]]


@dataclass(frozen=True)
class SyntheticTask(Generic[F]):
    """A family of problems with exact answers; `facts` is the class of what `sample` draws."""

    name: str
    family: str
    facts: type[F]
    sample: Callable[[random.Random], F]
    image: Callable[[F], Image.Image]
    question: Callable[[F], str]
    steps: tuple[SyntheticStep[F], ...]
    answer_type: str = "number"
    choices: tuple[str, ...] = ()


def numbers_near(slot: str, low: int, high: int, reach: int = 3) -> AnyNear:
    """Neighbours of the right number, at most `reach` away."""

    def near(facts: Facts, slots: Slots) -> Sequence[str]:
        right = int(slots[slot])
        return [str(n) for n in range(max(low, right - reach), min(high, right + reach) + 1) if n != right]

    return near


def among(*values: str) -> AnyNear:
    return lambda facts, slots: values


def seen(names: Callable[[F], Sequence[str]]) -> Near[F]:
    """Colours that the image shows."""
    return lambda facts, slots: names(facts)


def conclude(near: Near[F]) -> SyntheticStep[F]:
    return SyntheticStep("The answer is {answer}.", lambda facts, slots: {"answer": slots["result"]}, {"answer": near})


def step(template: str, fill: Callable[[F, Slots], Slots], **near: Near[F]) -> SyntheticStep[F]:
    return SyntheticStep(template, fill, near)


PAIR_RULES: dict[str, tuple[str, Callable[[int, int], int]]] = {
    "subtracting": ("minus", lambda a, b: abs(a - b)),
    "adding": ("plus", lambda a, b: a + b),
}


def combine(f: Facts, s: Slots) -> Slots:
    word, apply = PAIR_RULES[s["rule"]]
    return {"x": s["a"], "op": word, "y": s["b"], "result": str(apply(int(s["a"]), int(s["b"])))}
