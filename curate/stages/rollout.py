"""Stage: problems in, rollouts out. What fails is an engine: its request is owed again, never a wrong answer.

One unit is one problem: its missing samples are asked for in one request and journalled together.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

from curate.engines.base import Request, Sample
from curate.engines.replay import check_cuts
from curate.engines.supervisor import Engines, Supervisor
from curate.errors import UserError, did_you_mean
from curate.recipe.sections import RolloutConfig
from curate.runtime.reporter import Reporter
from curate.seeds import FirstByHash, seed
from curate.stages import generation, golds, unanswered
from curate.stages.active import bringing_chains, dropped
from curate.stages.base import Outcome, Unit, resume, run_units
from curate.stages.stored_images import StoredImages
from curate.tables import lineage
from curate.tables.lineage import Ledger
from curate.tables.sample_indices import lowest_free
from curate.tables.schema import PROBLEMS, ROLLOUTS, Row
from curate.tables.store import MAIN, Store, among
from curate.text import prompts, steps, thinking

STAGE = "rollout"
REPLACE = "curate rollout --replace"
_LIGHT = ("problem_id", "role", "source", "domain")


def rollout_id(problem_id: str, sample_index: int) -> str:
    """Identity of a rollout: problem and sample index."""
    return f"{problem_id}-{sample_index:03d}"


class RolloutWork:
    """Problems that the recipe asks for and what of them is owed, shard by shard and a few rows at a time."""

    def __init__(self, config: RolloutConfig, workspace: Store) -> None:
        """UserError when there is none, or a domain that is not there."""
        self._config, self._workspace = config, workspace
        self._out, self._settled = dropped(workspace), bringing_chains(workspace)
        self._picked: frozenset[str] | None = None
        domains: set[str] = set()
        first = None if config.limit is None else FirstByHash(config.limit)
        seen = 0
        for row in self._rows(None, _LIGHT):
            seen += 1
            domains.add(row["domain"])
            if first is not None:
                first.add((row["role"], row["domain"]), row["problem_id"])
        if not seen:
            there = bool(workspace.files(PROBLEMS))
            cure = "all were dropped or came with chains of thought" if there else "run `curate ingest` first"
            raise UserError(f"The workspace has no problems of role {', '.join(config.roles)} to roll out; {cure}.")
        for name in config.domains:
            if name not in domains:
                raise UserError(f'There is no domain "{name}" to roll out{did_you_mean(name, sorted(domains))}')
        if first is not None:
            self._picked = first.names()

    def _rows(self, shard: int | None, columns: Sequence[str]) -> Iterator[Row]:
        roles = among("role", self._config.roles)
        for batch in self._workspace.batches(PROBLEMS, columns, shard, roles):
            for row in batch.to_pylist():
                if row["problem_id"] not in self._out and row["source"] not in self._settled:
                    yield row

    def rows(self, shard: int | None = None, columns: Sequence[str] = PROBLEMS.schema.names) -> Iterator[Row]:
        """Their rows, of one shard or of all."""
        for row in self._rows(shard, columns):
            if self._config.domains and row["domain"] not in self._config.domains:
                continue
            if self._picked is None or row["problem_id"] in self._picked:
                yield row

    def _missing(self, row: Row, held: TakenIndices) -> list[int]:
        name = row["problem_id"]
        taken = held.generated[name] | held.brought[name]
        return lowest_free(taken, self._config.samples_for(row["role"]) - len(taken))

    def _held(self, shard: int) -> TakenIndices:
        """The rollouts of a shard that are there."""
        found, columns = TakenIndices(), ["problem_id", "sample_index"]
        for partition in self._workspace.partitions(ROLLOUTS):
            generated = partition.folder.name == MAIN
            rows = partition.read(columns, shard).to_pylist()
            for row in [*rows, *(partition.journal(shard).rows() if generated else ())]:
                (found.generated if generated else found.brought)[row["problem_id"]].add(row["sample_index"])
        return found

    def owed(self) -> Iterator[tuple[int, Row, list[int]]]:
        """(shard, problem, missing sample indices) of every problem that has any, in the order of shards."""
        for shard in range(self._workspace.shards):
            held = self._held(shard)
            for row in self.rows(shard):
                if missing := self._missing(row, held):
                    yield shard, row, missing

    def count(self) -> RolloutCounts:
        """How many problems, samples, samples that are there, and problems that are owed any."""
        found = RolloutCounts()
        for shard in range(self._workspace.shards):
            held = self._held(shard)
            for row in self.rows(shard, _LIGHT):
                wanted, missing = self._config.samples_for(row["role"]), len(self._missing(row, held))
                there = min(wanted, len(held.generated[row["problem_id"]]))
                found.problems += 1
                found.samples += there + missing
                found.there += there
                found.brought += wanted - there - missing
                found.owed += missing > 0
        return found


@dataclass
class TakenIndices:
    """Sample indices by problem: of the rollouts that were generated, and of those that were imported or given."""

    generated: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    brought: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))


@dataclass
class RolloutCounts:
    """See `RolloutWork.count`. `samples` are those to be generated; `brought` are imported or given, in place of
    others.
    """

    problems: int = 0
    samples: int = 0
    there: int = 0
    brought: int = 0
    owed: int = 0


def owed(config: RolloutConfig, workspace: Store, run_seed: int) -> RolloutCounts:
    """What a run would ask for; changes nothing. UserError as `run` would raise."""
    lineage.guard(workspace.partition(ROLLOUTS), generation.settings(config) | {"seed": run_seed}, REPLACE)
    golds.check(workspace, ROLLOUTS)
    return RolloutWork(config, workspace).count()


def _rows(
    problem: Row, missing: Sequence[int], samples: Sequence[Sample], config: RolloutConfig, base: int, policy: str
) -> list[Row]:
    rows = []
    for index, sample in zip(missing, samples, strict=True):
        parts = thinking.apart(sample.text)
        pieces = steps.split(parts.text, config.max_steps, config.min_step_characters)
        if config.engine.kind == "replay" and sample.token_ends:
            check_cuts(pieces, sample.token_ends)
        rows.append(
            {
                "rollout_id": rollout_id(problem["problem_id"], index),
                "problem_id": problem["problem_id"],
                "domain": problem["domain"],
                "role": problem["role"],
                "sample_index": index,
                "reasoning": thinking.merged(sample.reasoning, parts.reasoning),
                "text": parts.text,
                "token_ids": list(sample.token_ids),
                "steps": pieces,
                "step_ends": steps.token_cuts(pieces, sample.token_ends, parts.start) if sample.token_ends else [],
                **generation.graded(sample, parts.text, problem, config.words),
                "finish": sample.finish,
                "mean_logprob": sample.mean_logprob,
                "prompt_tokens": sample.prompt_tokens,
                "tokens": sample.count(),
                "seed": sample.seed_of(base + index),
                "policy": policy,
            }
        )
    return rows


def _runs(indices: Sequence[int]) -> Iterator[list[int]]:
    """Sorted indices in groups without a gap."""
    for _, group in groupby(enumerate(indices), key=lambda pair: pair[1] - pair[0]):
        yield [index for _, index in group]


async def _work(
    unit: Unit, *, engine: Supervisor, config: RolloutConfig, images: StoredImages, run_seed: int, policy: str
) -> list[Row]:
    problem, missing = unit.payload
    # Sample j draws from base + j, so however samples are shared out over requests, they are the same.
    base = seed(run_seed, STAGE, problem["problem_id"], 0)
    samples: list[Sample] = []
    # One request, unless imported samples have indices in between.
    for run_of in _runs(missing):
        request = Request(
            request_id=f"{problem['problem_id']}-{run_of[0]:03d}",
            prompt=prompts.render(config.prompt, problem["question"], problem["choices"], len(problem["image_hashes"])),
            images=images.of(problem),
            prefix_ids=(),
            n=len(run_of),
            seed=base + run_of[0],
            sampling=generation.sampling(config, config.sampling.max_tokens),
        )
        samples += await engine.generate(request)
    # In a thread: grading a hard expression takes up to ten seconds, and the loop has other requests to serve.
    return await asyncio.to_thread(_rows, problem, missing, samples, config, base, policy)


def run(
    config: RolloutConfig,
    workspace: Store,
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
    resume(partition)
    golds.check(workspace, ROLLOUTS)
    wanted = RolloutWork(config, workspace)
    before = wanted.count()
    inputs = {"problems": before.problems, "partitions": [p.folder.name for p in workspace.partitions(PROBLEMS)]}
    if before.brought:
        total = before.samples + before.brought
        reporter.note(
            f"{before.brought:,} of {total:,} samples were imported or came with a source, and are not generated."
        )
    outcome, extra = Outcome(), (lineage.read(partition) or {}).get("versions", {})
    if before.owed:
        lineage.write(partition, STAGE, record, inputs)
        reporter.start(STAGE, before.owed, "problems")
        work = partial(_run, config=config, workspace=workspace, wanted=wanted, run_seed=run_seed, reporter=reporter)
        outcome, extra = engines.run(config.engine, reporter.note, work)
        reporter.finish()
    ledger = _account(workspace, wanted, before, outcome)
    lineage.write(partition, STAGE, record, inputs, ledger, extra)
    if (missing := unanswered.sentence(partition)) is not None:
        reporter.note(missing)
    outcome.check(before.problems, config.error_budget, "problems")
    return ledger


async def _run(
    engine: Supervisor,
    *,
    config: RolloutConfig,
    workspace: Store,
    wanted: RolloutWork,
    run_seed: int,
    reporter: Reporter,
) -> tuple[Outcome, dict[str, str]]:
    units = (Unit(shard, (problem, missing)) for shard, problem, missing in wanted.owed())
    work = partial(
        _work,
        engine=engine,
        config=config,
        images=StoredImages(workspace),
        run_seed=run_seed,
        # Once, not for every problem: it reads the edges of the model's files.
        policy=generation.policy_digest(config),
    )
    outcome = await run_units(workspace.partition(ROLLOUTS), units, work, config.engine.in_flight, reporter)
    return outcome, engine.versions()


def _account(workspace: Store, wanted: RolloutWork, before: RolloutCounts, outcome: Outcome) -> Ledger:
    lineage.write_rejects(
        workspace, STAGE, [lineage.reject(STAGE, unit.payload[0], error) for unit, error in outcome.failed]
    )
    failed: dict[str, int] = {}
    for unit, error in outcome.failed:
        failed[error.reason] = failed.get(error.reason, 0) + len(unit.payload[1])
    after = wanted.count()
    ledger = Ledger("rollouts", taken=after.samples, out=after.there, failed=failed, skipped=before.there)
    ledger.check(STAGE)
    return ledger
