"""Free text: equal after case, space and punctuation at the ends are set aside."""

from __future__ import annotations

from collections.abc import Sequence

from curate.answers.base import Grade, folded


def grade_text(response: str, gold: str, choices: Sequence[str]) -> Grade:
    """Equal after folding."""
    return Grade(folded(response) == folded(gold), "text-equal")
