"""Where a text states its answer: marks (boxes, tags, JSON, ####), announcements, sentences that say so. Pure text.

Every place is found with the rule that found it; `curate.graders.extraction.rules` chooses between them. Patterns have
bounded repeats, so that the time stays linear where a model repeats itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from curate.graders.extraction.languages import Words
from curate.graders.extraction.spans import block, sentence_end

_MARKUP = r"[ \t*_#>`~\"'“”|•\[(-]"
_BLANKS = r"[ \t]{0,8}"
# What may stand before the noun, and what rules it out: "each answer:" announces none.
_BEFORE = (
    r"(?:(?:the|my|our|your|this|final|correct|right|best|exact|short|numerical|numeric|actual|required|simplified|"
    r"closest|only|most|likely|appropriate|suitable|accurate|overall|estimated|approximate|possible)[ \t]{1,3}){0,5}"
)
_EXCLUDED = re.compile(
    rf"\b(?:each|every|any|no|another|other|first|second|wrong|incorrect|an|which)[ \t]{{1,3}}{_BEFORE}\Z",
    re.IGNORECASE,
)
# "Options:" opens a list of them.
_ENGLISH = r"\b(?:answers?|ans|option|choice)\b"
_AFTER = (
    r"(?:[ \t]{1,3}(?:choice|option|letter|number|value|text|here|then|therefore|thus))?"
    r"(?:[ \t]{1,3}(?:to|for|of|in|from)\b[^.:：=\n]{0,80}?)?"
    r"(?:[ \t]{0,2}[(\[][^()\n\]]{0,40}[)\]])?"
)
_VERBS = (
    r"(?:(?:is|are|was|were|equals?|becomes?|would|must|should|will|can|has|have|could|may|might)\b"
    r"(?:[ \t]{1,3}(?:be|to be|only be|then be|equal to)\b)?"
    r"(?:[ \t]{1,3}(?:therefore|thus|then|hence|clearly|simply|indeed|also|just|still|given by|equal to|actually|now"
    r"|definitely|probably|likely|approximately|about|again)\b,?){0,3})"
)
_SIGN = r"(?:[:：=]|=>|->|→|⇒|\\rightarrow|\\Rightarrow)"
_COLON_GAP = r"[ \t*_`~\"'“”]{0,8}"
_ALONE = r"(?=[ \t*_#:：`]{0,8}(?:\n|\Z))"
# A colon closes the announcement; "is" on the line before may open it: "The answer is:".
_LETTER_FIRST = re.compile(
    r"(?:\b(?:option|choice|answer"
    r"|alternative)[ \t]{1,3})?(?P<value>[(\[]?(?-i:[A-Z])[)\]]?)[ \t]{0,2}(?:\([^()\n]{0,60}\)["
    r" \t]{0,2})?"
    r"(?:is|was|would be|must be|should be|seems)[ \t]{1,3}(?:therefore |thus |also |indeed |clearly |then )?"
    r"(?:the |a |our |my )?(?:only |most |single )?(?:correct|right|best|true|appropriate|suitable|final|likely)\b"
    r"(?=[ \t]{1,3}(?:answer|option|choice|one|statement|conclusion|letter|response|because|since"
    r"|as)\b|[ \t]*(?:[.,;!*)\n]|\Z))",
    re.IGNORECASE,
)
_VALUE_FIRST = re.compile(
    r"(?:^|[,.;:]|\b(?:so|thus|therefore|hence"
    r"|that))[ \t]{1,3}(?P<value>[^,.;:\n]{1,60}?)[ \t]{1,3}(?:is|are)[ \t]{1,3}"
    r"(?:the|our|my)[ \t]{1,3}(?:final |correct |right ){0,2}answers?\b",
    re.IGNORECASE | re.MULTILINE,
)
_CHOOSE = re.compile(
    r"\b(?:I|we|I['’]ll|we['’]ll)[ \t]{1,3}(?:would |will |can |must |should |have to |am going to |therefore |thus )?"
    r"(?:choose|pick|select|go with|opt for|take|going with|answer)[ \t]{1,3}(?:with )?(?:the )?"
    r"(?:option |choice |answer |letter )?[:\"'(\[]{0,2}(?P<value>[^\n]{1,120})",
    re.IGNORECASE,
)
_HASHES = re.compile(r"^[ \t]*####(?!#)[ \t]*(?P<value>\S[^\n]*)", re.MULTILINE)
_QA = re.compile(r"^[ \t]*A[ \t]{0,2}:[ \t]*(?P<value>\S[^\n]*)", re.MULTILINE)
_TAGS = re.compile(
    r"<(?:answer|final_?answer|conclusion|ans)>|<\|begin_of_box\|>|\[(?:ANSWER|ANS)\]",
    re.IGNORECASE,
)
_TAG_ENDS = re.compile(
    r"</(?:answer|final_?answer|conclusion|ans)>|<\|end_of_box\|>|\[/(?:ANSWER|ANS)\]", re.IGNORECASE
)
_JSON = re.compile(
    r"[\"'](?:final[_ ]?answer|answer|final|choice|option|prediction|ans)[\"'][ \t]{0,4}:[ \t]{0,4}"
    r"(?P<value>\"(?:[^\"\\\n]|\\.){0,2000}\"|'[^'\n]{0,2000}'|\[[^\]\n]{0,2000}\]|[^,}\n]{1,200})",
    re.IGNORECASE,
)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)[ \t]{0,4}(?:\{|(?P<bare>[0-9A-Za-z]))")
_BETWEEN_BOXES = re.compile(r"[\s$.,;&]*(?:and|or|,|;|\\text\{\s*(?:and|or)\s*\}|\\quad)?[\s$.,;&]*\Z", re.IGNORECASE)
# How far a brace is followed.
_LONGEST_BOX = 20_000


@dataclass(frozen=True)
class Statement:
    """`value` as it was stated from place `start` on; `firm` is a statement by its form, whatever its words are."""

    start: int
    value: str
    rule: str
    firm: bool = True


def statements(text: str, words: Words, choices: bool, several: bool) -> list[Statement]:
    """All statements of a text (see `spans.bare`) in their order.

    `choices` adds the sentences that choose an option; `several` makes boxes that stand side by side one list.
    """
    found = [*_marks(text), *_boxes(text, several), *_announced(text, words), *_hashes(text)]
    found += [_stated(match, "value-first") for match in _VALUE_FIRST.finditer(text)]
    if choices:
        found += [_stated(match, "letter-first") for match in _LETTER_FIRST.finditer(text)]
        found += [
            Statement(
                match.start(), text[match.start("value") : sentence_end(text, match.start("value"))], "chosen", False
            )
            for match in [*_CHOOSE.finditer(text), *_chosen(words).finditer(text)]
        ]
    return sorted(found, key=lambda each: each.start)


def _stated(match: re.Match[str], rule: str) -> Statement:
    return Statement(match.start("value"), match["value"], rule, False)


def _hashes(text: str) -> Iterator[Statement]:
    """`#### 7` on the last line, as GSM8K writes it, and `A: 7`; elsewhere four hashes are a heading."""
    for match in _HASHES.finditer(text):
        if not text[match.end() :].strip():
            yield Statement(match.start("value"), match["value"], "hashes")
    for match in _QA.finditer(text):
        value = text[match.start("value") : sentence_end(text, match.start("value"))]
        yield Statement(match.start("value"), value, "a-line", False)


def _marks(text: str) -> Iterator[Statement]:
    openings = list(_TAGS.finditer(text))
    for place, match in enumerate(openings):
        # What never closes ends where the next one opens.
        limit = openings[place + 1].start() if place + 1 < len(openings) else len(text)
        closing = _TAG_ENDS.search(text, match.end(), limit)
        value = text[match.end() : closing.start() if closing else limit]
        yield Statement(match.start(), value, "box-token" if "box" in match[0] else "tag")
    for match in _JSON.finditer(text):
        yield Statement(match.start("value"), _literal(match["value"]), "json")


def _literal(value: str) -> str:
    try:
        read = json.loads(value)
    except ValueError:
        return value.strip().strip("'\"")
    if isinstance(read, list):
        return ", ".join(map(str, read))
    return value if isinstance(read, float | bool) else str(read)


def _boxes(text: str, several: bool) -> Iterator[Statement]:
    """Contents of all boxes, by counting braces; a box that never closes is none."""
    before: Statement | None = None
    end = -1
    for match in _BOX.finditer(text):
        if match.start() < end:
            continue
        if match["bare"]:
            value, close = match["bare"], match.end()
        else:
            close = _closing(text, match.end())
            if close < 0:
                # No later box closes either: its braces would have closed this one.
                return
            value = text[match.end() : close - 1]
        if several and before is not None and end >= 0 and _BETWEEN_BOXES.match(text, end, match.start()):
            value = f"{before.value}, {value}"
        before, end = Statement(match.start(), value, "boxed"), close
        yield before


def _closing(text: str, begin: int) -> int:
    """Behind the brace that closes the one before `begin`; -1 when none does."""
    depth = 1
    for place in range(begin, min(len(text), begin + _LONGEST_BOX)):
        char = text[place]
        if char in "{}" and text[place - 1] != "\\":
            depth += 1 if char == "{" else -1
            if depth == 0:
                return place + 1
    return -1


@lru_cache(8)
def _chosen(words: Words) -> re.Pattern[str]:
    return re.compile(rf"{words.chooses}[:：]?[ \t]*(?P<value>[(（]?[A-Za-z]\b[^\n]{{0,80}})")


@lru_cache(16)
def _announcements(words: Words, foreign: bool) -> tuple[tuple[str, re.Pattern[str], bool], ...]:
    noun = rf"(?:{_ENGLISH}|{words.nouns})" if foreign else _ENGLISH
    flags = re.IGNORECASE | re.MULTILINE
    whole = rf"{noun}{_AFTER}"
    joined = rf"(?:{_VERBS}|{words.joins})"
    sign = rf"{_COLON_GAP}{_SIGN}{_COLON_GAP}"
    return (
        # "Final answer: 7", "**Answer:** B", "Réponse finale : 7"; the line may say more before it.
        (
            "announced",
            re.compile(rf"{whole}(?:[ \t]{{1,3}}\w{{1,12}})?{_BLANKS}(?:{joined}{_BLANKS})?{sign}", flags),
            True,
        ),
        # A line that is nothing else: "## Final Answer".
        ("heading", re.compile(rf"^{_MARKUP}{{0,12}}{_BEFORE}{noun}{_ALONE}", flags), True),
        # "So the answer is 7".
        ("sentence", re.compile(rf"{whole}{_COLON_GAP}{joined}(?P<gap>[ \t:：*_`]{{0,8}})", flags), False),
    )


def _announced(text: str, words: Words) -> Iterator[Statement]:
    # Most texts have none of the other languages' nouns; looking for each at every place takes several times as long.
    lowered = text.casefold()
    foreign = any(noun in lowered for noun in words.known_nouns)
    for rule, pattern, firm in _announcements(words, foreign):
        for match in pattern.finditer(text):
            if _EXCLUDED.search(text, max(0, match.start() - 40), match.start()):
                continue
            line = text[match.end() : sentence_end(text, match.end())]
            value: str | None = line
            if not line.strip(" \t*_#:：`$\\[("):
                value = block(text, match.end())
            if value is not None:
                yield Statement(match.start(), value, rule, firm)
