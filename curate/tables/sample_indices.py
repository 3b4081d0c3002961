"""Sample indices: each rollout of a problem has one of its own, whether it was generated, imported or came with a
source.

Later stages tell the rollouts of a problem apart by their index, so two of them may never share one. A new rollout
takes the lowest index that is free. Rollouts that are there keep theirs, so a command that is repeated, or goes on
after a kill, gives the same indices.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import count

from curate.tables.rows import RolloutRow
from curate.tables.schema import ROLLOUTS
from curate.tables.store import Store, among


def lowest_free(taken: Collection[int], wanted: int) -> list[int]:
    """The lowest `wanted` indices from 0 that are not taken, in order."""
    found: list[int] = []
    for index in count():
        if len(found) >= wanted:
            return found
        if index not in taken:
            found.append(index)
    raise AssertionError("there is no last index")


class FreeIndices:
    """The sample indices that some problems have left."""

    def __init__(self, taken: dict[str, set[int]]) -> None:
        """`taken` are those of each problem that are not free."""
        self._taken = taken

    def take(self, problem: str) -> int:
        """The lowest free index of a problem, which is taken from now on."""
        taken = self._taken[problem]
        (index,) = lowest_free(taken, 1)
        taken.add(index)
        return index


class SampleIndices:
    """The indices that the rollouts of a workspace have."""

    def __init__(self, workspace: Store) -> None:
        self._workspace = workspace
        generated = workspace.partition(ROLLOUTS)
        # What a killed run left in a journal will be committed with the indices that it has.
        self._journalled = [
            (row.problem_id, row.sample_index)
            for shard in generated.journals()
            for row in generated.journal(shard).rows()
            if isinstance(row, RolloutRow)
        ]

    def free(self, problems: Collection[str]) -> FreeIndices:
        """What these problems have left, by what is committed for them at this moment."""
        taken: dict[str, set[int]] = {name: set() for name in problems}
        columns, where = ["problem_id", "sample_index"], among("problem_id", sorted(taken))
        for batch in self._workspace.batches(ROLLOUTS, columns, where=where, size=20_000) if taken else ():
            for name, index in zip(*(batch[column].to_pylist() for column in columns), strict=True):
                taken[name].add(index)
        for name, index in self._journalled:
            if name in taken:
                taken[name].add(index)
        return FreeIndices(taken)
