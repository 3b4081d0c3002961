"""Mathematical expressions, by math-verify in worker processes that can be killed."""

from __future__ import annotations

from curate.answers.base import Gold, Grade, folded
from curate.answers.number import read_number, same_number


def grade_expression(response: str, gold: Gold) -> Grade:
    """Equal as text or as numbers at once; else mathematically equivalent, asked of a worker process.

    A worker that does not answer in time is killed and the grade is undecided.
    """
    if folded(response) == folded(gold.answer):
        return Grade(True, "expression-equal-text")
    wanted, given = read_number(gold.answer), read_number(response)
    if wanted is not None and given is not None:
        return Grade(same_number(given, wanted), "expression-number")
    from curate.answers.pool import shared

    return shared().verify(response, gold.answer)
