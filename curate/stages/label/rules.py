"""The rules of labelling: which completions a prefix lacks, and what its chain's labels are. Pure.

A rule decides from the outcomes drawn so far, in order of sample index. `certain` is how many of them are drawn
whatever they say; only those may be averaged by another rule later, because a rule that stops by what it sees leaves a
biased selection behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from curate.stages import monte_carlo
from curate.stages.label import allocation
from curate.stages.label.allocation import Siblings
from curate.stages.monte_carlo import StepLabel

Outcomes = Sequence[bool | None]


class Completed(Protocol):
    """What a rule knows of a rollout."""

    @property
    def rollout_id(self) -> str:
        """Name of the rollout."""
        ...

    @property
    def outcome(self) -> bool | None:
        """Whether it is right; null where undecided."""
        ...


class Rule(Protocol):
    """See the module's text. `step` is never the last one."""

    pools: bool
    """Whether it uses the rollout's own outcome, so that rollouts of another policy would bias it."""

    @property
    def max_completions(self) -> int:
        """Largest number that it draws for a step (`Legacy` counts the rollout itself)."""
        ...

    def missing(self, rollout: Completed, step: int, outcomes: Outcomes) -> int:
        """How many more to draw next; 0 when the step is done."""
        ...

    def certain(self, rollout: Completed, step: int) -> int:
        """How many are drawn whatever they say."""
        ...

    @property
    def everywhere(self) -> int:
        """How many are drawn whatever they say, and whatever the rollout and the step."""
        ...

    def labels(self, rollout: Completed, outcomes: Sequence[Outcomes]) -> list[StepLabel]:
        """Labels of all steps but the last."""
        ...

    def used(self, outcomes: Outcomes) -> Outcomes:
        """Those that the label counts."""
        ...


@dataclass(frozen=True)
class Exact:
    """Exactly `max_completions` a step, k/m."""

    max_completions: int
    pools = False

    def missing(self, rollout: Completed, step: int, outcomes: Outcomes) -> int:
        """What is missing."""
        return max(self.max_completions - len(outcomes), 0)

    def certain(self, rollout: Completed, step: int) -> int:
        """All."""
        return self.everywhere

    @property
    def everywhere(self) -> int:
        """All."""
        return self.max_completions

    def labels(self, rollout: Completed, outcomes: Sequence[Outcomes]) -> list[StepLabel]:
        """Undefined where completions are missing."""
        return [
            monte_carlo.exact(*monte_carlo.count(each)) if len(each) >= self.max_completions else monte_carlo.UNDEFINED
            for each in map(self.used, outcomes)
        ]

    def used(self, outcomes: Outcomes) -> Outcomes:
        """The first so many."""
        return outcomes[: self.max_completions]


@dataclass(frozen=True)
class Hard:
    """Any of `max_completions`; stops at the first success."""

    max_completions: int
    pools = False

    def missing(self, rollout: Completed, step: int, outcomes: Outcomes) -> int:
        """One, one, two, four, eight, ..."""
        return monte_carlo.hard_missing(outcomes, self.max_completions)

    def certain(self, rollout: Completed, step: int) -> int:
        """The first."""
        return self.everywhere

    @property
    def everywhere(self) -> int:
        """The first."""
        return 1

    def labels(self, rollout: Completed, outcomes: Sequence[Outcomes]) -> list[StepLabel]:
        """Undefined while it is not decided."""
        return [monte_carlo.hard(each, self.max_completions) for each in outcomes]

    def used(self, outcomes: Outcomes) -> Outcomes:
        """All up to `max_completions`."""
        return outcomes[: self.max_completions]


@dataclass(frozen=True)
class Legacy:
    """DreamPRM's public rule: up to `max_completions` samples, the rollout itself among them."""

    max_completions: int
    pools = True

    def missing(self, rollout: Completed, step: int, outcomes: Outcomes) -> int:
        """Until four agree, or `max_completions`."""
        return monte_carlo.legacy_missing(outcomes, rollout.outcome, self.max_completions)

    def certain(self, rollout: Completed, step: int) -> int:
        """Three beside the rollout."""
        return self.everywhere

    @property
    def everywhere(self) -> int:
        """Three beside the rollout."""
        return min(monte_carlo.LEGACY_LEAST, self.max_completions) - 1

    def labels(self, rollout: Completed, outcomes: Sequence[Outcomes]) -> list[StepLabel]:
        """Undefined before the rule stops."""
        return [monte_carlo.legacy(each, rollout.outcome, self.max_completions) for each in outcomes]

    def used(self, outcomes: Outcomes) -> Outcomes:
        """All up to `max_completions` - 1."""
        return outcomes[: self.max_completions - 1]


@dataclass(frozen=True)
class PooledRule:
    """Sizes by `allocation` with this factor, labels pooled over the chain; `siblings` by rollout.

    `floor` is how many completions every step has at least, from another rule before this one.
    """

    factor: float
    max_completions: int
    siblings: Mapping[str, Siblings]
    floor: int = 0
    pools = True

    def missing(self, rollout: Completed, step: int, outcomes: Outcomes) -> int:
        """What is missing of the step's size."""
        return max(self.certain(rollout, step) - len(outcomes), 0)

    def certain(self, rollout: Completed, step: int) -> int:
        """The step's size: known at the prefix."""
        expected = self.factor * allocation.pull(self._siblings(rollout), step)
        return allocation.size(expected, self.max_completions, rollout.rollout_id, step)

    @property
    def everywhere(self) -> int:
        """None: sizes go by the chain."""
        return 0

    def labels(self, rollout: Completed, outcomes: Sequence[Outcomes]) -> list[StepLabel]:
        """With the weights of the problem's nominal chain."""
        siblings = self._siblings(rollout)
        taus = [
            allocation.tau(siblings, step, self.factor, self.max_completions, self.floor)
            for step in range(len(outcomes))
        ]
        counts = [monte_carlo.count(each) for each in outcomes]
        return monte_carlo.pooled(counts, rollout.outcome, taus, siblings.spread)

    def used(self, outcomes: Outcomes) -> Outcomes:
        """All."""
        return outcomes

    def _siblings(self, rollout: Completed) -> Siblings:
        return self.siblings.get(rollout.rollout_id, Siblings())


def made(entry: Mapping[str, Any], siblings: Mapping[str, Siblings], floor: int = 0) -> Rule:
    """The rule that `entry` (its lineage: mode, most, factor) stands for."""
    if entry["mode"] == "pooled":
        return PooledRule(entry["factor"], entry["most"], siblings, floor)
    simple: dict[str, type[Exact] | type[Hard] | type[Legacy]] = {"exact": Exact, "hard": Hard, "legacy": Legacy}
    return simple[entry["mode"]](entry["most"])


def floor(history: Sequence[Rule]) -> int:
    """How many completions every step has for certain, whatever its place in the chain."""
    return max((rule.everywhere for rule in history), default=0)


def usable(rollout: Completed, step: int, outcomes: Outcomes, rule: Rule, history: Sequence[Rule]) -> Outcomes:
    """What `rule` may use of all outcomes there are, when the rules of `history` drew them.

    A rule that stops by what it sees (`Hard`, `Legacy`) replays itself on them all, in order. The others take as many
    as some rule drew whatever they said.
    """
    if isinstance(rule, Hard | Legacy):
        return outcomes
    return outcomes[: max((each.certain(rollout, step) for each in history), default=0)]


def covers(history: Sequence[Rule], rule: Rule) -> bool:
    """Whether what the rules of `history` drew is all that `rule` can ask for."""
    if isinstance(rule, PooledRule):
        return bool(history)
    same = max((each.max_completions for each in history if type(each) is type(rule)), default=0)
    needed = rule.max_completions - 1 if isinstance(rule, Legacy) else rule.max_completions
    return same >= rule.max_completions or floor(history) >= needed
