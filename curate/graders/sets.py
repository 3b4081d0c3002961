"""Lists in which order means nothing: the same items, each as folded text or as a number."""

from __future__ import annotations

import re
from fractions import Fraction

from curate.graders.base import Gold, Grade, folded, plain
from curate.graders.number import read_number

_WORDS = re.compile(
    r"\s+(?:and|or|&|und|et|y|e)\s+|\s*(?:\n|、|；|和|或|与)\s*|\\text\{\s*(?:and|or)\s*\}", re.IGNORECASE
)
_BULLET = re.compile(r"(?:^|\n)\s*(?:[-*•]|\(?\d{1,2}[.)])\s+")
_NAMED = re.compile(r"\A\s*[A-Za-z]\w{0,2}(?:_\{?\w{1,3}\}?)?\s*=\s*")
_PAIRS = {")": "(", "]": "[", "}": "{"}
# Digits grouped in threes are one number, unless a blank follows the comma.
_GROUPED = re.compile(r"(?<![\d,])\d{1,3}(?:,\d{3})+(?![\d,])")


def parts(text: str) -> list[str]:
    """What a text lists: pieces between commas, semicolons, lines and the words for "and", brackets kept whole."""
    text = _BULLET.sub("\n", plain(text)).strip()
    inner = _unwrapped(text)
    inner = _GROUPED.sub(lambda match: match[0].replace(",", "\0"), inner)
    inner = _WORDS.sub(", ", inner)
    found, depth, start = list[str](), list[str](), 0
    for place, char in enumerate(inner):
        if char in "([{":
            depth.append(char)
        elif char in ")]}" and depth and depth[-1] == _PAIRS[char]:
            depth.pop()
        elif char in ",;" and not depth:
            found.append(inner[start:place])
            start = place + 1
    found.append(inner[start:])
    cleaned = (_NAMED.sub("", piece.replace("\0", ",").strip(" \t\n'\"")).strip() for piece in found)
    return [piece for piece in cleaned if piece]


def _unwrapped(text: str) -> str:
    r"""Without set braces or a list's brackets around all of it; "(3, 4)" is a point and stays."""
    text = re.sub(r"\A\\\{(.*)\\\}\Z", r"{\1}", text, flags=re.DOTALL)
    if text[:1] in ("{", "[") and text[-1:] == {"{": "}", "[": "]"}[text[0]]:
        inner = text[1:-1]
        if not re.search(r"[\[\]]", inner) or text[0] == "{":
            return inner
    return text


def items(text: str) -> frozenset[str | Fraction]:
    """What a text lists, as numbers where they are ones, else as folded texts."""
    pieces = parts(text)
    if len(pieces) == 1 and pieces[0][:1] == "(" and pieces[0][-1:] == ")":
        pieces = parts(pieces[0][1:-1])
    return frozenset(number if (number := read_number(piece)) is not None else folded(piece) for piece in pieces)


def grade_set(response: str, gold: Gold) -> Grade:
    """Right where both list the same items; a gold answer that lists nothing is undecided."""
    wanted = items(gold.answer)
    if not wanted:
        return Grade(None, "set-gold-empty")
    return Grade(items(response) == wanted, "set-equal")
