"""Multiple choice: a letter, or the text of exactly one choice."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from curate.answers.base import Grade, folded, plain

# "B", "(B)", "B.", "B)", "B: text", "option B"; a bare "A" in the middle of a sentence is an article, not a letter.
_ALONE = re.compile(r"[\[(]?\s*([A-Za-z])\s*[\])]?\s*[.):]?")
_LEADING = re.compile(r"[\[(]?([A-Z])(?:[\])]|[.:]|\))\s*\S.*", re.DOTALL)
_NAMED = re.compile(r"\b(?:option|choice|answer)\s*[\[(]?([A-Z])\b[\])]?", re.IGNORECASE)
_BRACKETED = re.compile(r"\(([A-Z])\)")


def _letters(text: str, count: int) -> set[str]:
    """The choice letters that a text states."""
    known = set(string.ascii_uppercase[:count])
    if match := _ALONE.fullmatch(text):
        return {match[1].upper()} & known
    found = {letter.upper() for pattern in (_NAMED, _BRACKETED) for letter in pattern.findall(text)}
    if match := _LEADING.fullmatch(text):
        found.add(match[1])
    return found & known


def _by_text(text: str, choices: Sequence[str]) -> set[str]:
    """Letters of the choices whose text this is."""
    wanted = folded(text)
    return {letter for letter, choice in zip(string.ascii_uppercase, choices, strict=False) if folded(choice) == wanted}


def read_choice(text: str, choices: Sequence[str]) -> set[str]:
    """The letters that a text can mean; the text of a choice goes before a letter that it happens to be."""
    text = plain(text)
    return _by_text(text, choices) or _letters(text, len(choices))


def grade_choice(response: str, gold: str, choices: Sequence[str]) -> Grade:
    """Right when the same one choice is meant; two different letters are undecided."""
    wanted = read_choice(gold, choices)
    if len(wanted) != 1:
        return Grade(None, "choice-gold-unreadable")
    given = read_choice(response, choices)
    if not given:
        return Grade(False, "choice-none")
    if len(given) > 1:
        return Grade(None, "choice-several")
    return Grade(given == wanted, "choice-letter")
