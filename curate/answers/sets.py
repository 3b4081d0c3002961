"""Lists in which order means nothing: the same items, each as folded text or as a number."""

from __future__ import annotations

import re
from fractions import Fraction

from curate.answers.base import Gold, Grade, folded
from curate.answers.number import read_number

_BETWEEN = re.compile(r"\s*(?:[,;]\s*(?:and\s+)?|\s+and\s+|\n)\s*")


def items(text: str) -> frozenset[str | Fraction]:
    """What a text lists, without brackets around it."""
    inner = folded(text).strip("[](){}")
    found = (part.strip("'\" ") for part in _BETWEEN.split(inner))
    return frozenset(number if (number := read_number(part)) is not None else part for part in found if part)


def grade_set(response: str, gold: Gold) -> Grade:
    """The same set of items; a gold answer that lists nothing is undecided."""
    wanted = items(gold.answer)
    if not wanted:
        return Grade(None, "set-gold-empty")
    return Grade(items(response) == wanted, "set-equal")
