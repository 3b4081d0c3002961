"""Stage: rollouts in, completions and step labels out, by Monte Carlo completion of every prefix.

One unit is one prefix (rollout, step): its completions are asked for in one request. The labels are then computed from
the stored completions alone, so any other rule can be applied later without generating again. The last step of a chain
gets no completions: the chain is over, its value is its outcome.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Any

import pyarrow.compute as pc

from curate import generation, lineage, montecarlo, prompts
from curate.active import dropped
from curate.engines.base import Request, Sample
from curate.engines.keeper import Engines, Keeper
from curate.errors import BudgetError, UserError
from curate.lineage import Ledger
from curate.schema import COMPLETIONS, GIVEN, PROBLEMS, ROLLOUTS, STEP_LABELS, Row
from curate.sections import LabelConfig, RolloutConfig
from curate.seeds import seed, shard_of
from curate.stage import Outcome, Reporter, Unit, resume, run_units
from curate.store import Workspace, among

STAGE = "label"
REPLACE = "curate label --replace"


def _problems(workspace: Workspace) -> dict[str, Row]:
    out = dropped(workspace)
    rows = workspace.read(PROBLEMS).to_pylist()
    return {row["problem_id"]: row for row in rows if row["problem_id"] not in out}


def _chosen(config: LabelConfig, workspace: Workspace, problems: Collection[str], policy: str) -> list[Row]:
    """Rollouts to label: by role and sample index, never by outcome. Not those whose source brought their labels."""
    where = among("role", config.roles)
    if config.rollouts is not None:
        where &= pc.field("sample_index") < config.rollouts
    known = workspace.read(STEP_LABELS, ["rollout_id"], where=pc.field("mode") == GIVEN)["rollout_id"].to_pylist()
    labelled = set(known)
    rows: list[Row] = [
        row
        for row in workspace.read(ROLLOUTS, where=where).to_pylist()
        if row["rollout_id"] not in labelled and row["problem_id"] in problems
    ]
    if not rows:
        raise UserError(f"There are no rollouts of role {', '.join(config.roles)}; run `curate rollout` first.")
    strangers = sum(row["policy"] != policy for row in rows)
    if strangers:
        raise UserError(
            f"{strangers} rollouts come from another model, sampling or prompt than the recipe's rollout section, so "
            "completions would not be on-policy; set it back, or roll out again in another --workspace."
        )
    return rows


def _owed(rollouts: Sequence[Row], config: LabelConfig, there: set[tuple[Any, ...]], shards: int) -> list[Unit]:
    units = []
    for row in rollouts:
        for step in range(len(row["steps"]) - 1):
            missing = [j for j in range(config.completions) if (row["rollout_id"], step, j) not in there]
            if missing:
                units.append(Unit(shard_of(row["problem_id"], shards), (row, step, missing)))
    return units


def _rows(
    rollout: Row, step: int, missing: Sequence[int], samples: Sequence[Sample], problem: Row, base: int
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
            "seed": base + place,
            "policy": rollout["policy"],
        }
        for place, (index, sample) in enumerate(zip(missing, samples, strict=True))
    ]


async def _work(
    unit: Unit,
    *,
    engine: Keeper,
    policy: RolloutConfig,
    problems: dict[str, Row],
    pictures: generation.Pictures,
    run_seed: int,
) -> list[Row]:
    rollout, step, missing = unit.payload
    problem = problems[rollout["problem_id"]]
    cut = rollout["step_ends"][step] if rollout["step_ends"] else 0
    base = seed(run_seed, STAGE, rollout["rollout_id"], step, missing[0])
    request = Request(
        request_id=f"{rollout['rollout_id']}-{step:02d}-{missing[0]:03d}",
        prompt=prompts.render(policy.prompt, problem["question"], problem["choices"]),
        images=pictures.of(problem),
        prefix_ids=rollout["token_ids"][:cut],
        prefix_text="".join(rollout["steps"][: step + 1]),
        n=len(missing),
        seed=base,
        # The budget is the whole chain's, so that "right within the budget" is the same event for both.
        sampling=generation.sampling(policy, max(policy.sampling.max_tokens - cut, 1)),
    )
    samples = await engine.generate(request)
    # In a thread, for the sake of the other requests: see `rollout`.
    return await asyncio.to_thread(_rows, rollout, step, missing, samples, problem, base)


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
    problems = _problems(workspace)
    rollouts = _chosen(config, workspace, problems, generation.policy_digest(policy))
    there = resume(partition)
    units = _owed(rollouts, config, there, workspace.shards)
    inputs = {"rollouts": len(rollouts)}
    outcome, extra = Outcome(), (lineage.read(partition) or {}).get("versions", {})
    if units:
        lineage.write(partition, STAGE, record, inputs)
        reporter.start(STAGE, len(units), "prefixes")
        work = partial(
            _run, policy=policy, workspace=workspace, problems=problems, units=units, run_seed=run_seed,
            reporter=reporter,
        )  # fmt: skip
        outcome, extra = engines.run(policy.engine, reporter.note, work)
        reporter.finish()
    ledger = _account(workspace, problems, rollouts, len(units), outcome)
    lineage.write(partition, STAGE, record, inputs, ledger, extra)
    write_labels(config, workspace, rollouts)
    if len(outcome.failed) > config.error_budget * len(units):
        raise BudgetError(
            f"{len(outcome.failed)} of {len(units)} prefixes failed, above the error budget of "
            f"{config.error_budget:.0%} (first: {outcome.failed[0][1]}); run again to retry them."
        )
    return ledger


async def _run(
    engine: Keeper,
    *,
    policy: RolloutConfig,
    workspace: Workspace,
    problems: dict[str, Row],
    units: list[Unit],
    run_seed: int,
    reporter: Reporter,
) -> tuple[Outcome, dict[str, str]]:
    pictures = generation.Pictures(workspace)
    pictures.preload(sorted({key for unit in units for key in problems[unit.payload[0]["problem_id"]]["image_hashes"]}))
    work = partial(_work, engine=engine, policy=policy, problems=problems, pictures=pictures, run_seed=run_seed)
    outcome = await run_units(workspace.partition(COMPLETIONS), units, work, policy.engine.in_flight, reporter)
    return outcome, engine.versions()


def _account(
    workspace: Workspace, problems: dict[str, Row], rollouts: Sequence[Row], owed: int, outcome: Outcome
) -> Ledger:
    failed: dict[str, int] = defaultdict(int)
    rows = []
    for unit, error in outcome.failed:
        rollout, step, _ = unit.payload
        failed[error.reason] += 1
        part = f"/{rollout['sample_index']}/{step}"
        rows.append(lineage.reject(STAGE, problems[rollout["problem_id"]], error, part))
    lineage.write_rejects(workspace, STAGE, rows)
    total = sum(max(len(row["steps"]) - 1, 0) for row in rollouts)
    ledger = Ledger("prefixes", taken=total, out=total - len(outcome.failed), failed=dict(failed), skipped=total - owed)
    ledger.check(STAGE)
    return ledger


def write_labels(config: LabelConfig, workspace: Workspace, rollouts: Sequence[Row]) -> None:
    """Labels of these rollouts from the stored completions; generates nothing. Replaces labels of another rule."""
    partition = workspace.partition(STEP_LABELS)
    record = config.model_dump(include={"mode", "completions"})
    before = lineage.read(partition)
    if before is not None and before["config"] != record:
        partition.clear()
    wanted = {row["rollout_id"]: row for row in rollouts}
    for shard in range(workspace.shards):
        there = {rollout for rollout, _ in partition.keys(shard)}
        owed = [
            row
            for row in wanted.values()
            if shard_of(row["problem_id"], workspace.shards) == shard and row["rollout_id"] not in there
        ]
        if owed:
            completions = workspace.partition(COMPLETIONS).read(shard=shard).to_pylist()
            partition.commit(shard, labels(owed, completions, config))
    ledger = Ledger("rollouts", taken=len(wanted), out=len(wanted))
    lineage.write(partition, STAGE, record, {"rollouts": len(wanted)}, ledger)


def labels(rollouts: Sequence[Row], completions: Iterable[Row], config: LabelConfig) -> list[Row]:
    """Step labels by the `exact` rule: k of the first `completions` samples of each prefix, the outcome at the end.

    A rollout with a prefix that still lacks completions (its requests failed) gets no labels yet: it is owed.
    """
    by_prefix: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in completions:
        if row["sample_index"] < config.completions:
            by_prefix[row["rollout_id"], row["step_index"]].append(row)
    rows = []
    for rollout in rollouts:
        prefixes = [by_prefix[rollout["rollout_id"], step] for step in range(len(rollout["steps"]) - 1)]
        if rollout["steps"] and all(len(prefix) == config.completions for prefix in prefixes):
            rows += [_label(rollout, step, prefix, config) for step, prefix in enumerate([*prefixes, []])]
    return rows


def _label(rollout: Row, step: int, samples: Sequence[Row], config: LabelConfig) -> Row:
    k, m = montecarlo.count([row["outcome"] for row in samples])
    last = step == len(rollout["steps"]) - 1
    label = montecarlo.known(rollout["outcome"]) if last else montecarlo.exact(k, m)
    finishes = [row["finish"] for row in samples]
    return {
        "rollout_id": rollout["rollout_id"],
        "problem_id": rollout["problem_id"],
        "domain": rollout["domain"],
        "role": rollout["role"],
        "step_index": step,
        "mode": config.mode,
        "k": k,
        "m": m,
        "outcome": rollout["outcome"],
        "value": label.value,
        "standard_error": label.standard_error,
        "weight": 1.0,
        "tokens": sum(row["tokens"] for row in samples),
        "stopped": finishes.count("stop"),
        "truncated": finishes.count("length") + finishes.count("repetition"),
        "failed": finishes.count("error"),
    }
