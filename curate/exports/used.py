"""What the rows of an export came from, counted while they are written: nothing else belongs on its card."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from curate.exports.base import Item
from curate.tables.schema import COMPLETIONS, GIVEN, PROBLEMS, ROLLOUTS, STEP_LABELS
from curate.tables.store import MAIN


@dataclass
class Used:
    """Counts of what was written; of rows (rollouts), but for `labels`, which are of steps."""

    sources: Counter[tuple[str, str | None, str | None]] = field(default_factory=Counter)
    """(source, licence, revision) of the problems."""
    chains: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    """(partition of the table `rollouts`, model); no model where the partition's record names it, or nobody does."""
    labels: Counter[str] = field(default_factory=Counter)
    """Mode of the step labels."""
    places: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(domain, role)."""

    def add(self, item: Item, steps: int) -> None:
        """Count a rollout of which so many steps were written."""
        problem, rollout = item.problem, item.rollout
        self.sources[problem.source, problem.licence, problem.revision] += 1
        head, _, rest = rollout.policy.partition(":")
        part, _, model = rest.partition(":") if head == GIVEN else (MAIN, "", "")
        self.chains[part, model or None] += 1
        self.labels.update(label.mode for label in item.labels[:steps] if label is not None)
        self.places[rollout.domain, rollout.role] += 1

    @property
    def parts(self) -> set[str]:
        """Partitions of the rollouts."""
        return {part for part, _ in self.chains}

    @property
    def generated(self) -> bool:
        """Whether any chain was generated in this workspace."""
        return MAIN in self.parts

    @property
    def estimated(self) -> bool:
        """Whether any label was made of completions, and did not come with its chain."""
        return any(mode != GIVEN for mode in self.labels)

    def has(self, table: str, partition: str) -> bool:
        """Whether rows of this partition are in the export, as far as its tables have accounts of their own."""
        if table == PROBLEMS.name:
            return any(source == partition for source, _, _ in self.sources)
        if table == ROLLOUTS.name:
            return partition in self.parts
        if partition == MAIN:
            return self.estimated and table in (STEP_LABELS.name, COMPLETIONS.name)
        return table == STEP_LABELS.name and partition in self.parts and GIVEN in self.labels
