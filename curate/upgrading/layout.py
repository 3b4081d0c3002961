"""Version 6 of a workspace's files, from before there were checksums, brought to version 7.

In version 6 a marker was `{"rows": N, "version": V}`, a lineage record had no seal, a journal did not say where it
belongs, and the workspace had no name. Rows are read to their end once, because nothing else can tell whether they are
as they were written; no row is changed here.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import UserError
from curate.runtime.durable import sealed, unsealed
from curate.tables import manifests, marks
from curate.tables.journal import line_of
from curate.tables.schema import PROBLEMS, REJECTS, ROLLOUTS, TABLES
from curate.tables.store import LINEAGE, MANIFEST, VERSION, Partition, Store, write_atomic

OLDEST = 6


def renew(root: Path) -> bool:
    """Bring the files of a workspace to today's layout; whether there was anything to do.

    UserError for a workspace of a version that is not known, or with files that are not whole. A kill at any point is
    made good by the next call.
    """
    path = root / MANIFEST
    content = _manifest(path)
    version = content["version"]
    if version == VERSION:
        return False
    if version > VERSION:
        raise UserError(manifests.newer(root, f"files of version {version}", f"version {VERSION}"))
    if version < OLDEST:
        raise UserError(
            f"The workspace {root} has files of version {version}; this release upgrades workspaces from version "
            f"{OLDEST} on. Upgrade it with an earlier release of curate-prm first."
        )
    # Its name is kept before the first marker bears it, so that a second try goes on with the same one.
    name = content.get("workspace") or os.urandom(8).hex()
    write_atomic(path, json.dumps(content | {"workspace": name}).encode())
    store = Store(root, content["shards"], name)
    _rename_rejects(store)
    for partition in every_partition(store):
        _renew_partition(partition)
    write_atomic(path, manifests.text(VERSION, store.shards, name).encode())
    return True


def every_partition(store: Store) -> Iterator[Partition]:
    """All partitions of all tables, in a fixed order."""
    for table in TABLES.values():
        yield from store.partitions(table)


def _rename_rejects(store: Store) -> None:
    """Rejects of stages were in partitions named after the stage, which a source could have been named after, too."""
    sources = {partition.folder.name for table in (PROBLEMS, ROLLOUTS) for partition in store.partitions(table)}
    for partition in store.partitions(REJECTS):
        name = partition.folder.name
        if name not in sources and not name.startswith("_"):
            partition.folder.rename(partition.folder.with_name(f"_{name}"))


def _manifest(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        sound = type(content["version"]) is int and type(content["shards"]) is int and content["shards"] > 0
    except FileNotFoundError:
        raise UserError(f"There is no workspace at {path.parent}; check --workspace.") from None
    except (OSError, ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise UserError(f"{path} is damaged; restore it from a copy.")
    return dict(content)


def _renew_partition(partition: Partition) -> None:
    record = partition.folder / LINEAGE
    if record.exists() and (plain := _unsealed(record)) is not None:
        write_atomic(record, sealed(plain))
    for marker in sorted(partition.folder.glob(f"part-*{marks.ENDING}")):
        _renew_marker(partition, marker)
    for path in sorted(partition.folder.glob("part-*.journal")):
        _renew_journal(partition, path)


def _unsealed(path: Path) -> dict[str, Any] | None:
    """A record without a seal; null where it has one. UserError where it is no record."""
    try:
        unsealed(path.read_bytes())
        return None
    except ValueError:
        pass
    try:
        plain = json.loads(path.read_bytes())
    except ValueError:
        plain = None
    if not isinstance(plain, dict) or "seal" in plain:
        raise UserError(f"{path} is damaged; restore it from a copy, then run `curate upgrade` again.")
    return plain


def _renew_marker(partition: Partition, marker: Path) -> None:
    about = _unsealed(marker)
    if about is None:
        return
    path = marker.with_suffix(".parquet")
    try:
        data = path.read_bytes()
        rows = pq.read_table(pa.BufferReader(data)).num_rows
    except (OSError, pa.ArrowException):
        rows = None
    if rows is None or rows != about.get("rows") or type(about.get("version")) is not int:
        raise UserError(
            f"{path} is damaged: it does not hold what its marker says; restore it from a copy, then run `curate "
            "upgrade` again."
        )
    place = partition.mark(path) | {"version": about["version"]}
    contents = {"rows": rows, "settings": partition.settings()} | marks.contents(pa.py_buffer(data))
    write_atomic(marker, sealed(place | contents))


def _renew_journal(partition: Partition, path: Path) -> None:
    """The head of a journal says which version its rows are of; the rows stay as they are."""
    lines = []
    with path.open("rb") as file:
        for line in file:
            check, _, body = line.rstrip(b"\n").partition(b" ")
            if not line.endswith(b"\n") or check != b"%08x" % zlib.crc32(body):
                # A torn tail is work that is still pending.
                break
            lines.append(line)
    if lines and lines[0].partition(b" ")[2][:1] == b"{":
        return
    head = partition.mark(path) | {"settings": partition.settings(), "version": _JOURNALLED[partition.table.name]}
    write_atomic(path, line_of(head) + b"".join(lines))


# The versions that the tables with journals had in version 6 of the files.
_JOURNALLED = {"rollouts": 3, "completions": 2, "judgements": 1}
