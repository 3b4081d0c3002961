"""Gold answers at the end of a worked solution: taken from there; the whole solution is never the answer. Pure."""

from __future__ import annotations

import re

from curate.errors import RowError
from curate.graders import extract

# A text of one line with fewer words is an answer, whatever it says.
_SHORT = 20
# What announces the answer at the end of a worked solution, and the setting that reads it.
_ANNOUNCED: dict[str, re.Pattern[str]] = {
    "answer_behind: '####'": re.compile(r"####\s*\S"),
    "answer_form: solution": re.compile(
        r"\\boxed\s*\{|\bthe (?:final |correct )?answer is\b|\b(?:final )?answer\s*:",
        re.IGNORECASE,
    ),
}


def behind(text: str, pattern: str) -> str:
    """What stands behind the last match of a regular expression, to the end of that line; of a group, what it matched.

    RowError where nothing does.
    """
    matches = list(re.finditer(pattern, text))
    if not matches:
        raise RowError("no-answer-behind", f"nothing matches {pattern!r} in: {text[-80:]}")
    last = matches[-1]
    found = last[1] if last.re.groups else (text[last.end() :].strip().splitlines() or [""])[0]
    if found is None or not found.strip():
        raise RowError("no-answer-behind", f"nothing stands behind {pattern!r}: {text[-80:]}")
    return found.strip()


def concluded(text: str) -> str:
    """The answer that a worked solution comes to, read like that of a response; RowError where it comes to none."""
    found = extract(text)
    if found is None or not found.answer.strip():
        raise RowError("no-answer-behind", f"the solution comes to no answer: {text[-80:]}")
    return found.answer.strip()


def cure_of(text: str) -> str | None:
    """The setting that takes the answer out of a text that is a worked solution; null for a text that is an answer."""
    found = next((cure for cure, said in _ANNOUNCED.items() if said.search(text)), None)
    short = "\n" not in text.strip() and len(text.split()) < _SHORT
    return None if short and "####" not in text else found
