"""Which problems later stages leave alone."""

from __future__ import annotations

from curate.schema import DROPS
from curate.store import Workspace


def dropped(workspace: Workspace) -> dict[str, str]:
    """Problem -> the reason why it was dropped, of all problems in the table `drops`."""
    rows = workspace.read(DROPS, ["problem_id", "reason", "by"]).to_pylist()
    return {row["problem_id"]: row["reason"] for row in sorted(rows, key=lambda row: row["by"])}
