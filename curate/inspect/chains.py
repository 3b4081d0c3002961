"""Chains that are there, as far as a plan of costs measures them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from curate.tables.rows import columns_of
from curate.tables.schema import GIVEN, ROLLOUTS, STEP_LABELS
from curate.tables.store import MAIN, CommittedFiles, Store, among


@columns_of(ROLLOUTS)
@dataclass(frozen=True, slots=True)
class MeasuredRollout:
    """A rollout without its text: a completion's row has the text and tokens of a part of a chain; where none is stored
    yet, it is taken as long as a rollout's of as many tokens.
    """

    rollout_id: str
    problem_id: str
    sample_index: int
    role: str
    domain: str
    steps: Sequence[str]
    step_ends: Sequence[int]
    tokens: int | None


@dataclass(frozen=True)
class Chains:
    """What chains of one domain were like: how many, their prefixes, and what is left after those.

    `tokens` is the mean of those whose tokens are known; null where none are.
    """

    count: int
    tokens: float | None
    prefixes: int
    left: int

    @classmethod
    def of(cls, rows: Sequence[MeasuredRollout]) -> Chains | None:
        """From rows of `rollouts`; null without any."""
        if not rows:
            return None
        ends = [row.step_ends for row in rows]
        known = [row.tokens for row in rows if row.tokens is not None]
        return cls(
            len(rows),
            sum(known) / len(known) if known else None,
            sum(max(len(row.steps) - 1, 0) for row in rows),
            sum(each[-1] - end for each in ends if each for end in each[:-1]),
        )


def brought(workspace: Store, roles: Sequence[str]) -> Iterator[MeasuredRollout]:
    """Rollouts of these roles that were imported or came with a source, and are to be labelled like generated ones."""
    wanted = among("role", roles)
    given = workspace.read(STEP_LABELS, ["rollout_id"], wanted & (pc.field("mode") == GIVEN))["rollout_id"]
    labelled = set(given.to_pylist())
    for partition in workspace.partitions(ROLLOUTS):
        if partition.folder.name != MAIN:
            rows = CommittedFiles(partition.files(), ROLLOUTS).rows(MeasuredRollout, wanted)
            yield from (row for row in rows if row.rollout_id not in labelled)
