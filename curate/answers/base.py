"""What a grade is, and the normal form of short texts."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Grade:
    """`outcome`: right, wrong or undecided (None); `rule`: the rule that decided."""

    outcome: bool | None
    rule: str


@dataclass(frozen=True)
class Gold:
    """What a response is held against: one accepted answer, the choices that it is among, and for numbers how far off
    is still right (a share of the answer, or an amount where the answer is 0; null is the grader's own).
    """

    answer: str
    choices: tuple[str, ...] = ()
    tolerance: float | None = None


_WRAPPERS = (re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox)\{([^{}]*)\}"), re.compile(r"\\boxed\{([^{}]*)\}"))
# Unicode's own normal form would make 10² a 102, and 1½ an 11/2.
_SUPERSCRIPTS = re.compile("[\u207a\u207b\u00b2\u00b3\u00b9\u2070\u2074-\u2079]+")
_AFTER_DIGIT = re.compile("(?<=[0-9])(?=[\u00bc-\u00be\u2150-\u215e])")


def _power(match: re.Match[str]) -> str:
    digits = unicodedata.normalize("NFKC", match[0]).replace("\u2212", "-")
    return f"^{digits}" if len(digits) == 1 else f"^{{{digits}}}"


# Every grader begins with it, on both sides.
@lru_cache(1024)
def plain(text: str) -> str:
    """Unicode-normal, without TeX text commands, dollar signs, Markdown emphasis, outer space and a final stop."""
    text = _AFTER_DIGIT.sub(" ", _SUPERSCRIPTS.sub(_power, text))
    text = unicodedata.normalize("NFKC", text)
    text = text.replace("\u2212", "-").replace("\u2013", "-").replace("\u2044", "/")
    for wrapper in _WRAPPERS:
        text = wrapper.sub(r"\1", text)
    text = text.replace("$", "").replace("\\(", "").replace("\\)", "").replace("\\,", " ").replace("\\!", "")
    text = text.strip().strip("*_`").strip()
    return text[:-1].rstrip() if text.endswith((".", ",", ";", ":")) and len(text) > 1 else text


def folded(text: str) -> str:
    """`plain`, case-folded, runs of white space as one space."""
    return " ".join(plain(text).casefold().split())
