"""The rows of the table `drops`, and the account of the stage that wrote them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from curate.stages.overlap.problems import Problem
from curate.tables import lineage
from curate.tables.lineage import Ledger
from curate.tables.rows import DropRow
from curate.tables.schema import DROPS
from curate.tables.store import Store


def drop(problem: Problem, against: Problem, by: str, reason: str, bits: int | None, text: float | None) -> DropRow:
    """The row of a problem that stage `by` drops because of another one."""
    return DropRow(
        problem_id=problem.problem_id,
        domain=problem.domain,
        role=problem.role,
        by=by,
        reason=reason,
        against=against.problem_id,
        against_domain=against.domain,
        against_role=against.role,
        image_distance=bits,
        text_similarity=text,
    )


def write(
    workspace: Store, by: str, settings: Mapping[str, Any], problems: Sequence[Problem], dropped: Mapping[str, DropRow]
) -> Ledger:
    """Put these rows in place of what the stage dropped before; the ledger counts `problems`."""
    partition = workspace.partition(DROPS, by)
    partition.clear()
    partition.commit_all(dropped.values())
    reasons = Counter(row.reason for row in dropped.values())
    ledger = Ledger("problems", taken=len(problems), out=len(problems) - len(dropped), rejected=dict(reasons))
    ledger.check(by)
    lineage.write(partition, by, settings, {"problems": len(problems)}, ledger)
    return ledger
