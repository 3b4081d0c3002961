"""What a grade is, and the normal form of short texts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from curate.errors import did_you_mean
from curate.graders.extraction.languages import KNOWN, Words


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
    words: Words = KNOWN


# What an answer may look like, for extraction.
FORMS = ("number", "choice", "yes-no", "text")


def _no_list(_gold: str | None) -> bool:
    """A gold answer is one answer."""
    return False


@dataclass(frozen=True)
class Grader:
    """How answers of one type are graded, and what extraction looks for in responses to such problems.

    `grade` holds an extracted answer against a gold one. `form` is what the answer looks like: `number`, `choice` or
    `yes-no`, which extraction tells from other words, or `text`, which may be anything; a function of the gold answer,
    which is null where the problem has none, where the form depends on it. `several` says whether this gold answer is a
    list, so that several boxes side by side are one answer. `long`: a gold answer may be as long as a solution.
    """

    grade: Callable[[str, Gold], Grade]
    form: str | Callable[[str | None], str] = "text"
    several: Callable[[str | None], bool] = _no_list
    long: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.form, str) and self.form not in FORMS:
            raise ValueError(f'an answer has no form "{self.form}"{did_you_mean(self.form, FORMS)}')

    def form_of(self, gold: str | None) -> str:
        """What an answer looks like beside this gold one."""
        return self.form if isinstance(self.form, str) else self.form(gold)


class GradedBy(Protocol):
    """What answers to a problem are graded by, besides its choices: columns of `problems`."""

    @property
    def answer(self) -> str | None:
        """The gold answer; null where there is none."""
        ...

    @property
    def answer_type(self) -> str | None:
        """Which grader compares."""
        ...

    @property
    def accepted(self) -> Sequence[str]:
        """Further answers that are right."""
        ...

    @property
    def tolerance(self) -> float | None:
        """See `Gold`."""
        ...


class WithChoices(Protocol):
    """A gold answer, and the choices that it is one of."""

    @property
    def answer(self) -> str | None:
        """The gold answer; null where there is none."""
        ...

    @property
    def choices(self) -> Sequence[str]:
        """The texts of the choices; none where the answer is free."""
        ...


class Gradable(GradedBy, WithChoices, Protocol):
    """A problem as far as it takes to read and grade an answer."""


_WRAPPERS = (
    re.compile(
        r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|mathrm|mathbf|mathit|mathsf|mbox|emph|underline"
        r"|operatorname)\*?\s*\{([^{}]*)\}"
    ),
    re.compile(r"\\(?:boxed|fbox)\s*\{([^{}]*)\}"),
    re.compile(r"\{\\(?:rm|bf|it|tt)\s+([^{}]*)\}"),
)
# Unicode's own normal form would make 10² a 102, and 1½ an 11/2.
_SUPERSCRIPTS = re.compile("[\u207a\u207b\u00b2\u00b3\u00b9\u2070\u2074-\u2079]+")
_AFTER_DIGIT = re.compile("(?<=[0-9])(?=[\u00bc-\u00be\u2150-\u215e])")
_SPACES = re.compile(r"\\[,;:!>~ ]|\\q?quad\b|(?<!\\)~(?=[\\A-Za-z])")
_DROPPED = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|limits|big|Big|bigg|Bigg)\b(?![A-Za-z])\s*|\\[()\[\]]|\$|\u200b|\ufeff"
)
_FRACTIONS = re.compile(r"\\[cdt]frac\b")
_OVER = re.compile(r"\{([^{}]*)\\over\b([^{}]*)\}")
_HTML = re.compile(r"</?\s*(?:b|i|u|em|strong|span|p|div|code|br|sub|sup|center)\s*/?>", re.IGNORECASE)
_END_TOKEN = re.compile(r"(?:</s>|<\|(?:im_end|endoftext|eot_id|end|return)\|>|<end_of_turn>|<eos>)\s*\Z")
_MINUS = str.maketrans(
    {"\u2212": "-", "\u2013": "-", "\u2044": "/", "\u2215": "/", "\ufe63": "-", "\u2010": "-", "\u2011": "-"}
)


def _power(match: re.Match[str]) -> str:
    digits = unicodedata.normalize("NFKC", match[0]).replace("\u2212", "-")
    return f"^{digits}" if len(digits) == 1 else f"^{{{digits}}}"


# Every grader begins with it, on both sides.
@lru_cache(4096)
def plain(text: str) -> str:
    """Unicode-normal, without TeX text commands and spacing, dollar signs, Markdown emphasis, outer space and stops."""
    text = _AFTER_DIGIT.sub(" ", _SUPERSCRIPTS.sub(_power, text))
    text = unicodedata.normalize("NFKC", text).translate(_MINUS)
    text = _HTML.sub("", _END_TOKEN.sub("", text))
    for wrapper in _WRAPPERS:
        text = wrapper.sub(r"\1", text)
    text = _OVER.sub(r"\\frac{\1}{\2}", _FRACTIONS.sub(r"\\frac", text))
    text = _SPACES.sub(lambda found: "" if found[0] == "\\!" else " ", text)
    text = _DROPPED.sub("", text)
    before = None
    while before != text:
        before = text
        text = text.strip().strip("*_`").strip()
        if len(text) > 1 and text.endswith((".", ",", ";", ":", "\u3002", "\uff0c")) and not text.endswith("..."):
            text = text[:-1]
    return text


def folded(text: str) -> str:
    """`plain`, case-folded, runs of white space as one space."""
    return " ".join(plain(text).casefold().split())
