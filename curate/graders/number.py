"""Numbers: integers exactly, others within a relative tolerance."""

from __future__ import annotations

import re
from fractions import Fraction

from curate.graders.base import Gold, Grade, plain
from curate.graders.quantity import DIGITS, WORDS, Quantity, quantity
from curate.graders.tex import closed_form

RELATIVE_TOLERANCE = 1e-6
_LONGEST_SENTENCE = 2000
_EQUALS = re.compile(r"(?<![<>!=])=(?!=)|≈|\\approx\b|\\simeq\b|\\eq\b|＝")
# A sentence with one of these does not say what a number is.
_DENIES = re.compile(
    r"\b(?:not|cannot|never|neither|nor|unable|impossible|unknown|unclear|undefined|indeterminate|insufficient|without|"
    r"no solutions?|no answer|no such|none)\b|n['’]t\b|不|没有|無|无解",
    re.IGNORECASE,
)
# What makes a number a bound, a range, or a part of something else.
_BOUNDS = re.compile(
    r"\b(?:more|less|greater|fewer|larger|smaller|higher|lower|older|younger|bigger|longer|shorter|taller) than$"
    r"|\b(?:at least|at most|up to|over|under|above|below|between|from|or|either|minimum of"
    r"|maximum of|within|plus|minus)$",
    re.IGNORECASE,
)
# Marks of a formula: a number beside one is a part of it.
_FORMULA = re.compile(r"[\\^_{}<>±≤≥≠√π∞*+!]|(?<=[\d\s)])/(?=[\s(A-Za-z])")
_NAMES, _UNITS = "|".join(sorted(WORDS, key=len, reverse=True)), "|".join(list(WORDS)[1:10])
_IN_TEXT = re.compile(
    r"(?<![\w.,$\\^])(?<!\d:)(?P<sign>[-+](?=[\d.$£€]))?(?:\\?\$|[£€¥])?"
    rf"(?P<digits>{DIGITS}(?:\s*/\s*\d+(?![\d/]))?)(?![\w]*\d)(?!:\d)"
    rf"|(?<!\w)(?P<word>(?:{_NAMES})(?:[- ](?:{_UNITS}))?)(?!\w)",
    re.IGNORECASE,
)
# "at x = 10": where, and not what.
_PLACE = re.compile(
    rf"(?<![\w)\]}}])[A-Za-z]\w{{0,3}}\s*=\s*[-+]?{DIGITS}(?:[A-Za-z]\w{{0,3}})?\$?(?=,?\s+[A-Za-z]{{2,}})"
)
# "x = 3, y = 4" states two numbers.
_ANOTHER = re.compile(r"\d[^=]{0,20}(?:[,;]|\band\b|\bor\b)\s*[A-Za-z]\w*\s*\Z")
# A number behind these says where or of what: "14 bars higher than 90", but not "9 of 10".
_ASIDE = re.compile(r"[^\W\d_]{3,}\s+(?:in|on|at|for|from|with|of|by|than|after|before|per|to)$", re.IGNORECASE)
_LEADING = re.compile(
    rf"((?:[-+]\s?)?(?:\\?\$|[£€¥])?{DIGITS}(?:\s?%|\s+[A-Za-z]{{2,20}}){{0,3}}?),?\s+"
    r"(?:in|with|from|for|at|on|of|by|as|during|after|before|when|where|which|more than|less than"
    r"|fewer than)\b(?!\s*\d)",
    re.IGNORECASE,
)
_CONDITION = re.compile(r"\s*(?:if|given|since|when|because|as|based on|using|with)\b", re.IGNORECASE)
# "one" as a pronoun counts nothing: "the blue one".
_COUNTS_ONE = re.compile(
    r"(?:\b(?:is|are|was|were|only|just|exactly|has|have|had|be|left|remains?|equals?|=)"
    r"|:)\s*(?:only |just |exactly )?\Z",
    re.IGNORECASE,
)
_PREDICATE = re.compile(
    r"\b(?:is|are|was|were|equals?|becomes?|be|being|has|have|had|of|gives?(?: us)?|yields?|totals?"
    r"|costs?|makes?|spends?|gets?|leaves?|"
    r"remains?|about|approximately|around|roughly|to|only|exactly|just|took|takes?|needs?|earns?"
    r"|pays?|sells?|bought|sold|there|=|≈|:)"
    r"\s*(?:(?:equal to|about|approximately|around|roughly|only|exactly|just|a total of|still"
    r"|now)\s+)*\Z|[=≈:]\s*\Z|为\Z|是\Z|有\Z",
    re.IGNORECASE,
)


def read_number(text: str) -> Fraction | None:
    """The number that a text is, without its unit; None when it is none, a letter behind a number taken as a variable.

    "50%" is 50: see `grade_number`.
    """
    found = quantity(text, formula=True)
    return None if found is None else found.value


def same_number(given: Fraction, wanted: Fraction, tolerance: float | None = None) -> bool:
    """Equal; within `tolerance` relative (absolute when `wanted` is 0); without one 1e-6, and integers exactly."""
    if tolerance is None and wanted.denominator == 1 and given.denominator == 1:
        return given == wanted
    scale = abs(wanted) if wanted else Fraction(1)
    return abs(given - wanted) <= scale * Fraction(RELATIVE_TOLERANCE if tolerance is None else str(tolerance))


def leading(text: str) -> list[str]:
    """The quantity that a stated value begins with, where it goes on with where or of what: "5 in the second row"."""
    match = _LEADING.match(plain(text))
    return [match[1]] if match else []


def evaluated(text: str) -> Fraction | None:
    """The value of a formula of numbers alone, by a worker process; None for anything else."""
    tex = closed_form(text)
    if tex is None:
        return None
    from curate.graders.worker_pool import shared

    return shared().value(tex)


def read_quantity(text: str) -> Quantity | None:
    """The quantity that a response states: all of it, the right side of its last equation, or its only number."""
    text = _PLACE.sub(" ", text)
    sides = _EQUALS.split(text)
    if len(sides) > 1 and (_DENIES.search(sides[0]) or _ANOTHER.search(sides[-2])):
        return None
    for part in (text, sides[-1]) if len(sides) > 1 else (text,):
        found = quantity(part) or _closed(part)
        if found is not None:
            return found
    # What the sides of an equation say otherwise is a formula.
    return in_sentence(text) if len(sides) == 1 or len(plain(sides[-1]).split()) > 1 else None


def _closed(text: str) -> Quantity | None:
    value = evaluated(text)
    return None if value is None else Quantity(value)


def in_sentence(text: str) -> Quantity | None:
    """The number that a sentence says something is: its only one, or the last that a verb leads to.

    None for a sentence that denies, gives a bound or a range, names several, or holds a formula.
    """
    text = plain(text)
    if len(text) > _LONGEST_SENTENCE or _DENIES.search(text):
        return None
    if _CONDITION.match(text) and "," in text:
        return in_sentence(text.rpartition(",")[2])
    if len(sides := _EQUALS.split(text)) > 1:
        return quantity(sides[-1]) or next((quantity(head) for head in leading(sides[-1])), None)
    if _FORMULA.search(text):
        return None
    found = [match for match in _IN_TEXT.finditer(text) if _counts(text, match)]
    values = {_quantity(text, match) for match in found}
    if len(values) != 1:
        led = [
            match
            for match in found
            if _PREDICATE.search(text, 0, match.start()) and not _BOUNDS.search(_before(text, match))
        ]
        values = {_quantity(text, match) for match in led}
        if len(led) != 1 or not all(
            _ASIDE.search(_before(text, match)) or _BOUNDS.search(_before(text, match))
            for match in found[found.index(led[0]) + 1 :]
        ):
            return None
    elif all(_BOUNDS.search(_before(text, match)) for match in found):
        return None
    return values.pop()


def _before(text: str, match: re.Match[str]) -> str:
    return text[max(0, match.start() - 30) : match.start()].rstrip()


def _counts(text: str, match: re.Match[str]) -> bool:
    """Whether a match states a number: no letter beside it (a variable, a name like "Figure 2a") and no pronoun."""
    word = match["word"]
    if word and word.lower() == "one":
        return _COUNTS_ONE.search(text, 0, match.start()) is not None
    around = text[match.end() : match.end() + 3]
    return not re.match(r"\s?[b-hj-zB-HJ-Z](?![\w'’])", around) or quantity(match[0] + around.rstrip()) is not None


def _quantity(text: str, match: re.Match[str]) -> Quantity | None:
    """The number of a match with the scale word or percent sign behind it."""
    whole = text[match.start() : match.end()]
    tail = re.match(
        r"\s?(?:%|percent\b|per cent\b|(?:hundred|thousand|million|billion|trillion)\b|dozen\b)", text[match.end() :]
    )
    return quantity(whole + (tail[0] if tail else ""))


def readings(response: str, gold: Gold) -> tuple[list[Fraction], Fraction | None]:
    """The numbers that a response can mean (none, one, or two), and the gold one. Units are set aside.

    A percent sign counts only where the gold has one: otherwise "50%" can be 50 or one half.
    """
    asked = quantity(gold.answer) or _closed(gold.answer)
    given = read_quantity(response)
    wanted = None if asked is None else asked.value
    if given is None or asked is None:
        return [], wanted
    return [given.value, given.value / 100] if given.percent and not asked.percent else [given.value], wanted


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
