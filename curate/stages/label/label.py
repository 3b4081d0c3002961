"""Stage: rollouts in, completions and step labels out, by Monte Carlo completion of prefixes.

One unit is one prefix (rollout, step). A rule (`curate.stages.label.rules`) says how many completions it lacks, at
once or in rounds. The labels are then computed from the stored completions alone, so any other rule that needs no more
of them can be applied later without generating (`relabel`). The last step of a chain gets no completions: the chain is
over, its value is its outcome.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from curate.engines.base import Request, Sample
from curate.engines.supervisor import Engines, Supervisor
from curate.errors import RowError, UserError
from curate.recipe.sections import LabelConfig, PooledLabels, RolloutConfig
from curate.runtime.reporter import Reporter
from curate.seeds import seed
from curate.stages import generation, golds
from curate.stages.base import Outcome, Unit
from curate.stages.generating import Generation, Pending
from curate.stages.label import labels, rules
from curate.stages.label.allocation import Siblings, cost, pull, rate
from curate.stages.label.families import C, Families, Family, WholeChain
from curate.stages.label.labels import LabelTally, Ruled
from curate.stages.label.rules import Outcomes, Rule
from curate.stages.stored_images import StoredImages
from curate.tables import lineage
from curate.tables.lineage import Ledger
from curate.tables.rows import CompletionRow, ProblemRow, RejectRow, Row
from curate.tables.schema import COMPLETIONS, GIVEN, ROLLOUTS
from curate.tables.store import Store
from curate.text import prompts, thinking

STAGE = "label"
# Role and domain.
Group = tuple[str, str]


@dataclass(frozen=True)
class LabelPlan:
    """What is labelled, and by which rule; `entries` are the rules that drew completions here.

    `new` says that the rule is to draw as well, and is among them; `settled` that it was before.
    """

    families: Families
    entry: Mapping[str, Any]
    entries: Sequence[Mapping[str, Any]]
    new: bool
    settled: bool

    def rules_of(self, siblings: Mapping[str, Siblings]) -> tuple[Rule, list[Rule]]:
        """(the rule, those that drew) for rollouts of these siblings."""
        history = [rules.made(each, siblings) for each in self.entries]
        return rules.made(self.entry, siblings, rules.floor(history)), history

    def ruled(self, family: Family[C]) -> Ruled:
        """The family under these rules."""
        pooled = any(each["mode"] == "pooled" for each in [self.entry, *self.entries])
        rule, history = self.rules_of(family.siblings if pooled else {})
        return Ruled(family, rule, history, [rule] if self.new else history)

    def _open(self, family: Family[C]) -> Iterator[tuple[C, int, Outcomes, Rule]]:
        """(rollout, step, outcomes so far, rule) of the prefixes that lack completions."""
        rule = self.ruled(family).rule
        for row, step in family.prefixes():
            outcomes = family.drawn(row, step).outcomes
            if rule.missing(row, step, outcomes):
                yield row, step, outcomes, rule

    def count(self, shard: int) -> int:
        """How many prefixes of a shard lack completions."""
        return sum(1 for family in self.families.of(shard) for _ in self._open(family))

    def units(self, shard: int) -> Iterator[Unit[Prefix]]:
        """Those prefixes, with what it takes to ask for completions."""
        for problem, family in self.families.to_complete(shard):
            for row, step, outcomes, rule in self._open(family):
                yield Unit(shard, Prefix(problem, row, step, outcomes, rule))


class Prefix(NamedTuple):
    """A rollout up to one of its steps, what was drawn for it, and the rule that says how many more."""

    problem: ProblemRow
    rollout: WholeChain
    step: int
    outcomes: Outcomes
    rule: Rule


def _check_policy(policies: Mapping[str, int], rule: Rule, policy: str) -> None:
    """Completions are drawn from the recipe's policy; a rule that pools needs rollouts of the same one."""
    given = sum(count for name, count in policies.items() if name.startswith(GIVEN))
    strangers = sum(count for name, count in policies.items() if name != policy) - given
    if strangers:
        raise UserError(
            f"{strangers} rollouts come from another model, sampling or prompt than the recipe's rollout section, so "
            "completions would not be on-policy; set it back, or roll out again in another --workspace."
        )
    if given and rule.pools:
        raise UserError(
            f"{given} rollouts were imported: their own outcomes say nothing about the recipe's policy, so they cannot "
            "be pooled with its completions; set label.mode to exact or hard."
        )


def _factor(config: PooledLabels, families: Families) -> float:
    """The scale of `pooled`'s sizes for the wanted mean or budget, from all prefixes there are.

    While it is sought there are 8 bytes a prefix in memory, with a budget 16.
    """
    if config.budget_tokens is not None and families.without_tokens:
        raise UserError("label.budget_tokens needs rollouts with token ids; use label.mean_completions instead.")
    pulls, costs = array("d"), array("d")
    for family in families.all(drawn=False):
        for row, step in family.prefixes():
            siblings = family.siblings[row.rollout_id]
            pulls.append(pull(siblings, step))
            if config.budget_tokens is not None:
                costs.append(cost(siblings, step))
    if config.budget_tokens is None:
        return rate(pulls, None, config.mean * len(pulls), config.max_per_step)
    return rate(pulls, costs, config.budget_tokens, config.max_per_step)


def _asked(config: LabelConfig) -> dict[str, Any]:
    """Name a rule as lineage keeps it, but for the scale that `pooled` finds: workspaces have these keys."""
    asked: dict[str, Any] = {"mode": config.mode, "most": config.max_per_step, "mean": None, "budget": None}
    if isinstance(config, PooledLabels):
        asked |= {"mean": config.mean} if config.budget_tokens is None else {"budget": config.budget_tokens}
    return asked


def plan_of(
    config: LabelConfig, workspace: Store, policy: str, new: bool, families: Families | None = None
) -> LabelPlan:
    """Everything that is decided before generating; `new` adds the configured rule to those that drew completions."""
    golds.check(workspace, ROLLOUTS, COMPLETIONS)
    families = families or Families(config, workspace)
    if not families.there:
        raise UserError(f"There are no rollouts of role {', '.join(config.roles)}; run `curate rollout` first.")
    record = lineage.read(workspace.partition(COMPLETIONS)) or {}
    entries: list[Mapping[str, Any]] = list(record.get("inputs", {}).get("rules", []))
    asked = _asked(config)
    # The scale stays what it was, so that problems added later change no size of the others.
    entry = next((each for each in entries if {**each, "factor": None} == {**asked, "factor": None}), None)
    settled = entry is not None
    if entry is None:
        before = [each["factor"] for each in entries if each["mode"] == "pooled"]
        fresh = None
        if isinstance(config, PooledLabels):
            fresh = _factor(config, families) if new else max(before, default=0.0)
        entry = asked | {"factor": fresh}
        if new:
            entries.append(entry)
    plan = LabelPlan(families, entry, entries, new, settled)
    _check_policy(families.policies, plan.rules_of({})[0], policy)
    return plan


class PendingCompletions(Pending[Prefix]):
    """The completions that prefixes lack."""

    def __init__(self, plan: LabelPlan, workspace: Store) -> None:
        self._plan, self._workspace = plan, workspace
        self.total = plan.families.prefixes
        self.open = sum(map(plan.count, range(workspace.shards)))
        self.inputs = {"rollouts": plan.families.rollouts, "rules": list(plan.entries)}

    def units(self) -> Iterator[Unit[Prefix]]:
        """A prefix each."""
        return (unit for shard in range(self._workspace.shards) for unit in self._plan.units(shard))

    def ledger(self, outcome: Outcome[Prefix]) -> Ledger:
        """Count prefixes."""
        failed = Counter(error.reason for _, error in outcome.failed)
        out = self.total - len(outcome.failed)
        return Ledger("prefixes", taken=self.total, out=out, failed=dict(failed), skipped=self.total - self.open)

    def finish(self, reporter: Reporter) -> None:
        """Label from what is stored now."""
        _write_labels(self._plan, self._workspace, reporter)


class LabelGeneration(Generation[Prefix]):
    """`curate label`."""

    stage, table, unit = STAGE, COMPLETIONS, "prefixes"

    def __init__(self, config: LabelConfig, policy: RolloutConfig, workspace: Store, run_seed: int) -> None:
        super().__init__(workspace, policy.engine, config.error_budget, run_seed)
        self._config, self._policy = config, policy

    def settings(self) -> dict[str, Any]:
        """What decides the completions beside the rule: the rollouts' own settings."""
        return generation.settings(self._policy)

    def plan(self, families: Families | None = None) -> LabelPlan:
        """What is decided before generating."""
        return plan_of(self._config, self.workspace, self._named, new=True, families=families)

    def pending(self) -> PendingCompletions:
        """The completions that prefixes lack."""
        return PendingCompletions(self.plan(), self.workspace)

    @cached_property
    def _named(self) -> str:
        return generation.policy_digest(self._policy)

    @cached_property
    def _images(self) -> StoredImages:
        return StoredImages(self.workspace)

    async def rows(self, unit: Unit[Prefix], engine: Supervisor) -> list[Row]:
        """Ask as often as the rule says that more are missing."""
        problem, rollout, step, outcomes, rule = unit.payload
        policy, found = self._policy, list[Row]()
        cut = rollout.step_ends[step] if rollout.step_ends else 0
        # Sample j draws from base + j, so however completions are shared out over requests, they are the same.
        base = seed(self.run_seed, STAGE, rollout.rollout_id, step, 0)
        while more := rule.missing(rollout, step, outcomes):
            first = len(outcomes)
            request = Request(
                request_id=f"{rollout.rollout_id}-{step:02d}-{first:03d}",
                prompt=prompts.render(policy.prompt, problem.question, problem.choices, len(problem.image_hashes)),
                images=self._images.of(problem.image_hashes),
                prefix_ids=rollout.token_ids[:cut],
                prefix_text=thinking.before(rollout.reasoning) + "".join(rollout.steps[: step + 1]),
                n=more,
                seed=base + first,
                # The budget is the whole chain's, so that "right within the budget" is the same event for both.
                sampling=generation.sampling(policy, max(policy.sampling.max_tokens - cut, 1)),
            )
            samples = await engine.generate(request)
            # In a thread, for the sake of the other requests: see `rollout`.
            new = await asyncio.to_thread(self._graded, unit.payload, first, samples, base)
            found += new
            outcomes = [*outcomes, *(row.outcome for row in new)]
        return found

    def _graded(self, prefix: Prefix, first: int, samples: Sequence[Sample], base: int) -> list[CompletionRow]:
        return [self._row(prefix, index, sample, base) for index, sample in enumerate(samples, start=first)]

    def _row(self, prefix: Prefix, index: int, sample: Sample, base: int) -> CompletionRow:
        rollout, part = prefix.rollout, thinking.apart(sample.text)
        whole = "".join(rollout.steps[: prefix.step + 1]) + part.text
        graded = generation.graded(sample, whole, prefix.problem, self._policy.words)
        return CompletionRow(
            rollout_id=rollout.rollout_id,
            problem_id=rollout.problem_id,
            step_index=prefix.step,
            sample_index=index,
            reasoning=thinking.merged(sample.reasoning, part.reasoning),
            text=part.text,
            token_ids=list(sample.token_ids),
            answer=graded.answer,
            outcome=graded.outcome,
            outcome_rule=graded.outcome_rule,
            gold=graded.gold,
            finish=sample.finish,
            prompt_tokens=sample.prompt_tokens,
            tokens=sample.count(),
            seed=sample.seed_of(base + index),
            policy=self._named,
        )

    def reject(self, unit: Unit[Prefix], error: RowError) -> RejectRow:
        """A prefix each."""
        problem, rollout, step, *_ = unit.payload
        return lineage.reject(STAGE, problem, error, f"/{rollout.sample_index}/{step}", rollout.rollout_id, step)


def run(
    config: LabelConfig,
    policy: RolloutConfig,
    workspace: Store,
    run_seed: int,
    reporter: Reporter,
    engines: Engines,
    replace: bool = False,
) -> Ledger:
    """Complete what is missing, then label; the ledger counts prefixes. BudgetError when too many fail."""
    return LabelGeneration(config, policy, workspace, run_seed).run(reporter, engines, replace)


def relabel(config: LabelConfig, policy: RolloutConfig, workspace: Store, reporter: Reporter) -> Ledger:
    """Labels by another rule from the stored completions; generates nothing. The ledger counts rollouts.

    UserError when the rule could have asked for completions that were never drawn: the labels that it can give would
    then be a selection by outcome.
    """
    if not workspace.partition(COMPLETIONS).files():
        raise UserError("There are no completions to label from; run `curate label` first.")
    plan = plan_of(config, workspace, generation.policy_digest(policy), new=False)
    rule, history = plan.rules_of({})
    if not rules.covers(history, rule):
        there = ", ".join(f"{each['mode']} ({each['most']})" for each in plan.entries) or "no rule"
        raise UserError(
            f"Labels of mode {config.mode} with {config.max_per_step} completions need more than were drawn, by "
            f"{there}; lower label.completions, or run `curate label`."
        )
    return _write_labels(plan, workspace, reporter)


@dataclass
class PrefixCounts:
    """What the rollouts that are there have and lack, by role and domain."""

    prefixes: Counter[Group] = field(default_factory=Counter)
    open: Counter[Group] = field(default_factory=Counter)
    """Prefixes that lack completions."""
    asked: Counter[Group] = field(default_factory=Counter)
    """Completions that a run asks for first; all there are going to be, unless the rule goes by what it sees."""
    drawn: Counter[Group] = field(default_factory=Counter)
    begun: Counter[Group] = field(default_factory=Counter)
    """Those of them that are of open prefixes."""
    tokens: Counter[Group] = field(default_factory=Counter)
    """Tokens of the drawn completions, as far as they were counted."""
    counted: Counter[Group] = field(default_factory=Counter)
    """How many of the drawn completions have a known number of tokens."""
    settled: bool = False
    """Whether the rule drew before: sizes of `pooled` stay what they are."""


def pending(config: LabelConfig, policy: RolloutConfig, workspace: Store, run_seed: int) -> PrefixCounts:
    """What a run would ask for; changes nothing, and is empty without rollouts. UserError as `run` would raise.

    What a run that was killed left in its journal counts as missing.
    """
    made = LabelGeneration(config, policy, workspace, run_seed)
    made.guard()
    if not (families := Families(config, workspace)).there:
        return PrefixCounts()
    plan = made.plan(families)
    found = PrefixCounts(settled=plan.settled)
    for family in plan.families.all():
        rule = plan.ruled(family).rule
        for row, step in family.prefixes():
            group, drawn = (row.role, row.domain), family.drawn(row, step)
            missing = rule.missing(row, step, drawn.outcomes)
            found.prefixes[group] += 1
            found.open[group] += missing > 0
            found.asked[group] += missing
            found.drawn[group] += len(drawn.outcomes)
            found.begun[group] += len(drawn.outcomes) if missing else 0
            found.tokens[group] += sum(each or 0 for each in drawn.tokens)
            found.counted[group] += len(drawn.tokens) - drawn.tokens.count(None)
    return found


def _write_labels(plan: LabelPlan, workspace: Store, reporter: Reporter) -> Ledger:
    def ruled(shard: int) -> Iterator[Ruled]:
        return map(plan.ruled, plan.families.of(shard))

    tally = LabelTally(each for shard in range(workspace.shards) for each in ruled(shard))
    gap = tally.disagreement() if plan.rules_of({})[0].pools else None
    if gap is not None and abs(gap) > labels.SUSPICIOUS:
        reporter.note(
            f"Completions and rollouts disagree by {gap:+.1f} standard errors: prompt, token budget or tokenisation "
            "differ between them, and pooled labels are biased; use label.mode exact."
        )
    return labels.write(workspace, plan.entry, tally, ruled)
