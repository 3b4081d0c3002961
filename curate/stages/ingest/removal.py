"""Take an import away again, and all that hangs on its rollouts.

What is made from rollouts goes first and the rollouts last, so that a command that was killed half way finds everything
it needs when it is run again. A file of a table loses rows by being written anew beside itself and renamed into its
place: a crash leaves the old file, the new one, or (between the renames of the file and of its marker) one that every
reader refuses as damaged until the command is run again. What training runs recorded stays; it is what they did.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curate.errors import UserError, did_you_mean
from curate.stages.base import resume
from curate.tables import lineage, marks
from curate.tables.rows import columns_of, rows_of, whole
from curate.tables.schema import (
    COMPLETIONS,
    EXAMPLES,
    JUDGEMENTS,
    PROBLEMS,
    REJECTS,
    ROLLOUTS,
    STEP_LABELS,
    STEP_SCORES,
)
from curate.tables.store import MAIN, CommittedFiles, Partition, Store, Writer, read_file, write_atomic

STAGE = "import"
# In the order in which they lose rows: what is made from others before these.
TABLES = (STEP_SCORES, EXAMPLES, JUDGEMENTS, STEP_LABELS, COMPLETIONS)
# Stages whose rejects end in the number of a sample, and a step's or a completion's behind it.
_BY_SAMPLE = ("label", "judge", "shard", "train", "score")
_ANEW = ".anew"


@columns_of(ROLLOUTS)
@dataclass(frozen=True, slots=True)
class _Sample:
    """Which sample of its problem a rollout is."""

    problem_id: str
    sample_index: int


@columns_of(PROBLEMS)
@dataclass(frozen=True, slots=True)
class _Named:
    """The row that a problem came from."""

    problem_id: str
    source_row: str


@columns_of(REJECTS)
@dataclass(frozen=True, slots=True)
class _Reject:
    """What a stage left out."""

    stage: str
    source_row: str
    problem_id: str | None


def imports(workspace: Store) -> dict[str, dict[str, Any]]:
    """The lineage record of every import by its name; an empty one where a removal was killed at its very end."""
    found = {}
    for partition in workspace.partitions(ROLLOUTS):
        record = lineage.read(partition)
        if record is not None and record["stage"] == STAGE:
            found[partition.folder.name] = record
        elif record is None and partition.folder.name != MAIN and not partition.files():
            found[partition.folder.name] = {}
    return found


def remove(workspace: Store, name: str) -> dict[str, int]:
    """Remove an import; table -> rows that went with it. UserError when there is no import of this name."""
    known = imports(workspace)
    if name not in known:
        cure = did_you_mean(name, list(known)) if known else ", and no other either"
        raise UserError(f'The workspace has no import "{name}"{cure}')
    partition = workspace.partition(ROLLOUTS, name)
    ids = set(partition.read(["rollout_id"])["rollout_id"].to_pylist())
    gone = _drop_dependents(workspace, ids, partition)
    workspace.partition(REJECTS, name).clear()
    _noted(workspace, name).unlink(missing_ok=True)
    partition.clear()
    return {ROLLOUTS.name: len(ids)} | {table: count for table, count in gone.items() if count}


def begin_replacing(workspace: Store, name: str) -> None:
    """Note the rollouts of an import that starts over, so that `end_replacing` finds them even after a kill."""
    path = _noted(workspace, name)
    # Those of a damaged file cannot be known; the import brings them again.
    files = workspace.partition(ROLLOUTS, name).sound_files()
    ids = {key for each in files for key in read_file(each, ROLLOUTS, ["rollout_id"])["rollout_id"].to_pylist()}
    if path.exists():
        ids |= set(json.loads(path.read_text()))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(sorted(ids)).encode())


def end_replacing(workspace: Store, name: str) -> None:
    """Remove what hangs on rollouts that were there before and did not come back."""
    path = _noted(workspace, name)
    if not path.exists():
        return
    partition = workspace.partition(ROLLOUTS, name)
    now = set(partition.read(["rollout_id"])["rollout_id"].to_pylist())
    _drop_dependents(workspace, set(json.loads(path.read_text())) - now, None)
    path.unlink()


def _noted(workspace: Store, name: str) -> Path:
    return workspace.root / "tables" / ".staging" / f"replaced-{name}.json"


def _drop_dependents(workspace: Store, ids: Collection[str], rollouts: Partition | None) -> dict[str, int]:
    """Rows that went, by table; `rollouts` are theirs, where they are still there."""
    for partition in _partitions(workspace):
        _finish(partition)
    if not ids:
        return {}
    wanted = pa.array(sorted(ids), pa.string())
    for table in (COMPLETIONS, JUDGEMENTS):
        resume(workspace.partition(table))
    gone: dict[str, int] = {}
    for table in TABLES:
        for partition in workspace.partitions(table):
            count = sum(_drop(partition, path, wanted) for path in partition.files())
            gone[table.name] = gone.get(table.name, 0) + count
            if count:
                lineage.mark_stale(partition)
    if rollouts is not None:
        _drop_rejects(workspace, rollouts)
    return gone


def _partitions(workspace: Store) -> Iterator[Partition]:
    for table in (*TABLES, REJECTS):
        yield from workspace.partitions(table)


def _drop(partition: Partition, path: Path, ids: pa.Array) -> int:
    """Take the rows of these rollouts out of a file; how many there were."""
    rollouts = read_file(path, partition.table, ["rollout_id"])["rollout_id"]
    if partition.table is EXAMPLES:
        # A harvested completion is named after its rollout.
        rollouts = pc.replace_substring_regex(rollouts, r"\..*$", "")
    return _keep(partition, path, pc.invert(pc.is_in(rollouts, ids)))


def _keep(partition: Partition, path: Path, kept: Any) -> int:
    """Leave these rows in a file (a truth value each), atomically; how many went."""
    lost = len(kept) - (pc.sum(kept).as_py() or 0)
    if not lost:
        return 0
    left = read_file(path, partition.table, partition.table.schema.names).filter(kept)
    if not left.num_rows:
        path.with_suffix(".done").unlink()
        path.unlink()
        return int(lost)
    anew = _Anew(partition, path)
    anew.clear()
    Writer(anew).commit(int(path.name[5:10]), rows_of(whole(partition.table), left))
    (written,) = anew.folder.glob("part-*.parquet")
    written.rename(path)
    _finish(partition)
    return int(lost)


class _Anew(Partition):
    """Where a file of a partition is written anew, before it is renamed into its place; its marker is of that place."""

    def __init__(self, of: Partition, target: Path) -> None:
        super().__init__(of.folder / _ANEW / target.stem, of.table, of.shards, of.workspace)
        self._of, self._target = of, target

    def mark(self, _path: Path) -> dict[str, Any]:
        """Marker of the file that it is to be."""
        return self._of.mark(self._target)

    def settings(self) -> str | None:
        """Settings of the file that it is now."""
        return marks.settings_of(self._target)


def _finish(partition: Partition) -> None:
    """End what a kill left: a file that has its new rows gets its new marker; one that has not stays as it is."""
    anew = partition.folder / _ANEW
    for folder in anew.glob("part-*") if anew.is_dir() else ():
        for marker in folder.glob("part-*.done"):
            if not marker.with_suffix(".parquet").exists():
                marker.replace(partition.folder / f"{folder.name}.done")
    shutil.rmtree(anew, ignore_errors=True)


def _drop_rejects(workspace: Store, rollouts: Partition) -> None:
    """Rejects of later stages that are of these rollouts: their indices will be given to others."""
    samples = list(rollouts.rows(_Sample))
    problems = pc.field("problem_id").isin(pa.array(sorted({row.problem_id for row in samples}), pa.string()))
    heads = {row.problem_id: row.source_row for row in workspace.rows(_Named, problems)}
    wanted = {(heads.get(row.problem_id, "?") + f"/{row.sample_index}", row.problem_id) for row in samples}
    for partition in workspace.partitions(REJECTS):
        for path in partition.files():
            rows = CommittedFiles([path], REJECTS).rows(_Reject)
            kept = [row.stage not in _BY_SAMPLE or not _of_sample(row, heads, wanted) for row in rows]
            _keep(partition, path, pa.array(kept, pa.bool_()))


def _of_sample(row: _Reject, heads: Mapping[str, str], wanted: Collection[tuple[str, str]]) -> bool:
    problem = row.problem_id or "?"
    head = heads.get(problem, "?")
    match = re.match(r"/\d+", row.source_row[len(head) :]) if row.source_row.startswith(head) else None
    return match is not None and (head + match[0], problem) in wanted
