"""Completions of a few prefixes, drawn as a run would draw them and thrown away: what `curate plan` measures."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from curate.engines.supervisor import Engines
from curate.recipe.sections import LabelConfig, RolloutConfig
from curate.runtime.reporter import Reporter
from curate.stages import generation
from curate.stages.base import Unit
from curate.stages.label.label import STAGE, complete, plan_of
from curate.tables.schema import COMPLETIONS
from curate.tables.store import Store


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
    plan = plan_of(
        config.model_copy(update={"budget_tokens": None}), workspace, generation.policy_digest(policy), new=True
    )
    units = []
    for shard in range(workspace.shards):
        for family in plan.families.of(shard, drawn=False, whole=True):
            domain = family.everyone[0]["domain"]
            problems[domain] += 1
            if problems[domain] > count:
                continue
            rule = plan.ruled(family).rule
            for row, step in family.prefixes():
                if row is family.rollouts[0]:
                    found.prefixes[domain] += 1
                    if rule.owed(row, step, ()):
                        units.append(Unit(shard, (family.problem, row, step, [], rule)))
    staged.clear()
    work = partial(
        complete, policy=policy, workspace=workspace, units=units, into=staged, run_seed=run_seed, reporter=reporter
    )
    reporter.start(STAGE, len(units), "prefixes")
    begin = time.perf_counter()
    engines.run(policy.engine, reporter.note, work)
    found.seconds = time.perf_counter() - begin
    reporter.finish()
    domains = {unit.payload[1]["rollout_id"]: unit.payload[1]["domain"] for unit in units}
    for row in staged.read(["rollout_id", "tokens"]).to_pylist():
        found.completions[domains[row["rollout_id"]]] += 1
        found.tokens[domains[row["rollout_id"]]] += row["tokens"] or 0
        found.counted[domains[row["rollout_id"]]] += row["tokens"] is not None
    staged.clear()
    return found
