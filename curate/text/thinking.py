"""Thinking models: what a model thought before it answered, taken off the text that it answered with. Pure text.

Models mark their thoughts in the text itself (`<think>...</think>` and its relatives); a chat template may open the
mark in the prompt, so that the text only closes it. Thoughts are no answer and no steps: they hold guesses, boxes and
answers that the model took back.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

_NAMES = r"(?:think(?:ing)?|thoughts?|reasoning|seed:think)"
# DeepSeek, Qwen and most others; Kimi; Magistral; Cohere; Open Thoughts; gpt-oss.
_MARKS = (
    (rf"<{_NAMES}>", rf"</{_NAMES}>"),
    (r"◁think▷", r"◁/think▷"),
    (r"\[THINK\]", r"\[/THINK\]"),
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    (r"<\|channel\|>analysis<\|message\|>", r"<\|channel\|>final<\|message\|>"),
)
_OPENS = re.compile("|".join(opens for opens, _ in _MARKS), re.IGNORECASE)
_CLOSES = re.compile("|".join(closes for _, closes in _MARKS), re.IGNORECASE)
# What a closing mark leaves between the thoughts and the answer, and what gpt-oss ends its analysis with.
_BETWEEN = re.compile(r"\s*(?:<\|(?:START_RESPONSE|begin_of_solution)\|>\s*)?")
_AFTER = re.compile(r"\s*(?:<\|(?:END_RESPONSE|end_of_solution|return)\|>\s*)\Z")
_ENDS_ANALYSIS = re.compile(r"<\|(?:end|start)\|>(?:assistant)?")
# A mark inside a line is spoken of, or is code; a mark that is meant begins a line, behind so many blanks at most.
_INDENT = 16


@dataclass(frozen=True)
class Parts:
    """A text in its two parts: the thoughts (null where there are none) and the answer's text.

    `start` is where the answer's text begins in the whole, in characters; the thoughts come before it, or behind it
    where they never end.
    """

    reasoning: str | None
    text: str
    start: int = 0


def apart(text: str) -> Parts:
    """Take the thoughts off a text, up to and with the last mark that closes them.

    Thoughts that never end are all that comes behind the mark that opens them: the model was cut while it thought.
    """
    start, reasoning = 0, list[str]()
    closing = _last(_CLOSES, text)
    if closing is not None and _spoken_of(text, closing):
        closing = None
    if closing is not None:
        between = _BETWEEN.match(text, closing.end())
        start = between.end() if between else closing.end()
        reasoning.append(_bare(text[: closing.start()]))
    end = len(text)
    for opening in _OPENS.finditer(text, start):
        if _begins_line(text, start, opening.start()):
            end = opening.start()
            reasoning.append(_bare(text[opening.start() :]))
            break
    if not reasoning:
        return Parts(None, text)
    answer = text[start:end]
    if ending := _AFTER.search(answer):
        answer = answer[: ending.start()]
    return Parts("\n\n".join(filter(None, reasoning)), answer if answer.strip() else "", start)


def _last(mark: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(iter(deque(mark.finditer(text), maxlen=1)), None)


def _begins_line(text: str, start: int, place: int) -> bool:
    head = text[max(start, place - _INDENT) : place].rstrip(" \t")
    return head.endswith("\n") or (not head and place - start < _INDENT)


def _spoken_of(text: str, closing: re.Match[str]) -> bool:
    """Whether a closing mark is quoted: in backticks, or in a string of code."""
    return text[closing.start() - 1 : closing.start()] in ("`", '"', "'")


def _bare(text: str) -> str:
    """Thoughts without the marks around and between them."""
    return _ENDS_ANALYSIS.sub("", _CLOSES.sub("\n\n", _OPENS.sub("", text))).strip()


def opens(prompt: str) -> bool:
    """Whether a rendered prompt ends inside a thought that its template opened, so that the text begins with one."""
    last = _last(_OPENS, prompt)
    return last is not None and not prompt[last.end() :].strip()


def all_thought(text: str) -> bool:
    """Whether a text that begins inside a thought never leaves it."""
    return _CLOSES.search(text) is None


def before(reasoning: str | None) -> str:
    """The thoughts as a chat template writes them before the answer's text; nothing where there are none."""
    return f"<think>\n{reasoning}\n</think>\n\n" if reasoning else ""


def merged(*reasoning: str | None) -> str | None:
    """Thoughts of several places as one text; null where none of them has any."""
    return "\n\n".join(filter(None, reasoning)) or None
