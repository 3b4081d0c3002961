"""Responses that somebody generated elsewhere: which columns name the problem and hold the texts. Pure.

Two kinds of files are known by their columns. lmms-eval's sample logs (and those of lm-evaluation-harness) have
`doc_id` (the row of the split, from 0), `resps` (lists in a list; left out where they equal `filtered_resps`),
`target`, and `filter` where they write a line for each filter; VLMEvalKit's results have `index`, `prediction` and
`answer`.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from curate.errors import RowError, UserError, did_you_mean
from curate.sources.base import Record
from curate.sources.fields import chat
from curate.sources.values import look, text_of

# Switches the comparison of answers off.
NO_ANSWER = "-"
# In place of a column that names the problem: the row's own number, as sources count their rows.
ROW_NUMBER = "#"
# What VLMEvalKit writes where the model gave nothing: missing data, no wrong answer.
_FAILED = "Failed to obtain answer via API"
# Reading a list takes much more memory than its text.
_SPELLED = 10_000
_RIGHT = frozenset({"true", "1", "1.0", "yes", "y", "t", "right", "correct", "pass", "passed"})
_WRONG = frozenset({"false", "0", "0.0", "no", "n", "f", "wrong", "incorrect", "fail", "failed"})


@dataclass(frozen=True)
class Columns:
    """Which columns to read. The first of `response` that is not null holds the texts; all of them, one after the
    other, where `joined`. `from_zero`: `id` counts the rows of the problems' source from 0. `turns`: a list of texts is
    a chat's turns, not several samples.
    """

    id: str
    response: tuple[str, ...]
    answer: str | None = None
    from_zero: bool = False
    joined: bool = False
    turns: bool = False
    outcome: str | None = None
    extracted: str | None = None
    reasoning: str | None = None
    source: str | None = None
    policy: str | None = None
    filter: str | None = None


@dataclass(frozen=True)
class GivenResponse:
    """One response, with what its file says about it: the thoughts before it, whether it is right (null where the file
    does not say), and the answer that was extracted from it.
    """

    text: str
    reasoning: str | None = None
    outcome: bool | None = None
    extracted: str | None = None


_LMMS_EVAL = Columns("doc_id", ("resps", "filtered_resps"), "target", from_zero=True, filter="filter")
_VLMEVALKIT = Columns("index", ("prediction",), "answer")


def columns_of(
    names: Sequence[str], what: str, given: Mapping[str, str | None], response: Sequence[str], lists: str | None
) -> Columns:
    """The columns of a file that has these names: as given, else as its kind has them; UserError when that fails.

    `given` holds the columns `id`, `answer`, `outcome`, `extracted`, `reasoning`, `source` and `policy`, null where the
    user names none; `lists` is "turns" or "samples", null to go by the response column's name.
    """
    for option, column in [*given.items(), *(("response", column) for column in response)]:
        off = column is None or (option, column) in (("answer", NO_ANSWER), ("id", ROW_NUMBER))
        if not off and column not in names and str(column).partition(".")[0] not in names:
            option = f"{option}-column" if option in ("source", "policy") else option
            raise UserError(f'{what} has no column "{column}" (--{option}){did_you_mean(str(column), names)}')
    kind = None
    if "doc_id" in names and {"resps", "filtered_resps"} & set(names):
        kind = _LMMS_EVAL
    elif {"index", "prediction"} <= set(names):
        kind = _VLMEVALKIT
    id_, answer = given.get("id"), given.get("answer")
    if kind is None and (id_ is None or not response):
        raise UserError(
            f"{what} is neither a sample log of lmms-eval nor a result of VLMEvalKit; give --id and --response, two of "
            f"its columns: {', '.join(names)}."
        )
    usual = kind.answer if kind is not None and kind.answer in names else None
    read = tuple(response) or (kind.response if kind else ())
    return Columns(
        id_ or (kind.id if kind else ""),
        read,
        None if answer == NO_ANSWER else answer or usual,
        from_zero=id_ is None and kind is not None and kind.from_zero,
        joined=len(response) > 1,
        turns=lists == "turns" or (lists is None and read[0].rpartition(".")[2].lower() in chat.NAMES),
        filter=kind.filter if kind is not None and kind.filter in names else None,
        **{name: given.get(name) for name in ("outcome", "extracted", "reasoning", "source", "policy")},
    )


def name_of(record: Record, columns: Columns, number: int | str) -> str:
    """The problem's row in its source; RowError where the record, the `number`-th one, does not say."""
    if columns.id == ROW_NUMBER:
        return str(number)
    found = text_of(look(record, columns.id))
    if found is None or not found.strip():
        raise RowError("no-id", f"{columns.id} is empty")
    if not columns.from_zero:
        return found
    if not found.isdecimal():
        raise RowError("no-id", f"{columns.id} is no row number: {found[:80]}")
    return str(int(found) + 1)


def responses_of(record: Record, columns: Columns) -> list[GivenResponse | RowError]:
    """Every response of a record, usable or not; RowError when it has none."""
    raw = _joined(record, columns) if columns.joined else _found(record, columns)
    if not raw:
        raise RowError("no-response", f"{' and '.join(columns.response)} hold no text")
    try:
        beside = [
            _beside(record, column, len(raw)) for column in (columns.reasoning, columns.outcome, columns.extracted)
        ]
    except RowError as error:
        return [error] * len(raw)
    return [_response(value, columns, *rest) for value, *rest in zip(raw, *beside, strict=True)]


def _found(record: Record, columns: Columns) -> list[Any]:
    """What stands for each response: a text, a turn, or something that is neither."""
    first = next((value for column in columns.response if (value := look(record, column)) is not None), None)
    first = chat.parsed(first)
    if columns.turns and isinstance(first, list) and first and all(isinstance(each, str) for each in first):
        return [first[-1]]
    if first is None:
        return []
    return [_unlisted(each) for each in _flat(first)] if isinstance(first, list) else [first]


def _flat(value: Any) -> Iterator[Any]:
    """The entries of lists in lists; a chat is one entry."""
    # Choices of a server's answer are samples, each of one turn.
    if isinstance(value, list) and not (chat.is_chat(value) and "message" not in value[0]):
        for each in value:
            yield from _flat(each)
    else:
        yield value


def _unlisted(value: Any) -> Any:
    """An entry of a list, or what is wrong with it: logs of multiple choice by likelihood hold numbers."""
    if value is None or isinstance(value, str) or chat.is_chat(value) or chat.is_turn(value):
        return value
    return RowError("no-response", f"{type(value).__name__} in place of a text: {str(value)[:80]}")


def _joined(record: Record, columns: Columns) -> list[Any]:
    """The texts of several columns as one."""
    try:
        texts = [text_of(look(record, column)) for column in columns.response]
    except RowError as error:
        return [error]
    return ["\n\n".join(text for text in texts if text and text.strip())]


def _beside(record: Record, column: str | None, count: int) -> list[Any]:
    """What a column says about each of `count` responses."""
    if column is None:
        return [None] * count
    value = look(record, column)
    if count == 1:
        return [value]
    found = list(_flat(value)) if isinstance(value, list) else []
    if len(found) != count:
        raise RowError("unpaired", f"{column} has not one entry for each of {count} responses: {str(value)[:80]}")
    return found


def _response(value: Any, columns: Columns, reasoning: Any, outcome: Any, extracted: Any) -> GivenResponse | RowError:
    try:
        if isinstance(value, RowError):
            return value
        turn = chat.ChatTurn(None)
        if chat.is_chat(value) or chat.is_turn(value):
            turn = chat.last(value if isinstance(value, list) else [value])
        else:
            turn = chat.ChatTurn(text_of(value))
        thoughts = [text for text in (text_of(reasoning), turn.reasoning) if text and text.strip()]
        if (turn.text is None or not turn.text.strip()) and not thoughts:
            return RowError("no-response", "the response is empty")
        text = turn.text or ""
        if text.startswith(_FAILED):
            return RowError("failed-response", text[:80])
        found = text_of(extracted)
        return GivenResponse(
            text,
            "\n\n".join(thoughts) or None,
            None if columns.outcome is None else outcome_of(outcome, columns.outcome),
            found if found and found.strip() else None,
        )
    except RowError as error:
        return error


def outcome_of(value: Any, column: str) -> bool | None:
    """Whether a response was right, as its file puts it; null where it does not say, RowError for anything else."""
    if isinstance(value, list) and len(value) == 1:
        return outcome_of(value[0], column)
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bool | int | float | Decimal) and value in (0, 1):
        return bool(value)
    word = value.strip().casefold().rstrip(".!") if isinstance(value, str) else ""
    if word in _RIGHT | _WRONG:
        return word in _RIGHT
    raise RowError("unusable-outcome", f"{column} says neither right nor wrong: {str(value)[:80]!r}")


def answers_of(record: Record, column: str) -> list[str]:
    """The gold answers that a record states, any of which may be the problem's; none where it states none."""
    value = look(record, column)
    if isinstance(value, str) and value.strip()[:1] == "[":
        # lmms-eval writes the text of a Python list.
        value = [value, *_spelled(value)]
    found = [text_of(each) for each in (_flat(value) if isinstance(value, list) else [value])]
    return [text for text in found if text is not None and text.strip()]


def _spelled(text: str) -> list[Any]:
    """The entries of a list that a text spells in JSON or in Python; none where it spells no list, or a long one."""
    if len(text) > _SPELLED:
        return []
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list):
            return found
    return []
