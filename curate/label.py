"""Stage: rollouts in, completions and step labels out, by Monte Carlo completion of prefixes.

One unit is one prefix (rollout, step). A rule (`curate.rules`) says how many completions it is owed, at once or in
rounds. The labels are then computed from the stored completions alone, so any other rule that needs no more of them can
be applied later without generating (`relabel`). The last step of a chain gets no completions: the chain is over, its
value is its outcome.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow.compute as pc

from curate import generation, labels, lineage, prompts, rules
from curate.active import dropped
from curate.allocation import Siblings, cost, pull, rate
from curate.engines.base import Request, Sample
from curate.engines.keeper import Engines, Keeper
from curate.errors import BudgetError, UserError
from curate.labels import NOTHING, Drawn, Store
from curate.lineage import Ledger
from curate.pictures import Pictures
from curate.rules import Rule
from curate.schema import COMPLETIONS, GIVEN, PROBLEMS, ROLLOUTS, STEP_LABELS, Row
from curate.sections import LabelConfig, RolloutConfig
from curate.seeds import seed, shard_of
from curate.stage import Outcome, Reporter, Unit, resume, run_units
from curate.store import Workspace, among

STAGE = "label"
REPLACE = "curate label --replace"


@dataclass(frozen=True)
class _Plan:
    """What is labelled, and by which rule; `history` are the rules that drew completions here, this one included."""

    rollouts: Sequence[Row]
    problems: Mapping[str, Row]
    store: Store
    entry: Mapping[str, Any]
    rule: Rule
    history: Sequence[Rule]
    entries: Sequence[Mapping[str, Any]]


def _problems(workspace: Workspace) -> dict[str, Row]:
    out = dropped(workspace)
    rows = workspace.read(PROBLEMS).to_pylist()
    return {row["problem_id"]: row for row in rows if row["problem_id"] not in out}


def _rollouts(config: LabelConfig, workspace: Workspace, problems: Collection[str]) -> list[Row]:
    """All rollouts of these roles that may be labelled; not those whose source brought their labels."""
    known = workspace.read(STEP_LABELS, ["rollout_id"], where=pc.field("mode") == GIVEN)["rollout_id"].to_pylist()
    labelled = set(known)
    rows: list[Row] = [
        row
        for row in workspace.read(ROLLOUTS, where=among("role", config.roles)).to_pylist()
        if row["rollout_id"] not in labelled and row["problem_id"] in problems
    ]
    if not rows:
        raise UserError(f"There are no rollouts of role {', '.join(config.roles)}; run `curate rollout` first.")
    return rows


def _check_policy(rollouts: Sequence[Row], rule: Rule, policy: str) -> None:
    """Completions are drawn from the recipe's policy; a rule that pools needs rollouts of the same one."""
    given = sum(row["policy"].startswith(GIVEN) for row in rollouts)
    strangers = sum(row["policy"] != policy for row in rollouts) - given
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


def _sizes(row: Row) -> list[int]:
    """Of a chain's steps, in tokens; in characters where the engine gave no tokens."""
    if not row["step_ends"]:
        return list(map(len, row["steps"]))
    return [end - start for start, end in itertools.pairwise([0, *row["step_ends"]])]


def siblings_of(rollouts: Sequence[Row]) -> dict[str, Siblings]:
    """For each rollout with steps, what the other rollouts of its problem and the chains of other problems say."""
    by_problem: dict[str, list[Row]] = defaultdict(list)
    by_domain: dict[str, Counter[int]] = defaultdict(Counter)
    for row in rollouts:
        if row["steps"]:
            by_problem[row["problem_id"]].append(row)
            by_domain[row["domain"]][len(row["steps"])] += 1
    found = {}
    for rows in by_problem.values():
        elsewhere = by_domain[rows[0]["domain"]] - Counter(len(row["steps"]) for row in rows)
        for row in rows:
            others = [each for each in rows if each is not row]
            found[row["rollout_id"]] = Siblings.of(
                [each["outcome"] for each in others], [_sizes(each) for each in others], elsewhere
            )
    return found


def _prefixes(rollouts: Sequence[Row]) -> list[tuple[Row, int]]:
    return [(row, step) for row in rollouts for step in range(len(row["steps"]) - 1)]


def _factor(config: LabelConfig, rollouts: Sequence[Row], siblings: Mapping[str, Siblings]) -> float:
    """The scale of `pooled`'s sizes for the wanted mean or budget, from all prefixes there are."""
    places = [(siblings[row["rollout_id"]], step) for row, step in _prefixes(rollouts)]
    pulls = [pull(*place) for place in places]
    if config.budget_tokens is None:
        return rate(pulls, [1.0] * len(pulls), config.mean * len(pulls), config.most)
    if any(row["steps"] and not row["step_ends"] for row in rollouts):
        raise UserError("label.budget_tokens needs rollouts with token ids; use label.mean_completions instead.")
    return rate(pulls, [cost(*place) for place in places], config.budget_tokens, config.most)


def _plan(config: LabelConfig, workspace: Workspace, policy: str, new: bool) -> _Plan:
    """Everything that is decided before generating; `new` adds the configured rule to those that drew completions."""
    problems = _problems(workspace)
    everything = _rollouts(config, workspace, problems)
    siblings = siblings_of(everything)
    wanted = config.rollouts
    # By sample index, never by outcome.
    chosen = [row for row in everything if wanted is None or row["sample_index"] < wanted]
    record = lineage.read(workspace.partition(COMPLETIONS)) or {}
    entries: list[Mapping[str, Any]] = list(record.get("inputs", {}).get("rules", []))
    asked: dict[str, Any] = {"mode": config.mode, "most": config.most, "mean": None, "budget": config.budget_tokens}
    if config.mode == "pooled" and config.budget_tokens is None:
        asked["mean"] = config.mean
    # The scale stays what it was, so that problems added later change no size of the others.
    entry = next((each for each in entries if {**each, "factor": None} == {**asked, "factor": None}), None)
    if entry is None:
        before = [each["factor"] for each in entries if each["mode"] == "pooled"]
        fresh = _factor(config, chosen, siblings) if new and config.mode == "pooled" else max(before, default=0.0)
        entry = asked | {"factor": fresh if config.mode == "pooled" else None}
        if new:
            entries.append(entry)
    history = [rules.made(each, siblings) for each in entries]
    rule = rules.made(entry, siblings, rules.floor(history))
    _check_policy(chosen, rule, policy)
    return _Plan(chosen, problems, _store(workspace), entry, rule, history, entries)


def _store(workspace: Workspace) -> dict[tuple[str, int], Drawn]:
    """The stored completions by prefix. Whole units are stored, so their indices have no gaps."""
    columns = ["rollout_id", "step_index", "sample_index", "outcome", "finish", "tokens"]
    found: dict[tuple[str, int], list[tuple[int, bool | None, str, int]]] = defaultdict(list)
    for batch in workspace.partition(COMPLETIONS).read(columns).to_batches(max_chunksize=20_000):
        for rollout, step, *rest in zip(*(batch[name].to_pylist() for name in columns), strict=True):
            found[rollout, step].append(tuple(rest))
    return {key: Drawn(*zip(*(rest for _, *rest in sorted(each)), strict=True)) for key, each in found.items()}


def _owed(plan: _Plan, shards: int) -> list[Unit]:
    units = []
    for row, step in _prefixes(plan.rollouts):
        outcomes = plan.store.get((row["rollout_id"], step), NOTHING).outcomes
        if plan.rule.owed(row, step, outcomes):
            units.append(Unit(shard_of(row["problem_id"], shards), (row, step, list(outcomes))))
    return sorted(units, key=lambda unit: unit.shard)


def _rows(
    rollout: Row, step: int, first: int, samples: Sequence[Sample], problem: Row, base: int, policy: str
) -> list[Row]:
    prefix = "".join(rollout["steps"][: step + 1])
    return [
        {
            "rollout_id": rollout["rollout_id"],
            "problem_id": rollout["problem_id"],
            "step_index": step,
            "sample_index": index,
            "text": sample.text,
            "token_ids": list(sample.token_ids),
            **generation.graded(sample, prefix + sample.text, problem),
            "finish": sample.finish,
            "prompt_tokens": sample.prompt_tokens,
            "tokens": len(sample.token_ids),
            "seed": base + index,
            "policy": policy,
        }
        for index, sample in enumerate(samples, start=first)
    ]


async def _work(
    unit: Unit, *, engine: Keeper, policy: RolloutConfig, named: str, plan: _Plan, pictures: Pictures, run_seed: int
) -> list[Row]:
    rollout, step, outcomes = unit.payload
    problem, rows = plan.problems[rollout["problem_id"]], list[Row]()
    cut = rollout["step_ends"][step] if rollout["step_ends"] else 0
    # Sample j draws from base + j, so however completions are shared out over requests, they are the same.
    base = seed(run_seed, STAGE, rollout["rollout_id"], step, 0)
    while more := plan.rule.owed(rollout, step, outcomes):
        first = len(outcomes)
        request = Request(
            request_id=f"{rollout['rollout_id']}-{step:02d}-{first:03d}",
            prompt=prompts.render(policy.prompt, problem["question"], problem["choices"]),
            images=pictures.of(problem),
            prefix_ids=rollout["token_ids"][:cut],
            prefix_text="".join(rollout["steps"][: step + 1]),
            n=more,
            seed=base + first,
            # The budget is the whole chain's, so that "right within the budget" is the same event for both.
            sampling=generation.sampling(policy, max(policy.sampling.max_tokens - cut, 1)),
        )
        samples = await engine.generate(request)
        # In a thread, for the sake of the other requests: see `rollout`.
        new = await asyncio.to_thread(_rows, rollout, step, first, samples, problem, base, named)
        rows += new
        outcomes = outcomes + [row["outcome"] for row in new]
    return rows


def run(
    config: LabelConfig,
    policy: RolloutConfig,
    workspace: Workspace,
    run_seed: int,
    reporter: Reporter,
    engines: Engines,
    replace: bool = False,
) -> Ledger:
    """Complete what is owed, then label; the ledger counts prefixes. BudgetError when too many fail."""
    partition = workspace.partition(COMPLETIONS)
    if replace:
        partition.clear()
    record = generation.settings(policy) | {"seed": run_seed}
    lineage.guard(partition, record, REPLACE)
    resume(partition)
    plan = _plan(config, workspace, generation.policy_digest(policy), new=True)
    units = _owed(plan, workspace.shards)
    inputs = {"rollouts": len(plan.rollouts), "rules": list(plan.entries)}
    outcome, extra = Outcome(), (lineage.read(partition) or {}).get("versions", {})
    if units:
        lineage.write(partition, STAGE, record, inputs)
        reporter.start(STAGE, len(units), "prefixes")
        work = partial(
            _run, policy=policy, workspace=workspace, plan=plan, units=units, run_seed=run_seed, reporter=reporter
        )
        outcome, extra = engines.run(policy.engine, reporter.note, work)
        reporter.finish()
    ledger = _account(workspace, plan, len(units), outcome)
    lineage.write(partition, STAGE, record, inputs, ledger, extra)
    done = _plan(config, workspace, generation.policy_digest(policy), new=True)
    _write_labels(done, workspace, reporter, [done.rule])
    if len(outcome.failed) > config.error_budget * len(units):
        raise BudgetError(
            f"{len(outcome.failed)} of {len(units)} prefixes failed, above the error budget of "
            f"{config.error_budget:.0%} (first: {outcome.failed[0][1]}); run again to retry them."
        )
    return ledger


def relabel(config: LabelConfig, policy: RolloutConfig, workspace: Workspace, reporter: Reporter) -> Ledger:
    """Labels by another rule from the stored completions; generates nothing. The ledger counts rollouts.

    UserError when the rule could have asked for completions that were never drawn: the labels that it can give would
    then be a selection by outcome.
    """
    if not workspace.partition(COMPLETIONS).files():
        raise UserError("There are no completions to label from; run `curate label` first.")
    plan = _plan(config, workspace, generation.policy_digest(policy), new=False)
    if not rules.covers(plan.history, plan.rule):
        there = ", ".join(f"{each['mode']} ({each['most']})" for each in plan.entries) or "no rule"
        raise UserError(
            f"Labels of mode {config.mode} with {config.most} completions need more than were drawn, by {there}; lower "
            "label.completions, or run `curate label`."
        )
    return _write_labels(plan, workspace, reporter, plan.history)


async def _run(
    engine: Keeper,
    *,
    policy: RolloutConfig,
    workspace: Workspace,
    plan: _Plan,
    units: list[Unit],
    run_seed: int,
    reporter: Reporter,
) -> tuple[Outcome, dict[str, str]]:
    named, pictures = generation.policy_digest(policy), Pictures(workspace)
    work = partial(_work, engine=engine, policy=policy, named=named, plan=plan, pictures=pictures, run_seed=run_seed)
    outcome = await run_units(workspace.partition(COMPLETIONS), units, work, policy.engine.in_flight, reporter)
    return outcome, engine.versions()


def _account(workspace: Workspace, plan: _Plan, owed: int, outcome: Outcome) -> Ledger:
    failed: dict[str, int] = defaultdict(int)
    rows = []
    for unit, error in outcome.failed:
        rollout, step, _ = unit.payload
        failed[error.reason] += 1
        part = f"/{rollout['sample_index']}/{step}"
        rows.append(lineage.reject(STAGE, plan.problems[rollout["problem_id"]], error, part))
    lineage.write_rejects(workspace, STAGE, rows)
    total = len(_prefixes(plan.rollouts))
    ledger = Ledger("prefixes", taken=total, out=total - len(outcome.failed), failed=dict(failed), skipped=total - owed)
    ledger.check(STAGE)
    return ledger


def _write_labels(plan: _Plan, workspace: Workspace, reporter: Reporter, enough: Sequence[Rule]) -> Ledger:
    gap = labels.disagreement(plan.rollouts, plan.store) if plan.rule.pools else None
    if gap is not None and abs(gap) > labels.SUSPICIOUS:
        reporter.note(
            f"Completions and rollouts disagree by {gap:+.1f} standard errors: prompt, token budget or tokenisation "
            "differ between them, and pooled labels are biased; use label.mode exact."
        )
    return labels.write(workspace, plan.rollouts, plan.store, plan.entry, plan.rule, plan.history, enough)
