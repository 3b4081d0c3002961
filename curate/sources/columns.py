"""From a record with any columns to a `SourceRow`, by a column map."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from curate.config import ColumnMap, did_you_mean
from curate.errors import RowError, UserError
from curate.sources.base import BadRow, SourceRow


def check(columns: ColumnMap, names: Iterable[str], what: str) -> None:
    """UserError when a mapped column is not among the source's names."""
    known = list(names)
    for role, column in columns.model_dump().items():
        if column is not None and column not in known:
            raise UserError(f'{what} has no column "{column}" (columns.{role}){did_you_mean(column, known)}')


def row(record: Mapping[str, Any], columns: ColumnMap, number: int, root: Path | None) -> SourceRow | BadRow:
    """One record; a BadRow when a column holds what cannot be used."""
    identity = record.get(columns.id) if columns.id else None
    name = writable(str(identity)) if identity not in (None, "") else str(number)
    try:
        return SourceRow(
            source_row=name,
            question=_text(record.get(columns.question)),
            answer=_text(record.get(columns.answer)),
            choices=_choices(record.get(columns.choices)) if columns.choices else (),
            images=tuple(_images(record.get(columns.image), root)) if columns.image else (),
            domain=_text(record.get(columns.domain)) if columns.domain else None,
        )
    except RowError as error:
        return BadRow(name, error)


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


def _choices(value: Any) -> tuple[str, ...]:
    """A list, or the text of a JSON or Python list."""
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        value = _parse_list(value)
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RowError("unusable-choices", f"choices are no list: {str(value)[:80]}")
    return tuple(_text(item) or "" for item in value)


def _parse_list(text: str) -> Any:
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            # Deep nesting raises the last two.
            continue
    raise RowError("unusable-choices", f"choices are no list: {text[:80]}")


def _images(value: Any, root: Path | None) -> Iterable[bytes]:
    """Original bytes of each picture: a path under `root`, bytes, a Hugging Face Image struct, or a list of them."""
    if value is None:
        return
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _images(item, root)
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


def _file(name: str, root: Path | None) -> bytes:
    if root is None:
        raise RowError("image-missing", f"{name}: the source has no folder that image paths are relative to")
    if not name.strip():
        raise RowError("image-missing", "an empty path")
    base = root.resolve()
    try:
        path = (base / name).resolve()
        if not path.is_relative_to(base):
            raise RowError("image-outside-root", f"{name} leads out of the image folder")
        # A pipe or a device would be read for ever.
        if not path.is_file():
            raise RowError("image-missing", f"{name} is no file in the image folder")
        return path.read_bytes()
    except (ValueError, RuntimeError) as error:
        # No path at all (a NUL byte, half a surrogate pair), or links that go round in a circle.
        raise RowError("image-missing", f"{writable(name)}: {error}") from None
    except OSError as error:
        raise RowError("image-unreadable", f"{name}: {error.strerror}") from None
