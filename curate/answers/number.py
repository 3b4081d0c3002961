"""Numbers: integers exactly, others within a relative tolerance."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from curate.answers.base import Gold, Grade, plain

RELATIVE_TOLERANCE = 1e-6
# Longer texts are no numbers; a model that repeats one digit for ever must not become a huge one.
_LONGEST_NUMBER = 200
_LONGEST_SENTENCE = 2000
_NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:[eE][-+]?\d+)?"
_PLAIN = re.compile(rf"({_NUMBER})")
_SPACED = re.compile(r"[-+]?\d{1,3}(?: \d{3})+(?:\.\d+)?")
_RATIO = re.compile(rf"({_NUMBER})\s*/\s*({_NUMBER})")
_FRAC = re.compile(r"([-+]?)\s*\\[dt]?frac\s*(?:\{([-+]?\d+)\}|(\d))\s*(?:\{([-+]?\d+)\}|(\d))")
_MIXED = re.compile(r"([-+]?)(\d+)(?:\s+(\d+/\d+)|\s*(\\[dt]?frac.+))")
_POWER = re.compile(rf"(?:({_NUMBER})\s*(?:\\times|\\cdot|×|·|\*)\s*)?10\s*\^\s*(?:\{{\s*([-+]?\d+)\s*\}}|([-+]?\d+))")
_MARK = r"\^?\s*\{?\s*\\circ\s*\}?|°|\\?%"
_EXPONENT = r"(?:\^\{?\d\}?)?"
# After a space: words of two letters and more, or a unit of one, but no function or constant of a formula.
_WORD = rf"(?!(?:sin|cos|tan|log|ln|exp|sqrt|pi|or|and)\b)(?:[A-Za-z]{{2,}}|[mgstVWJNAKLlh]){_EXPONENT}"
_KNOWN = (
    r"(?:[cdkmn]?m|[km]?g|ms|min|hrs?|m[lL]|k?Hz|k?W|kJ|k?Pa"
    r"|in|inch|inches|ft|feet|yd|lb|oz|cents?|deg|degrees?|units?)"
)
# "12 cm", "45 degrees", "5cm^2", "90^\circ"; but "2x" and "5m" may be formulae.
_UNIT = re.compile(rf"\s*(?:{_MARK}|(?![mg]\b){_KNOWN}{_EXPONENT}|\s{_WORD}(?:\s+{_WORD}){{0,2}})\s*$")
# Where a number is what is wanted, any letters behind it are its unit.
_ANY_UNIT = re.compile(rf"\s*(?:{_MARK}|[A-Za-z]+{_EXPONENT}(?:\s+[A-Za-z]+{_EXPONENT}){{0,2}})\s*$")
_CURRENCY = re.compile(r"^\s*(?:\\?\$|€|£|¥)\s*")
_EQUALS = re.compile(r"=|≈|\\approx\b|\\simeq\b")


def _plain_value(text: str) -> Fraction | None:
    mantissa, _, exponent = text.replace(",", "").lower().partition("e")
    # An exponent of thousands of digits is nobody's answer, and would fill the memory.
    if len(exponent) > 4 or not any(c.isdigit() for c in mantissa):
        return None
    return Fraction(mantissa) * Fraction(10) ** int(exponent) if exponent else Fraction(mantissa)


# A gold answer is read when its type is inferred and again by its own grader; completions repeat answers.
@lru_cache(1024)
def _value(text: str) -> Fraction | None:
    """The exact value of a text that is nothing but a number, a fraction or a power of ten."""
    text = text.strip()
    if len(text) > _LONGEST_NUMBER:
        return None
    if _PLAIN.fullmatch(text):
        return _plain_value(text)
    if _SPACED.fullmatch(text):
        return _plain_value(text.replace(" ", ""))
    if match := _RATIO.fullmatch(text):
        above, below = _value(match[1]), _value(match[2])
        return None if above is None or not below else above / below
    if match := _FRAC.fullmatch(text):
        top, bottom = int(match[2] or match[3]), int(match[4] or match[5])
        return None if bottom == 0 else Fraction(top, bottom) * (-1 if match[1] == "-" else 1)
    if match := _MIXED.fullmatch(text):
        part = _value(match[3] or match[4])
        return None if part is None or not 0 <= part < 1 else (int(match[2]) + part) * (-1 if match[1] == "-" else 1)
    if match := _POWER.fullmatch(text):
        factor, exponent = _value(match[1]) if match[1] else Fraction(1), match[2] or match[3]
        return None if factor is None or len(exponent) > 4 else factor * Fraction(10) ** int(exponent)
    return None


def _read(text: str, unit: re.Pattern[str]) -> Fraction | None:
    text = _CURRENCY.sub("", plain(text)).replace("{,}", ",")
    if len(text) > _LONGEST_NUMBER:
        return None
    found = _value(text)
    return found if found is not None else _value(unit.sub("", text))


def read_number(text: str) -> Fraction | None:
    """The number that a text is, without its unit; None when it is none. "50%" is 50: see `grade_number`."""
    return _read(text, _UNIT)


def same_number(given: Fraction, wanted: Fraction, tolerance: float | None = None) -> bool:
    """Equal; within `tolerance` relative (absolute when `wanted` is 0); without one 1e-6, and integers exactly."""
    if tolerance is None and wanted.denominator == 1 and given.denominator == 1:
        return given == wanted
    scale = abs(wanted) if wanted else Fraction(1)
    return abs(given - wanted) <= scale * Fraction(RELATIVE_TOLERANCE if tolerance is None else str(tolerance))


def _percent(text: str) -> bool:
    return plain(text).rstrip().endswith("%")


def _given(response: str) -> Fraction | None:
    """The number that a response states: all of it, the right side of its last equation, or its only number."""
    sides = _EQUALS.split(response)
    for part in (response, sides[-1]):
        found = _read(part, _ANY_UNIT)
        if found is not None:
            return found
    return _only_number(response)


def readings(response: str, gold: Gold) -> tuple[list[Fraction], Fraction | None]:
    """The numbers that a response can mean (none, one, or two), and the gold one. Units are set aside.

    A percent sign counts only where the gold has one: otherwise "50%" can be 50 or one half.
    """
    wanted, given = _read(gold.answer, _ANY_UNIT), _given(response)
    if given is None:
        return [], wanted
    return [given, given / 100] if _percent(response) and not _percent(gold.answer) else [given], wanted


def grade_number(response: str, gold: Gold) -> Grade:
    """By `same_number`, with the tolerance of the gold answer."""
    given, wanted = readings(response, gold)
    if wanted is None:
        return Grade(None, "number-gold-unreadable")
    if not given:
        return Grade(False, "number-none")
    if len(given) > 1:
        return Grade(any(same_number(value, wanted, gold.tolerance or 0.0) for value in given), "number-percent")
    whole = gold.tolerance is None and wanted.denominator == 1 and given[0].denominator == 1
    return Grade(same_number(given[0], wanted, gold.tolerance), "number-integer" if whole else "number-tolerance")


def _only_number(text: str) -> Fraction | None:
    """The one number that a sentence holds ("about 12 apples"); None when it holds several different ones."""
    text = plain(text)
    if len(text) > _LONGEST_SENTENCE:
        return None
    found = {
        value
        for part in re.findall(rf"(?<![\w.]){_NUMBER}(?![\w])", text)
        if part and (value := _value(part)) is not None
    }
    return found.pop() if len(found) == 1 else None
