"""JSON Lines, and JSON in the shapes that rows are written in: an array, objects by name, columns, rows under a key."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from curate.errors import RowError, UserError
from curate.sources.base import Numbered, Record
from curate.sources.readers.inputs import Input

# The column that holds the name of an object that a file keeps by name.
KEY = "key"


class _Twice(ValueError):
    """A key that one object has twice, with two values."""


def _pairs(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        for name, value in pairs:
            if repr(made[name]) != repr(value):
                raise _Twice(f'the key "{name[:80]}" is there twice')
    return made


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs)


def lines(found: Input) -> Iterator[Numbered]:
    """One object a line; the line's number names it. A file that holds whole JSON under that name is read as such."""
    with found.text() as file:
        for number, line in enumerate(file, start=1):
            text = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
            if not text:
                continue
            if number == 1 and (text.startswith(b"[") or text == b"{"):
                break
            yield number, _line(line, number)
        else:
            return
    yield from whole(found)


def _line(line: bytes, number: int) -> Record | RowError:
    try:
        record = _DECODER.decode(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        return RowError("not-utf-8", f"line {number}: {error.reason} at byte {error.start}")
    except _Twice as error:
        return RowError("column-twice", f"line {number}: {error}")
    except (ValueError, RecursionError) as error:
        return RowError("malformed-line", f"line {number}: {error}"[:300])
    return record if isinstance(record, dict) else RowError("malformed-line", f"line {number}: a JSON object is wanted")


def whole(found: Input, wanted: Collection[str] = (), under: str | None = None) -> Iterator[Numbered]:
    """Rows of a JSON text, held whole; `under` is the key of an object that holds them, `a.b` of one inside of it.

    An entry's number names it, or its own name where the file keeps objects by name; that is in the column `key`, too.
    An object that has one of the `wanted` columns is a row itself. Files of lines are read as such, as some are called
    JSON. UserError when the text is no JSON.
    """
    with found.text() as file:
        data = file.read()
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        yield from _lines_of(data)
        return
    try:
        top = _DECODER.decode(text)
    except _Twice as error:
        if not _begins_with_a_line(text):
            raise UserError(f"{found.name}: {error}; rename or delete one of them.") from None
        yield from _lines_of(data)
    except (ValueError, RecursionError) as error:
        if _begins_with_a_line(text):
            yield from _lines_of(data)
        else:
            yield from _one_after_the_other(text, found.name, error)
    else:
        yield from _entries(_below(top, under, found.name), found.name, wanted)


def _lines_of(data: bytes) -> Iterator[Numbered]:
    for number, line in enumerate(data.splitlines(), start=1):
        if line.strip():
            yield number, _line(line, number)


def _begins_with_a_line(text: str) -> bool:
    """Whether the first of several lines is an object by itself, or an empty text."""
    first, _, rest = text.partition("\n")
    try:
        return not text or (bool(rest.strip()) and isinstance(json.loads(first), dict))
    except (ValueError, RecursionError):
        return False


def _one_after_the_other(text: str, name: str, error: Exception) -> Iterator[Numbered]:
    """Objects over several lines each, with nothing between them."""
    at, number = 0, 0
    while at < len(text):
        number += 1
        try:
            record, at = _DECODER.raw_decode(text, at)
        except _Twice as twice:
            raise UserError(f"{name}, entry {number}: {twice}; rename or delete one of them.") from None
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise UserError(f"{name} is not valid JSON ({error}); repair it or get it again.")
        yield number, record
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1


def _below(top: Any, under: str | None, name: str) -> Any:
    for key in under.split(".") if under else ():
        if not isinstance(top, Mapping) or key not in top:
            known = ", ".join(list(top)[:20]) if isinstance(top, Mapping) else "no keys"
            raise UserError(f'{name} has no "{under}" (records); there are {known}.')
        top = top[key]
    return top


def _entries(top: Any, name: str, wanted: Collection[str]) -> Iterator[Numbered]:
    if isinstance(top, Mapping):
        yield from [(1, dict(top))] if top.keys() & set(wanted) and not _is_by_column(top) else _object(top, name)
        return
    for number, record in enumerate(top if isinstance(top, list) else [top], start=1):
        if isinstance(record, dict):
            yield number, record
        else:
            yield number, RowError("malformed-line", f"entry {number}: a JSON object is wanted")


def _object(top: Mapping[str, Any], name: str) -> Iterator[Numbered]:
    """The rows of an object: columns, rows by name, rows under one of its keys; or the object is the one row."""
    tables = [key for key, value in top.items() if isinstance(value, list) and value and isinstance(value[0], Mapping)]
    if (columns := _columns(top)) is not None:
        names, cells = columns
        for number, row in enumerate(cells, start=1):
            yield number, dict(zip(names, row, strict=True))
    elif top and all(isinstance(value, Mapping) for value in top.values()):
        for key, value in top.items():
            yield key, {KEY: key} | dict(value)
    elif len(tables) > 1:
        raise UserError(f"{name} has rows under several keys; set records to one of {', '.join(tables[:20])}.")
    elif tables:
        yield from _entries(top[tables[0]], name, ())
    else:
        yield 1, dict(top)


def _columns(top: Mapping[str, Any]) -> tuple[Sequence[str], Iterable[Sequence[Any]]] | None:
    """(names, rows) of an object that frames write column by column, or as names and rows."""
    values = list(top.values())
    names, cells = top.get("columns"), top.get("data")
    if isinstance(names, list) and isinstance(cells, list) and _frames(names, cells):
        return names, cells
    if _is_by_column(top):
        return list(top), zip(
            *(value.values() if isinstance(value, Mapping) else value for value in values), strict=True
        )
    return None


def _frames(names: Sequence[Any], cells: Sequence[Any]) -> bool:
    """Whether these are names of columns, and rows of as many cells."""
    return all(isinstance(name, str) for name in names) and all(
        isinstance(row, list) and len(row) == len(names) for row in cells
    )


def _is_by_column(top: Mapping[str, Any]) -> bool:
    """Whether each key holds a column: a list, or cells by the number of their row."""
    values = list(top.values())
    if len(values) < 2 or any(
        not isinstance(value, Mapping | list) or len(value) != len(values[0]) for value in values
    ):
        return False
    if all(isinstance(value, list) for value in values):
        return not any(isinstance(cell, Mapping) for value in values for cell in value)
    return all(
        isinstance(value, Mapping) and value.keys() == values[0].keys() and all(map(str.isdecimal, value))
        for value in values
    ) and not any(map(str.isdecimal, top))
