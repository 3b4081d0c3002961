"""From a record with any columns to problems, by a column map: one row, or one for each turn of a conversation."""

from __future__ import annotations

import ast
import itertools
import json
import random
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from curate.config import did_you_mean
from curate.errors import RowError, UserError
from curate.sections import ColumnMap, MappedSource
from curate.seeds import rng
from curate.sources.base import BadRow, SourceRow
from curate.sources.forms import FORMS, lettered
from curate.sources.roots import Root

Record = Mapping[str, Any]
Numbered = tuple[int, Record | RowError]
_FIELD = re.compile(r"\{([^{}]+)\}")


def check(columns: ColumnMap, names: Iterable[str], what: str) -> None:
    """UserError when a mapped column is not among the source's names."""
    known = list(names)
    for role, column in columns.named():
        if column not in known and column.partition(".")[0] not in known:
            raise UserError(f'{what} has no column "{column}" (columns.{role}){did_you_mean(column, known)}')


def problems(records: Iterator[Numbered], source: MappedSource, root: Root | None) -> Iterator[SourceRow | BadRow]:
    """All problems of a source's records, as many and in the order that it asks for."""
    if source.shuffle is not None:
        records = _shuffled(records, source.shuffle, rng("shuffle", source.name, source.seed))
    if source.ids:
        records = _of_names(records, source)
    for number, record in itertools.islice(records, source.limit):
        if isinstance(record, RowError):
            yield BadRow(str(number), record)
        else:
            yield from rows(record, source, number, root)


def _shuffled(records: Iterator[Numbered], size: int, draw: random.Random) -> Iterator[Numbered]:
    """Each record once, drawn from a buffer of the next `size`."""
    buffer = list(itertools.islice(records, size))
    for record in records:
        place = draw.randrange(size)
        yield buffer[place]
        buffer[place] = record
    draw.shuffle(buffer)
    yield from buffer


def _of_names(records: Iterator[Numbered], source: MappedSource) -> Iterator[Numbered]:
    """The first record of each wanted name; reading ends with the last. UserError at the end when one is missing."""
    missing = dict.fromkeys(source.ids)
    for number, record in records:
        name = str(number) if isinstance(record, RowError) else _name(record, source.columns, number)
        if name in missing:
            del missing[name]
            yield number, record
        if not missing:
            return
    raise UserError(f'Source "{source.name}": no row is named {", ".join(missing)}; check ids and columns.id.')


def rows(record: Record, source: MappedSource, number: int, root: Root | None) -> Iterator[SourceRow | BadRow]:
    """The problems of one record, or what is wrong with it. `number` names it where the source has no `id`."""
    name = _name(record, source.columns, number)
    try:
        _check_wanted(record, source)
        pairs = list(_pairs(record, source))
    except RowError as error:
        yield BadRow(name, error)
        return
    for turn, (question, answer) in enumerate(pairs):
        each = name if source.columns.conversation is None else f"{name}/{turn}"
        try:
            yield _row(record, source, each, question, answer, root)
        except RowError as error:
            yield BadRow(each, error)


def _name(record: Record, columns: ColumnMap, number: int) -> str:
    ids = (columns.id,) if isinstance(columns.id, str) else columns.id or ()
    parts = [str(value) for column in ids if (value := look(record, column)) not in (None, "")]
    return writable("-".join(parts)) if parts else str(number)


def _check_wanted(record: Record, source: MappedSource) -> None:
    for column, wanted in source.where.items():
        found = look(record, column)
        if found not in (wanted if isinstance(wanted, tuple) else (wanted,)):
            raise RowError("not-wanted", f"{column} is {str(found)[:80]!r}, the recipe takes {wanted!r}")


def _pairs(record: Record, source: MappedSource) -> Iterator[tuple[str | None, Any]]:
    """(question, answer) of the record, or of each turn of its conversation."""
    columns = source.columns
    if columns.conversation is None:
        yield _filled(record, columns.question), look(record, columns.answer)
        return
    turns = look(record, columns.conversation)
    if not isinstance(turns, list) or not turns:
        raise RowError("no-conversation", f"{columns.conversation} holds no turns: {str(turns)[:80]}")
    found = list(_turns(turns))
    if not found:
        raise RowError("no-conversation", f"no question with an answer among {len(turns)} turns")
    yield from found[: source.turns]


def _turns(turns: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """{user, assistant} turns, or {from: human, value} followed by {from: gpt, value}."""
    asked: str | None = None
    for turn in turns:
        if not isinstance(turn, Mapping):
            raise RowError("unusable-value", f"a turn is a {type(turn).__name__}")
        if "user" in turn and "assistant" in turn:
            yield _text(turn["user"]) or "", _text(turn["assistant"]) or ""
            continue
        speaker, said = turn.get("from") or turn.get("role"), turn.get("value", turn.get("content"))
        if speaker in ("human", "user"):
            asked = _text(said)
        elif speaker in ("gpt", "assistant") and asked is not None:
            yield asked, _text(said) or ""
            asked = None


def _row(
    record: Record, source: MappedSource, name: str, question: str | None, answer: Any, root: Root | None
) -> SourceRow:
    columns = source.columns
    choices = _choices(record, source) if columns.choices else ()
    answers = _answers(answer, source, choices)
    given = answers[0] if answers else None
    if source.form != "plain" and question is not None and given is not None:
        parsed = FORMS[source.form](question, given)
        question, given, choices = parsed.question, parsed.answer, parsed.choices or choices
    images = tuple(_images(record, source, root))
    if source.require_image and not images:
        raise RowError("no-image", "the recipe takes only rows with an image")
    return SourceRow(
        source_row=name,
        question=question,
        answer=given,
        accepted=tuple(answers[1:]),
        choices=choices,
        images=images,
        domain=_text(look(record, columns.domain)) if columns.domain else None,
        answer_type=_answer_type(record, source, choices),
        tolerance=_tolerance(record, source, given),
    )


def _answers(value: Any, source: MappedSource, choices: Sequence[str]) -> list[str]:
    """The accepted answers, the first one first; none where the record has none."""
    if source.answer_form == "accepted":
        return _listed(value)
    found = _letter(value, len(choices)) if source.answer_form == "index" else _text(value)
    return [] if found is None else [found]


def look(record: Record, column: str) -> Any:
    """What stands in a column, or with `a.b` in a struct; null where there is none."""
    if column in record:
        return record[column]
    first, dot, rest = column.partition(".")
    below = record.get(first)
    return look(below, rest) if dot and isinstance(below, Mapping) else None


def _filled(record: Record, wanted: str) -> str | None:
    """A column's text, or a template's: its lines whose columns are all empty are left out."""
    if "{" not in wanted:
        return _text(look(record, wanted))
    lines = []
    for line in wanted.split("\n"):
        found = [_text(look(record, column)) for column in _FIELD.findall(line)]
        if found and not any(found):
            continue
        values = iter(value or "" for value in found)
        lines.append(_FIELD.sub(lambda _, values=values: next(values), line))  # type: ignore[misc]
    return "\n".join(lines) or None


def writable(text: str) -> str:
    """The text with halves of surrogate pairs, which JSON can hold and UTF-8 cannot, replaced by question marks."""
    return text.encode("utf-8", "replace").decode()


def _text(value: Any) -> str | None:
    """Text of a scalar; null stays null. A float that is whole loses its '.0', as CSV and pandas add it."""
    if value is None:
        return None
    if isinstance(value, float):
        if value != value:  # NaN is how frames write null
            return None
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, str):
        if writable(value) != value:
            raise RowError("not-utf-8", f"half of a surrogate pair in: {writable(value)[:80]}")
        return value
    if isinstance(value, int | bool | Decimal):
        return str(value)
    if isinstance(value, list) and len(value) == 1:
        return _text(value[0])
    raise RowError("unusable-value", f"a text is wanted, this is {type(value).__name__}: {str(value)[:80]}")


def _letter(value: Any, count: int) -> str | None:
    """The letter of a choice's index, counted from 0, as a number or its text."""
    text = _text(value)
    if text is None:
        return None
    if not text.strip().isdecimal() or not 0 <= int(text) < min(count, 26):
        raise RowError("answer-not-in-choices", f'"{text[:80]}" is no index of {count} choices')
    return string.ascii_uppercase[int(text)]


def _listed(value: Any) -> list[str]:
    """Accepted answers: a list, the text of a list, or one text."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = _parse_list(value, "unusable-answers", "accepted answers are")
        except RowError:
            # "[0, 1)" is an interval.
            value = [value]
    if not isinstance(value, list):
        value = [value]
    return [text for item in value if (text := _text(item)) is not None and text.strip()]


def _choices(record: Record, source: MappedSource) -> tuple[str, ...]:
    wanted = source.columns.choices
    if isinstance(wanted, tuple):
        return tuple(text for column in wanted if (text := _text(look(record, column))) is not None)
    value = look(record, wanted or "")
    if value is None or value == "":
        return ()
    if source.choices_form == "commas":
        return tuple(part.strip() for part in (_text(value) or "").split(","))
    if source.choices_form == "lettered":
        found = lettered(_text(value) or "")
        if not found:
            raise RowError("unusable-choices", f"choices are not A, B, ...: {str(value)[:80]}")
        return found
    if isinstance(value, str):
        value = _parse_list(value, "unusable-choices", "choices are")
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RowError("unusable-choices", f"choices are no list: {str(value)[:80]}")
    return tuple(_text(item) or "" for item in value)


def _parse_list(text: str, reason: str, what: str) -> Any:
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            # Deep nesting raises the last two.
            continue
    raise RowError(reason, f"{what} no list: {text[:80]}")


def _answer_type(record: Record, source: MappedSource, choices: Sequence[str]) -> str | None:
    """What the row's own type stands for; choices always make a choice."""
    if source.columns.answer_type is None or choices:
        return None
    found = _text(look(record, source.columns.answer_type))
    if found is None:
        return None
    if found not in source.answer_types:
        raise RowError("unknown-answer-type", f'"{found[:80]}" is none of {", ".join(source.answer_types)}')
    return source.answer_types[found]


def _tolerance(record: Record, source: MappedSource, answer: str | None) -> float | None:
    """Of a number that is right when it rounds to the answer: half a unit of its last decimal, as a share of it."""
    if source.columns.decimals is None or answer is None:
        return source.tolerance
    decimals = look(record, source.columns.decimals)
    try:
        if decimals is None or decimals != decimals:
            return source.tolerance
        half, value = 0.5 * 10.0 ** -int(decimals), abs(float(answer))
    except (ValueError, TypeError, OverflowError):
        raise RowError(
            "unusable-value", f"{source.columns.decimals}: {str(decimals)[:40]} decimals of {answer[:40]}"
        ) from None
    return half / value if value else half


def _images(record: Record, source: MappedSource, root: Root | None) -> Iterator[bytes]:
    wanted = source.columns.image
    for column in (wanted,) if isinstance(wanted, str) else wanted or ():
        yield from _pictures(look(record, column), root)


def _pictures(value: Any, root: Root | None) -> Iterator[bytes]:
    """Original bytes of each picture: a path under `root`, bytes, a Hugging Face Image struct, or a list of them."""
    if value is None:
        return
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _pictures(item, root)
    elif isinstance(value, Mapping):
        if value.get("bytes") is not None:
            yield value["bytes"]
        elif value.get("path"):
            yield _file(str(value["path"]), root)
        else:
            raise RowError("image-missing", "an image without bytes and without path")
    elif isinstance(value, str):
        yield _file(value, root)
    else:
        raise RowError("image-unreadable", f"an image cannot be a {type(value).__name__}")


def _file(name: str, root: Root | None) -> bytes:
    if root is None:
        raise RowError("image-missing", f"{name}: the source has no folder that image paths are relative to")
    if not name.strip():
        raise RowError("image-missing", "an empty path")
    return root.read(name)
