"""The final answer of a chain of thought."""

from __future__ import annotations

import re

from curate.answers.base import plain

# The last explicit statement wins: a line that announces the answer, or a sentence that does. Possessive repeats (`*+`)
# keep the time linear in texts where a model repeats itself.
_FINAL = re.compile(r"final\s++answer\s*+(?:is)?+\s*+[:=]?+\s*+(.+)", re.IGNORECASE)
_LINE = re.compile(r"^[^\w\n]*+answer\s*+(?:is)?+\s*+[:=]\s*+(.+)", re.IGNORECASE | re.MULTILINE)
_SENTENCE = re.compile(r"\b(?:answer|option|choice)\s++is\b\s*+:?+\s*+(.+?)(?:\.(?=\s|$)|\n|$)", re.IGNORECASE)
_BOXED = "\\boxed{"


def _boxed(text: str) -> str | None:
    r"""Content of the last \boxed{...}, by counting braces; None when there is none or it never closes."""
    start = text.rfind(_BOXED)
    if start < 0:
        return None
    depth, begin = 1, start + len(_BOXED)
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[begin:place]
    return None


def extract(text: str) -> str | None:
    r"""The last stated answer: `Final answer:`, then \boxed{}, an `Answer:` line, "the answer is ..."; or None."""
    final = _last(_FINAL, text)
    candidates = [_boxed(final) or final if final else None, _boxed(text), _last(_LINE, text), _last(_SENTENCE, text)]
    for candidate in candidates:
        if candidate is not None and (answer := plain(candidate)):
            return answer
    return None


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.findall(text)
    return found[-1] if found else None
