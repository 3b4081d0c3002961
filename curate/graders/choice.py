"""Multiple choice: a letter, the text of exactly one choice, its value, or a sentence that names one."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from functools import lru_cache

from curate.graders.base import Gold, Grade, folded, plain
from curate.graders.number import evaluated, in_sentence, same_number
from curate.graders.quantity import Quantity, quantity
from curate.graders.tex import to_tex

# "B", "(B)", "B.", "B)", "[B]", "{B}", "option B"; a bare "A" in a sentence is an article, not a letter.
_ALONE = re.compile(r"[\[({<\"'“]*\s*([A-Za-z])\s*[\])}>\"'”]*\s*[.):]?")
_LABEL = re.compile(
    r"(?:(?:the\s+)?(?:correct\s+)?(?:option|choice|answer|letter|选项|選項)\s*:?\s*)?"
    r"(?:[\[({]\s*(?P<round>[A-Za-z])\s*[\])}]\s*[.:,]?|(?P<lone>[A-Z])(?:\s*[)\]]|\s*[.:,;、。：](?=\s"
    r"|\Z|[^\d\s])|\s*[-=](?=\s)|(?=\s*[(（])|(?=[\u3040-\u30ff\u3400-\u9fff])))\s*(?P<rest>.*)",
    re.DOTALL | re.IGNORECASE,
)
_NAMED = re.compile(
    r"(?:\b(?i:options?|choices?|answers?|letters?|alternatives?)(?i:\s+(?:is|are|letter))?\b\s*:?|选项"
    r"|選項|选|選)\s*(?:[\[(（]\s*([A-Za-z])\s*[\])）]|([A-Z])(?![\w'’]))"
)
_BRACKETED = re.compile(r"[(（\[]\s*([A-Za-z])\s*[)）\]]")
_LIST = re.compile(
    r"(?:(?:either|both|options?|choices?)\s+)?(?:[\[(]?[A-Z][\])]?)(?:\s*(?:,|/|&|;|、|和|或|\bor\b|\band\b|,\s*(?:and|or)\b)\s*(?:[\[(]?[A-Z][\])]?))+",
    re.IGNORECASE,
)
_STARTS = re.compile(r"([A-Z])\s+(?:is|was|because|since|as|would|must|seems)\b")
_ENDS = re.compile(r"\b(?:is|be|are|was|:|therefore|choose|select)\s+([A-Z])\Z")
_OWN_LABEL = re.compile(r"\s*[(\[]?([A-Za-z])\s*[)\].:、]\s*(?=\S)")
_NEGATED = re.compile(
    r"\b(?:not|isn't|cannot|can't|neither|nor|rather than|instead of|except|unlike|eliminates?"
    r"|rules? out|incorrect|wrong|false)\b|n['’]t\b|不是|并非",
    re.IGNORECASE,
)
_FORMULA = re.compile(r"[\\^_=√π<>]|\d\s*[a-z(]")
_WORDS = re.compile(r"(?<![\\A-Za-z])(?!sqrt|sin|cos|tan|log)[A-Za-z]{3,}\s+(?:[A-Za-z]{2,}\s|is\b)")
_REFUSES = re.compile(
    r"\b(?:none of the|not (?:in|among|one of) the|no (?:correct|right) (?:option|choice|answer)"
    r"|cannot be determined|not enough information|unable to|unclear|not possible|impossible)\b",
    re.IGNORECASE,
)


def _known(count: int) -> set[str]:
    return set(string.ascii_uppercase[:count])


def _letters(text: str, count: int) -> set[str]:
    """The choice letters that a text states."""
    known = _known(count)
    if match := _ALONE.fullmatch(text):
        return {match[1].upper()} & known
    if _LIST.fullmatch(text):
        return {char.upper() for char in re.findall(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])", text)} & known
    found = {match[1] or match[2] for match in _NAMED.finditer(text)} | set(_BRACKETED.findall(text))
    for pattern in (_STARTS.match(text), _ENDS.search(text)):
        found |= {pattern[1]} if pattern else set()
    return {letter.upper() for letter in found} & known


@lru_cache(4096)
def _text(choice: str, count: int, place: int) -> str:
    """A choice's text, folded, without a letter of its own in front of it."""
    own = _OWN_LABEL.match(choice)
    if own and own[1].upper() == string.ascii_uppercase[place] and count > 1:
        choice = choice[own.end() :]
    return _dressed(choice)


def _evenly(text: str) -> str:
    """Folded, with degree signs alike and no blanks around the signs of formulas."""
    text = folded(text).replace("\\circ", "°").replace("^°", "°").replace("^{°}", "°").replace("’", "'")
    return re.sub(r"\s*([=+*/<>,()\[\]^-])\s*", r"\1", text)


def _dressed(text: str) -> str:
    """Evenly spaced, without quotes, brackets and an article around it."""
    text = _evenly(text).strip("\"'“”‘’ ")
    text = text[1:-1] if text[:1] + text[-1:] in ("()", "[]", "{}") and len(text) > 3 else text
    return re.sub(r"^(?:a|an|the) (?=\w)", "", text).strip()


def _texts(choices: Sequence[str]) -> list[str]:
    return [_text(choice, len(choices), place) for place, choice in enumerate(choices[:26])]


def _by_text(text: str, choices: Sequence[str]) -> set[str]:
    """Letters of the choices whose text this is."""
    wanted = _dressed(text)
    return {letter for letter, choice in zip(string.ascii_uppercase, _texts(choices), strict=False) if choice == wanted}


def _by_letters_named(found: set[str], choices: Sequence[str]) -> set[str]:
    """The choice that names just these letters ("both A and C"), where there is one."""
    named = [set(re.findall(r"(?<![A-Za-z])([A-Z])(?![A-Za-z])", plain(choice))) for choice in choices]
    return {
        letter
        for letter, letters in zip(string.ascii_uppercase, named, strict=False)
        if len(found) > 1 and letters == found
    }


def _value(text: str) -> Quantity | None:
    found = quantity(text)
    if found is None and (number := evaluated(text)) is not None:
        return Quantity(number)
    return found


def _by_value(text: str, choices: Sequence[str]) -> set[str]:
    """Letters of the choices that are this number or this expression, however they are written."""
    sides = text.split("=")
    given = _value(sides[-1]) or in_sentence(text)
    if given is not None:
        values = [_value(choice) for choice in choices]
        tolerance = None if given.value.denominator == 1 else 1e-4
        return {
            letter
            for letter, value in zip(string.ascii_uppercase, values, strict=False)
            if value is not None
            and value.percent in (given.percent, value.percent and not _bare_percent(values))
            and same_number(given.value, value.value, tolerance)
        }
    return _by_expression(text, choices)


def _bare_percent(values: Sequence[Quantity | None]) -> bool:
    """Whether some choices have a percent sign and others do not, so that the sign tells them apart."""
    signs = {value.percent for value in values if value is not None}
    return len(signs) > 1


def _by_expression(text: str, choices: Sequence[str]) -> set[str]:
    # Words make a sentence, in which a parser finds formulas that nobody stated.
    if not _FORMULA.search(text) or _WORDS.search(text) or len(text) > 200:
        return set()
    from curate.graders.worker_pool import shared

    given = to_tex(text)
    alike = [shared().verify(given, to_tex(choice)).outcome for choice in choices if len(choice) <= 200]
    if len(alike) != len(choices):
        return set()
    return {letter for letter, same in zip(string.ascii_uppercase, alike, strict=False) if same}


def _mentioned(text: str, choices: Sequence[str]) -> set[str]:
    """The choice that a sentence names by its text, where it names one alone and denies nothing."""
    whole, found = _evenly(text), list[tuple[int, int, str]]()
    if _NEGATED.search(whole) or _REFUSES.search(whole):
        whole = _NEGATED.split(whole)[0]
    for letter, choice in zip(string.ascii_uppercase, _texts(choices), strict=False):
        if len(choice) < 2 and not choice.isdigit():
            continue
        pattern = rf"(?<![\w.]){re.escape(choice)}(?!\w|\.\d|°\d)"
        found += [(match.start(), match.end(), letter) for match in re.finditer(pattern, whole)]
    longest = [
        each for each in found if not any(a <= each[0] and each[1] <= b and (a, b) != each[:2] for a, b, _ in found)
    ]
    return {letter for _, _, letter in longest}


def _yes_no(text: str, choices: Sequence[str]) -> set[str]:
    """The choice that the first word is, where the choices are words such as yes and no."""
    texts = _texts(choices)
    first = re.match(r"\W*([^\W\d_]+)", folded(text))
    if first is None or not {"yes", "no", "true", "false", "correct", "incorrect"} & set(texts):
        return set()
    return {letter for letter, choice in zip(string.ascii_uppercase, texts, strict=False) if choice == first[1]}


def _labelled(text: str, choices: Sequence[str]) -> set[str] | None:
    """The letter that a text begins with and, where what follows is a choice's text or value, that choice, too."""
    match = _LABEL.fullmatch(text)
    if match is None or _LIST.fullmatch(text):
        return None
    letter, rest = (match["round"] or match["lone"]).upper(), match["rest"].strip()
    if letter not in _known(len(choices)) or (match["lone"] and not match["lone"].isupper() and rest):
        return None
    inner = rest[1:-1] if rest[:1] in "(（" and rest[-1:] in ")）" else rest
    said = _by_text(inner, choices) or (_by_value(inner, choices) if inner and len(inner) <= 80 else set())
    # Two choices may have the same text; the letter tells which is meant.
    return {letter} if not said or letter in said else {letter} | said


_RULES: tuple[tuple[str, Callable[[str, Sequence[str]], set[str] | None]], ...] = (
    ("text", _by_text),
    ("label", _labelled),
    ("yes-no", _yes_no),
    ("letters", lambda text, choices: _letters(text, len(choices))),
    ("value", _by_value),
    ("mention", _mentioned),
)


def read_choice(text: str, choices: Sequence[str]) -> tuple[set[str], str]:
    """(the letters that a text can mean, the rule that read them).

    The text of a choice goes before a letter that it happens to be; then come a letter in front, letters in the text, a
    value, and a choice that a sentence names.
    """
    text = plain(text)
    for rule, read in _RULES:
        if found := read(text, choices):
            if rule in ("letters", "label") and len(found) > 1 and (both := _by_letters_named(found, choices)):
                return both, "letters"
            return found, rule
    return set(), "none"


def grade_choice(response: str, gold: Gold) -> Grade:
    """Right when the same one choice is meant; two different ones are undecided."""
    choices, (wanted, _) = gold.choices, read_choice(gold.answer, gold.choices)
    if len(wanted) > 1:
        # Choices with the same text are all right.
        texts = _texts(choices)
        wanted = wanted if len({texts[string.ascii_uppercase.index(letter)] for letter in wanted}) == 1 else set()
    if not wanted:
        return Grade(None, "choice-gold-unreadable")
    given, rule = read_choice(response, choices)
    if not given:
        return Grade(False, "choice-none")
    if len(given) > 1 and not given <= wanted:
        return Grade(None, "choice-several")
    return Grade(bool(given & wanted), f"choice-{'letter' if rule in ('label', 'letters') else rule}")
