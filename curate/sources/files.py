"""Source: one local file of JSON Lines, JSON, Parquet, CSV or TSV, with images in its columns or in a folder."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import RowError, UserError
from curate.source_sections import FilesSource
from curate.sources import columns
from curate.sources.base import BadRow, SourceRow
from curate.sources.columns import Numbered
from curate.sources.roots import open_root

# So many records are read before the columns are checked.
_LOOK_AHEAD = 100


class Files:
    """Rows of a file, read as a stream; a line that cannot be read is one bad row, named by its number from 1."""

    def __init__(self, config: FilesSource, base: Path) -> None:
        self._config = config
        self._path = config.path if config.path.is_absolute() else base / config.path
        root = config.root if config.root is not None else self._path.parent
        at = root if root.is_absolute() else base / root
        if config.root is not None and not at.exists():
            raise UserError(
                f'Source "{config.name}": there is no image folder or archive at {config.root}; check root.'
            )
        self._root = open_root(at)
        if not self._path.is_file():
            raise UserError(f'Source "{config.name}": there is no file at {config.path}; check ingest.sources.')

    def rows(self) -> Iterator[SourceRow | BadRow]:
        """All rows, in the order of the file."""
        what = f'Source "{self._config.name}": '
        names, records = read(self._path, what)
        if names:
            columns.check(self._config, names, what + self._path.name)
        yield from columns.problems(records, self._config, self._root)


def read(path: Path, what: str = "") -> tuple[list[str], Iterator[Numbered]]:
    """The columns and the numbered records of a file; UserError when it is of no kind that is read here.

    Columns are looked for in the first records together: one JSON line may lack what others have (null).
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{what}{path.name} is none of {', '.join(READERS)}; convert it first.")
    records = reader(path)
    ahead = list(itertools.islice(records, _LOOK_AHEAD))
    names = {name: None for _, record in ahead if not isinstance(record, RowError) for name in record}
    return list(names), itertools.chain(ahead, records)


def _json_lines(path: Path) -> Iterator[Numbered]:
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


def _json(path: Path) -> Iterator[Numbered]:
    """One array of objects, held whole; or lines of them, as some name those files too."""
    try:
        whole = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError):
        yield from _json_lines(path)
        return
    for number, record in enumerate(whole if isinstance(whole, list) else [whole], start=1):
        if isinstance(record, dict):
            yield number, record
        else:
            yield number, RowError("malformed-line", f"entry {number}: a JSON object is wanted")


def _csv(path: Path, delimiter: str = ",") -> Iterator[Numbered]:
    """Rows are decoded one by one, so that a bad byte costs its row only."""
    with (
        path.open("rb") as file,
        io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as text,
    ):
        lines = csv.reader(text, delimiter=delimiter)
        header = [name.encode(errors="replace").decode() for name in next(lines, [])]
        for number in itertools.count(1):
            try:
                cells = next(lines)
            except StopIteration:
                return
            except csv.Error as error:
                yield number, RowError("malformed-line", f"row {number}: {error}")
                continue
            if not cells:
                continue
            if any("\udc80" <= char <= "\udcff" for cell in cells for char in cell):
                yield number, RowError("not-utf-8", f"row {number} has bytes that are not UTF-8")
            elif len(cells) != len(header):
                yield number, RowError("malformed-line", f"row {number} has {len(cells)} cells, not {len(header)}")
            else:
                yield number, {name: cell if cell != "" else None for name, cell in zip(header, cells, strict=True)}


def _parquet(path: Path) -> Iterator[Numbered]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for record in _records(batch):
                    number += 1
                    yield number, record
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{path.name} is no readable Parquet file ({str(error).splitlines()[0]}); get it again."
        ) from None


def _records(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | RowError]:
    """Rows of a batch; Parquet does not promise that its texts are UTF-8."""
    try:
        yield from batch.to_pylist()
        return
    except UnicodeDecodeError:
        pass
    for index in range(batch.num_rows):
        try:
            yield batch.slice(index, 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            yield RowError("not-utf-8", f"{error.reason} at byte {error.start} of a text")


READERS: dict[str, Callable[[Path], Iterator[Numbered]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
    ".csv": _csv,
    ".tsv": partial(_csv, delimiter="\t"),
}
