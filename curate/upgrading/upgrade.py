"""A workspace of an earlier release brought up to date, table by table.

Nothing is deleted, and no row is lost: a file of rows is written anew beside itself and renamed into its place. A kill
at any point is made good by running it again, which goes on where it stood.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate import graders
from curate.errors import UserError
from curate.runtime.durable import unsealed
from curate.runtime.reporter import Reporter
from curate.stages.base import resume
from curate.tables import catalog, lineage, lock, manifests, marks, rewriting
from curate.tables.journal import line_of
from curate.tables.rows import rows_of, whole
from curate.tables.schema import COMPLETIONS, PROBLEMS, ROLLOUTS
from curate.tables.store import Partition, Store, write_atomic
from curate.upgrading import layout, migrations, regrading, settings
from curate.upgrading.migrations import MigrationContext
from curate.upgrading.regrading import Regraded


@dataclass(frozen=True)
class Migrated:
    """A partition whose rows have today's columns now."""

    table: str
    partition: str
    from_version: int
    to_version: int
    rows: int


@dataclass
class UpgradeResult:
    """What an upgrade did; nothing where the workspace was up to date."""

    layout: bool = False
    """Whether files got checksums and a place to belong to."""
    migrated: list[Migrated] = field(default_factory=list)
    regraded: dict[str, Regraded] = field(default_factory=dict)
    """By table/partition."""
    settings: int = 0
    """Lineage records whose settings are written as this release writes them."""

    @property
    def changed(self) -> bool:
        """Whether anything was to do."""
        return self.layout or bool(self.migrated) or bool(self.regraded) or self.settings > 0


def run(root: Path, reporter: Reporter) -> UpgradeResult:
    """Upgrade the workspace at `root`; UserError where it is of a later release, too old, or damaged."""
    if not root.is_dir():
        raise UserError(f"There is no workspace at {root}; check --workspace.")
    result = UpgradeResult()
    with lock.writing(root):
        result.layout = layout.renew(root)
        store = Store.open(root, create=True)
        # Before anything is changed: a table that cannot be upgraded stops all.
        older = list(_older(store))
        who = _who(store) if older else {}
        reporter.start("upgrade", len(older), "partitions")
        for partition, versions in older:
            result.migrated.append(_migrate(partition, versions, who))
            reporter.advance(1, partition.table.name)
        reporter.finish()
        _regrade(store, result)
        result.settings = sum(map(settings.renew, layout.every_partition(store)))
        if result.changed:
            catalog.write(store)
    return result


def _older(store: Store) -> Iterator[tuple[Partition, Mapping[Path, int]]]:
    """Partitions with rows of an older version, with the versions of those files; UserError for a later version."""
    for partition in layout.every_partition(store):
        # What a kill left of an earlier try.
        rewriting.finish(partition)
        found = dict(_versions(partition))
        for version in found.values():
            if version > partition.table.version:
                there = f"table {partition.table.name} of version {version}"
                raise UserError(manifests.newer(store.root, there, f"version {partition.table.version}"))
            migrations.check(partition.table, version)
        older = {path: version for path, version in found.items() if version < partition.table.version}
        if older:
            yield partition, older


def _versions(partition: Partition) -> Iterator[tuple[Path, int]]:
    for marker in sorted(partition.folder.glob(f"part-*{marks.ENDING}")):
        try:
            yield marker.with_suffix(".parquet"), int(unsealed(marker.read_bytes())["version"])
        except (ValueError, KeyError, OSError):
            raise UserError(f"{marker} is damaged; restore it from a copy, then run `curate upgrade` again.") from None
    for shard in partition.journals():
        journal = partition.journal(shard)
        head, _ = journal.units()
        if head:
            yield journal.path, int(head["version"])


def _who(store: Store) -> dict[str, Any]:
    """Problems by the names of their rows, and rollouts by their problems and indices, for `MigrationContext`."""
    source_rows, rollouts = dict[str, str](), dict[tuple[str, int], str]()
    for partition in store.partitions(PROBLEMS):
        for table in _columns(partition, ["problem_id", "source_row"]):
            source_rows |= zip(*(column.to_pylist() for column in table.columns), strict=True)
    for partition in store.partitions(ROLLOUTS):
        for table in _columns(partition, ["problem_id", "sample_index", "rollout_id"]):
            for problem, index, name in zip(*(column.to_pylist() for column in table.columns), strict=True):
                rollouts[problem, index] = name
    return {"source_rows": source_rows, "rollouts": rollouts}


def _columns(partition: Partition, names: list[str]) -> Iterator[pa.Table]:
    """These columns of the partition's files, of whatever version."""
    for marker in sorted(partition.folder.glob(f"part-*{marks.ENDING}")):
        yield _read(marker.with_suffix(".parquet"), names)


def _read(path: Path, names: list[str] | None = None) -> pa.Table:
    """A file of rows with the columns that it has; UserError where it is not as it was written."""
    try:
        table = pq.ParquetFile(path, pre_buffer=False).read(names)
    except (OSError, pa.ArrowException):
        raise UserError(f"{path} is damaged; restore it from a copy, then run `curate upgrade` again.") from None
    marks.check(path, table.schema.names)
    return table


def _migrate(partition: Partition, versions: Mapping[Path, int], who: Mapping[str, Any]) -> Migrated:
    table, rows = partition.table, 0
    context = MigrationContext(settings=(lineage.read(partition) or {}).get("config") or {}, **who)
    for path, version in versions.items():
        if path.suffix == ".journal":
            _migrate_journal(partition, path, version, context)
            continue
        data = migrations.migrated(table, version, _read(path), context)
        rewriting.rewrite(partition, path, rows_of(whole(table), data), marks.settings_of(path))
        rows += data.num_rows
    return Migrated(table.name, partition.folder.name, min(versions.values()), table.version, rows)


def _migrate_journal(partition: Partition, path: Path, version: int, context: MigrationContext) -> None:
    """The rows of an unfinished shard; they are committed when the stage goes on."""
    table = partition.table
    head, units = partition.journal(int(path.name[5:10])).units()
    lines = [line_of(head | {"version": table.version})]
    for unit in units:
        known = [each for each in table.schema if each.name in unit[0]] if unit else []
        data = migrations.migrated(table, version, pa.Table.from_pylist(unit, pa.schema(known)), context)
        lines.append(line_of(data.to_pylist()))
    write_atomic(path, b"".join(lines))


def _regrade(store: Store, result: UpgradeResult) -> None:
    """Rows that were graded by an earlier version of the rules."""
    for table, grade in ((ROLLOUTS, regrading.rollouts), (COMPLETIONS, regrading.completions)):
        for partition in store.partitions(table):
            config = (lineage.read(partition) or {}).get("config") or {}
            if config.get("answers") == graders.VERSION or "max_steps" not in config:
                continue
            resume(partition)
            result.regraded[f"{table.name}/{partition.folder.name}"] = grade(
                store, partition, regrading.words_of(config)
            )
