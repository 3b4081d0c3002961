"""Completions of a few prefixes, drawn as a run would draw them and thrown away: what `curate plan` measures."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from curate.engines.supervisor import Engines
from curate.recipe.sections import LabelConfig, PooledLabels, RolloutConfig
from curate.runtime.reporter import Reporter
from curate.stages.base import Unit
from curate.stages.label.label import STAGE, LabelGeneration, Prefix
from curate.tables.rows import columns_of
from curate.tables.schema import COMPLETIONS
from curate.tables.store import Store


@columns_of(COMPLETIONS)
@dataclass(frozen=True, slots=True)
class _TrialCompletion:
    """What a completion took."""

    rollout_id: str
    tokens: int | None


@dataclass
class LabelTrial:
    """What completing some prefixes took, by domain, and in how many seconds all of them."""

    prefixes: Counter[str] = field(default_factory=Counter)
    completions: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    counted: Counter[str] = field(default_factory=Counter)
    """Completions whose tokens are known."""
    seconds: float = 0.0


def complete_some(
    config: LabelConfig,
    policy: RolloutConfig,
    workspace: Store,
    run_seed: int,
    count: int,
    reporter: Reporter,
    engines: Engines,
) -> LabelTrial:
    """Complete the prefixes of the first rollout of `count` problems of each domain, as a run would, and keep nothing.

    What was drawn stays out of the workspace, where it would be completions of no rule. A budget of tokens is for all
    rollouts, so it says nothing about these: the default mean takes its place.
    """
    found, staged, problems = LabelTrial(), workspace.staging(COMPLETIONS), Counter[str]()
    if isinstance(config, PooledLabels):
        config = config.model_copy(update={"budget_tokens": None})
    made = LabelGeneration(config, policy, workspace, run_seed)
    plan = made.plan()
    units = list[Unit[Prefix]]()
    for shard in range(workspace.shards):
        for problem, family in plan.families.to_complete(shard, drawn=False):
            problems[problem.domain] += 1
            if problems[problem.domain] > count:
                continue
            rule = plan.ruled(family).rule
            for row, step in family.prefixes():
                if row is family.rollouts[0]:
                    found.prefixes[problem.domain] += 1
                    if rule.missing(row, step, ()):
                        units.append(Unit(shard, Prefix(problem, row, step, (), rule)))
    staged.clear()
    draw = partial(made.draw, units=units, into=staged, reporter=reporter)
    reporter.start(STAGE, len(units), "prefixes")
    begin = time.perf_counter()
    engines.run(policy.engine, reporter.note, draw)
    found.seconds = time.perf_counter() - begin
    reporter.finish()
    domains = {unit.payload.rollout.rollout_id: unit.payload.problem.domain for unit in units}
    for drawn in staged.rows(_TrialCompletion):
        found.completions[domains[drawn.rollout_id]] += 1
        found.tokens[domains[drawn.rollout_id]] += drawn.tokens or 0
        found.counted[domains[drawn.rollout_id]] += drawn.tokens is not None
    staged.clear()
    return found
