"""Values as text, alike in every form of the report: a missing one is a dash, never a zero."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from prm.metrics import Interval
from prm.reporting.null_band import Band
from prm.reporting.stats import Over

MISSING = "–"

# Directions that a text may set for what follows it; they can make a line read as another.
_STEERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

# Unicode's classes Cc and Cs, but for tab and line feed.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def plain(text: object) -> str:
    """Text on one line, without characters that could steer a terminal or turn the reading direction around."""
    return harmless(" ".join(str(text).split()))


def harmless(text: str) -> str:
    """Text as it is spaced, without characters that could steer a terminal or turn the reading direction around."""
    return "".join(
        "\ufffd" if char in _STEERING or unicodedata.category(char) in ("Cc", "Cs") else char for char in text
    )


def lines(text: str) -> str:
    """Text on several lines, without control characters: what HTML cannot hold is replaced."""
    return _CONTROLS.sub("\ufffd", text)


def shortened(text: str, limit: int) -> str:
    """At most `limit` characters, saying how many more there are."""
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit:,} more characters)"


def as_it_is(text: str) -> str:
    """A text that is a cell already."""
    return text


def text(value: Any) -> str:
    """A value by its type: figures with two digits, counts with thousands, texts on one line, several with commas."""
    if value is None or value == ():
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    if isinstance(value, float):
        return number(value)
    return ", ".join(map(plain, value)) if isinstance(value, tuple | list) else plain(value)


def number(value: float | None, digits: int = 2) -> str:
    """Fixed number of digits."""
    return MISSING if value is None else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 0) -> str:
    """A share in [0, 1] as per cent."""
    return MISSING if value is None else f"{100 * value:.{digits}f} %"


def count(value: int | None) -> str:
    """A whole number with thousands."""
    return MISSING if value is None else f"{value:,}"


def spread(interval: Interval | Band | None, between: str = " to ") -> str:
    """Both ends; a dash for a single run, which has no interval."""
    if interval is None or (isinstance(interval, Interval) and interval.method == "single"):
        return MISSING
    return f"{interval.low:.2f}{between}{interval.high:.2f}"


def over(figure: Over | None, digits: int = 1) -> str:
    """Mean, and lowest to highest over runs where they differ."""
    if figure is None:
        return MISSING
    mean = number(figure.mean, digits)
    ends = number(figure.low, digits), number(figure.high, digits)
    return mean if ends[0] == ends[1] else f"{mean} ({ends[0]} to {ends[1]})"
