r"""What a judge's answer says about the steps of a chain, and what several answers say together. Pure.

A judge names the first wrong step by its number from 0, or -1 when none is wrong (ProcessBench, arXiv 2412.06559). Its
verdict on a step is about the prefix that ends there, as a step label is: true where nothing is wrong so far, false
from the first wrong step on. `VERSION` changes when any answer is read otherwise.

Read is the last `\boxed{...}` of an answer, or, without any, a last line that is nothing but the verdict. All else says
nothing: it is null with a reason, and never counts as "none is wrong".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

VERSION = 1
NONE_WRONG = -1

_BOX = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
# What may stand around a verdict: mathematics, emphasis, brackets, quotes; and behind it.
_AROUND = " \t\r\n$*_`'\"()[]{}\\"
_BEHIND = _AROUND + ".,;!"
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}")
# Not "the answer is 2": that may be the problem's.
_LINE = re.compile(r"(?:(?:the|first|earliest|error|verdict|index|number|of|is|in)\b\s*[:=]?\s*)*(.*)", re.I)
# "Paragraph 2" has a number of ours; "step 2" may have the chain's own, which mostly begin at 1.
_NUMBER = re.compile(r"(?:paragraph[ _]?)?([-\u2212\u2013]?[1-9][0-9]{0,3}|0)", re.I)
_NONE = re.compile(r"none|no errors?|none is wrong|no paragraph is wrong|all correct", re.I)


@dataclass(frozen=True)
class JudgeReading:
    """`first_error`: number of the first wrong step, -1 for none, null when the answer cannot be read; `unread` is then
    why: `no-verdict`, `not-a-number`, `out-of-range`, or `finish-...` for an answer that did not come to its end.
    """

    first_error: int | None
    unread: str | None = None


def read(text: str, steps: int, finish: str = "stop") -> JudgeReading:
    """The verdict of an answer about a chain of `steps` steps that ended with this finish class."""
    if finish != "stop":
        return JudgeReading(None, f"finish-{finish}")
    # What a model thinks to itself is no answer, whatever it says on the way.
    said = text.rpartition("</think>")[2]
    if "<think>" in said:
        return JudgeReading(None, "no-verdict")
    boxes = _BOX.findall(said)
    if boxes:
        number = _number(_TEXT.sub(r"\1", boxes[-1]))
        if number is None:
            return JudgeReading(None, "not-a-number")
    else:
        number = _number(_last_line(said))
        if number is None:
            return JudgeReading(None, "no-verdict")
    return JudgeReading(number) if NONE_WRONG <= number < steps else JudgeReading(None, "out-of-range")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    found = _LINE.fullmatch(_bare(lines[-1])) if lines else None
    return found[1] if found else ""


def _bare(text: str) -> str:
    return text.rstrip(_BEHIND).lstrip(_AROUND)


def _number(text: str) -> int | None:
    bare = _bare(text)
    if _NONE.fullmatch(bare):
        return NONE_WRONG
    found = _NUMBER.fullmatch(bare)
    return int(found[1].replace("\u2212", "-").replace("\u2013", "-")) if found else None


def verdicts(first_error: int, steps: int) -> list[bool]:
    """Say for each step whether nothing is wrong up to and with it."""
    return [first_error == NONE_WRONG or step < first_error for step in range(steps)]


def majority(votes: Sequence[int | None], steps: int) -> list[bool | None]:
    """Say for each step what more than half of the votes say that can be read; null where they tie or there is none."""
    said = [verdicts(vote, steps) for vote in votes if vote is not None]
    right = [sum(column) for column in zip(*said, strict=True)] if said else [0] * steps
    return [None if 2 * count == len(said) else 2 * count > len(said) for count in right]
