"""Was the answer right? Extraction and grading, three-valued: right, wrong, or undecided, with the rules that decided.

`assess` does both for a response to a problem: `curate.graders.extraction.rules` reads the answer, a grader holds it
against the gold one. `GRADERS` has a `Grader` for every answer type; a package adds its own in the entry point group
`curate.graders`. No answer at all is wrong under its own rule, because a chain that does not come to an answer has not
solved the problem; undecided is for what a grader cannot judge.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from curate.graders.anls import grade_anls
from curate.graders.base import Gold, Gradable, Grade, Grader
from curate.graders.choice import grade_choice
from curate.graders.expression import grade_expression
from curate.graders.extraction.languages import KNOWN, Words, words
from curate.graders.extraction.rules import VERSION, AnswerWanted, Extracted, extract, runs_on
from curate.graders.free_text import grade_text
from curate.graders.number import grade_number, read_number
from curate.graders.relaxed import grade_relaxed
from curate.graders.sets import grade_set, parts
from curate.graders.yes_no import grade_yes_no, infers_yes_no
from curate.runtime.registry import Registry

__all__ = [
    "GRADERS",
    "KNOWN",
    "NO_ANSWER",
    "VERSION",
    "AnswerWanted",
    "Assessment",
    "Extracted",
    "Gold",
    "Gradable",
    "Grade",
    "Grader",
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


def _number_or_text(gold: str | None) -> str:
    """Gold answers of these types are numbers here and words there."""
    return "number" if gold is not None and read_number(gold) is not None else "text"


def _is_list(gold: str | None) -> bool:
    return gold is not None and len(parts(gold)) > 1


GRADERS: Registry[Grader] = Registry(
    "curate.graders",
    "answer type",
    {
        "number": Grader(grade_number, form="number"),
        "choice": Grader(grade_choice, form="choice"),
        "yes-no": Grader(grade_yes_no, form="yes-no"),
        "expression": Grader(grade_expression, several=_is_list),
        "text": Grader(grade_text, long=True),
        "relaxed": Grader(grade_relaxed, form=_number_or_text),
        "anls": Grader(grade_anls, form=_number_or_text, long=True),
        "set": Grader(grade_set, several=lambda _gold: True),
    },
    of="curate.graders.base:Grader",
)


@dataclass(frozen=True)
class Assessment:
    """The answer that a response comes to (null when no rule reads one), whether it is right, and by which rules.

    `rule` is `no-answer`, or the rules of extraction and grading, as in `boxed/number-integer`.
    """

    answer: str | None
    outcome: bool | None
    rule: str


def wanted_of(problem: Gradable, words: Words = KNOWN) -> AnswerWanted:
    """What to look for in responses to a problem (a row of `problems`)."""
    gold, kind, choices = problem.answer, problem.answer_type, tuple(problem.choices)
    if kind is None:
        return AnswerWanted(None, choices, False, words)
    grader = GRADERS.find(kind)
    return AnswerWanted(grader.form_of(gold), choices, grader.several(gold), words)


def assess(text: str, problem: Gradable, words: Words = KNOWN) -> Assessment:
    """Read and grade the answer of a response to a problem that has a gold answer (else ValueError)."""
    gold, kind = problem.answer, problem.answer_type
    if gold is None or kind is None:
        raise ValueError("the problem has no gold answer")
    found = extract(text, wanted_of(problem, words))
    if found is None:
        return Assessment(None, False, NO_ANSWER)
    verdict = grade(found.answer, gold, kind, problem.choices, problem.accepted, problem.tolerance, words)
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
    grader, first = GRADERS.find(answer_type).grade, None
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
