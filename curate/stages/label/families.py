"""Rollouts that a recipe wants labelled, a problem at a time, in memory that does not grow with their number.

A problem's rollouts and their completions lie in the shard of the problem. A shard is read in ranges of problem ids,
each with about `GROUP` rollouts, as often as needed: once to see what there is, then for each thing that is asked of
all. What is kept of the whole set is a few sums and a count of chains by length for each domain, and the ranges.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow.compute as pc

from curate.recipe.sections import LabelConfig
from curate.stages.active import dropped
from curate.stages.label.allocation import Siblings
from curate.stages.label.rules import Outcomes
from curate.tables.rows import ProblemRow, columns_of
from curate.tables.schema import COMPLETIONS, GIVEN, PROBLEMS, ROLLOUTS, STEP_LABELS
from curate.tables.store import MAIN, CommittedFiles, Store, among

# Rollouts that are read together, unless a single problem has more.
GROUP = 1000
_DRAWN = ("rollout_id", "step_index", "sample_index", "outcome", "finish", "tokens")


@columns_of(ROLLOUTS)
@dataclass(frozen=True, slots=True)
class Chain:
    """A rollout as far as its labels are made of it."""

    rollout_id: str
    problem_id: str
    domain: str
    role: str
    sample_index: int
    steps: Sequence[str]
    step_ends: Sequence[int]
    outcome: bool | None


@columns_of(ROLLOUTS)
@dataclass(frozen=True, slots=True)
class _SeenChain(Chain):
    """A rollout, and what it was drawn from."""

    policy: str


@columns_of(ROLLOUTS)
@dataclass(frozen=True, slots=True)
class WholeChain(Chain):
    """A rollout with all that it takes to go on from its steps."""

    reasoning: str | None
    token_ids: Sequence[int]


C = TypeVar("C", bound=Chain)


@dataclass(frozen=True)
class Drawn:
    """The stored completions of one prefix, in order of sample index."""

    outcomes: Outcomes = ()
    finishes: Sequence[str] = ()
    tokens: Sequence[int | None] = ()


DrawnByStep = Mapping[tuple[str, int], Drawn]
NOTHING = Drawn()


@dataclass
class Habits:
    """How long the chains of a domain are: counted by their steps, and the sizes of their steps and last steps."""

    lengths: Counter[int] = field(default_factory=Counter)
    steps: int = 0
    size: int = 0
    """Size of all steps but the last ones; there are `steps` of them."""
    last: int = 0

    def add(self, sizes: Sequence[int]) -> None:
        """Count a chain, which has a step."""
        self.lengths[len(sizes)] += 1
        self.steps += len(sizes) - 1
        self.size += sum(sizes[:-1])
        self.last += sizes[-1]

    def without(self, chains: Sequence[Sequence[int]]) -> Habits:
        """Those of all chains but these."""
        own = Habits()
        for sizes in chains:
            own.add(sizes)
        lengths = self.lengths - own.lengths
        return Habits(lengths, self.steps - own.steps, self.size - own.size, self.last - own.last)

    @property
    def means(self) -> tuple[float, float]:
        """Mean size of a step and of a last one; 1 where there is no chain."""
        last = self.last / self.lengths.total() if self.lengths else 1.0
        return self.size / self.steps if self.steps else last, last


@dataclass(frozen=True)
class Family(Generic[C]):
    """A problem's rollouts that are to be labelled, with what was drawn for them; both in the order of their ids.

    `everyone` holds all of the problem's rollouts, as the others say something about each, and `domain` is of the
    chains of the whole domain.
    """

    shard: int
    rollouts: Sequence[C]
    everyone: Sequence[C]
    domain: Habits
    store: DrawnByStep

    @cached_property
    def siblings(self) -> dict[str, Siblings]:
        """Gather for each rollout with steps what the problem's other rollouts and the chains of other problems say."""
        return siblings_of(self.everyone, self.domain)

    def prefixes(self) -> Iterator[tuple[C, int]]:
        """(rollout, step) of all steps but the last ones."""
        return ((row, step) for row in self.rollouts for step in range(len(row.steps) - 1))

    def drawn(self, rollout: Chain, step: int) -> Drawn:
        """The completions of a prefix."""
        return self.store.get((rollout.rollout_id, step), NOTHING)


def _sizes(row: Chain) -> list[int]:
    """Sizes of a chain's steps, in tokens; in characters where the engine gave no tokens."""
    if not row.step_ends:
        return list(map(len, row.steps))
    return [end - start for start, end in itertools.pairwise([0, *row.step_ends])]


def siblings_of(rollouts: Sequence[Chain], domain: Habits) -> dict[str, Siblings]:
    """For each of a problem's rollouts with steps, what the others and the chains of other problems say.

    `domain` is of all chains of the problem's domain, its own among them.
    """
    rows = [row for row in rollouts if row.steps]
    sizes = [_sizes(row) for row in rows]
    elsewhere = domain.without(sizes)
    return {
        row.rollout_id: Siblings.of(
            [each.outcome for each in rows[:place] + rows[place + 1 :]],
            sizes[:place] + sizes[place + 1 :],
            elsewhere.lengths,
            elsewhere.means,
        )
        for place, row in enumerate(rows)
    }


@dataclass(frozen=True)
class _ShardFiles:
    """The files of a shard that are read, as they were when it was opened."""

    rollouts: CommittedFiles
    problems: CommittedFiles
    labels: CommittedFiles
    completions: CommittedFiles


class Families:
    """See the module's text. Without rollouts whose source brought their labels, and those of dropped problems."""

    def __init__(self, config: LabelConfig, workspace: Store) -> None:
        """Reads all rollouts once."""
        self.there = False
        """Whether there is any, also when none of them is to be labelled."""
        self.rollouts = self.prefixes = 0
        """How many are to be labelled, and the prefixes that they have."""
        self.policies: Counter[str] = Counter()
        """Those rollouts by what they were drawn from."""
        self.without_tokens = False
        """Whether one of them has steps and no token ids."""
        self._config, self._workspace, self._out = config, workspace, dropped(workspace)
        self._roles = among("role", config.roles)
        self._habits: defaultdict[str, Habits] = defaultdict(Habits)
        self._ranges: list[list[Any]] = []
        for shard in range(workspace.shards):
            files = self._open(shard)
            self._ranges.append(_ranges(files.rollouts.read(["problem_id"], self._roles)["problem_id"]))
            for where in self._ranges[shard]:
                for row in self._rows(_SeenChain, files, where):
                    self.there = True
                    self._see(row)

    def _see(self, row: _SeenChain) -> None:
        count = len(row.steps)
        if count:
            self._habits[row.domain].add(_sizes(row))
        if self._config.takes(row.sample_index):
            self.rollouts += 1
            self.prefixes += max(count - 1, 0)
            self.policies[row.policy] += 1
            self.without_tokens |= count > 0 and not row.step_ends

    def _open(self, shard: int) -> _ShardFiles:
        place = self._workspace
        completions = CommittedFiles(place.partition(COMPLETIONS).files(shard), COMPLETIONS)
        rollouts, problems = place.shard(ROLLOUTS, shard), place.shard(PROBLEMS, shard)
        # Labels that came with a source; the stage's own are written afresh.
        return _ShardFiles(rollouts, problems, place.shard(STEP_LABELS, shard, MAIN), completions)

    def _rows(self, kind: type[C], files: _ShardFiles, where: Any) -> list[C]:
        """Rollouts of this range that may be labelled, by problem and id."""
        given = files.labels.read(["rollout_id"], where & (pc.field("mode") == GIVEN))["rollout_id"].to_pylist()
        problems = files.problems.read(["problem_id"], where)["problem_id"].to_pylist()
        labelled, known = set(given), set(problems) - self._out.keys()
        rows = [
            row
            for row in files.rollouts.rows(kind, where & self._roles)
            if row.rollout_id not in labelled and row.problem_id in known
        ]
        return sorted(rows, key=lambda row: (row.problem_id, row.rollout_id))

    def _of(self, kind: type[C], shard: int, files: _ShardFiles, where: Any, drawn: bool) -> Iterator[Family[C]]:
        """The families of a range, by problem id."""
        store = _store(files.completions, where) if drawn else {}
        for _, group in itertools.groupby(self._rows(kind, files, where), key=attrgetter("problem_id")):
            everyone = list(group)
            chosen = [row for row in everyone if self._config.takes(row.sample_index)]
            yield Family(shard, chosen, everyone, self._habits[everyone[0].domain], store)

    def of(self, shard: int, drawn: bool = True) -> Iterator[Family[Chain]]:
        """The families of a shard, by problem id; without their completions when not `drawn`.

        Completions that are committed after the first family was read do not show.
        """
        files = self._open(shard)
        for where in self._ranges[shard]:
            yield from self._of(Chain, shard, files, where, drawn)

    def to_complete(self, shard: int, drawn: bool = True) -> Iterator[tuple[ProblemRow, Family[WholeChain]]]:
        """(problem, family) of a shard as `of` gives them, with all that it takes to ask for completions."""
        files = self._open(shard)
        for where in self._ranges[shard]:
            problems = {row.problem_id: row for row in files.problems.rows(ProblemRow, where)}
            for family in self._of(WholeChain, shard, files, where, drawn):
                yield problems[family.everyone[0].problem_id], family

    def all(self, drawn: bool = True) -> Iterator[Family[Chain]]:
        """The families of all shards, in their order."""
        for shard in range(self._workspace.shards):
            yield from self.of(shard, drawn)


def _ranges(problems: Any) -> list[Any]:
    """Expressions for ranges of problem ids that about `GROUP` of these rows fall into, a problem never into two."""
    counts = problems.value_counts()
    names, rows = counts.field("values").to_pylist(), counts.field("counts").to_numpy()
    order = sorted(range(len(names)), key=names.__getitem__)
    before = np.cumsum([0, *(rows[place] for place in order)])[:-1]
    starts = np.flatnonzero(np.diff(before // GROUP, prepend=-1)).tolist()
    field = pc.field("problem_id")
    return [
        (field >= names[order[start]]) & (field <= names[order[end - 1]])
        for start, end in zip(starts, [*starts[1:], len(order)], strict=False)
    ]


def _store(files: CommittedFiles, where: Any) -> dict[tuple[str, int], Drawn]:
    """The stored completions of a range by prefix. Whole units are stored, so their indices have no gaps."""
    found: dict[tuple[str, int], list[tuple[int, bool | None, str, int | None]]] = defaultdict(list)
    for batch in files.read(_DRAWN, where).to_batches(max_chunksize=20_000):
        for rollout, step, *rest in zip(*(batch[name].to_pylist() for name in _DRAWN), strict=True):
            found[rollout, step].append(tuple(rest))
    return {key: Drawn(*zip(*(rest for _, *rest in sorted(each)), strict=True)) for key, each in found.items()}
