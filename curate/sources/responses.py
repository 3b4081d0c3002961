"""Responses that somebody generated elsewhere: which columns name the problem and hold the texts. Pure.

Two kinds of files are known by their columns. lmms-eval's sample logs have `doc_id` (the row of the split, from 0),
`resps` (lists in a list; left out where they equal `filtered_resps`) and `target`; VLMEvalKit's results have `index`,
`prediction` and `answer`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.config import did_you_mean
from curate.errors import RowError, UserError
from curate.sources.values import look, text_of

# Switches the comparison of answers off.
NO_ANSWER = "-"
# What VLMEvalKit writes where the model gave nothing: missing data, no wrong answer.
_FAILED = "Failed to obtain answer via API"


@dataclass(frozen=True)
class Columns:
    """Which columns to read: the first of `response` that is not null holds the texts. `from_zero`: `id` counts the
    rows of the problems' source from 0.
    """

    id: str
    response: Sequence[str]
    answer: str | None = None
    from_zero: bool = False


_LMMS_EVAL = Columns("doc_id", ("resps", "filtered_resps"), "target", from_zero=True)
_VLMEVALKIT = Columns("index", ("prediction",), "answer")


def columns_of(names: Sequence[str], what: str, id_: str | None, response: str | None, answer: str | None) -> Columns:
    """The columns of a file that has these names: as given, else as its kind has them; UserError when that fails."""
    for option, column in (("--id", id_), ("--response", response), ("--answer", answer)):
        off = column is None or (option == "--answer" and column == NO_ANSWER)
        if not off and column not in names and str(column).partition(".")[0] not in names:
            raise UserError(f'{what} has no column "{column}" ({option}){did_you_mean(str(column), names)}')
    kind = None
    if "doc_id" in names and {"resps", "filtered_resps"} & set(names):
        kind = _LMMS_EVAL
    elif {"index", "prediction"} <= set(names):
        kind = _VLMEVALKIT
    if kind is None and (id_ is None or response is None):
        raise UserError(
            f"{what} is neither a sample log of lmms-eval nor a result of VLMEvalKit; give --id and --response, two of "
            f"its columns: {', '.join(names)}."
        )
    usual = kind.answer if kind is not None and kind.answer in names else None
    return Columns(
        id_ or (kind.id if kind else ""),
        (response,) if response else (kind.response if kind else ()),
        None if answer == NO_ANSWER else answer or usual,
        from_zero=id_ is None and kind is not None and kind.from_zero,
    )


def name_of(record: Mapping[str, Any], columns: Columns) -> str:
    """The problem's row in its source; RowError where the record does not say."""
    found = text_of(look(record, columns.id))
    if found is None or not found.strip():
        raise RowError("no-id", f"{columns.id} is empty")
    if not columns.from_zero:
        return found
    if not found.isdecimal():
        raise RowError("no-id", f"{columns.id} is no row number: {found[:80]}")
    return str(int(found) + 1)


def texts_of(record: Mapping[str, Any], columns: Columns) -> list[str | RowError]:
    """Every response of a record, usable or not; RowError when it has none."""
    first = next((value for column in columns.response if (value := look(record, column)) is not None), None)
    found = [] if first is None else [_text(each, isinstance(first, list)) for each in _flat(first)]
    if not found:
        raise RowError("no-response", f"{' and '.join(columns.response)} hold no text")
    return found


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for each in value:
            yield from _flat(each)
    else:
        yield value


def _text(value: Any, listed: bool) -> str | RowError:
    if listed and value is not None and not isinstance(value, str):
        # Logs of multiple choice by likelihood hold numbers.
        return RowError("no-response", f"{type(value).__name__} in place of a text: {str(value)[:80]}")
    try:
        text = text_of(value)
    except RowError as error:
        return error
    if text is None or not text.strip():
        return RowError("no-response", "the response is empty")
    if text.startswith(_FAILED):
        return RowError("failed-response", text[:80])
    return text
