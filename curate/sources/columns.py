"""From a record with any columns to problems, by a column map: one row, or one for each turn of a conversation."""

from __future__ import annotations

import ast
import itertools
import json
import random
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.config import did_you_mean
from curate.errors import RowError, UserError
from curate.seeds import rng
from curate.source_sections import ColumnMap, MappedSource
from curate.sources.base import BadRow, GivenChain, SourceRow
from curate.sources.chains import chains
from curate.sources.forms import FORMS, lettered
from curate.sources.roots import Root
from curate.sources.values import look, text_of, writable

Record = Mapping[str, Any]
Numbered = tuple[int, Record | RowError]
_FIELD = re.compile(r"\{([^{}]+)\}")


def check(source: MappedSource, names: Iterable[str], what: str) -> None:
    """UserError when a mapped column is not among the source's names."""
    known = list(names)
    named = [(f"columns.{role}", column) for role, column in source.columns.named()]
    if source.chain is not None:
        named += [(f"chain.{role}", column) for role, column in source.chain.named()]
    for role, column in named:
        if column not in known and column.partition(".")[0] not in known:
            raise UserError(f'{what} has no column "{column}" ({role}){did_you_mean(column, known)}')


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
        parts = list(_parts(record, source))
    except RowError as error:
        yield BadRow(name, error)
        return
    single = source.columns.conversation is None and len(parts) == 1
    for place, part in enumerate(parts):
        each = name if single else f"{name}/{place}"
        try:
            yield _row(record, source, each, part, root)
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


@dataclass(frozen=True)
class _Part:
    """What becomes one row: a record, a turn of its conversation, or one of its chains."""

    question: str | None
    answer: Any
    chain: GivenChain | None = None


def _parts(record: Record, source: MappedSource) -> Iterator[_Part]:
    columns = source.columns
    if columns.conversation is None:
        question = _filled(record, columns.question) if columns.question else None
        answer = look(record, columns.answer) if columns.answer else None
        if source.chain is None:
            yield _Part(question, answer)
            return
        for asked, chain in chains(record, source.chain):
            yield _Part(question if asked is None else asked, answer, chain)
        return
    turns = look(record, columns.conversation)
    if not isinstance(turns, list) or not turns:
        raise RowError("no-conversation", f"{columns.conversation} holds no turns: {str(turns)[:80]}")
    found = list(_turns(turns))
    if not found:
        raise RowError("no-conversation", f"no question with an answer among {len(turns)} turns")
    yield from (_Part(question, answer) for question, answer in found[: source.turns])


def _turns(turns: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """{user, assistant} turns, or {from: human, value} followed by {from: gpt, value}."""
    asked: str | None = None
    for turn in turns:
        if not isinstance(turn, Mapping):
            raise RowError("unusable-value", f"a turn is a {type(turn).__name__}")
        if "user" in turn and "assistant" in turn:
            yield text_of(turn["user"]) or "", text_of(turn["assistant"]) or ""
            continue
        speaker, said = turn.get("from") or turn.get("role"), turn.get("value", turn.get("content"))
        if speaker in ("human", "user"):
            asked = text_of(said)
        elif speaker in ("gpt", "assistant") and asked is not None:
            yield asked, text_of(said) or ""
            asked = None


def _row(record: Record, source: MappedSource, name: str, part: _Part, root: Root | None) -> SourceRow:
    columns, question = source.columns, part.question
    choices = _choices(record, source) if columns.choices else ()
    answers = _answers(part.answer, source, choices)
    given = answers[0] if answers else None
    # Without a column of gold answers the form still parts the question from what stands around it.
    if source.form != "plain" and question is not None and (given is not None or columns.answer is None):
        parsed = FORMS[source.form](question, given or "")
        question, choices = parsed.question, parsed.choices or choices
        given = parsed.answer if given is not None else None
    images = tuple(pictures(record, source, root))
    if source.require_image and not images:
        raise RowError("no-image", "the recipe takes only rows with an image")
    return SourceRow(
        source_row=name,
        question=question,
        answer=given,
        accepted=tuple(answers[1:]),
        choices=choices,
        images=images,
        domain=text_of(look(record, columns.domain)) if columns.domain else None,
        answer_type=_answer_type(record, source, choices),
        tolerance=_tolerance(record, source, given),
        chain=part.chain,
    )


def _answers(value: Any, source: MappedSource, choices: Sequence[str]) -> list[str]:
    """The accepted answers, the first one first; none where the record has none."""
    if source.answer_form == "accepted":
        return _listed(value)
    found = _letter(value, len(choices)) if source.answer_form == "index" else text_of(value)
    return [] if found is None else [found]


def _filled(record: Record, wanted: str) -> str | None:
    """A column's text, or a template's: its lines whose columns are all empty are left out."""
    if "{" not in wanted:
        return text_of(look(record, wanted))
    lines = []
    for line in wanted.split("\n"):
        found = [text_of(look(record, column)) for column in _FIELD.findall(line)]
        if found and not any(found):
            continue
        values = iter(value or "" for value in found)
        lines.append(_FIELD.sub(lambda _, values=values: next(values), line))  # type: ignore[misc]
    return "\n".join(lines) or None


def _letter(value: Any, count: int) -> str | None:
    """The letter of a choice's index, counted from 0, as a number or its text."""
    text = text_of(value)
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
    return [text for item in value if (text := text_of(item)) is not None and text.strip()]


def _choices(record: Record, source: MappedSource) -> tuple[str, ...]:
    wanted = source.columns.choices
    if isinstance(wanted, tuple):
        return tuple(text for column in wanted if (text := text_of(look(record, column))) is not None)
    value = look(record, wanted or "")
    if value is None or value == "":
        return ()
    if source.choices_form == "commas":
        return tuple(part.strip() for part in (text_of(value) or "").split(","))
    if source.choices_form == "lettered":
        found = lettered(text_of(value) or "")
        if not found:
            raise RowError("unusable-choices", f"choices are not A, B, ...: {str(value)[:80]}")
        return found
    if isinstance(value, str):
        value = _parse_list(value, "unusable-choices", "choices are")
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RowError("unusable-choices", f"choices are no list: {str(value)[:80]}")
    return tuple(text_of(item) or "" for item in value)


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
    found = text_of(look(record, source.columns.answer_type))
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


def pictures(record: Record, source: MappedSource, root: Root | None) -> Iterator[bytes]:
    """Original bytes of the record's images, in order; RowError when one is not there."""
    wanted = source.columns.image
    for column in (wanted,) if isinstance(wanted, str) else wanted or ():
        yield from _pictures(_filled(record, column) if "{" in column else look(record, column), root)


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
