"""Step labels out of stored completions, and whether completions and rollouts belong to one policy."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.seeds import digest
from curate.stages import monte_carlo
from curate.stages.label import rules
from curate.stages.label.families import NOTHING, Chain, Drawn, Family
from curate.stages.label.rules import Outcomes, Rule
from curate.stages.monte_carlo import StepLabel
from curate.tables import lineage
from curate.tables.lineage import Ledger
from curate.tables.rows import StepLabelRow
from curate.tables.schema import STEP_LABELS
from curate.tables.store import Store, Writer

# How far the completions of first steps may be from their rollouts' own outcomes, in standard errors.
SUSPICIOUS = 4.0
# Label rows that are committed together, as a stage's journal is: rows as objects take most of the memory.
_CHUNK = 4000


@dataclass(frozen=True)
class Ruled:
    """A family with the rule of its labels, the rules that drew its completions, and those of which one must be met."""

    family: Family[Any]
    rule: Rule
    history: Sequence[Rule]
    enough: Sequence[Rule]

    def ready(self) -> Iterator[Chain]:
        """The family's rollouts that have all completions that one of `enough` asks for; one without steps has not."""
        for rollout in self.family.rollouts:
            drawn = [self.family.drawn(rollout, step).outcomes for step in range(len(rollout.steps) - 1)]
            if rollout.steps and any(
                all(not rule.missing(rollout, step, outcomes) for step, outcomes in enumerate(drawn))
                for rule in self.enough
            ):
                yield rollout

    def rows(self, rollout: Chain, mode: str) -> list[StepLabelRow]:
        """The labels of all steps of a rollout."""
        rule, drawn = self.rule, [self.family.drawn(rollout, step) for step in range(len(rollout.steps) - 1)]
        used = [
            rule.used(rules.usable(rollout, step, each.outcomes, rule, self.history)) for step, each in enumerate(drawn)
        ]
        found = [*rule.labels(rollout, used), monte_carlo.known(rollout.outcome)]
        return [
            _row(rollout, step, mode, label, outcomes, each)
            for step, (label, outcomes, each) in enumerate(zip(found, [*used, ()], [*drawn, NOTHING], strict=True))
        ]


def _row(rollout: Chain, step: int, mode: str, label: StepLabel, outcomes: Outcomes, drawn: Drawn) -> StepLabelRow:
    k, m = monte_carlo.count(outcomes)
    finishes = list(drawn.finishes[: len(outcomes)])
    tokens = drawn.tokens[: len(outcomes)]
    return StepLabelRow(
        rollout_id=rollout.rollout_id,
        problem_id=rollout.problem_id,
        domain=rollout.domain,
        role=rollout.role,
        step_index=step,
        mode=mode,
        k=k,
        m=m,
        outcome=rollout.outcome,
        value=label.value,
        standard_error=label.standard_error,
        weight=1.0,
        tokens=None if None in tokens else sum(each or 0 for each in tokens),
        stopped=finishes.count("stop"),
        truncated=finishes.count("length") + finishes.count("repetition"),
        failed=finishes.count("error"),
    )


class LabelTally:
    """What the labels are going to be made of, over all families: how many rollouts, how many ready ones, and which."""

    def __init__(self, every: Iterable[Ruled]) -> None:
        """Goes through them all, and keeps 8 bytes a problem."""
        self.rollouts = self.ready = 0
        self._gaps = array("d")
        print_ = hashlib.sha256()
        for each in every:
            self.rollouts += len(each.family.rollouts)
            for row in each.ready():
                self.ready += 1
                drawn = [each.family.drawn(row, step).outcomes for step in range(len(row.steps))]
                print_.update(digest(row.rollout_id, row.outcome, [list(outcomes) for outcomes in drawn]).encode())
            if (gap := _gap(each.family)) is not None:
                self._gaps.append(gap)
        self.completions = print_.hexdigest()[:32]
        """Digest of the outcomes of the ready rollouts and of the completions of each of their steps."""

    def disagreement(self) -> float | None:
        """How many standard errors the first steps' completions are from their rollouts' outcomes; None for too few.

        Both have the same mean when they come from one policy under one prompt and token budget (the martingale of
        `montecarlo`), so a large number means that they do not. Problems are the independent units.
        """
        means = self._gaps
        if len(means) < 20:
            return None
        mean = sum(means) / len(means)
        variance = sum((each - mean) ** 2 for each in means) / (len(means) - 1)
        return mean / math.sqrt(variance / len(means)) if variance else 0.0


def _gap(family: Family[Any]) -> float | None:
    """How far a problem's outcomes are above the completions of their first steps, in the mean; None without any."""
    gaps = []
    for row in family.rollouts:
        k, m = monte_carlo.count(family.drawn(row, 0).outcomes)
        if m and row.outcome is not None and len(row.steps) > 1:
            gaps.append(row.outcome - k / m)
    return sum(gaps) / len(gaps) if gaps else None


def write(
    workspace: Store, entry: Mapping[str, Any], tally: LabelTally, ruled: Callable[[int], Iterable[Ruled]]
) -> Ledger:
    """Labels by the rule of `entry` in place of those there are; nothing when they are the same. Counts rollouts.

    `ruled` gives a shard's families, which `tally` counted before. A rollout that is not ready (its requests failed)
    gets no labels yet: it is pending. The new labels are written beside the old ones, a few at a time, and take their
    place when they are whole.
    """
    partition, staged = workspace.partition(STEP_LABELS), workspace.staging(STEP_LABELS)
    inputs = {"rollouts": tally.rollouts, "completions": tally.completions}
    record = lineage.read(partition) if partition.whole() else None
    ledger = Ledger("rollouts", taken=tally.rollouts, out=tally.ready)
    if tally.ready < tally.rollouts:
        ledger.failed = {"without-completions": tally.rollouts - tally.ready}
    if record is not None and record["complete"] and record["config"] == dict(entry) and record["inputs"] == inputs:
        ledger.skipped = tally.ready
        return ledger
    # What a killed run left.
    staged.clear()
    for shard in range(workspace.shards):
        writer, rows = Writer(staged), list[StepLabelRow]()
        for each in ruled(shard):
            for rollout in each.ready():
                rows += each.rows(rollout, entry["mode"])
            if len(rows) >= _CHUNK:
                writer.commit(shard, rows)
                rows = []
        writer.commit(shard, rows)
    lineage.write(staged, "label", dict(entry), inputs, ledger)
    partition.take_over(staged)
    return ledger
