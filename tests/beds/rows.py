"""Rows of tables with the columns that a test cares for; all others are null or empty."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from curate.tables.rows import R, column_names, table_of, whole
from curate.tables.store import Partition

_EMPTY = {pa.string(): "", pa.int64(): 0, pa.float64(): 0.0, pa.bool_(): False, pa.binary(): b""}


def made(kind: type[R], **given) -> R:
    """A row of `kind`; a column that is not given is null where it may be, else empty."""
    schema = table_of(kind).schema
    empty = {
        name: None if schema.field(name).nullable else _EMPTY.get(schema.field(name).type, [])
        for name in column_names(kind)
    }
    return kind(**empty | given)


def commit(partition: Partition, rows: Iterable[Mapping[str, Any]]) -> int:
    """Add rows that are mappings of every column, each to its own shard."""
    return partition.commit_all(whole(partition.table)(**row) for row in rows)
