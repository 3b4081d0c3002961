"""Cut a chain of thought into steps. Pure; `VERSION` changes when any cut does.

Steps are exact pieces of the text: joined, they give it back. The text is read once, from the front, and whether a cut
lies at a place depends only on the text up to it and on the marker that begins there ("Step 2:", "2.", "## "), never
on the outcome, on the length of the chain, or on anything that comes later. So a prefix of a chain is cut as the chain
is, which step labels need: rows that are there because of what came later would go with the outcome.

The price: the form of a chain is what it was so far. Paragraphs before the first "Step 1" are steps of their own, where
a reader who knows the whole text would take them for its introduction.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

VERSION = 3

_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
# "Step 2:", "**Step 2.**", "### Step 2 - ...", "(Step 2)", "STEP 2/5", "Step two:", "- Step 2.1:", "Step 2 Find ...".
# The number decides besides, so that a "Step 12 of the manual" or a step quoted in a sentence does not cut.
_STEP = re.compile(
    r"[ \t]{0,12}(?:[>#*_(\[-][ \t]{0,3}){0,8}(?i:step)[ \t]{0,3}#?"
    rf"(?P<number>\d{{1,3}}|(?i:{'|'.join(_WORDS)})\b)(?P<part>\.\d{{1,2}})?(?:[ \t]?(?:/|of)[ \t]?\d{{1,3}})?"
    r"(?:(?P<mark>[ \t]{0,3}[:.)\]*_(\u2013\u2014-]{1,4})|(?=[ \t]*(?:[\r\n]|\Z))|(?=[ \t]{1,3}[A-Z]))"
)
# Several steps in one line: behind a sentence's end, and with a colon.
_INLINE = re.compile(r"(?<=[.!?)\]][ \t])(?=[*_(]{0,3}(?i:step) \d{1,3}[*_)]{0,3}:)")
_ITEM = re.compile(r"(?P<indent>[ \t]{0,8})(?:\*{1,2}|\()?(?P<number>\d{1,3})[.)](?=[ \t*])")
_HEADING = re.compile(r"[ \t]{0,3}#{1,6}[ \t]{1,8}\S")
# A line that is nothing but a heading: in Markdown, or bold from end to end.
_ONLY_HEADING = re.compile(r"\s*(?:#{1,6}[ \t].*|(?:\d{1,3}[.)][ \t]*)?(?:\*\*|__)[^*_]+(?:\*\*|__)[ \t]*:?)\s*")
# What goes on with the sentence before it: an equation, or a clause.
_CONTINUES = re.compile(
    r"[ \t]{0,12}(?:\$\$|\\\[|\\begin\{|&?=|[\u21d2\u2192\u27f9]|\\Rightarrow|\\implies|(?:where|and|or|with|which)\b)"
)
_ANSWER = re.compile(
    r"[ \t#>*_$\\(\[]{0,12}(?:boxed\b|(?:(?:therefore|thus|so|hence)[ \t,]{1,3})?(?:the[ \t]{1,3})?"
    r"(?:(?:final|correct)[ \t]{1,3})?(?:answer|option|choice)[ \t]{0,3}(?:is\b|:|\*|[\r\n]|\Z))",
    re.IGNORECASE,
)
# As in GSM8K: "#### 7", "A: 7".
_SHORT_ANSWER = re.compile(r"[ \t]*(?:####[ \t]*[-$\d(\\]|(?:A|Ans)[ \t]?:[ \t])")
_ANNOUNCES = re.compile(r":[*_\s]*\Z")
_ENDS_SENTENCE = re.compile(r"[.!?\u3002](?:[\"'*_$]|\\?[)\]])*\s*\Z")
# What a step never ends in: code, and TeX that goes over lines. "\\\\[2pt]" is a line's end in TeX and opens nothing.
_FENCE = "```"
_OPENS = re.compile(r"(?<!\\)\\(?:\[|\(|begin\s?\{)")
_CLOSES = re.compile(r"(?<!\\)\\(?:\]|\)|end\s?\{)")
_DISPLAY = "$$"
# A block that is still open after so many lines was never closed.
_LONGEST_BLOCK = 100


@dataclass
class _Scan:
    """What was read so far: the counts of steps and items, and of the open step its content and its last line."""

    step: int = 0
    item: int = 0
    indent: int = 0
    blank_line: bool = False
    fenced: bool = False
    display: bool = False
    depth: int = 0
    block: int = 0
    content: int = 0
    begins_with_item: bool = False
    last: str = ""

    def take(self, line: str, opens: bool) -> None:
        """The line is read: it opens a step, or goes on with the open one."""
        if opens:
            self.content, self.begins_with_item = 0, _ITEM.match(line) is not None
        headed = _STEP.match(line)
        marker = headed or _ITEM.match(line)
        if headed or not _ONLY_HEADING.fullmatch(line):
            self.content += sum(map(str.isalnum, line[marker.end() if marker else 0 :]))
        self._enclose(line)
        self.last = line

    def _enclose(self, line: str) -> None:
        """Keep account of what is open at the line's end: a fence, `$$`, or TeX's brackets and environments."""
        self.fenced ^= line.count(_FENCE) % 2 == 1
        if not self.fenced:
            self.display ^= line.count(_DISPLAY) % 2 == 1
            self.depth = max(self.depth + len(_OPENS.findall(line)) - len(_CLOSES.findall(line)), 0)
        self.block = self.block + 1 if self.enclosed else 0
        if self.block > _LONGEST_BLOCK:
            self.fenced, self.display, self.depth, self.block = False, False, 0, 0

    @property
    def enclosed(self) -> bool:
        """Whether the next line is inside code or a formula."""
        return self.fenced or self.display or self.depth > 0

    def next_step(self, line: str) -> bool:
        """Whether the line is headed with the number of the step that comes next, or starts again with Step 1."""
        found = _STEP.match(line)
        if found is None:
            return False
        word = found["number"].lower()
        number = _WORDS.index(word) + 1 if word in _WORDS else int(word)
        again = number == 1 and self.step > 1 and found["mark"] is not None and found["part"] is None
        if number != self.step + 1 and not again:
            return False
        self.step = number
        return True

    def next_item(self, line: str) -> bool:
        """Whether the line is the next item, but for the first, of a numbered list."""
        found = _ITEM.match(line)
        if found is None:
            return False
        number, indent = int(found["number"]), len(found["indent"])
        if number == 1 and (self.item == 0 or indent <= self.indent):
            self.item, self.indent = 1, indent
        elif number == self.item + 1 and abs(indent - self.indent) <= 1:
            self.item = number
            return number > 1
        return False

    def begins(self, line: str, after_blank: bool, inline: bool, cuts: int) -> bool:
        """Whether a step may begin with this line."""
        if self.enclosed:
            return False
        headed = self.step
        if self.next_step(line):
            # One paragraph before the first of them is its introduction.
            return headed > 0 or cuts > 1
        if headed or inline:
            return False
        answers = _ANSWER.match(line) or _SHORT_ANSWER.match(line)
        if self.next_item(line) or (_HEADING.match(line) and not answers):
            return True
        if _CONTINUES.match(line) or answers or _ANNOUNCES.search(self.last):
            return False
        if after_blank:
            return not (self.begins_with_item and line.startswith(("  ", "\t")))
        return not self.blank_line and not self.item and _ENDS_SENTENCE.search(self.last) is not None


def _lines(text: str) -> Iterator[tuple[int, str, bool]]:
    """(start, text, whether it begins inside a line) of all lines; one with several "Step k:" is several."""
    start = 0
    for line in text.splitlines(keepends=True):
        places = [0, *(match.start() for match in _INLINE.finditer(line)), len(line)]
        for a, b in pairwise(places):
            yield start + a, line[a:b], a > 0
        start += len(line)


def cuts(text: str, max_steps: int = 12, min_characters: int = 1) -> list[int]:
    """Where steps begin, 0 first; [] for a blank text. See `split`."""
    scan, starts, after_blank = _Scan(), list[int](), False
    for start, line, inline in _lines(text):
        if not line.strip():
            after_blank = True
            continue
        opens = not starts
        if opens:
            scan.next_step(line)
            scan.next_item(line)
            starts.append(0)
        else:
            scan.blank_line |= after_blank
            opens = scan.begins(line, after_blank, inline, len(starts))
            opens = opens and scan.content >= min_characters and len(starts) < max_steps
            if opens:
                starts.append(start)
        scan.take(line, opens)
        after_blank = False
    return starts


def split(text: str, max_steps: int = 12, min_characters: int = 1) -> list[str]:
    """The steps of a chain, in order; [] for a blank text.

    Once a chain has a "Step 1", its numbered steps cut and nothing else does. Until then a step begins with an item of
    a numbered list, a Markdown heading and a paragraph; in a text without blank lines, with a line behind one that
    ends a sentence. An equation, a stated answer and what a colon announces belong to the step before them. Code,
    display formulas and TeX environments are never cut.

    No cut where the step so far has fewer than `min_characters` letters and digits, marker and heading aside. Step
    number `max_steps` takes the rest of the chain.
    """
    starts = cuts(text, max_steps, max(min_characters, 1))
    return [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=False)]


def token_cuts(steps: Sequence[str], token_ends: Sequence[int], start: int = 0) -> list[int]:
    """Number of tokens that cover steps 0..i, for each i: a cut inside a token moves behind it.

    `token_ends[j]` is the length of the decoded text after token j, in characters; the first step begins at `start`.
    """
    ends = (start + end for end in accumulate(len(step) for step in steps))
    return [min(bisect_left(token_ends, end) + 1, len(token_ends)) for end in ends]
