"""Numbers: integers exactly, others within a relative tolerance."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from curate.answers.base import Grade, plain

RELATIVE_TOLERANCE = 1e-6
_NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:[eE][-+]?\d+)?"
_PLAIN = re.compile(rf"({_NUMBER})")
_RATIO = re.compile(rf"({_NUMBER})\s*/\s*({_NUMBER})")
_FRAC = re.compile(r"([-+]?)\s*\\[dt]?frac\{([-+]?\d+)\}\{([-+]?\d+)\}")
# A number, then a unit of letters (or a degree or currency sign): "12 cm", "45 degrees", "5 cm^2".
_UNIT = re.compile(r"\s*(?:\^?\{?\\circ\}?|°|\\?%|[A-Za-z²³]+(?:\^\{?\d\}?)?(?:\s+[A-Za-z]+){0,2})\s*$")
_CURRENCY = re.compile(r"^\s*(?:\\?\$|€|£|¥)\s*")


def _value(text: str) -> Fraction | None:
    """The exact value of a text that is nothing but a number or a fraction."""
    text = text.strip()
    if match := _FRAC.fullmatch(text):
        top, bottom = int(match[2]), int(match[3])
        return None if bottom == 0 else Fraction(top, bottom) * (-1 if match[1] == "-" else 1)
    if match := _RATIO.fullmatch(text):
        above, below = _value(match[1]), _value(match[2])
        return None if above is None or not below else above / below
    if not _PLAIN.fullmatch(text) or not any(c.isdigit() for c in text):
        return None
    mantissa, _, exponent = text.replace(",", "").lower().partition("e")
    # An exponent of thousands of digits is nobody's answer, and would fill the memory.
    if len(exponent) > 4 or not any(c.isdigit() for c in mantissa):
        return None
    return Fraction(mantissa) * Fraction(10) ** int(exponent or 0)


def read_number(text: str) -> Fraction | None:
    """The number that a text is, without its unit; None when it is none. "50%" is 50: see `grade_number`."""
    text = _CURRENCY.sub("", plain(text))
    found = _value(text)
    return found if found is not None else _value(_UNIT.sub("", text))


def _percent(text: str) -> bool:
    return plain(text).rstrip().endswith("%")


def grade_number(response: str, gold: str, choices: Sequence[str]) -> Grade:
    """Equal; within 1e-6 relative when either is no integer. A percent sign counts only where the gold has one."""
    wanted, given = read_number(gold), read_number(response)
    if wanted is None:
        return Grade(None, "number-gold-unreadable")
    if given is None:
        given = _only_number(response)
    if given is None:
        return Grade(False, "number-none")
    if _percent(response) and not _percent(gold):
        return Grade(given == wanted or given / 100 == wanted, "number-percent")
    if wanted.denominator == 1 and given.denominator == 1:
        return Grade(given == wanted, "number-integer")
    scale = abs(wanted) if wanted else Fraction(1)
    return Grade(abs(given - wanted) <= scale * Fraction(RELATIVE_TOLERANCE), "number-tolerance")


def _only_number(text: str) -> Fraction | None:
    """The one number that a sentence holds ("x = 5", "about 12 apples"); None when it holds several different ones."""
    found = {
        value
        for part in re.findall(rf"(?<![\w.]){_NUMBER}(?![\w])", plain(text))
        if part and (value := _value(part)) is not None
    }
    return found.pop() if len(found) == 1 else None
