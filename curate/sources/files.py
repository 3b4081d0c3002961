"""Source: one local file of JSON Lines, Parquet or CSV, with images in its columns or in a folder."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from curate.config import FilesSource
from curate.errors import RowError, UserError
from curate.sources import columns
from curate.sources.base import BadRow, SourceRow

Record = tuple[int, dict[str, Any] | RowError]


class Files:
    """Rows of a file, read as a stream; a line that cannot be read is one bad row, named by its number from 1."""

    def __init__(self, config: FilesSource, base: Path) -> None:
        self._config = config
        self._path = config.path if config.path.is_absolute() else base / config.path
        root = config.root if config.root is not None else self._path.parent
        self._root = root if root.is_absolute() else base / root
        if not self._path.is_file():
            raise UserError(f'Source "{config.name}": there is no file at {config.path}; check ingest.sources.')

    def rows(self) -> Iterator[SourceRow | BadRow]:
        """All rows, in the order of the file."""
        readers = {".jsonl": _json_lines, ".ndjson": _json_lines, ".parquet": _parquet, ".csv": _csv}
        reader = readers.get(self._path.suffix.lower())
        if reader is None:
            raise UserError(
                f'Source "{self._config.name}": {self._path.name} is none of {", ".join(readers)}; convert it first.'
            )
        checked = False
        for number, record in reader(self._path):
            if self._config.limit is not None and number > self._config.limit:
                return
            if isinstance(record, RowError):
                yield BadRow(str(number), record)
                continue
            if not checked:
                self._check(record)
                checked = True
            yield columns.row(record, self._config.columns, number, self._root)

    def _check(self, record: dict[str, Any]) -> None:
        """Columns are looked for once, in the first readable record: later ones may lack some (null)."""
        columns.check(self._config.columns, record, f'Source "{self._config.name}": {self._path.name}')


def _json_lines(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                yield number, RowError("not-utf-8", f"line {number}: {error.reason} at byte {error.start}")
            except (ValueError, RecursionError) as error:
                yield number, RowError("malformed-line", f"line {number}: {error}"[:300])
            else:
                if isinstance(record, dict):
                    yield number, record
                else:
                    yield number, RowError("malformed-line", f"line {number}: a JSON object is wanted")


def _csv(path: Path) -> Iterator[Record]:
    """Rows are decoded one by one, so that a bad byte costs its row only."""
    with path.open("rb") as file:
        header = next(csv.reader([file.readline().decode("utf-8-sig", errors="replace")]), [])
        text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        for number, cells in enumerate(csv.reader(text), start=1):
            if not cells:
                continue
            if any("\udc80" <= char <= "\udcff" for cell in cells for char in cell):
                yield number, RowError("not-utf-8", f"row {number} has bytes that are not UTF-8")
            elif len(cells) != len(header):
                yield number, RowError("malformed-line", f"row {number} has {len(cells)} cells, not {len(header)}")
            else:
                yield number, {name: cell if cell != "" else None for name, cell in zip(header, cells, strict=True)}


def _parquet(path: Path) -> Iterator[Record]:
    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=256):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    except OSError as error:
        raise UserError(
            f"{path.name} is no readable Parquet file ({str(error).splitlines()[0]}); get it again."
        ) from None
