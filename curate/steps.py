"""Cut a chain of thought into steps. Pure; `VERSION` changes when any cut does.

Steps are exact pieces of the text: joined, they give it back. The cut looks at the text alone, never at the outcome.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

VERSION = 1

# "Step 2:", "**Step 2.**", "### Step 2 - ...", "2." or "2)" at the start of a line; the number decides, so that a
# "Step 12" quoted in the middle of a sentence or a stray year does not cut.
_STEP = re.compile(r"^[ \t]*(?:#{1,6}[ \t]*)?(?:\*{1,2}|_{1,2})?step[ \t]*(\d{1,3})\b", re.IGNORECASE | re.MULTILINE)
_ITEM = re.compile(r"^[ \t]*(?:\*{1,2})?(\d{1,3})[.)](?=[ \t*])", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6}[ \t]+\S", re.MULTILINE)
_PARAGRAPH = re.compile(r"\n[ \t]*\n+")


def _counted(pattern: re.Pattern[str], text: str) -> list[int]:
    """Starts of the markers that count 1, 2, 3, ... in order."""
    starts: list[int] = []
    for match in pattern.finditer(text):
        if int(match[1]) == len(starts) + 1:
            starts.append(match.start())
    return starts


def _starts(text: str) -> list[int]:
    for pattern in (_STEP, _ITEM):
        starts = _counted(pattern, text)
        if len(starts) > 1:
            return starts
    headings = [match.start() for match in _HEADING.finditer(text)]
    if len(headings) > 1:
        return headings
    return [0, *(match.end() for match in _PARAGRAPH.finditer(text) if match.end() < len(text))]


def split(text: str, max_steps: int = 12) -> list[str]:
    """The steps of a chain, in order; [] for a blank text.

    Numbered steps, else a numbered list, else headings, else paragraphs. What stands before the first marker belongs
    to the first step, an answer line to the last. Steps past `max_steps` are merged into the last one.
    """
    if not text.strip():
        return []
    starts = [0, *_starts(text)[1:]][:max_steps]
    pieces = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
    # A piece of white space only is no step; it stays with the one before it, or opens the first.
    steps: list[str] = []
    for piece in pieces:
        if steps and (not piece.strip() or not steps[-1].strip()):
            steps[-1] += piece
        else:
            steps.append(piece)
    return steps


def token_cuts(steps: Sequence[str], token_ends: Sequence[int]) -> list[int]:
    """Number of tokens that cover steps 0..i, for each i: a cut inside a token moves behind it.

    `token_ends[j]` is the length of the decoded text after token j, in characters.
    """
    ends = accumulate(len(step) for step in steps)
    return [min(bisect_left(token_ends, end) + 1, len(token_ends)) for end in ends]
