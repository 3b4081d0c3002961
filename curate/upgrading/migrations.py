"""What became of each table's columns from one version to the next: functions on Arrow tables.

A version of a table is migrated to the next, and that one to the one after, until it is today's. A change of a table's
columns in `curate.tables.schema` takes a new version there and an entry here. Values that older rows held inside of
texts are put into columns of their own where they can be told for certain, else the column is null.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from curate.errors import UserError
from curate.tables.schema import Table


@dataclass(frozen=True)
class MigrationContext:
    """What a migration may know besides the rows: of the partition its settings, and of the workspace who is who."""

    settings: Mapping[str, Any]
    """The configuration in the partition's lineage record; empty where it has none."""
    source_rows: Mapping[str, str] = field(default_factory=dict)
    """Problem -> the name of its row in its source."""
    rollouts: Mapping[tuple[str, int], str] = field(default_factory=dict)
    """(problem, sample index) -> rollout."""


Migration = Callable[[pa.Table, MigrationContext], pa.Table]


def _null(*columns: str) -> Migration:
    """Columns that are null in older rows."""

    def migrate(rows: pa.Table, _context: MigrationContext) -> pa.Table:
        for name in columns:
            rows = rows.append_column(name, pa.nulls(rows.num_rows))
        return rows

    return migrate


def _as_it_is(rows: pa.Table, _context: MigrationContext) -> pa.Table:
    """More columns may be null than before; older rows have values in them."""
    return rows


# Stages that named the sample behind the row, and label the step behind that. A harvested completion of a rollout
# ended in ".<step>.<sample>".
_OF_SAMPLES = frozenset({"label", "judge", "shard", "train", "score"})
_PLACE = re.compile(r"/(\d+)(?:/(\d+)|(\.\d+\.\d+))?")


def _place_rejects(rows: pa.Table, context: MigrationContext) -> pa.Table:
    """`rollout_id` and `step_index` stood behind the name of the row."""
    rollouts, steps = list[str | None](), list[int | None]()
    for stage, problem, name in zip(
        *(rows[each].to_pylist() for each in ("stage", "problem_id", "source_row")), strict=True
    ):
        rollout, step = (None, None) if stage not in _OF_SAMPLES else _placed(problem, name, context)
        rollouts.append(rollout)
        steps.append(step)
    found = rows.append_column("rollout_id", pa.array(rollouts, pa.string()))
    return found.append_column("step_index", pa.array(steps, pa.int64()))


def _placed(problem: str | None, name: str, context: MigrationContext) -> tuple[str | None, int | None]:
    # A problem that is gone was named "?".
    head = context.source_rows.get(problem or "", "?")
    match = _PLACE.fullmatch(name.removeprefix(head)) if name.startswith(head) else None
    rollout = context.rollouts.get((problem or "", int(match[1]))) if match is not None else None
    if match is None or rollout is None:
        return None, None
    return rollout + (match[3] or ""), None if match[2] is None else int(match[2])


def _name_upper_rule(rows: pa.Table, context: MigrationContext) -> pa.Table:
    """`upper_rule` stood in the lineage record only."""
    rule = (context.settings.get("upper") or {}).get("rule")
    return rows.append_column("upper_rule", pa.array([rule] * rows.num_rows, pa.string()))


MIGRATIONS: dict[tuple[str, int], Migration] = {
    ("rollouts", 3): _null("reasoning"),
    ("completions", 2): _null("reasoning"),
    ("step_labels", 2): _as_it_is,
    ("judgements", 1): _as_it_is,
    ("rejects", 1): _place_rejects,
    ("updates", 3): _name_upper_rule,
}
"""(table, version) -> what makes the next version of it."""


def check(table: Table, version: int) -> None:
    """UserError unless rows of this version of a table can become today's."""
    missing = [each for each in range(version, table.version) if (table.name, each) not in MIGRATIONS]
    if missing:
        raise UserError(
            f"The table {table.name} has rows of version {version}, which this release cannot read any more (it reads "
            f"from version {missing[-1] + 1} on); upgrade the workspace with an earlier release of curate-prm first."
        )


def migrated(table: Table, version: int, rows: pa.Table, context: MigrationContext) -> pa.Table:
    """Rows of an older version as rows of today's, in the order of its columns. UserError as `check` raises it."""
    check(table, version)
    for each in range(version, table.version):
        rows = MIGRATIONS[table.name, each](rows, context)
    return rows.select(table.schema.names).cast(table.schema)
