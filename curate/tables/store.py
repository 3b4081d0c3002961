"""The workspace: tables of Parquet shards that never lose a row.

    <workspace>/workspace.json                      number of shards, fixed when the workspace is made
    <workspace>/writer.lock                         held by the one command that writes, see `curate.tables.lock`
    <workspace>/tables/<table>/<partition>/
        part-00003-0001.parquet                     rows, written under a temporary name, synced, renamed
        part-00003-0001.done                        marker, written last: only marked files exist for readers
        part-00003.journal                          finished work of a shard that is not committed yet
        lineage.json                                what the partition was made from
    <workspace>/tables/.staging/<table>/            a partition on its way to replace another one whole

A row goes to the shard of its problem. A shard is one or more numbered files, so that later work adds to it without
rewriting what is there. What is pending is decided by keys (expected minus present), never by counting files: a killed
run, a changed number of workers and added problems are all the same case.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curate.errors import UserError
from curate.runtime.durable import cannot_write, sealed, sync_folder, unsealed
from curate.seeds import shard_of
from curate.tables import all_tables, lock, manifests, marks
from curate.tables.journal import Journal
from curate.tables.rows import R, Row, column_names, rows_of, table_of, whole
from curate.tables.schema import Table

DEFAULT_SHARDS = 16
# Files are read together up to so many bytes.
_READ_BYTES = 4 * 2**20
# The partition of a stage's own output; others are named after sources.
MAIN = "main"
MANIFEST = "workspace.json"
# In every partition that has settings, see `curate.tables.lineage`.
LINEAGE = "lineage.json"
# Of the tables together: a change of any table's columns is a new one.
VERSION = 7
_PART = re.compile(r"part-(\d{5})-(\d{4})\.parquet")


def write_atomic(path: Path, data: bytes, alone: bool = True) -> None:
    """Write `data` so that a reader sees the old file, or the new one, whole; also after a crash.

    `alone` is false where no lock keeps another process from writing the same file at the same time.
    """
    temporary = path.with_name(path.name + (".tmp" if alone else f".{os.getpid()}.tmp"))
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(cannot_write(path, error)) from None


class Partition:
    """One folder of a table, with one lineage: a source of `problems`, or `main` for a stage's output."""

    def __init__(self, folder: Path, table: Table, shards: int, workspace: str) -> None:
        self.folder, self.table, self.shards, self.workspace = folder, table, shards, workspace

    def files(self, shard: int | None = None) -> list[Path]:
        """Committed files, in order; of one shard or of all. UserError for one that does not belong here."""
        found = []
        for marker in sorted(self.folder.glob("part-*.done")):
            path = marker.with_suffix(".parquet")
            match = _PART.fullmatch(path.name)
            if match and (shard is None or int(match[1]) == shard):
                marks.check_place(path, self.mark(path))
                found.append(path)
        return found

    def sound_files(self) -> list[Path]:
        """Committed files that are whole and belong here, without those that are damaged: for who is to delete all."""
        found = []
        for marker in sorted(self.folder.glob("part-*.done")):
            path = marker.with_suffix(".parquet")
            with contextlib.suppress(UserError):
                marks.check_place(path, self.mark(path))
                marks.check(path, self.table.schema.names)
                found.append(path)
        return found

    def whole(self) -> bool:
        """Whether all its files, and its record where it has one, are as they were written."""
        record = self.folder / LINEAGE
        try:
            sound = not record.exists() or bool(unsealed(record.read_bytes()))
        except (OSError, ValueError):
            return False
        return sound and len(self.sound_files()) == len(list(self.folder.glob("part-*.done")))

    def mark(self, path: Path) -> dict[str, Any]:
        """Where a file of this partition belongs, as its marker says."""
        about = marks.place(path, self.table.name, self.workspace, self.shards, self.table.version)
        return about | {"tables": VERSION}

    def settings(self) -> str | None:
        """Digest of the settings of the partition's lineage record; null without one."""
        try:
            found = json.loads((self.folder / LINEAGE).read_bytes())["digest"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if isinstance(found, str) else None

    def made_with(self) -> set[str | None]:
        """Digests of the settings that its rows were made with, as its files and journals say."""
        found = {marks.settings_of(path) for path in self.files()}
        return found | {self.journal(shard).settings() for shard in self.journals()}

    def read(self, columns: Sequence[str] | None = None, shard: int | None = None) -> pa.Table:
        """Committed rows."""
        return _read(self.files(shard), self.table, columns)

    def rows(self, kind: type[R], shard: int | None = None) -> Iterator[R]:
        """Committed rows as objects of a class with `columns_of`."""
        return rows_of(kind, self.read(column_names(kind), shard))

    def keys(self, shard: int | None = None) -> set[tuple[Any, ...]]:
        """Keys of the committed rows."""
        return {key for keys in self.keys_by_file(shard) for key in keys}

    def keys_by_file(self, shard: int | None = None) -> Iterator[list[tuple[Any, ...]]]:
        """The keys of the committed rows, a file at a time."""
        for path in self.files(shard):
            table = _read([path], self.table, self.table.key)
            yield list(zip(*(table[column].to_pylist() for column in self.table.key), strict=True))

    def journal(self, shard: int) -> Journal:
        """The journal of a shard; its rows are not in `read` until they are committed."""
        path = self.folder / f"part-{shard:05d}.journal"
        return Journal(path, self.mark(path) | {"settings": self.settings()}, whole(self.table))

    def journals(self) -> list[int]:
        """Shards that have a journal: work of a run that did not come to its commit."""
        return sorted(int(path.name[5:10]) for path in self.folder.glob("part-*.journal"))

    def commit(self, shard: int, rows: Iterable[Row]) -> int:
        """Add rows to a shard as one new file, atomically; returns how many. Keys must be new (ValueError)."""
        return Writer(self).commit(shard, rows)

    def commit_all(self, rows: Iterable[Row]) -> int:
        """Add rows, each to its own shard."""
        return Writer(self).commit_all(rows)

    def clear(self) -> None:
        """Delete the partition. Markers go first: a crash in between leaves nothing half visible."""
        for marker in self.folder.glob("part-*.done"):
            marker.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)

    def take_over(self, staged: Partition) -> None:
        """Put all of `staged` (see `Store.staging`) in place of what is here.

        A crash leaves the old rows, no row and no lineage, or the new rows: never some of them, never both.
        """
        self.clear()
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            staged.folder.rename(self.folder)
            sync_folder(self.folder.parent)
        except OSError as error:
            raise UserError(cannot_write(self.folder, error)) from None


class Writer:
    """Adds chunk after chunk to a partition that nobody else writes to meanwhile.

    What is there is looked up once a shard, and then remembered in 8 bytes a key, so that many chunks cost no more than
    their rows.
    """

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self._known: dict[int, NDArray[np.int64]] = {}
        self._next: dict[int, int] = {}

    def commit(self, shard: int, rows: Iterable[Row]) -> int:
        """Add rows to a shard as one new file, atomically; returns how many. Keys must be new (ValueError)."""
        table = self.partition.table
        rows = sorted(rows, key=table.key_of)
        if not rows:
            return 0
        self._check_new([table.key_of(row) for row in rows], shard)
        self.partition.folder.mkdir(parents=True, exist_ok=True)
        number = self._next[shard]
        path = self.partition.folder / f"part-{shard:05d}-{number:04d}.parquet"
        sink = pa.BufferOutputStream()
        pq.write_table(table.to_arrow(rows), sink, compression="zstd", row_group_size=table.row_group)
        data = sink.getvalue()
        about = {"rows": len(rows), "settings": self.partition.settings()} | marks.contents(data)
        write_atomic(path, data)
        write_atomic(path.with_suffix(marks.ENDING), sealed(self.partition.mark(path) | about))
        self._next[shard] = number + 1
        return len(rows)

    def new(self, shard: int, rows: Sequence[R]) -> list[R]:
        """Those of the rows whose keys are not there."""
        keys = [self.partition.table.key_of(row) for row in rows]
        there = self._there(keys, shard)
        return [row for row, key in zip(rows, keys, strict=True) if key not in there]

    def commit_all(self, rows: Iterable[Row]) -> int:
        """Add rows, each to its own shard."""
        shards: dict[int, list[Row]] = {}
        for row in rows:
            key = shard_of(self.partition.table.shard_key(row), self.partition.shards)
            shards.setdefault(key, []).append(row)
        return sum(self.commit(shard, part) for shard, part in sorted(shards.items()))

    def _check_new(self, keys: Sequence[tuple[Any, ...]], shard: int) -> None:
        if self._there(keys, shard) or len(set(keys)) < len(keys):
            raise ValueError(f"table {self.partition.table.name}, shard {shard}: a key is committed twice")
        self._known[shard] = np.concatenate([self._known[shard], _prints(keys)])

    def _there(self, keys: Sequence[tuple[Any, ...]], shard: int) -> set[tuple[Any, ...]]:
        """Which of the keys are committed."""
        if shard not in self._known:
            taken = [int(_PART.fullmatch(path.name)[2]) for path in self.partition.files(shard)]  # type: ignore[index]
            self._next[shard] = max(taken, default=-1) + 1
            found = [_prints(each) for each in self.partition.keys_by_file(shard)]
            self._known[shard] = np.concatenate([np.empty(0, np.int64), *found])
        # Two keys may share a print; only then is it worth reading them again.
        if not np.isin(_prints(keys), self._known[shard]).any():
            return set()
        wanted = set(keys)
        return {key for each in self.partition.keys_by_file(shard) for key in each if key in wanted}


def _prints(keys: Iterable[tuple[Any, ...]]) -> NDArray[np.int64]:
    return np.fromiter((hash(key) for key in keys), np.int64)


class CommittedFiles:
    """Committed files of a table as they are at one moment, to be read in pieces.

    What a file's footer says is kept, so that a range of a column that the file does not reach into costs nothing.
    """

    def __init__(self, paths: Sequence[Path], table: Table) -> None:
        self._paths, self._table = list(paths), table
        names = [str(path) for path in paths]
        self._data = pads.dataset(names, schema=table.schema, format="parquet") if names else None

    def rows(self, kind: type[R], where: Any = None) -> Iterator[R]:
        """Their rows as objects of a class with `columns_of`."""
        return rows_of(kind, self.read(column_names(kind), where))

    def read(self, columns: Sequence[str] | None = None, where: Any = None) -> pa.Table:
        """Their rows; `where` is a `pyarrow.dataset` expression. UserError where a file is not as it was written."""
        schema = self._table.schema
        names = list(columns) if columns is not None else schema.names
        if self._data is None:
            return pa.schema([schema.field(name) for name in names]).empty_table()
        asked = "" if where is None else str(where)
        looked = {*names, *(name for name in schema.names if name in asked)}
        for path in self._paths:
            marks.check(path, looked)
        try:
            return self._data.to_table(columns=names, filter=where)
        except FileNotFoundError:
            raise UserError(f"{self._paths[0].parent} was replaced while it was read; run the command again.") from None


def _make(root: Path) -> None:
    try:
        (root / "tables").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(cannot_write(root, error)) from None
    with lock.writing(root):
        if not (root / MANIFEST).exists():
            write_atomic(root / MANIFEST, manifests.text(VERSION, DEFAULT_SHARDS, os.urandom(8).hex()).encode())


class Store:
    """A workspace folder; see the module's text for what lies in it."""

    def __init__(self, root: Path, shards: int, identity: str) -> None:
        self.root, self.shards, self.identity = root, shards, identity

    @classmethod
    def open(cls, root: Path, create: bool = True) -> Store:
        """Open, or make, the workspace at `root`; UserError where it is not there, not whole, or cannot be written."""
        manifest = root / MANIFEST
        if not manifest.exists():
            if (held := manifests.remembered(root)) is not None:
                raise UserError(f"{manifest} is missing; write it again, with this text: {held}")
            if not create:
                raise UserError(f"There is no workspace at {root}; run `curate ingest` first, or give --workspace.")
            _make(root)
        if create and not os.access(root, os.W_OK):
            raise UserError(f"The workspace {root} is not writable; choose another --workspace.")
        shards, identity = manifests.read(manifest, VERSION)
        return cls(root, shards, identity)

    def writing(self) -> AbstractContextManager[None]:
        """Around all that a command writes, see `curate.tables.lock`; UserError when another command writes."""
        return lock.writing(self.root)

    def share(self) -> lock.Share:
        """The right to write, for a process that this command starts."""
        return lock.Share(self.root)

    def partition(self, table: Table, name: str = MAIN) -> Partition:
        """A partition of a table, whether or not it has files yet."""
        return Partition(self.root / "tables" / table.name / name, table, self.shards, self.identity)

    def staging(self, table: Table) -> Partition:
        """Where rows are written that are to replace `main` all at once; no reader looks there."""
        return Partition(self.root / "tables" / ".staging" / table.name / MAIN, table, self.shards, self.identity)

    def partitions(self, table: Table) -> list[Partition]:
        """The partitions of a table that exist, by name."""
        folder = self.root / "tables" / table.name
        return [self.partition(table, path.name) for path in sorted(folder.glob("*")) if path.is_dir()]

    def files(self, table: Table) -> list[Path]:
        """Committed files of a table, over all its partitions."""
        return [path for partition in self.partitions(table) for path in partition.files()]

    def read(self, table: Table, columns: Sequence[str] | None = None, where: Any = None) -> pa.Table:
        """Committed rows of a table; `where` is a `pyarrow.dataset` expression."""
        return _read(self.files(table), table, columns, where)

    def shard(self, table: Table, shard: int, besides: str | None = None) -> CommittedFiles:
        """The committed files of one shard of a table, over all its partitions but `besides`."""
        taken = [partition for partition in self.partitions(table) if partition.folder.name != besides]
        return CommittedFiles([path for partition in taken for path in partition.files(shard)], table)

    def batches(
        self, table: Table, columns: Sequence[str], shard: int | None = None, where: Any = None, size: int = 1000
    ) -> Iterator[pa.RecordBatch]:
        """Read a few rows at a time, in memory that does not grow with the table; of one shard or of all."""
        files = [path for partition in self.partitions(table) for path in partition.files(shard)]
        # So many at once that small files are not opened one by one, and no more than fit in memory.
        for group in _grouped(files, _READ_BYTES):
            yield from _read(group, table, columns, where).to_batches(max_chunksize=size)

    def rows(self, kind: type[R], where: Any = None, shard: int | None = None) -> Iterator[R]:
        """Committed rows as objects of a class with `columns_of`, a few at a time; of one shard or of all."""
        for batch in self.batches(table_of(kind), column_names(kind), shard, where):
            yield from rows_of(kind, batch)

    def tables(self) -> Mapping[str, Table]:
        """Tables that have at least one committed file."""
        return {name: table for name, table in all_tables().items() if self.files(table)}


def among(column: str, values: Sequence[str]) -> Any:
    """Expression for `where`: the column is one of these; an empty list has no type of its own, so it is given one."""
    return pads.field(column).isin(pa.array(values, pa.string()))


def _grouped(files: Sequence[Path], size: int) -> Iterator[list[Path]]:
    """The files in order, in groups of at most `size` bytes; a larger one is a group of its own."""
    group, held = list[Path](), 0
    for path in files:
        each = path.stat().st_size
        if group and held + each > size:
            yield group
            group, held = [], 0
        group.append(path)
        held += each
    if group:
        yield group


def read_file(path: Path, table: Table, columns: Sequence[str], where: Any = None) -> pa.Table:
    """These columns of one committed file."""
    return _read([path], table, columns, where)


def _read(files: Sequence[Path], table: Table, columns: Sequence[str] | None, where: Any = None) -> pa.Table:
    return CommittedFiles(files, table).read(columns, where)
