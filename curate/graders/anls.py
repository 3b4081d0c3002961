"""Texts read off an image: equal but for a misread character (ANLS, the measure of document questions)."""

from __future__ import annotations

from rapidfuzz.distance import Levenshtein

from curate.graders.base import Gold, Grade, folded
from curate.graders.number import read_number, read_quantity, same_number

# The benchmark gives partial marks from 0.5 on; a label needs a yes or no, and at 0.75 lies 2012 for 2013.
THRESHOLD = 0.9


def similarity(one: str, other: str) -> float:
    """1 - edit distance / length of the longer, in [0, 1], of the folded texts."""
    return Levenshtein.normalized_similarity(folded(one), folded(other))


def grade_anls(response: str, gold: Gold) -> Grade:
    """Similarity of at least 0.9; where the gold is a number, no digit may differ."""
    wanted = read_number(gold.answer)
    if wanted is not None:
        given = read_quantity(response)
        return Grade(given is not None and same_number(given.value, wanted, gold.tolerance), "anls-number")
    alike = similarity(response, gold.answer)
    return Grade(alike >= THRESHOLD, "anls-equal" if alike == 1 else "anls-similarity")
