"""Marks in a problem's texts: of images, such as `<image>` or `<image 2>`, and of choices, such as "(A)". Pure.

A mark of an image either holds a place, where the image stood among the texts, or is a word of a sentence ("Compare
<image 1> with <image 2>"). The images come first here, so places go; what a sentence refers to stays in words.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping, Sequence

# The names besides `image` are tags of HTML where they have no number.
_MARK = re.compile(
    r"<(?:image[\s_-]*(?P<image>\d*)|(?:img|picture|figure|pic)[\s_-]*(?P<other>\d+))\s*>", re.IGNORECASE
)
_RUN = re.compile(rf"(?:{re.sub(r'[?]P<[a-z]+>', '?:', _MARK.pattern)}\s*)+", re.IGNORECASE)
_BLANK = re.compile(r"\s*")
# So many characters beside a mark tell what it is.
_NEAR = 200
# What goes on behind a mark that is a word.
_GOES_ON = frozenset(",.;:?!)]}'\u2019\"-\u2013/&+=")
_ENDS = frozenset(".?!:;\u2026\u3002\uff1f\uff01\uff1a\uff1b")
# Behind the label of a choice or of a list, a mark is what the choice says.
_LABEL = re.compile(r"(?:^|[\s;,(])[A-Za-z0-9][.):]$")
_ASKS = re.compile(
    r"(?:what|which|how|who|whose|where|when|why|find|calculate|determine|compute|solve|describe|choose|select)\b"
)
# Words, and commas, that something must follow.
_JOINS = re.compile(
    r"(?:,|\b(?:with|and|or|to|of|than|from|in|on|at|by|for|into|onto|over|under|between|like|is|are|compare))$",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"\b(?:the|this|that|an?|each|given|following|above|below)$", re.IGNORECASE)
_KIND = re.compile(r"\b(?:image|picture|figure|diagram|graph|chart|table|photo|map|plot|drawing)s?$", re.IGNORECASE)


def readable(question: str, choices: Sequence[str], images: int | None) -> tuple[str, list[str]]:
    """Question and choices with places gone and references in words: "image 2", or "the image" where there is one.

    `images` is the number of the problem's images, null where it is not known. Without images `<image>` inside a
    sentence is a word of the text (HTML has such a tag) and stays; a mark with a number is a reference all the same.
    """
    marks = sum(1 for text in (question, *choices) for _ in _MARK.finditer(text))
    numbers = iter(range(1, marks + 1))
    single = marks == 1 or images == 1
    asked = _spoken(question, numbers, images, single, alone=False)
    return asked, [_spoken(choice, numbers, images, single, alone=True) for choice in choices]


def renumbered(text: str, places: Mapping[int, int]) -> str:
    """The text with the numbers of its marks replaced, where `places` has another one for them."""

    def place(mark: re.Match[str]) -> str:
        number = mark["image"] or mark["other"]
        return f"<image {places[int(number)]}>" if number and int(number) in places else mark[0]

    return _MARK.sub(place, text)


def bare(text: str) -> str:
    """The text without the places at its beginning and end."""
    text = text.strip()
    first = _RUN.match(text)
    if first is not None and _holds_place(text, first):
        text = text[first.end() :]
    runs = list(_RUN.finditer(text))
    if runs and runs[-1].end() == len(text) and _holds_place(text, runs[-1]):
        text = text[: runs[-1].start()].rstrip()
    return text


def _spoken(text: str, numbers: Iterator[int], images: int | None, single: bool, alone: bool) -> str:
    """`alone`: no mark of this text holds a place, the text being a choice."""
    out, at = list[str](), 0
    for run in _RUN.finditer(text):
        out.append(text[at : run.start()])
        at = run.end()
        place = not alone and _holds_place(text, run)
        for mark in _MARK.finditer(run[0]):
            number, given = next(numbers), mark["image"] or mark["other"]
            if place:
                continue
            gap = _BLANK.match(run[0], mark.end())
            between = gap[0] if gap else ""
            if given or images:
                out.append(_words("".join(out[-2:])[-_NEAR:], given or (None if single else str(number))) + between)
            else:
                out.append(mark[0] + between)
    return "".join([*out, text[at:]])


def _words(before: str, number: str | None) -> str:
    """What a reference reads like behind this text."""
    said = before.rstrip()
    if number is not None:
        return f"(image {number})" if _KIND.search(said) else f"image {number}"
    if _KIND.search(said):
        return ""
    if _ARTICLE.search(said):
        return "image"
    return "The image" if not said or said[-1] in _ENDS else "the image"


def _holds_place(text: str, run: re.Match[str]) -> bool:
    """Whether these marks stand beside the sentences, not in one."""
    before = text[max(0, run.start() - _NEAR) : run.start()].rstrip(" \t")
    after = text[run.end() : run.end() + _NEAR]
    numbered = any(mark["image"] or mark["other"] for mark in _MARK.finditer(run[0]))
    own_line = (not before or before.endswith("\n")) and (not after or run[0].endswith("\n"))
    if own_line:
        # A sentence may be broken into lines around its images.
        said = before.rstrip()
        return not (numbered and (_JOINS.search(said) or (said[-1:].isalnum() and after[:1].islower())))
    if not (not before or before.endswith("\n") or (before[-1] in _ENDS and not _LABEL.search(before))):
        return False
    if not after or run[0].endswith("\n"):
        return True
    if after[0].islower():
        return not numbered or _ASKS.match(after) is not None
    return after[0] not in _GOES_ON


def unlabelled(choices: Sequence[str]) -> tuple[str, ...]:
    """Choices without the letters that they bring, "(A) 3" or "B. 4", where every one brings its own.

    A choice that is nothing but its letter is the letter.
    """
    if len(choices) < 2 or len(choices) > len(string.ascii_uppercase):
        return tuple(choices)
    found = list[str]()
    for letter, choice in zip(string.ascii_uppercase, choices, strict=False):
        match = re.fullmatch(
            rf"\s*(?:[\[(](?i:{letter})[\])]\s*[.:]?|(?i:{letter})\s*[.):\u3001\uff0e\uff1a\uff09]|{letter}(?=\s*$))\s*(.*)",
            choice,
            re.DOTALL,
        )
        if match is None:
            return tuple(choices)
        found.append(match[1].rstrip() or letter)
    return tuple(found)
