"""Rows against their table, before they are kept: a value that no file can hold fails the unit that brought it.

What comes from a server or a file of somebody else's may be anything; once in a journal, it would stop every later run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any

import numpy as np
import pyarrow as pa

from curate.errors import RowError
from curate.tables.rows import Row, whole
from curate.tables.schema import Table

REASON = "bad-value"
# Whole numbers that may be negative: seeds of any sign, and -1 for "no wrong step".
_SIGNED = frozenset({"seed", "first_error"})
_SHOWN = 60
# Larger whole numbers are not all there among those with a fraction.
_EXACT = 2**53


def check(table: Table, rows: Iterable[Row]) -> None:
    """RowError with the column and what is wrong with it, unless a file of the table can hold these rows.

    A row of another table is a bug (TypeError).
    """
    columns, kind = _columns(table), whole(table)
    for row in rows:
        if type(row) is not kind:
            raise TypeError(f"the table {table.name} takes {kind.__name__}, not {type(row).__name__}")
        for name, (nullable, wrong) in columns.items():
            value = getattr(row, name)
            if (value is not None or not nullable) and (found := wrong(value)):
                raise RowError(REASON, f"{name} of {table.name} is {repr(value)[:_SHOWN]}, {found}")


# What is wrong with a value; nothing where it is sound.
Wrong = Callable[[Any], str]


@cache
def _columns_of(schema: pa.Schema) -> dict[str, tuple[bool, Wrong]]:
    return {column.name: (column.nullable, _judge(column.type, column.name in _SIGNED)) for column in schema}


def _columns(table: Table) -> dict[str, tuple[bool, Wrong]]:
    return _columns_of(table.schema)


def _judge(kind: pa.DataType, signed: bool) -> Wrong:
    if pa.types.is_list(kind):
        inner, whole = _judge(kind.value_type, signed), pa.types.is_integer(kind.value_type)
        return partial(_list, inner, kind.value_type.bit_width if whole else 0)
    if pa.types.is_integer(kind):
        bits = kind.bit_width
        return partial(_number, -(2 ** (bits - 1)) if signed else 0, bits)
    if pa.types.is_floating(kind):
        return _real
    if pa.types.is_boolean(kind):
        return lambda value: "" if isinstance(value, bool) else "neither true nor false"
    if pa.types.is_binary(kind):
        return lambda value: "" if isinstance(value, bytes) else "no bytes"
    return _text


def _list(inner: Wrong, bits: int, value: Any) -> str:
    if not isinstance(value, list | tuple):
        return "no list"
    # Whole numbers at once: a chain has thousands of tokens.
    if bits and value and set(map(type, value)) == {int} and _fit(value, bits):
        return ""
    return next(filter(None, (inner(each) for each in value if each is not None)), "")


def _fit(values: Any, bits: int) -> bool:
    try:
        numbers = np.asarray(values, np.int64)
    except OverflowError:
        return False
    return bool(numbers.min() >= 0 and numbers.max() < 2 ** (bits - 1))


def _number(lowest: int, bits: int, value: Any) -> str:
    if not isinstance(value, int) or isinstance(value, bool):
        return "no whole number"
    return "" if lowest <= value < 2 ** (bits - 1) else f"not within {lowest} and 2^{bits - 1}"


def _real(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isfinite(value) else "no finite number"
    number = isinstance(value, int) and not isinstance(value, bool)
    return "" if number and abs(value) <= _EXACT else "no number with 64 bits"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        return "no text"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "no Unicode text"
    return ""
