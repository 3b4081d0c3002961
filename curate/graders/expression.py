"""Mathematical expressions, by math-verify in worker processes that can be killed."""

from __future__ import annotations

import re

from curate.graders.base import Gold, Grade, folded, plain
from curate.graders.number import read_number, same_number
from curate.graders.sets import parts
from curate.graders.tex import to_tex

# "AB = 5 cm", "2\sqrt{3} m^2": a unit behind an expression is set aside where a blank parts it.
_UNIT = re.compile(
    r"(?<=[\d})\]])\s+(?:(?:square|cubic|sq\.?|cu\.?)\s+)?(?:[cdkm]?m|[km]?g|ms|s|h|min|hours?"
    r"|seconds?|minutes?|in(?:ches)?|feet|ft|"
    r"met(?:er|re)s?|units?|degrees?|radians?|rad|cent(?:s|imeters?|imetres?)?|dollars?|miles?|kilomet(?:er|re)s?)"
    r"(?:\s*/\s*[a-z]{1,6})?(?:\s?\^\s?\{?-?\d\}?)?\s*\Z"
)
_NAMED = re.compile(r"\A\s*[A-Za-z](?:\([a-z]\)|_\{?\w\}?|')?\s*=(?!=)")


def _bare(text: str) -> str:
    return _UNIT.sub("", plain(text))


def grade_expression(response: str, gold: Gold) -> Grade:
    """Equal as text or as numbers at once; lists as sets; else mathematically equivalent, asked of a worker process.

    A worker that does not answer in time is killed and the grade is undecided.
    """
    if folded(response) == folded(gold.answer):
        return Grade(True, "expression-equal-text")
    wanted, given = read_number(gold.answer), read_number(response)
    if wanted is not None and given is not None:
        return Grade(same_number(given, wanted, gold.tolerance), "expression-number")
    asked, said = parts(gold.answer), parts(response)
    if len(asked) > 1:
        return _grade_list(said, asked, gold)
    verdict = _equivalent(response, gold.answer)
    if verdict.outcome is False and _NAMED.search(plain(response)) and not _NAMED.search(plain(gold.answer)):
        right = _equivalent(_NAMED.sub("", plain(response)), gold.answer)
        return right if right.outcome else verdict
    return verdict


def _equivalent(response: str, gold: str) -> Grade:
    from curate.graders.worker_pool import shared

    return shared().verify(to_tex(_bare(response)), to_tex(_bare(gold)))


def _grade_list(said: list[str], asked: list[str], gold: Gold) -> Grade:
    """Lists of the same length whose items can be paired, in any order."""
    if len(said) != len(asked):
        return Grade(False, "expression-list")
    left, undecided = list(said), False
    for item in asked:
        for other in left:
            verdict = grade_expression(other, Gold(item, (), gold.tolerance))
            undecided |= verdict.outcome is None
            if verdict.outcome:
                left.remove(other)
                break
        else:
            return Grade(None if undecided else False, "expression-list")
    return Grade(True, "expression-list")
