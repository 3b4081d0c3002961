"""Gold answers in a form to compare; and those that change after chains were graded by them, which is noticed before
anything is built on the old outcomes.

A problem is its domain, question, choices and images, so its identity stays when a source is ingested again with
another gold answer. Every graded row keeps a digest of what graded it.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

from curate.errors import UserError
from curate.graders.base import GradedBy, WithChoices, folded
from curate.graders.choice import read_choice
from curate.runtime.frames import pl
from curate.seeds import digest
from curate.tables.rows import columns_of
from curate.tables.schema import PROBLEMS, Table
from curate.tables.store import Store


@columns_of(PROBLEMS)
@dataclass(frozen=True, slots=True)
class _GradedProblem:
    """A problem with all that its answers are graded by; its choices are part of its identity."""

    problem_id: str
    domain: str
    answer: str | None
    answer_type: str | None
    accepted: Sequence[str]
    tolerance: float | None


def gold_of(problem: GradedBy) -> str | None:
    """Digest of what answers to this problem are graded by; None without a gold answer."""
    if problem.answer is None:
        return None
    return digest(problem.answer, problem.answer_type, problem.accepted, problem.tolerance, length=12)


def right_of(problem: WithChoices) -> str | None:
    """The right answer in a form to compare: of a choice its text, of a number its value; None without a gold answer.

    Letters say nothing: the same options may come in another order.
    """
    if problem.answer is None:
        return None
    letters = read_choice(problem.answer, problem.choices)[0] if problem.choices else set[str]()
    if len(letters) == 1:
        return folded(problem.choices[string.ascii_uppercase.index(letters.pop())])
    plain = folded(problem.answer)
    try:
        return repr(float(plain.replace(",", "")))
    except ValueError:
        return plain


def check(workspace: Store, *tables: Table) -> None:
    """UserError when rows of these tables were graded by other gold answers than their problems have now.

    Rows whose outcome was stated by their source (`gold` is null), or whose problem is gone, are not judged.
    """
    changed: dict[str, str] = {}
    for shard in range(workspace.shards):
        frames = [
            pl.DataFrame(batch).unique()
            for table in tables
            for batch in workspace.batches(table, ["problem_id", "gold"], shard)
        ]
        if not frames:
            continue
        graded = pl.concat(frames).drop_nulls().unique()
        now = {row.problem_id: row for row in workspace.rows(_GradedProblem, shard=shard)}
        for name, gold in graded.iter_rows():
            if name in now and gold_of(now[name]) != gold:
                changed[name] = now[name].domain
    if changed:
        first = min(changed)
        raise UserError(
            f"The gold answers of {len(changed)} problems are not those that their chains were graded with (the first: "
            f"{first}, domain {changed[first]}), so stored outcomes and labels are out of date. Grade the "
            "same chains again, without generating, in a new --workspace with `rollout.engine: {kind: replay, model: "
            "WORKSPACE}`."
        )
