"""What the golds of a table are: their types, and the form that they and the questions are written in. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from curate.discovery.findings import Guess
from curate.discovery.names import ranked
from curate.discovery.table import SampledColumn
from curate.errors import RowError
from curate.sources.fields.solutions import cure_of
from curate.text.forms import FORMS

_MOSTLY = 0.9
# Golds of more words in the mean are texts that no rule compares.
LONG = 12
TURNS, COLUMN = "the answers of the turns", "the gold answers"
TYPE = ("answertype", "anstype", "answerkind")
DECIMALS = ("precision", "decimals")
# Forms that are known by the look of a question and its answer, the more special first.
_FORMS = ("mathv360k", "geo170k", "cauldron", "inline-options")
_TYPES = {
    "integer": "number", "int": "number", "float": "number", "number": "number", "numeric": "number",
    "decimal": "number", "numerical": "number",
    "yes": "yes-no", "bool": "yes-no", "boolean": "yes-no", "binary": "yes-no",
    "text": "text", "string": "text", "word": "text", "free": "text", "open": "text",
    "list": "expression", "expression": "expression", "formula": "expression", "equation": "expression",
}  # fmt: skip
_HEAD = re.compile(r"[^\w\n]*[^\W\d][^\n:：=]{0,24}?\s*[:：=]|[^\w\s]{2,6}")


def written(pairs: Sequence[tuple[str, str]], of: str) -> list[Guess]:
    """The keys for pairs of questions and answers that are more than plain; `of` says where the answers stand."""
    found = form(pairs)
    if found:
        return found
    texts = [answer for _, answer in pairs if answer.strip()]
    words = sum(len(text.split()) for text in texts) / max(1, len(texts))
    if words <= LONG:
        return []
    for cure, count in Counter(filter(None, map(cure_of, texts))).most_common(1):
        if count >= 0.5 * len(texts):
            key, _, value = cure.partition(": ")
            return [Guess(key, value.strip("'"), f"{count} of {len(texts)} of {of} are solutions that end so")]
    head = announced(texts)
    return [] if head is None else [Guess("answer_behind", head, f"the last line of {of} begins so", False, [None])]


def form(pairs: Sequence[tuple[str, str]]) -> list[Guess]:
    """`form`, where questions and answers are written as the script of a known data set does; pairs of both."""
    for name in _FORMS:
        if pairs and sum(_fits(name, *pair) for pair in pairs) >= _MOSTLY * len(pairs):
            return [
                Guess("form", name, "questions and answers have this form, with choices or instructions in the text")
            ]
    lettered = sum(_fits("instructed", *pair) for pair in pairs)
    if lettered >= 0.5 * len(pairs) > 0:
        return [Guess("form", "instructed", f"{lettered} of {len(pairs)} questions have their choices in their lines")]
    return []


def _fits(name: str, question: str, answer: str) -> bool:
    """Whether the form takes the two apart, and finds more than a plain question in them."""
    try:
        parsed = FORMS[name](question, answer)
    except RowError:
        return False
    if name == "instructed":
        return len(parsed.choices) > 1
    return bool(parsed.choices) or len(parsed.question) < len(question.strip()) - len("<image>") - 2


def typed(columns: Sequence[SampledColumn]) -> list[Guess]:
    """`columns.answer_type` and what its values mean, and `columns.decimals`."""
    found = []
    for column in ranked(columns, TYPE, lambda each: each.is_text and each.distinct <= 12)[:1]:
        meanings = {text: meaning for text in sorted(set(column.texts)) if (meaning := _meaning(text)) is not None}
        if len(meanings) == column.distinct:
            values = ", ".join(f"{value} {count}" for value, count in Counter(column.texts).most_common(6))
            found.append(
                Guess("columns.answer_type", column.name, f"says how answers are meant: {values}", False, [None])
            )
            found.append(Guess("answer_types", meanings, "by the words", False))
    for column in ranked(columns, DECIMALS, lambda each: each.plain in DECIMALS and each.is_text):
        if all(text.isdecimal() and int(text) < 12 for text in column.texts):
            found.append(Guess("columns.decimals", column.name, "small whole numbers", False, [None]))
            break
    return found


def _meaning(text: str) -> str | None:
    words = re.findall(r"[a-z]+", text.lower())
    return next((_TYPES[word] for word in words if word in _TYPES), None)


def announced(texts: Sequence[str]) -> str | None:
    """A regular expression of what begins the last line of nearly all of these texts, "A:" or "Answer ="; else null."""
    heads: Counter[str] = Counter()
    for text in texts:
        _, newline, last = text.strip().rpartition("\n")
        match = _HEAD.match(last.strip()) if newline else None
        if match is not None and len(last.strip()) > match.end():
            heads[match[0].strip()] += 1
    for head, count in heads.most_common(1):
        if count >= _MOSTLY * len(texts):
            return rf"(?m)^\s*{re.escape(head)}"
    return None
