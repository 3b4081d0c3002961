"""Yes or no, in the languages of `curate.graders.extraction.languages`."""

from __future__ import annotations

import re

from curate.graders.base import Gold, Grade, folded
from curate.graders.extraction.languages import KNOWN, Words

_NEGATED = re.compile(r"\b(?:not|isn't|is not|never)\s+(?:\w+\s+)?(?=(?:true|correct|right)\b)")
_UNDECIDED = re.compile(r"\s*(?:or|and|/|oder|ou|o|или|还是|還是)\s*")


def read_yes_no(text: str, words: Words = KNOWN) -> bool | None:
    """True or False for a text that is one of the words, else None."""
    return words.yes_no.get(folded(text).strip("\"'!()[] "))


def infers_yes_no(text: str) -> bool:
    """Whether a gold answer is one of the words beyond doubt; short words of other Latin languages can be names."""
    whole = folded(text)
    return read_yes_no(text) is not None and (whole in _ENGLISH or not whole.isascii())


def said(text: str, words: Words = KNOWN) -> set[bool]:
    """What a response says: its first word decides, else all the English words in it."""
    whole = folded(text).strip("\"'!()[] ")
    if (alone := words.yes_no.get(whole)) is not None:
        return {alone}
    first = re.match(r"[^\W\d_]+(?:['’][^\W\d_]+)?", whole)
    lead = words.yes_no.get(first[0]) if first else None
    # In other languages the word may begin a sentence as something else ("si", "no", "on").
    if first and lead is not None and not _UNDECIDED.match(whole, first.end()):
        heads = first[0] in _ENGLISH or re.match(r"\s*[,.;:!，。]", whole[first.end() :])
        if heads:
            return {lead}
    denied = {
        not _ENGLISH[match]
        for match in re.findall(r"(?<=\0)(?:true|correct|right)", _NEGATED.sub("\0", whole))
        if match in _ENGLISH
    }
    if denied:
        return denied
    return {_ENGLISH[word] for word in re.findall(r"[a-z]+", whole) if word in _ENGLISH}


_ENGLISH = {"yes": True, "true": True, "no": False, "false": False}


def grade_yes_no(response: str, gold: Gold) -> Grade:
    """The first word decides; a text without one is wrong, a text with both is undecided."""
    wanted = read_yes_no(gold.answer, gold.words)
    if wanted is None:
        return Grade(None, "yes-no-gold-unreadable")
    found = said(response, gold.words)
    if len(found) != 1:
        return Grade(None if found else False, "yes-no-both" if found else "yes-no-none")
    return Grade(found == {wanted}, "yes-no")
