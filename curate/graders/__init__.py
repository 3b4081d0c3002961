"""Was the answer right? Extraction and grading, three-valued: right, wrong, or undecided, with the rules that decided.

`assess` does both for a response to a problem: `curate.graders.extraction.rules` reads the answer, a grader holds it
against the gold one. A grader is a function of the extracted answer and a `Gold`; `GRADERS` names them all. No answer
at all is wrong under its own rule, because a chain that does not come to an answer has not solved the problem;
undecided is for what a grader cannot judge.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.graders.anls import grade_anls
from curate.graders.base import Gold, Grade
from curate.graders.choice import grade_choice
from curate.graders.expression import grade_expression
from curate.graders.extraction.languages import KNOWN, Words, words
from curate.graders.extraction.rules import VERSION, AnswerWanted, Extracted, extract, runs_on
from curate.graders.free_text import grade_text
from curate.graders.number import grade_number, read_number
from curate.graders.relaxed import grade_relaxed
from curate.graders.sets import grade_set, parts
from curate.graders.yes_no import grade_yes_no, infers_yes_no

__all__ = [
    "GRADERS",
    "KNOWN",
    "NO_ANSWER",
    "VERSION",
    "AnswerWanted",
    "Assessment",
    "Extracted",
    "Gold",
    "Grade",
    "Words",
    "assess",
    "extract",
    "grade",
    "infer_type",
    "runs_on",
    "wanted_of",
    "words",
]

# The rule of a response in which no rule reads an answer.
NO_ANSWER = "no-answer"

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


@dataclass(frozen=True)
class Assessment:
    """The answer that a response comes to (null when no rule reads one), whether it is right, and by which rules.

    `rule` is `no-answer`, or the rules of extraction and grading, as in `boxed/number-integer`.
    """

    answer: str | None
    outcome: bool | None
    rule: str


def wanted_of(problem: Mapping[str, Any], words: Words = KNOWN) -> AnswerWanted:
    """What to look for in responses to a problem (a row of `problems`)."""
    gold, kind = problem["answer"], problem["answer_type"]
    if kind in ("relaxed", "anls"):
        kind = "number" if gold is not None and read_number(gold) is not None else "text"
    several = kind == "set" or (kind == "expression" and gold is not None and len(parts(gold)) > 1)
    return AnswerWanted(kind, tuple(problem["choices"]), several, words)


def assess(text: str, problem: Mapping[str, Any], words: Words = KNOWN) -> Assessment:
    """Read and grade the answer of a response to a problem that has a gold answer."""
    found = extract(text, wanted_of(problem, words))
    if found is None:
        return Assessment(None, False, NO_ANSWER)
    kind, choices, accepted, tolerance = (
        problem[column] for column in ("answer_type", "choices", "accepted", "tolerance")
    )
    verdict = grade(found.answer, problem["answer"], kind, choices, accepted, tolerance, words)
    return Assessment(found.answer, verdict.outcome, f"{found.rule}/{verdict.rule}")


def grade(
    response: str | None,
    gold: str,
    answer_type: str,
    choices: Sequence[str] = (),
    accepted: Sequence[str] = (),
    tolerance: float | None = None,
    words: Words = KNOWN,
) -> Grade:
    """Grade an extracted answer against the gold one, or further `accepted` ones; None is wrong by rule "no-answer".

    Right when any of them says so, else undecided when any of them is.
    """
    if response is None or not response.strip():
        return Grade(False, NO_ANSWER)
    grader, first = GRADERS[answer_type], None
    for answer in (gold, *accepted):
        verdict = grader(response, Gold(answer, tuple(choices), tolerance, words))
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
    if infers_yes_no(answer):
        return "yes-no"
    if read_number(answer) is not None:
        return "number"
    if _DATE.search(answer):
        return "text"
    if any(mark in answer for mark in "\\^=<>{}√π") or (any(c.isdigit() for c in answer) and _few_words(answer)):
        return "expression"
    return "text"


# Dates and times: as formulas they would be subtractions, divisions and ratios.
_DATE = re.compile(r"(?<!\d)(?:\d{4}-\d{1,2}-\d{1,2}|\d{1,2}/\d{1,2}/\d{2,4}|\d{1,2}:\d{2})(?![\d/])")


def _few_words(answer: str) -> bool:
    """Whether an answer with digits is a formula or a list rather than words: dates and names are texts."""
    return len(answer.split()) <= 3 or re.fullmatch(r"[\d\s,;.()+\-/]*", answer) is not None
