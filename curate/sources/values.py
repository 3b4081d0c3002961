"""Single values of a record: where they stand, and as text. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Self

from curate.errors import RowError
from curate.sources.base import Record


class ClassLabel(str):
    """The name of a class label, with the `number` that stands for it."""

    number: int

    @classmethod
    def of(cls, name: str, number: int) -> Self:
        """The label of this name."""
        made = cls(name)
        made.number = number
        return made


def number_of(value: Any) -> Any:
    """The number that is meant: of a class label, of a text that is one, of a float that is whole; else the value."""
    if isinstance(value, ClassLabel):
        return value.number
    if isinstance(value, str) and re.fullmatch(r"\s*[-+]?\d{1,15}(?:\.0+)?\s*", value):
        return int(float(value))
    if isinstance(value, float | Decimal) and value == value and abs(float(value)) < 1e15 and value == int(value):
        return int(value)
    return value


def look(record: Record, column: str) -> Any:
    """What stands in a column; with `a.b` field b of the struct a, or of each struct of the list a; null where none."""
    if column in record:
        return record[column]
    first, dot, rest = column.partition(".")
    below = record.get(first)
    if dot and isinstance(below, Mapping):
        return look(below, rest)
    return _each(below, rest) if dot and isinstance(below, list) else None


def _each(structs: list[Any], column: str) -> list[Any]:
    """The column of each struct in a list, also of lists of structs."""
    return [
        look(each, column) if isinstance(each, Mapping) else _each(each, column) if isinstance(each, list) else None
        for each in structs
    ]


def writable(text: str) -> str:
    """The text with halves of surrogate pairs, which JSON can hold and UTF-8 cannot, replaced by question marks."""
    return text.encode("utf-8", "replace").decode()


def text_of(value: Any) -> str | None:
    """Text of a scalar; null stays null. A float that is whole loses its '.0', as CSV and pandas add it.

    Dates are as ISO 8601 writes them; bytes are UTF-8.
    """
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
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise RowError("not-utf-8", f"{error.reason} at byte {error.start} of a text") from None
    if isinstance(value, list) and len(value) == 1:
        return text_of(value[0])
    raise RowError("unusable-value", f"a text is wanted, this is {type(value).__name__}: {str(value)[:80]}")
