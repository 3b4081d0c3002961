"""Take an import away again, and all that hangs on its rollouts.

What is made from rollouts goes first and the rollouts last, so that a command that was killed half way finds everything
it needs when it is run again. A file of a table loses rows by being written anew beside itself and renamed into its
place (`curate.tables.rewriting`). What training runs recorded stays; it is what they did.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curate.errors import UserError, did_you_mean
from curate.stages.base import resume
from curate.tables import lineage, marks, rewriting
from curate.tables.rows import rows_of, whole
from curate.tables.schema import (
    COMPLETIONS,
    EXAMPLES,
    JUDGEMENTS,
    REJECTS,
    ROLLOUTS,
    STEP_LABELS,
    STEP_SCORES,
)
from curate.tables.store import MAIN, Partition, Store, read_file, write_atomic

STAGE = "import"
# In the order in which they lose rows: what is made from others before these.
TABLES = (STEP_SCORES, EXAMPLES, JUDGEMENTS, STEP_LABELS, COMPLETIONS)


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
    gone = _drop_dependents(workspace, ids)
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
    _drop_dependents(workspace, set(json.loads(path.read_text())) - now)
    path.unlink()


def _noted(workspace: Store, name: str) -> Path:
    return workspace.root / "tables" / ".staging" / f"replaced-{name}.json"


def _drop_dependents(workspace: Store, ids: Collection[str]) -> dict[str, int]:
    """Remove what hangs on these rollouts; how many rows went, by table."""
    for partition in _partitions(workspace):
        rewriting.finish(partition)
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
    _drop_rejects(workspace, ids)
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
    rewriting.rewrite(partition, path, rows_of(whole(partition.table), left), marks.settings_of(path))
    return int(lost)


def _drop_rejects(workspace: Store, ids: Collection[str]) -> None:
    """Rejects of later stages that are of these rollouts: their indices will be given to others."""
    for partition in workspace.partitions(REJECTS):
        for path in partition.files():
            # A harvested completion is named after its rollout.
            named = read_file(path, REJECTS, ["rollout_id"])["rollout_id"].to_pylist()
            kept = [name is None or name.partition(".")[0] not in ids for name in named]
            _keep(partition, path, pa.array(kept, pa.bool_()))
