r"""A short text as one quantity: the exact number that all of it states, its unit set aside; None when it is none.

A text is a number only where the whole of it is one: "5 apples" and "about 5 cm^2" are, "5x", "x > 5", "not 5",
"\pm 5" and "5 or 6" are not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from curate.graders.base import plain

# Longer texts are no numbers; a model that repeats one digit for ever must not become a huge one.
LONGEST = 200
_NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)?(?:\.\d+)?(?:[eE][-+]?\d+)?"
# The same with at least one digit, to find numbers in longer texts.
DIGITS = r"(?:(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,4}(?!\w))?"
_PLAIN = re.compile(_NUMBER)
_SPACED = re.compile(r"[-+]?\d{1,3}(?: \d{3})+(?:\.\d+)?")
_RATIO = re.compile(rf"({_NUMBER})\s*/\s*({_NUMBER})")
_FRAC = re.compile(rf"([-+]?)\s*\\frac\s*(?:\{{\s*({_NUMBER})\s*\}}|(\d))\s*(?:\{{\s*({_NUMBER})\s*\}}|(\d))")
_MIXED = re.compile(r"([-+]?)(\d+)(?:\s+(?:and\s+)?(\d+\s*/\s*\d+)|\s*(\\frac.+))")
_TIMES = r"(?:\\times|\\cdot|\\ast|[x×·∙⋅*])"
_POWER = re.compile(
    rf"([-+])?(?:({_NUMBER})\s*{_TIMES}\s*)?10\s*(?:\^|\*\*)\s*(?:\{{\s*([-+]?\s*\d+)\s*\}}"
    rf"|\(\s*([-+]?\s*\d+)\s*\)|([-+]?\d+))"
)
_ABOUT = re.compile(
    r"(?:(?:is|was|are|were|equals?|exactly|only|just|about|around|roughly|nearly|almost"
    r"|approximately|approx\.?|circa|ca\.?|"
    r"a total of|in total|there (?:is|are|were|was)|it is|it's|up to about)\b\.?\s*|[~≈≃≅=]\s*"
    r"|\\(?:approx|sim|simeq|cong|thickapprox)\b\s*"
    r"|(?:约|大约|約|大約|共|一共|共有)\s*)+",
    re.IGNORECASE,
)
_CURRENCY = re.compile(r"(?:\\?\$|US\$|USD|EUR|GBP|Rs\.?|INR|€|£|¥|₹|￥)\s*", re.IGNORECASE)
_NOTE = re.compile(r"\s*[(\[][^()\[\]]{0,80}[)\]]\s*\Z")
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
WORDS = {word: value for value, word in enumerate(_SMALL.split())} | {
    word: 10 * value for value, word in enumerate(_TENS.split(), start=2)
}
_CJK = {char: value for value, char in enumerate("零一二三四五六七八九十")} | {"两": 2, "兩": 2, "〇": 0}
_WORD_NUMBER = re.compile(
    rf"(?:(?P<tens>{_TENS.replace(' ', '|')})[- ](?P<unit>{'|'.join(_SMALL.split()[1:10])})"
    rf"|(?P<one>{'|'.join(WORDS)}))\b",
    re.IGNORECASE,
)
_SIGN_WORD = re.compile(rf"(?:minus|negative|neg\.?)[ \t]+(?=[\d.\\]|(?:{'|'.join(WORDS)})\b)", re.IGNORECASE)
_SCALES = {
    "hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12, "k": 3, "mn": 6, "mio": 6, "bn": 9,
    "tn": 12, "百": 2, "千": 3, "万": 4, "萬": 4, "亿": 8, "億": 8, "lakh": 5, "crore": 7, "hundreds": 2,
    "thousands": 3, "millions": 6, "billions": 9, "trillions": 12,
}  # fmt: skip
_SCALE = re.compile(
    r"(?:\s*(?P<word>(?i:hundreds?|thousands?|millions?|billions?|trillions?|lakh|crore|mn|mio|bn|tn)\b)"
    r"|\s*(?P<cjk>[百千万萬亿億])|(?P<k>[kK])(?![A-Za-z])|(?P<big>[MB])(?![A-Za-z\d/])"
    r"|\s*(?P<dozen>(?i:dozens?)\b))(?:\s+of\b)?"
)
_MARK = r"(?:\^?\s*\{?\s*\\(?:circ|degree)\b\s*\}?|°|º|˚|\\?%|％|‰|′|″|\"|')\s*[CFK]?"
_EXPONENT = r"(?:\s?\^\s?(?:\{\s*-?\d\s*\}|-?\d)|(?<=[A-Za-z])[23]\b)?"
# Words that make a formula or another statement of what follows the number.
_NO_UNIT = (
    r"(?!(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|pi|or|and|to|mod|plus|minus|over|times|divided"
    r"|than|but|if|when|not|else|"
    r"unless|except|hundred|thousand|million|billion|trillion|more|less|greater|fewer|point|choose"
    r"|factorial|squared|cubed"
    r"|is|are|was|were|which|because|since|does|do|has|have)\b)"
)
_LONG = rf"{_NO_UNIT}[A-Za-zµμΩÅ]{{2,}}\.?{_EXPONENT}"
_SINGLE = rf"[mgstVWJNAKLlhCFTdHΩ]{_EXPONENT}(?![A-Za-z])"
_TIED = rf"[^\W\d_]{{1,24}}{_EXPONENT}"
_KNOWN = (
    r"(?:[cdkmnµμ]?m|[kmµμ]?g|ms|min|hrs?|m[lL]|k?Hz|MHz|GHz|k?W|kJ|k?Pa|mol|rad|eV"
    r"|in|inch|inches|ft|feet|yd|lb|oz|cents?|deg|degrees?|units?|sec|mph|rpm|cc|ppm|dB)"
)
_PER = r"\s*(?:/|·|⋅|∙|\\cdot|\*|-(?=[A-Za-z])|\bper\b)\s*"
_ATOM = rf"(?:{_LONG}|{_SINGLE}|\({_TIED}(?:(?:{_PER}|\s+){_TIED}){{0,3}}\))"
_COMPOUND = rf"{_ATOM}(?:(?:{_PER}|\s+){_ATOM}){{0,7}}"
# CJK counters: 12个, 5厘米.
_COUNTER = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{1,6}(?:[/每][\u3400-\u9fff]{1,4})?"
_CURRENCY_BEHIND = r"(?:\\?\$|€|£|¥|₹)(?:\s*(?:/|per\b)\s*[A-Za-z ]{1,20})?"
_RATE = rf"(?:{_KNOWN}|[smhgNJWVAKL]){_EXPONENT}"
_FORMULA = re.compile(rf"\s*(?:(?![mg]\b){_KNOWN}{_EXPONENT}|{_RATE}(?:\s*[/·]\s*{_RATE})+|{_MARK}|{_COUNTER})\s*")
_WORDED = re.compile(rf"(?:\s+|-(?=[a-z])){_LONG}(?:\s+(?:{_LONG}|{_SINGLE})){{0,4}}\s*|\s+{_SINGLE}\s*")
_ANY = re.compile(rf"\s*(?:{_MARK}|{_CURRENCY_BEHIND}|{_COUNTER}|-?{_COMPOUND}|{_MARK}\s*{_COMPOUND})\s*")


@dataclass(frozen=True)
class Quantity:
    """A number, the same without its scale word where it had one, and whether a percent sign followed."""

    value: Fraction
    percent: bool = False
    scaled: bool = False


def _plain_value(text: str) -> Fraction | None:
    mantissa, _, exponent = text.replace(",", "").lower().partition("e")
    # An exponent of thousands of digits is nobody's answer, and would fill the memory.
    if len(exponent) > 4 or not any(c.isdigit() for c in mantissa):
        return None
    return Fraction(mantissa) * Fraction(10) ** int(exponent) if exponent else Fraction(mantissa)


# A gold answer is read when its type is inferred and again by its own grader; completions repeat answers.
@lru_cache(4096)
def exact(text: str) -> Fraction | None:
    """The exact value of a text that is nothing but a number, a fraction or a power of ten."""
    text = text.strip()
    if len(text) > LONGEST:
        return None
    if _PLAIN.fullmatch(text):
        return _plain_value(text)
    if _SPACED.fullmatch(text):
        return _plain_value(text.replace(" ", ""))
    if match := _RATIO.fullmatch(text):
        above, below = exact(match[1]), exact(match[2])
        return None if above is None or not below else above / below
    if match := _FRAC.fullmatch(text):
        top, bottom = exact(match[2] or match[3]), exact(match[4] or match[5])
        return None if top is None or not bottom else top / bottom * (-1 if match[1] == "-" else 1)
    if match := _MIXED.fullmatch(text):
        part = exact(match[3] or match[4])
        return None if part is None or not 0 <= part < 1 else (int(match[2]) + part) * (-1 if match[1] == "-" else 1)
    if match := _POWER.fullmatch(text):
        factor = exact(match[2]) if match[2] else Fraction(1)
        exponent = (match[3] or match[4] or match[5]).replace(" ", "")
        if factor is None or len(exponent) > 4:
            return None
        return factor * Fraction(10) ** int(exponent) * (-1 if match[1] == "-" else 1)
    return None


_HEADS = re.compile(
    rf"(?:[-+]\s?)?(?:{_POWER.pattern}|(?:\d+\s*)?{_FRAC.pattern}|\d+\s+(?:and\s+)?\d+\s*/\s*\d+"
    rf"|{DIGITS}\s*/\s*{DIGITS}(?![\d/])"
    rf"|\d{{1,3}}(?: \d{{3}})+(?![\d])(?:\.\d+)?|{DIGITS})"
)


def _head(text: str) -> tuple[Fraction, str] | None:
    """(number, rest) of a text that begins with a number, in digits or in words."""
    if match := _HEADS.match(text):
        value = exact(re.sub(r"^([-+])\s", r"\1", match[0]))
        return None if value is None else (value, text[match.end() :])
    if match := _WORD_NUMBER.match(text):
        units = WORDS[match["unit"].lower()] if match["unit"] else 0
        return Fraction(WORDS[(match["tens"] or match["one"]).lower()] + units), text[match.end() :]
    if text[:1] in _CJK and (len(text) == 1 or re.fullmatch(_COUNTER, text[1:])):
        return Fraction(_CJK[text[0]]), text[1:]
    return None


def _scaled(value: Fraction, rest: str) -> tuple[Fraction, str, bool]:
    """(value times its scale words, what is left, whether there were any)."""
    found = False
    while match := _SCALE.match(rest):
        if match["dozen"]:
            value *= 12
        elif match["big"]:
            value *= Fraction(10) ** (6 if match["big"].upper() == "M" else 9)
        else:
            value *= Fraction(10) ** _SCALES[(match["word"] or match["cjk"] or match["k"]).lower()]
        rest, found = rest[match.end() :], True
    return value, rest, found


def quantity(text: str, formula: bool = False) -> Quantity | None:
    """The quantity that all of a text states. With `formula` a single letter behind a number is a variable, no unit."""
    text = plain(text).replace("{,}", ",")
    if not 0 < len(text) <= LONGEST:
        return None
    for part in (text, _NOTE.sub("", text)):
        found = _whole(part, formula)
        if found is not None:
            return found
    return None


def _whole(text: str, formula: bool) -> Quantity | None:
    if not formula:
        text = _ABOUT.sub("", text, count=1) if _ABOUT.match(text) else text
    sign = Fraction(1)
    if match := _SIGN_WORD.match(text):
        sign, text = Fraction(-1), text[match.end() :]
    elif match := re.match(rf"([-+])\s*(?={_CURRENCY.pattern})", text, re.IGNORECASE):
        sign, text = Fraction(-1 if match[1] == "-" else 1), text[match.end() :]
    if match := _CURRENCY.match(text):
        text = text[match.end() :]
    if text.startswith("{") and text.endswith("}") and "{" not in text[1:]:
        text = text[1:-1]
    head = _head(text.strip())
    if head is None or (formula and not any(char.isdigit() for char in text)):
        return None
    value, rest, scaled = _scaled(*head)
    unit = rest.strip()
    if not unit:
        return Quantity(sign * value, scaled=scaled)
    known = (_FORMULA.fullmatch(rest) or _WORDED.fullmatch(rest)) if formula else _ANY.fullmatch(rest)
    if known is None:
        return None
    percent = unit.startswith(("%", "\\%")) or unit.lower() in ("percent", "per cent", "percentage points", "pct")
    return Quantity(sign * value, percent, scaled)
