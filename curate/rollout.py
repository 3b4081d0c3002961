"""Stage: problems in, rollouts out. What fails is an engine: its request is owed again, never a wrong answer.

One unit is one problem: its missing samples are asked for in one request and journalled together.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from curate import generation, lineage, prompts, steps
from curate.config import did_you_mean
from curate.engines.base import Request, Sample
from curate.engines.keeper import Engines, Keeper
from curate.engines.replay import check_cuts
from curate.errors import BudgetError, UserError
from curate.lineage import Ledger
from curate.schema import PROBLEMS, ROLLOUTS, Row
from curate.sections import RolloutConfig
from curate.seeds import digest, seed, shard_of
from curate.stage import Outcome, Reporter, Unit, resume, run_units
from curate.store import Workspace

STAGE = "rollout"
REPLACE = "curate rollout --replace"


def rollout_id(problem_id: str, sample_index: int) -> str:
    """Identity of a rollout: problem and sample index."""
    return f"{problem_id}-{sample_index:03d}"


def chosen(config: RolloutConfig, workspace: Workspace) -> list[Row]:
    """Problems that the recipe asks for, by role, domain and limit; UserError when there is none."""
    rows = generation.problems(workspace, config.roles)
    known = sorted({row["domain"] for row in rows})
    for name in config.domains:
        if name not in known:
            raise UserError(f'There is no domain "{name}" to roll out{did_you_mean(name, known)}')
    rows = [row for row in rows if not config.domains or row["domain"] in config.domains]
    if config.limit is None:
        return rows
    taken: Counter[tuple[str, str]] = Counter()
    first = []
    for row in sorted(rows, key=lambda row: digest("limit", row["problem_id"])):
        taken[row["role"], row["domain"]] += 1
        if taken[row["role"], row["domain"]] <= config.limit:
            first.append(row)
    return first


def owed(config: RolloutConfig, workspace: Workspace, run_seed: int) -> list[tuple[Row, list[int]]]:
    """Problems with the sample indices that a run would ask for; changes nothing. UserError as `run` would raise."""
    partition = workspace.partition(ROLLOUTS)
    lineage.guard(partition, generation.settings(config) | {"seed": run_seed}, REPLACE)
    there = partition.keys() | {
        (row["rollout_id"],) for shard in partition.journals() for row in partition.journal(shard).rows()
    }
    return [unit.payload for unit in _owed(chosen(config, workspace), config, there, workspace.shards)]


def _owed(problems: Sequence[Row], config: RolloutConfig, there: set[tuple[Any, ...]], shards: int) -> list[Unit]:
    units = []
    for problem in problems:
        samples = range(config.samples_for(problem["role"]))
        missing = [i for i in samples if (rollout_id(problem["problem_id"], i),) not in there]
        if missing:
            units.append(Unit(shard_of(problem["problem_id"], shards), (problem, missing)))
    return units


def _rows(
    problem: Row, missing: Sequence[int], samples: Sequence[Sample], config: RolloutConfig, base: int
) -> list[Row]:
    policy = generation.policy_digest(config)
    rows = []
    for place, (index, sample) in enumerate(zip(missing, samples, strict=True)):
        pieces = steps.split(sample.text, config.max_steps, config.min_step_characters)
        if config.engine.kind == "replay" and sample.token_ends:
            check_cuts(pieces, sample.token_ends)
        rows.append(
            {
                "rollout_id": rollout_id(problem["problem_id"], index),
                "problem_id": problem["problem_id"],
                "domain": problem["domain"],
                "role": problem["role"],
                "sample_index": index,
                "text": sample.text,
                "token_ids": list(sample.token_ids),
                "steps": pieces,
                "step_ends": steps.token_cuts(pieces, sample.token_ends) if sample.token_ends else [],
                **generation.graded(sample, sample.text, problem),
                "finish": sample.finish,
                "mean_logprob": sample.mean_logprob,
                "prompt_tokens": sample.prompt_tokens,
                "tokens": len(sample.token_ids),
                "seed": base + place,
                "policy": policy,
            }
        )
    return rows


async def _work(
    unit: Unit, *, engine: Keeper, config: RolloutConfig, pictures: generation.Pictures, run_seed: int
) -> list[Row]:
    problem, missing = unit.payload
    base = seed(run_seed, STAGE, problem["problem_id"], missing[0])
    request = Request(
        request_id=f"{problem['problem_id']}-{missing[0]:03d}",
        prompt=prompts.render(config.prompt, problem["question"], problem["choices"]),
        images=pictures.of(problem),
        prefix_ids=(),
        n=len(missing),
        seed=base,
        sampling=generation.sampling(config, config.sampling.max_tokens),
    )
    samples = await engine.generate(request)
    # In a thread: grading a hard expression takes up to ten seconds, and the loop has other requests to serve.
    return await asyncio.to_thread(_rows, problem, missing, samples, config, base)


def run(
    config: RolloutConfig,
    workspace: Workspace,
    run_seed: int,
    reporter: Reporter,
    engines: Engines,
    replace: bool = False,
) -> Ledger:
    """Generate what is owed; the ledger counts rollouts. BudgetError when more fail than `error_budget`."""
    partition = workspace.partition(ROLLOUTS)
    if replace:
        partition.clear()
    record = generation.settings(config) | {"seed": run_seed}
    lineage.guard(partition, record, REPLACE)
    problems = chosen(config, workspace)
    there = resume(partition)
    units = _owed(problems, config, there, workspace.shards)
    inputs = {"problems": len(problems), "partitions": [p.folder.name for p in workspace.partitions(PROBLEMS)]}
    outcome, extra = Outcome(), (lineage.read(partition) or {}).get("versions", {})
    if units:
        lineage.write(partition, STAGE, record, inputs)
        reporter.start(STAGE, len(units), "problems")
        work = partial(_run, config=config, workspace=workspace, units=units, run_seed=run_seed, reporter=reporter)
        outcome, extra = engines.run(config.engine, reporter.note, work)
        reporter.finish()
    ledger = _account(workspace, problems, config, there, outcome)
    lineage.write(partition, STAGE, record, inputs, ledger, extra)
    if len(outcome.failed) > config.error_budget * len(units):
        raise BudgetError(
            f"{len(outcome.failed)} of {len(units)} problems failed, above the error budget of "
            f"{config.error_budget:.0%} (first: {outcome.failed[0][1]}); run again to retry them."
        )
    return ledger


async def _run(
    engine: Keeper, *, config: RolloutConfig, workspace: Workspace, units: list[Unit], run_seed: int, reporter: Reporter
) -> tuple[Outcome, dict[str, str]]:
    pictures = generation.Pictures(workspace)
    pictures.preload([key for unit in units for key in unit.payload[0]["image_hashes"]])
    work = partial(_work, engine=engine, config=config, pictures=pictures, run_seed=run_seed)
    outcome = await run_units(workspace.partition(ROLLOUTS), units, work, config.engine.in_flight, reporter)
    return outcome, engine.versions()


def _account(
    workspace: Workspace,
    problems: Sequence[Row],
    config: RolloutConfig,
    there: set[tuple[Any, ...]],
    outcome: Outcome,
) -> Ledger:
    lineage.write_rejects(
        workspace, STAGE, [lineage.reject(STAGE, unit.payload[0], error) for unit, error in outcome.failed]
    )
    wanted = {
        (rollout_id(problem["problem_id"], i),)
        for problem in problems
        for i in range(config.samples_for(problem["role"]))
    }
    failed: dict[str, int] = {}
    for unit, error in outcome.failed:
        failed[error.reason] = failed.get(error.reason, 0) + len(unit.payload[1])
    ledger = Ledger(
        "rollouts", taken=len(wanted), out=len(wanted & workspace.partition(ROLLOUTS).keys()), failed=failed
    )
    ledger.skipped = len(wanted & there)
    ledger.check(STAGE)
    return ledger
