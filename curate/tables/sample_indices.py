"""Sample indices: each rollout of a problem has one of its own, whether it was generated, imported or came with a
source.

Later stages tell the rollouts of a problem apart by their index, so two of them may never share one. A new rollout
takes the lowest index that is free. Rollouts that are there keep theirs, so a command that is repeated, or goes on
after a kill, gives the same indices.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import count

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


class SampleIndices:
    """The indices that are taken, of the problems that were last brought near."""

    def __init__(self, workspace: Store) -> None:
        self._workspace = workspace
        self._taken: dict[str, set[int]] = {}
        generated = workspace.partition(ROLLOUTS)
        # What a killed run left in a journal will be committed with the indices that it has.
        self._journalled = [
            (row["problem_id"], row["sample_index"])
            for shard in generated.journals()
            for row in generated.journal(shard).rows()
        ]

    def bring_near(self, problems: Collection[str]) -> None:
        """From now on `take` answers for these problems, with what is committed for them at this moment."""
        self._taken = {name: set() for name in problems}
        columns, where = ["problem_id", "sample_index"], among("problem_id", sorted(self._taken))
        for batch in self._workspace.batches(ROLLOUTS, columns, where=where, size=20_000):
            for name, index in zip(*(batch[column].to_pylist() for column in columns), strict=True):
                self._taken[name].add(index)
        for name, index in self._journalled:
            if name in self._taken:
                self._taken[name].add(index)

    def take(self, problem: str) -> int:
        """The lowest free index of a problem, which is taken from now on."""
        taken = self._taken[problem]
        (index,) = lowest_free(taken, 1)
        taken.add(index)
        return index
