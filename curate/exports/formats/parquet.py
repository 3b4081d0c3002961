"""Parquet shards by split, named as the hub names them, for formats that `datasets` loads."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curate.exports.base import ExportRecord

# A file is closed when it holds so many bytes of images and texts: below the hub's advice of about half a gigabyte.
SHARD_BYTES = 384 * 2**20
# Few rows a group, so that readers of rows with images stay small.
GROUP_ROWS, GROUP_BYTES = 100, 32 * 2**20


def size_of(value: object) -> int:
    """Rough size of a value in bytes."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(size_of, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(size_of, value))
    return 8


class Split:
    """The shards of one split; they get their names when their number is known."""

    def __init__(self, folder: Path, name: str, schema: pa.Schema, shard_bytes: int) -> None:
        self.name, self._folder, self._schema, self._shard_bytes = name, folder, schema, shard_bytes
        self._paths: list[Path] = []
        self._writer: pq.ParquetWriter | None = None
        self._rows: list[ExportRecord] = []
        self._held = self._size = 0

    def add(self, row: ExportRecord) -> None:
        """Write a row; its group is written when it is full."""
        size = size_of(row)
        self._rows.append(row)
        self._held, self._size = self._held + size, self._size + size
        if len(self._rows) >= GROUP_ROWS or self._held >= GROUP_BYTES:
            self._flush()
        if self._size >= self._shard_bytes:
            self._end()

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            self._paths.append(self._folder / f"{self.name}-{len(self._paths):05d}.part")
            self._writer = pq.ParquetWriter(self._paths[-1], self._schema, compression="zstd")
        self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows, self._held = [], 0

    def _end(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()
        self._writer, self._size = None, 0

    def close(self) -> None:
        """Write what is left and name the files."""
        self._end()
        for number, path in enumerate(self._paths):
            path.rename(path.with_name(f"{self.name}-{number:05d}-of-{len(self._paths):05d}.parquet"))


class ParquetShards:
    """The splits of an export, in its folder `data`."""

    def __init__(self, folder: Path, schema: pa.Schema, shard_bytes: int = SHARD_BYTES) -> None:
        self._folder, self._schema, self._shard_bytes = folder / "data", schema, shard_bytes
        self._splits: dict[str, Split] = {}

    def add(self, split: str, row: ExportRecord) -> None:
        """Write a row of a split."""
        if split not in self._splits:
            self._folder.mkdir(exist_ok=True)
            self._splits[split] = Split(self._folder, split, self._schema, self._shard_bytes)
        self._splits[split].add(row)

    def close(self) -> dict[str, str]:
        """Finish all files; their patterns by split."""
        for split in self._splits.values():
            split.close()
        return {name: f"data/{name}-*.parquet" for name in sorted(self._splits)}
