"""Was the answer right? Extraction and grading, three-valued: right, wrong, or undecided, with the rule that decided.

A grader is a function of the extracted answer, the gold answer and the choices; `GRADERS` names them all. No answer at
all is wrong under its own rule, because a chain that does not come to an answer has not solved the problem; undecided
is for what a grader cannot judge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from curate.answers.base import Grade
from curate.answers.choice import grade_choice
from curate.answers.expression import grade_expression
from curate.answers.extract import extract
from curate.answers.number import grade_number, read_number
from curate.answers.text import grade_text
from curate.answers.yes_no import grade_yes_no, read_yes_no

__all__ = ["GRADERS", "Grade", "extract", "grade", "infer_type"]

GRADERS: dict[str, Callable[[str, str, Sequence[str]], Grade]] = {
    "number": grade_number,
    "choice": grade_choice,
    "yes-no": grade_yes_no,
    "expression": grade_expression,
    "text": grade_text,
}


def grade(response: str | None, gold: str, answer_type: str, choices: Sequence[str]) -> Grade:
    """Grade an extracted answer against the gold one; None is wrong by rule "no-answer"."""
    if response is None or not response.strip():
        return Grade(False, "no-answer")
    return GRADERS[answer_type](response, gold, choices)


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
