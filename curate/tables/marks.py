"""What a marker says of its file of rows, and whether the file is still as it was written.

A marker knows the bytes of each column and of the file's footer by their checksums, so that what is read is checked as
it is read, and nothing else. It also says where the file belongs: a copy, or a file of another workspace, is noticed.
"""

from __future__ import annotations

import os
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import UserError
from curate.runtime.durable import unsealed
from curate.tables import cures, manifests

ENDING = ".done"
_PIECE = 2**22
# A Parquet file ends in the length of its footer and four letters.
_TAIL = 8


@dataclass
class _CheckedMarker:
    """A marker as it was last read, and what of its file was checked since."""

    print: tuple[int, ...]
    record: Mapping[str, Any]
    checked: set[str] = field(default_factory=set)


_known: dict[Path, _CheckedMarker] = {}


def contents(data: pa.Buffer) -> dict[str, Any]:
    """The checksums of a whole Parquet file: `footer`, and for each column its pieces (offset, length) and `crc`."""
    view, metadata = memoryview(data), pq.read_metadata(pa.BufferReader(data))
    pieces: dict[str, list[list[int]]] = defaultdict(list)
    for group in range(metadata.num_row_groups):
        for place in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(place)
            begins = [offset for offset in (chunk.dictionary_page_offset, chunk.data_page_offset) if offset is not None]
            pieces[chunk.path_in_schema.split(".")[0]].append([min(begins), chunk.total_compressed_size])
    columns = {}
    for name, found in pieces.items():
        crc = 0
        for offset, length in found:
            crc = zlib.crc32(view[offset : offset + length], crc)
        columns[name] = {"crc": crc, "pieces": found}
    footer = int.from_bytes(view[-_TAIL:][:4], "little") + _TAIL
    return {"size": len(view), "footer": [footer, zlib.crc32(view[-footer:])], "columns": columns}


def place(path: Path, table: str, workspace: str, shards: int, version: int) -> dict[str, Any]:
    """Where a file of rows belongs."""
    return {
        "file": path.name,
        "table": table,
        "partition": path.parent.name,
        "workspace": workspace,
        "shards": shards,
        "version": version,
    }


def check_place(path: Path, wanted: Mapping[str, Any]) -> None:
    """UserError unless the marker of this file of rows can be read and says that it belongs here."""
    record = _read(path).record
    if record["workspace"] != wanted["workspace"]:
        raise UserError(f"{path} belongs to another workspace; {cures.without(path)}.")
    if record["shards"] != wanted["shards"]:
        raise UserError(
            f"workspace.json says {wanted['shards']} shards, and the tables of this workspace were written with "
            f"{record['shards']}; set it back to {record['shards']}."
        )
    for name in ("table", "partition", "file"):
        if record[name] != wanted[name]:
            origin = f"{record['table']}/{record['partition']}/{record['file']}"
            raise UserError(f"{path} is a copy of {origin}, whose rows would count twice; {cures.without(path)}.")
    there, here = record["version"], wanted["version"]
    root = path.parents[3]
    if there > here:
        raise UserError(manifests.newer(root, f"table {wanted['table']} of version {there}", f"version {here}"))
    if there < here:
        raise UserError(
            f"The table {wanted['table']} was written by an earlier release (version {there}, now {here}); run `curate "
            f"upgrade --workspace {root}`."
        )


def settings_of(path: Path) -> str | None:
    """Digest of the settings that the rows of this file were made with; null where they had none."""
    found: str | None = _read(path).record["settings"]
    return found


def check(path: Path, columns: Iterable[str]) -> None:
    """UserError unless these columns of a file of rows are as they were written; each is looked at once a process."""
    known = _read(path)
    wanted = [name for name in columns if name not in known.checked]
    if not wanted:
        return
    try:
        with path.open("rb") as file:
            sound = _sound(file.fileno(), known.record, wanted)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {cures.anew(path)}.") from None
    if not sound:
        raise UserError(f"{path} is damaged: its bytes are not those that were written; {cures.anew(path)}.")
    known.checked.update(wanted)


def _sound(file: int, record: Mapping[str, Any], columns: Iterable[str]) -> bool:
    size, (footer, crc) = record["size"], record["footer"]
    if os.fstat(file).st_size != size or _crc(file, [[size - footer, footer]]) != crc:
        return False
    parts = record["columns"]
    return all(_crc(file, parts[name]["pieces"]) == parts[name]["crc"] for name in columns if name in parts)


def _crc(file: int, pieces: Iterable[Iterable[int]]) -> int:
    crc = 0
    for offset, length in pieces:
        for start in range(offset, offset + length, _PIECE):
            crc = zlib.crc32(os.pread(file, min(_PIECE, offset + length - start), start), crc)
    return crc


def _read(path: Path) -> _CheckedMarker:
    """The marker of a file of rows; UserError where it, or the file, cannot be read."""
    marker = path.with_suffix(ENDING)
    try:
        found = [part for each in (marker, path) for part in _print(each)]
    except FileNotFoundError:
        if marker.exists():
            raise UserError(
                f"{path} is missing, although its marker says that it was written; {cures.anew(path)}."
            ) from None
        raise UserError(f"{path} was replaced while it was read; run the command again.") from None
    known = _known.get(path)
    if known is None or known.print != tuple(found):
        try:
            known = _known[path] = _CheckedMarker(tuple(found), unsealed(marker.read_bytes()))
        except (ValueError, OSError):
            raise UserError(f"{marker} is damaged; {cures.anew(path)}.") from None
    return known


def _print(path: Path) -> tuple[int, ...]:
    about = path.stat()
    return about.st_ino, about.st_size, about.st_mtime_ns
