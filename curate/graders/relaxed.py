"""Chart answers: numbers within 5 %, years exactly, other texts equal (the relaxed accuracy of ChartQA)."""

from __future__ import annotations

import re

from curate.graders.base import Gold, Grade, plain
from curate.graders.free_text import same_text
from curate.graders.number import readings, same_number

TOLERANCE = 0.05
# Any nearby year would be within 5 %.
_YEAR = re.compile(r"(?:1[789]|20)\d\d")


def grade_relaxed(response: str, gold: Gold) -> Grade:
    """Within the gold's tolerance, 5 % when it has none, where the gold is a number and no year; else equal text."""
    given, wanted = readings(response, gold)
    if wanted is None:
        return Grade(same_text(response, gold.answer), "relaxed-text")
    if not given:
        return Grade(False, "relaxed-none")
    if _YEAR.fullmatch(plain(gold.answer)):
        return Grade(wanted in given, "relaxed-year")
    near = gold.tolerance if gold.tolerance is not None else TOLERANCE
    # Around 0 there is no 5 %.
    return Grade(any(same_number(v, wanted, near) if wanted else v == 0 for v in given), "relaxed-number")
