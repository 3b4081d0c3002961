"""Free text: equal after case, space and punctuation at the ends are set aside."""

from __future__ import annotations

from curate.answers.base import Gold, Grade, folded


def grade_text(response: str, gold: Gold) -> Grade:
    """Equal after folding."""
    return Grade(folded(response) == folded(gold.answer), "text-equal")
