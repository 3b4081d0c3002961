"""What a benchmark is: chains with step labels, how verdicts on their steps become figures, and its scorer's files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from curate.errors import RowError
from curate.recipe.chain_sections import AnyChainMap
from curate.recipe.source_sections import ColumnMap
from curate.seeds import content_hash
from curate.sources.fields.rollouts import joinable
from curate.sources.roots import Root
from curate.sources.values import look, text_of
from prm.data.examples import Example

Record = Mapping[str, Any]
# (group, figure) -> value; group None is all of them together. None: it has no value.
Values = dict[tuple[str | None, str], float | None]


@dataclass(frozen=True)
class LabelledRollout:
    """One labelled chain. `labels` are true, false, or null where a step has none; `lacks` says why it cannot be shown.

    `problem` is what resamples draw: chains of one problem stay together. `record` is the row as it was published.
    """

    name: str
    problem: str
    group: str
    question: str
    choices: tuple[str, ...]
    steps: tuple[str, ...]
    labels: tuple[bool | None, ...]
    record: Record
    images: tuple[bytes, ...] = field(default=(), repr=False)
    lacks: RowError | None = None

    def example(self, place: int) -> Example:
        """The rollout as an example that the PRM reads; `place` makes its name unique."""
        return Example(
            rollout_id=f"{place}:{self.name}",
            problem_id=self.problem,
            domain=self.group,
            role="test",
            sample_index=0,
            question=self.question,
            choices=self.choices,
            image_hashes=tuple(content_hash(data) for data in self.images),
            steps=joinable(self.steps),
            values=tuple(None if label is None else float(label) for label in self.labels),
            weights=(1.0,) * len(self.steps),
            outcome=None,
        )


@dataclass(frozen=True)
class ScoredRollout:
    """A chain with its step scores, null for a step without; `reason` where it has none at all."""

    chain: LabelledRollout
    scores: tuple[float | None, ...]
    reason: str | None = None

    @property
    def whole(self) -> bool:
        """Whether every step has a score."""
        return None not in self.scores


@dataclass(frozen=True)
class Judge:
    """Scores to verdicts: above the threshold is right. The one place that says what a missing score counts as."""

    threshold: float
    missing: str = "wrong"

    def counts(self, scored: ScoredRollout) -> bool:
        """Whether the chain counts at all."""
        return scored.whole or self.missing == "wrong"

    def right(self, score: float | None) -> bool | None:
        """The verdict on a step; None without a score."""
        return None if score is None else score > self.threshold

    def verdicts(self, scored: ScoredRollout) -> list[tuple[bool, bool]]:
        """(truth, verdict) of each labelled step of a chain that counts; a missing verdict is the wrong one."""
        if not self.counts(scored):
            return []
        pairs = []
        for label, score in zip(scored.chain.labels, scored.scores, strict=True):
            if label is not None:
                verdict = self.right(score)
                pairs.append((label, not label if verdict is None else verdict))
        return pairs


class Benchmark(Protocol):
    """One benchmark. `cells` are what is counted of a chain, `measure` makes figures of their sums over chains.

    `splits` are those of the hub dataset, `columns` and `chain` where its columns are. `headline` is the figure that
    the benchmark is known by, `shown` the figures of a group with their titles. `rule` says how its own scorer and
    paper judge, and where that is from.
    """

    name: str
    title: str
    splits: tuple[str, ...]
    columns: ColumnMap
    chain: AnyChainMap
    cells: tuple[str, ...]
    headline: str
    shown: Mapping[str, str]
    rule: str
    # Groups are fixed parts of the benchmark, so that resamples keep their sizes; not where a problem is in several.
    stratified: bool
    # Of several chains with the same name its scorer takes the first.
    unique: bool

    def chains(self, record: Record, number: int | str, root: Root | None) -> Iterator[LabelledRollout]:
        """The chains of one record; RowError when it has another form."""
        ...

    def count(self, scored: ScoredRollout, judge: Judge) -> Sequence[float]:
        """The cells of one chain."""
        ...

    def measure(self, sums: NDArray[Any], groups: Sequence[str]) -> Values:
        """Figures of sums [groups, cells]."""
        ...

    def files(self, scored: Sequence[ScoredRollout], judge: Judge, run: str) -> Iterator[tuple[str, str]]:
        """(name, text) of each file in the layout that the benchmark's own scorer reads."""
        ...


def steps_of(record: Record, column: str) -> tuple[str, ...]:
    """The steps of a column as texts; a blank one stays, so that labels keep their places. RowError without any."""
    found = look(record, column)
    if not isinstance(found, list) or not found:
        raise RowError("no-steps", f"{column} is no list of steps: {str(found)[:80]}")
    steps = tuple((text_of(step) or "").strip() for step in found)
    if not any(steps):
        raise RowError("no-steps", f"no step of {column} has text")
    return steps


def question_of(record: Record, column: str) -> str:
    """The question; RowError without one."""
    question = text_of(look(record, column))
    if question is None or not question.strip():
        raise RowError("no-question", f"{column} is empty")
    return question


def whole_number(value: Any, what: str) -> int:
    """An integer, also where a frame made a float of it; RowError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise RowError("unusable-label", f"{what} is no whole number: {str(value)[:40]}")
    return int(value)


def confusion(pairs: Sequence[tuple[bool, bool]]) -> list[float]:
    """Counts of (truth, verdict): right as right, wrong as right, wrong as wrong, right as wrong."""
    return [float(sum(pair == which for pair in pairs)) for which in CONFUSION]


CONFUSION = ((True, True), (False, True), (False, False), (True, False))
CONFUSION_CELLS = ("true-right", "false-right", "true-wrong", "false-wrong")


def line(row: Mapping[str, Any]) -> str:
    """A line of JSON Lines; images that a record holds as bytes are left out of it."""
    return json.dumps(row, ensure_ascii=False, default=lambda _: None) + "\n"
