"""Multiple choice: a letter, or the text of exactly one choice."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from curate.answers.base import Gold, Grade, folded, plain

# "B", "(B)", "B.", "B)", "B: text", "B, because", "option B"; a bare "A" in a sentence is an article, not a letter.
_ALONE = re.compile(r"[\[(]?\s*([A-Za-z])\s*[\])]?\s*[.):]?")
_LEADING = re.compile(r"[\[(]?([A-Z])(?:[\])]|[.:,])\s*\S.*", re.DOTALL)
_LIST = re.compile(r"[A-Z](?:\s*(?:,|/|&|\bor\b|\band\b)\s*[A-Z])+")
_NAMED = re.compile(r"(?i:\b(?:option|choice|answer)(?:\s+is)?\b\s*:?)\s*(?:[\[(]([A-Za-z])[\])]|([A-Z])\b)")
_BRACKETED = re.compile(r"\(([A-Za-z])\)")


def _letters(text: str, count: int) -> set[str]:
    """The choice letters that a text states."""
    known = set(string.ascii_uppercase[:count])
    if match := _ALONE.fullmatch(text):
        return {match[1].upper()} & known
    if _LIST.fullmatch(text):
        return {char for char in text if char.isupper()} & known
    found = {match[1] or match[2] for match in _NAMED.finditer(text)} | set(_BRACKETED.findall(text))
    if match := _LEADING.fullmatch(text):
        found.add(match[1])
    return {letter.upper() for letter in found} & known


def _by_text(text: str, choices: Sequence[str]) -> set[str]:
    """Letters of the choices whose text this is."""
    wanted = folded(text)
    return {letter for letter, choice in zip(string.ascii_uppercase, choices, strict=False) if folded(choice) == wanted}


def read_choice(text: str, choices: Sequence[str]) -> set[str]:
    """The letters that a text can mean; the text of a choice goes before a letter that it happens to be."""
    text = plain(text)
    return _by_text(text, choices) or _letters(text, len(choices))


def grade_choice(response: str, gold: Gold) -> Grade:
    """Right when the same one choice is meant; two different letters are undecided."""
    choices, wanted = gold.choices, read_choice(gold.answer, gold.choices)
    if len(wanted) != 1:
        return Grade(None, "choice-gold-unreadable")
    given = read_choice(response, choices)
    if not given:
        return Grade(False, "choice-none")
    if len(given) > 1:
        return Grade(None, "choice-several")
    return Grade(given == wanted, "choice-letter")
