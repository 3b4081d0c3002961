"""Yes or no."""

from __future__ import annotations

import re

from curate.answers.base import Gold, Grade, folded

_WORDS = {"yes": True, "true": True, "no": False, "false": False}


def read_yes_no(text: str) -> bool | None:
    """True or False for a text that is one of the words, else None."""
    return _WORDS.get(folded(text))


def grade_yes_no(response: str, gold: Gold) -> Grade:
    """The first word decides; a text without one is wrong, a text with both is undecided."""
    wanted = read_yes_no(gold.answer)
    if wanted is None:
        return Grade(None, "yes-no-gold-unreadable")
    found = {_WORDS[word] for word in re.findall(r"[a-z]+", folded(response)) if word in _WORDS}
    if len(found) != 1:
        return Grade(None if found else False, "yes-no-both" if found else "yes-no-none")
    return Grade(found.pop() == wanted, "yes-no")
