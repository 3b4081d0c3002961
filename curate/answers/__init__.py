"""Was the answer right? Extraction and grading, three-valued: right, wrong, or undecided, with the rule that decided.

A grader is a function of the extracted answer and a `Gold`; `GRADERS` names them all. No answer at
all is wrong under its own rule, because a chain that does not come to an answer has not solved the problem; undecided
is for what a grader cannot judge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from curate.answers.anls import grade_anls
from curate.answers.base import Gold, Grade
from curate.answers.choice import grade_choice
from curate.answers.expression import grade_expression
from curate.answers.extract import extract
from curate.answers.number import grade_number, read_number
from curate.answers.relaxed import grade_relaxed
from curate.answers.sets import grade_set
from curate.answers.text import grade_text
from curate.answers.yes_no import grade_yes_no, read_yes_no

__all__ = ["GRADERS", "Gold", "Grade", "extract", "grade", "infer_type"]

GRADERS: dict[str, Callable[[str, Gold], Grade]] = {
    "number": grade_number,
    "choice": grade_choice,
    "yes-no": grade_yes_no,
    "expression": grade_expression,
    "text": grade_text,
    "relaxed": grade_relaxed,
    "anls": grade_anls,
    "set": grade_set,
}


def grade(
    response: str | None,
    gold: str,
    answer_type: str,
    choices: Sequence[str] = (),
    accepted: Sequence[str] = (),
    tolerance: float | None = None,
) -> Grade:
    """Grade an extracted answer against the gold one, or further `accepted` ones; None is wrong by rule "no-answer".

    Right when any of them says so, else undecided when any of them is.
    """
    if response is None or not response.strip():
        return Grade(False, "no-answer")
    grader, first = GRADERS[answer_type], None
    for answer in (gold, *accepted):
        verdict = grader(response, Gold(answer, tuple(choices), tolerance))
        if verdict.outcome:
            return verdict
        if first is None or (first.outcome is False and verdict.outcome is None):
            first = verdict
    assert first is not None  # noqa: S101
    return first


def infer_type(answer: str, choices: Sequence[str]) -> str:
    """The answer type of a row that does not state one."""
    if choices:
        return "choice"
    if read_yes_no(answer) is not None:
        return "yes-no"
    if read_number(answer) is not None:
        return "number"
    if any(mark in answer for mark in "\\^=<>{}") or (any(c.isdigit() for c in answer) and len(answer.split()) <= 3):
        return "expression"
    return "text"
