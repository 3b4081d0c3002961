"""Parquet and Arrow: rows out of record batches, and class labels by their names."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from curate.errors import RowError, UserError
from curate.sources.base import Numbered, Record
from curate.sources.readers.inputs import Input
from curate.sources.values import ClassLabel

# Images may be in them.
_ROWS = 256
_HUGGINGFACE = b"huggingface"


def parquet(found: Input) -> tuple[list[str], Iterator[Numbered]]:
    """The columns and the rows, numbered from 1; UserError when the file is damaged or has a column twice."""
    found.check()
    with _sound(found.name, "Parquet"), found.raw() as raw, pq.ParquetFile(raw) as file:
        schema = file.schema_arrow

    def batches() -> Iterator[pa.RecordBatch]:
        with _sound(found.name, "Parquet"), found.raw() as raw, pq.ParquetFile(raw) as file:
            yield from file.iter_batches(batch_size=_ROWS)

    return _read(schema, batches, found.name)


def arrow(found: Input) -> tuple[list[str], Iterator[Numbered]]:
    """Arrow's own format likewise, as a file or as a stream, which is how `datasets` keeps its tables."""
    found.check()
    with _sound(found.name, "Arrow"), found.raw() as raw:
        schema = _opened(raw).schema

    def batches() -> Iterator[pa.RecordBatch]:
        with _sound(found.name, "Arrow"), found.raw() as raw:
            reader = _opened(raw)
            if isinstance(reader, pa.ipc.RecordBatchFileReader):
                whole: Iterator[pa.RecordBatch] = map(reader.get_batch, range(reader.num_record_batches))
            else:
                whole = iter(reader)
            for batch in whole:
                yield from (batch.slice(start, _ROWS) for start in range(0, batch.num_rows, _ROWS))

    return _read(schema, batches, found.name)


def _opened(raw: Any) -> Any:
    try:
        return pa.ipc.open_file(raw)
    except pa.ArrowInvalid:
        raw.seek(0)
        return pa.ipc.open_stream(raw)


class _sound:
    """Makes one sentence of what damaged files raise."""

    def __init__(self, name: str, kind: str) -> None:
        self._name, self._kind = name, kind

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError | pa.ArrowException):
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{self._name} is no readable {self._kind} file ({first}); get it again.") from None


def _read(
    schema: pa.Schema, batches: Callable[[], Iterator[pa.RecordBatch]], name: str
) -> tuple[list[str], Iterator[Numbered]]:
    twice = [column for column, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise UserError(f'{name} has the column "{twice[0]}" twice; rename or delete one of them.')
    return schema.names, _rows(batches(), _features(schema))


def _rows(batches: Iterator[pa.RecordBatch], features: Mapping[str, Any]) -> Iterator[Numbered]:
    number = 0
    for batch in batches:
        for record in _records(batch):
            number += 1
            yield number, record if isinstance(record, RowError) else named(record, features)


def _records(batch: pa.RecordBatch) -> Iterator[Record | RowError]:
    """Rows of a batch; Parquet does not promise that its texts are UTF-8, nor Python that it has all dates."""
    try:
        yield from batch.to_pylist()
        return
    except (ValueError, OverflowError, pa.ArrowException):
        pass
    for index in range(batch.num_rows):
        try:
            yield batch.slice(index, 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            yield RowError("not-utf-8", f"{error.reason} at byte {error.start} of a text")
        except (ValueError, OverflowError, pa.ArrowException) as error:
            yield RowError("unusable-value", str(error)[:300])


def _features(schema: pa.Schema) -> Mapping[str, Any]:
    """What `datasets` says about the columns, in the schema's own metadata."""
    try:
        found = json.loads((schema.metadata or {})[_HUGGINGFACE])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return found if isinstance(found, Mapping) else {}


def named(record: Record, features: Mapping[str, Any]) -> Record:
    """The record with the numbers of class labels replaced by their names; `features` as `datasets` writes them."""
    return {name: _named(value, features.get(name)) for name, value in record.items()}


def _named(value: Any, feature: Any) -> Any:
    if isinstance(feature, list) and len(feature) == 1:
        feature = {"_type": "List", "feature": feature[0]}
    if value is None or not isinstance(feature, Mapping):
        return value
    kind = feature.get("_type")
    if kind == "ClassLabel":
        names = feature.get("names")
        if isinstance(value, str) and value.isdecimal() and isinstance(names, list) and value not in names:
            value = int(value)
        # -1 is how a test set without labels has them.
        if isinstance(value, int) and isinstance(names, list):
            return ClassLabel.of(str(names[value]), value) if 0 <= value < len(names) else None
        return value
    if kind in ("Sequence", "List", "LargeList"):
        below = feature.get("feature")
        if isinstance(value, list):
            return [_named(each, below) for each in value]
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            return {name: _named(each, {"_type": "List", "feature": below.get(name)}) for name, each in value.items()}
        return value
    if isinstance(value, Mapping) and (kind is None or isinstance(kind, Mapping)):
        return {name: _named(each, feature.get(name)) for name, each in value.items()}
    return value
