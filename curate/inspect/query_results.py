"""Rows of an SQL query for people, for programs, and for keeping: as a table, as JSON, in a file."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import UserError
from curate.tables.catalog import QueryResult
from curate.tables.store import Store

# So far rows that are not shown are counted.
MAX_COUNTED = 1_000_000


def left_out(answer: QueryResult, shown: int) -> str:
    """How many rows there are besides the first `shown`, for a sentence."""
    found = answer.count(MAX_COUNTED + shown + 1) - shown
    return f"more than {MAX_COUNTED:,}" if found > MAX_COUNTED else f"{found:,}"


def dump(value: Any) -> str:
    """A value as JSON. What JSON has no number for is a text: "NaN", "Infinity", "-Infinity"."""
    try:
        return json.dumps(value, default=str, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), default=str, ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _finite(below) for key, below in value.items()}
    return [_finite(below) for below in value] if isinstance(value, list) else value


def _rows(batches: Iterator[pa.RecordBatch], limit: int | None) -> Iterator[dict[str, Any]]:
    left = math.inf if limit is None else limit
    for batch in batches:
        for row in batch.to_pylist():
            if left <= 0:
                return
            left -= 1
            yield row


def write_json(answer: QueryResult, limit: int | None, file: IO[str]) -> int:
    """All rows, or the first `limit`, as one JSON list; gives their number."""
    count = 0
    file.write("[")
    for count, row in enumerate(_rows(answer.batches()[1], limit), start=1):
        file.write((",\n" if count > 1 else "") + dump(row))
    file.write("]\n")
    return count


def _json(answer: QueryResult, limit: int | None, path: Path) -> int:
    with path.open("w", encoding="utf-8") as file:
        return write_json(answer, limit, file)


def _json_lines(answer: QueryResult, limit: int | None, path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in _rows(answer.batches()[1], limit):
            file.write(dump(row) + "\n")
            count += 1
    return count


def _csv(answer: QueryResult, limit: int | None, path: Path) -> int:
    """Lists and structs as JSON, missing as an empty cell."""
    count = 0
    schema, batches = answer.batches()
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(schema.names)
        for row in _rows(batches, limit):
            out.writerow([dump(cell) if isinstance(cell, list | dict) else cell for cell in row.values()])
            count += 1
    return count


def _parquet(answer: QueryResult, limit: int | None, path: Path) -> int:
    count = 0
    schema, batches = answer.batches()
    with pq.ParquetWriter(path, schema, compression="zstd") as out:
        for batch in batches:
            part = batch if limit is None else batch.slice(0, limit - count)
            count += part.num_rows
            out.write_batch(part)
            if count == limit:
                break
    return count


WRITERS: dict[str, Callable[[QueryResult, int | None, Path], int]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".jsonl": _json_lines,
    ".json": _json,
}


def check(path: Path, workspace: Store) -> None:
    """UserError when a result cannot be written there: before anything is computed."""
    if path.suffix.lower() not in WRITERS:
        raise UserError(f"{path.name} must end in one of {', '.join(WRITERS)}, which decides the format.")
    if path.exists():
        raise UserError(f"{path} already exists; give another name, or delete it.")
    if not path.parent.is_dir():
        raise UserError(f"There is no folder {path.parent}; create it first.")
    if (workspace.root / "tables").resolve() in path.resolve().parents:
        raise UserError(f"{path} is inside the workspace's tables, where a query cannot write; choose another place.")


def write(answer: QueryResult, limit: int | None, path: Path) -> int:
    """All rows, or the first `limit`, to a file that `check` has passed; gives their number. Whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        count = WRITERS[path.suffix.lower()](answer, limit, temporary)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); choose another place.") from None
    except pa.ArrowException as error:
        raise UserError(f"{path.name} cannot hold this result ({str(error).splitlines()[0]}); use .jsonl.") from None
    finally:
        temporary.unlink(missing_ok=True)
    return count
