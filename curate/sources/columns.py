"""From a record with any columns to problems, by a column map: one row, or one for each turn of a conversation."""

from __future__ import annotations

import itertools
import random
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.errors import RowError, UserError, did_you_mean
from curate.recipe.source_sections import ColumnMap, MappedSource
from curate.seeds import rng
from curate.sources.base import BadRow, GivenChain, Numbered, Record, SourceRow
from curate.sources.fields import lists, solutions
from curate.sources.fields.images import of_cell
from curate.sources.fields.indices import IndexColumns
from curate.sources.fields.rollouts import chains
from curate.sources.roots import Root
from curate.sources.values import look, number_of, text_of, writable
from curate.text.forms import FORMS, lettered, letters
from curate.text.image_marks import renumbered, unlabelled

_FIELD = re.compile(r"\{([^{}]+)\}")


def _named(source: MappedSource) -> list[tuple[str, str]]:
    """(setting, column) of every column that a source names."""
    named = [(f"columns.{role}", column) for role, column in source.columns.named()]
    if source.chain is not None:
        named += [(f"chain.{role}", column) for role, column in source.chain.named()]
    return named


def wanted(source: MappedSource) -> set[str]:
    """The columns of a record that a source names; of `a.b` the column a."""
    return {column.partition(".")[0] for _, column in _named(source)}


def check(source: MappedSource, names: Iterable[str], what: str) -> None:
    """UserError when a mapped column is not among the source's names."""
    known = list(names)
    for role, column in _named(source):
        if column not in known and column.partition(".")[0] not in known:
            raise UserError(f'{what} has no column "{column}" ({role}){did_you_mean(column, known)}')


def problems(
    records: Iterator[Numbered], source: MappedSource, root: Root | None, notes: list[str] | None = None
) -> Iterator[SourceRow | BadRow]:
    """All problems of a source's records, as many and in the order that it asks for; at the end `notes` get what shows
    in all of them together.
    """
    indices = IndexColumns(source)
    if source.shuffle is not None:
        records = _shuffled(records, source.shuffle, rng("shuffle", source.name, source.seed))
    if source.ids:
        records = _of_names(records, source)
    for number, record in itertools.islice(records, source.limit):
        if isinstance(record, RowError):
            yield BadRow(writable(str(number)), record)
        else:
            indices.see(record)
            yield from rows(record, source, number, root)
    if notes is not None:
        notes += indices.notes()


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


def rows(record: Record, source: MappedSource, number: int | str, root: Root | None) -> Iterator[SourceRow | BadRow]:
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


def _name(record: Record, columns: ColumnMap, number: int | str) -> str:
    ids = (columns.id,) if isinstance(columns.id, str) else columns.id or ()
    parts = [str(value) for column in ids if (value := look(record, column)) not in (None, "")]
    return writable("-".join(parts) if parts else str(number))


def _check_wanted(record: Record, source: MappedSource) -> None:
    for column, wanted in source.where.items():
        found = look(record, column)
        if found not in (wanted if isinstance(wanted, tuple) else (wanted,)):
            raise RowError("not-wanted", f"{column} is {str(found)[:80]!r}, the recipe takes {wanted!r}")


@dataclass(frozen=True)
class _RecordPart:
    """What becomes one row: a record, a turn of its conversation, or one of its chains."""

    question: str | None
    answer: Any
    chain: GivenChain | None = None


def _parts(record: Record, source: MappedSource) -> Iterator[_RecordPart]:
    columns = source.columns
    if columns.conversation is None:
        question = _filled(record, columns.question) if columns.question else None
        answer = look(record, columns.answer) if columns.answer else None
        if source.chain is None:
            yield _RecordPart(question, answer)
            return
        for asked, chain in chains(record, source.chain):
            yield _RecordPart(question if asked is None else asked, answer, chain)
        return
    turns = look(record, columns.conversation)
    if not isinstance(turns, list) or not turns:
        raise RowError("no-conversation", f"{columns.conversation} holds no turns: {str(turns)[:80]}")
    found = list(_turns(turns))
    if not found:
        raise RowError("no-conversation", f"no question with an answer among {len(turns)} turns")
    yield from (_RecordPart(question, answer) for question, answer in found[: source.turns])


def _turns(turns: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """{user, assistant} turns, or {from: human, value} followed by {from: gpt, value}; also {role, content}."""
    asked: str | None = None
    for turn in turns:
        if not isinstance(turn, Mapping):
            raise RowError("unusable-value", f"a turn is a {type(turn).__name__}")
        if "user" in turn and "assistant" in turn:
            yield _said(turn["user"]) or "", _said(turn["assistant"]) or ""
            continue
        speaker, said = turn.get("from") or turn.get("role"), turn.get("value", turn.get("content"))
        if speaker in ("human", "user"):
            asked = _said(said)
        elif speaker in ("gpt", "assistant") and asked is not None:
            yield asked, _said(said) or ""
            asked = None


def _said(value: Any) -> str | None:
    """What a turn says: a text, or parts of which those of type text have one, as chat messages write it."""
    if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        texts = [text_of(part.get("text")) for part in value if part.get("type", "text") == "text"]
        return "\n".join(text for text in texts if text)
    return text_of(value)


def _row(record: Record, source: MappedSource, name: str, part: _RecordPart, root: Root | None) -> SourceRow:
    columns, question = source.columns, part.question
    choices = _choices(record, source) if columns.choices else ()
    answers = _answers(part.answer, source, choices)
    given = answers[0] if answers else None
    # Without a column of gold answers the form still parts the question from what stands around it.
    if source.form != "plain" and question is not None and (given is not None or columns.answer is None):
        parsed = FORMS[source.form](question, given or "")
        question, choices = parsed.question, parsed.choices or choices
        given = parsed.answer if given is not None else None
    choices = unlabelled(choices)
    images = tuple(images_of(record, source, root))
    if places := _places(record, columns):
        question = renumbered(question, places) if question is not None else None
        choices = tuple(renumbered(choice, places) for choice in choices)
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
    if source.answer_form == "index":
        found = _letter(value, len(choices), source.answer_from)
    elif isinstance(value, list) and len(value) > 1:
        raise RowError("unusable-answers", f"a list of {len(value)}; set answer_form to accepted if each is right")
    else:
        found = text_of(value)
    if found is not None and source.answer_form == "solution":
        found = solutions.concluded(found)
    elif found is not None and source.answer_behind is not None:
        found = solutions.behind(found, source.answer_behind)
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


def _letter(value: Any, count: int, first: int) -> str | None:
    """The letter of a choice's index, counted from `first`, as a number or its text."""
    if text_of(value) is None:
        return None
    index = number_of(value)
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index - first < min(count, 26):
        cure = "; do they count from 1 (answer_from)?" if index == count and first == 0 else ""
        raise RowError("answer-not-in-choices", f'"{str(value)[:80]}" is no index of {count} choices{cure}')
    return string.ascii_uppercase[index - first]


def _listed(value: Any) -> list[str]:
    """Accepted answers: a list, the text of a list, or one text."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = lists.parse(value)
        except ValueError as error:
            # "[0, 1)" is an interval.
            if re.search("['\"]", value):
                raise RowError("unusable-answers", f"a broken list ({error}): {value[:80]}") from None
    if not isinstance(value, list):
        value = [value]
    return [text for item in value if (text := text_of(item)) is not None and text.strip()]


def _choices(record: Record, source: MappedSource) -> tuple[str, ...]:
    where = source.columns.choices
    if isinstance(where, tuple):
        return _lined_up([look(record, column) for column in where])
    value = look(record, where or "")
    if value is None or value == "":
        return ()
    if source.choices_form == "commas":
        return tuple(part.strip() for part in (text_of(value) or "").split(","))
    if source.choices_form == "lettered":
        text = text_of(value) or ""
        found = lettered(text)
        if not found:
            raise RowError("unusable-choices", f"choices are not A, B, ... but {letters(text)}: {text[:80]}")
        return found
    if isinstance(value, str):
        value = _written(value)
    if isinstance(value, Mapping):
        # By their letters, in whatever order they come.
        value = [value[key] for key in (sorted(value) if all(len(str(key)) == 1 for key in value) else value)]
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RowError("unusable-choices", f"choices are no list: {str(value)[:80]}")
    return _lined_up(value)


def _written(text: str) -> Any:
    """Choices that stand as a list in a text."""
    try:
        return lists.parse(text)
    except ValueError as error:
        cure = "; set choices_form to lettered" if lettered(text) else ""
        raise RowError("unusable-choices", f"choices are no list ({error}{cure}): {text[:80]}") from None


def _lined_up(values: Sequence[Any]) -> tuple[str, ...]:
    """Choices as texts; null ones at the end are choices that the row does not have, one before others is an error."""
    texts = [text_of(value) for value in values]
    while texts and texts[-1] is None:
        texts.pop()
    if None in texts:
        raise RowError("unusable-choices", f"choice {texts.index(None) + 1} of {len(texts)} is null")
    return tuple(text or "" for text in texts)


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
    """Tolerance of a number that is right when it rounds to the answer: half a unit of its last decimal, as a share of
    it.
    """
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


def _places(record: Record, columns: ColumnMap) -> dict[int, int]:
    """Number in a column's name -> which image of the row it is, where empty columns make that another one."""
    where, found = columns.image, dict[int, int]()
    for column in where if isinstance(where, tuple) else ():
        number = re.search(r"(\d+)$", column)
        if number is None or isinstance(look(record, column), list):
            return {}
        if look(record, column) is not None:
            found[int(number[1])] = len(found) + 1
    return {} if all(number == place for number, place in found.items()) else found


def images_of(record: Record, source: MappedSource, root: Root | None) -> Iterator[bytes]:
    """Original bytes of the record's images, in order; RowError when one is not there."""
    where = source.columns.image
    for column in (where,) if isinstance(where, str) else where or ():
        yield from of_cell(_filled(record, column) if "{" in column else look(record, column), root)
