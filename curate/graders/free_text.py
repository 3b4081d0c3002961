"""Free text: equal after case, space, quotes, brackets, an article and punctuation at the ends are set aside."""

from __future__ import annotations

import re

from curate.graders.base import Gold, Grade, folded

_ENDS = " \t\"'“”‘’«»()[]{}<>.!?,;:*_`「」『』《》"
_ARTICLE = re.compile(r"(?:the|a|an)\s+(?=\S)")
_NOTE = re.compile(r"\s*[(\[（][^()\[\]（）]{1,80}[)\]）]\s*\Z")


def dressed_down(text: str) -> str:
    """The folded text without decoration: quotes, brackets and stops around it, and an article in front."""
    return _ARTICLE.sub("", folded(text).strip(_ENDS), count=1).strip(_ENDS)


def same_text(response: str, gold: str) -> bool:
    """Equal without decoration, or with a note in brackets behind the response left out."""
    wanted = dressed_down(gold)
    if not wanted:
        return folded(response) == folded(gold)
    return dressed_down(response) == wanted or dressed_down(_NOTE.sub("", folded(response))) == wanted


def grade_text(response: str, gold: Gold) -> Grade:
    """By `same_text`."""
    return Grade(same_text(response, gold.answer), "text-equal")
