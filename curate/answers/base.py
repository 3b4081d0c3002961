"""What a grade is, and the normal form of short texts."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True)
class Grade:
    """`outcome`: right, wrong or undecided (None); `rule`: the rule that decided."""

    outcome: bool | None
    rule: str


_WRAPPERS = (re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox)\{([^{}]*)\}"), re.compile(r"\\boxed\{([^{}]*)\}"))


def plain(text: str) -> str:
    """Unicode-normal, without TeX text commands, dollar signs, Markdown emphasis, outer space and a final stop."""
    text = unicodedata.normalize("NFKC", text).replace("\u2212", "-").replace("\u2013", "-")
    for wrapper in _WRAPPERS:
        text = wrapper.sub(r"\1", text)
    text = text.replace("$", "").replace("\\(", "").replace("\\)", "").replace("\\,", " ").replace("\\!", "")
    text = text.strip().strip("*_`").strip()
    return text[:-1].rstrip() if text.endswith((".", ",", ";", ":")) and len(text) > 1 else text


def folded(text: str) -> str:
    """`plain`, case-folded, runs of white space as one space."""
    return " ".join(plain(text).casefold().split())
