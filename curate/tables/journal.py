"""Journals: finished work of a shard on its way to a committed file, durable line by line."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from curate.errors import UserError
from curate.runtime.durable import cannot_write
from curate.tables.rows import Row, column_names


class Journal:
    """Append-only file of finished work, one checksummed JSON line per unit; a torn last line is work still pending.

    The first line says where the journal belongs (`head`). A line that was damaged later is passed over.
    """

    def __init__(self, path: Path, head: Mapping[str, Any], kind: type[Row]) -> None:
        """`kind` is the class of the table's rows."""
        self.path, self.head, self.kind = path, dict(head), kind
        self._file: IO[bytes] | None = None
        self._dirty = False

    def append(self, rows: Sequence[Row]) -> None:
        """Queue the rows of one finished unit; all of them or none survive a crash. Durable after `sync`."""
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._heal()
                self._file = self.path.open("ab")
                if self._file.tell() == 0:
                    self._file.write(line_of(self.head))
            columns = column_names(self.kind)
            self._file.write(line_of([{name: getattr(row, name) for name in columns} for row in rows]))
            self._dirty = True
        except OSError as error:
            raise UserError(cannot_write(self.path, error)) from None

    def sync(self) -> None:
        """Make what was appended durable."""
        if self._file is None or not self._dirty:
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._dirty = False
        except OSError as error:
            raise UserError(cannot_write(self.path, error)) from None

    def _lines(self) -> Iterator[Any]:
        """What whole lines hold."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            for line in file:
                head, _, body = line.rstrip(b"\n").partition(b" ")
                if line.endswith(b"\n") and head == b"%08x" % zlib.crc32(body):
                    yield json.loads(body)

    def _heal(self) -> None:
        """Cut a torn tail, so that the next line does not join it."""
        if self.path.is_file():
            data = self.path.read_bytes()
            end = data.rfind(b"\n") + 1
            if end < len(data):
                os.truncate(self.path, end)

    def units(self) -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
        """(head, rows of each unit) as they were written, of whatever version; an empty head where there is none."""
        lines = self._lines()
        head = next(lines, None)
        return (head, list(lines)) if isinstance(head, dict) else ({}, [])

    def rows(self) -> list[Row]:
        """All rows of whole lines; UserError where the journal was written for another place, or its head is gone."""
        if self._file is not None:
            try:
                self._file.flush()
            except OSError as error:
                raise UserError(cannot_write(self.path, error)) from None
        lines = self._lines()
        first = next(lines, None)
        if first is None:
            return []
        self._check(first)
        return [self.kind(**row) for rows in lines for row in rows]

    def _check(self, first: Any) -> None:
        if not isinstance(first, dict):
            raise UserError(f"{self.path} is damaged: its first line is gone; delete it and run the command again.")
        # What is null is not known.
        other = [name for name, here in self.head.items() if here is not None and first.get(name) not in (None, here)]
        if other:
            raise UserError(
                f"{self.path} was written for another place ({other[0]} {first.get(other[0])}, here "
                f"{self.head[other[0]]}); delete it and run the command again."
            )

    def settings(self) -> str | None:
        """Digest of the settings that its rows are made with; null where none are known."""
        first = next(self._lines(), None)
        return first.get("settings") if isinstance(first, dict) else None

    def close(self) -> None:
        """Sync and close; the file stays."""
        if self._file is not None:
            try:
                self.sync()
            finally:
                self._drop()

    def remove(self) -> None:
        """Close and delete; call after the rows were committed."""
        self._drop()
        self.path.unlink(missing_ok=True)

    def _drop(self) -> None:
        """Close without a word: what could not be written was said by `sync`."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


def line_of(content: Any) -> bytes:
    """A line of a journal: the checksum and the JSON of what it holds."""
    body = json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)
