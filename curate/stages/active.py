"""Which problems later stages leave alone, and which need no rollouts."""

from __future__ import annotations

from curate.tables.rows import DropRow
from curate.tables.schema import PROBLEMS, ROLLOUTS
from curate.tables.store import Store


def dropped(workspace: Store) -> dict[str, str]:
    """Problem -> the reason why it was dropped, of all problems in the table `drops`."""
    return {row.problem_id: row.reason for row in sorted(workspace.rows(DropRow), key=lambda row: row.by)}


def bringing_chains(workspace: Store) -> set[str]:
    """Sources whose problems came with chains of thought: nothing is rolled out for them."""
    sources = {partition.folder.name for partition in workspace.partitions(PROBLEMS)}
    return sources & {partition.folder.name for partition in workspace.partitions(ROLLOUTS) if partition.files()}
