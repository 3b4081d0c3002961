"""Stage: problems in, rollouts out. What fails is an engine: its request is pending again, never a wrong answer.

One unit is one problem: its missing samples are asked for in one request and journalled together.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple, Protocol, TypeVar

from curate.engines.base import Request, Sample
from curate.engines.replay import check_cuts
from curate.engines.supervisor import Engines, Supervisor
from curate.errors import RowError, UserError, did_you_mean
from curate.recipe.sections import RolloutConfig
from curate.runtime.reporter import Reporter
from curate.seeds import FirstByHash, seed
from curate.stages import generation, golds, unanswered
from curate.stages.active import bringing_chains, dropped
from curate.stages.base import Outcome, Unit
from curate.stages.generating import Generation, Pending
from curate.stages.stored_images import StoredImages
from curate.tables import lineage
from curate.tables.lineage import Ledger
from curate.tables.rows import ProblemRow, RejectRow, RolloutRow, Row, columns_of
from curate.tables.sample_indices import lowest_free
from curate.tables.schema import PROBLEMS, ROLLOUTS
from curate.tables.store import MAIN, Store, among
from curate.text import prompts, steps, thinking

STAGE = "rollout"


class _Placed(Protocol):
    """The columns of a problem that say whether it is rolled out."""

    @property
    def problem_id(self) -> str: ...
    @property
    def domain(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def source(self) -> str: ...


K = TypeVar("K", bound=_Placed)


@columns_of(PROBLEMS)
@dataclass(frozen=True, slots=True)
class _NamedProblem:
    """A problem by its name alone."""

    problem_id: str
    domain: str
    role: str
    source: str


@columns_of(ROLLOUTS)
@dataclass(frozen=True, slots=True)
class _Index:
    """The sample index of a rollout."""

    problem_id: str
    sample_index: int


def rollout_id(problem_id: str, sample_index: int) -> str:
    """Identity of a rollout: problem and sample index."""
    return f"{problem_id}-{sample_index:03d}"


class RolloutWork:
    """Problems that the recipe asks for and what of them is pending, shard by shard and a few rows at a time."""

    def __init__(self, config: RolloutConfig, workspace: Store) -> None:
        """UserError when there is none, or a domain that is not there."""
        self._config, self._workspace = config, workspace
        self._out, self._settled = dropped(workspace), bringing_chains(workspace)
        self._picked: frozenset[str] | None = None
        domains: set[str] = set()
        first = None if config.limit is None else FirstByHash(config.limit)
        seen = 0
        for row in self._rows(_NamedProblem, None):
            seen += 1
            domains.add(row.domain)
            if first is not None:
                first.add((row.role, row.domain), row.problem_id)
        if not seen:
            there = bool(workspace.files(PROBLEMS))
            cure = "all were dropped or came with chains of thought" if there else "run `curate ingest` first"
            raise UserError(f"The workspace has no problems of role {', '.join(config.roles)} to roll out; {cure}.")
        for name in config.domains:
            if name not in domains:
                raise UserError(f'There is no domain "{name}" to roll out{did_you_mean(name, sorted(domains))}')
        if first is not None:
            self._picked = first.names()

    def _rows(self, kind: type[K], shard: int | None) -> Iterator[K]:
        for row in self._workspace.rows(kind, among("role", self._config.roles), shard):
            if row.problem_id not in self._out and row.source not in self._settled:
                yield row

    def rows(self, kind: type[K], shard: int | None = None) -> Iterator[K]:
        """Their rows as objects of `kind` (see `curate.tables.rows`), of one shard or of all."""
        for row in self._rows(kind, shard):
            if self._config.domains and row.domain not in self._config.domains:
                continue
            if self._picked is None or row.problem_id in self._picked:
                yield row

    def _missing(self, row: _Placed, held: TakenIndices) -> list[int]:
        taken = held.generated[row.problem_id] | held.brought[row.problem_id]
        return lowest_free(taken, self._config.samples_for(row.role) - len(taken))

    def _held(self, shard: int) -> TakenIndices:
        """The rollouts of a shard that are there."""
        found = TakenIndices()
        for partition in self._workspace.partitions(ROLLOUTS):
            generated = partition.folder.name == MAIN
            taken = found.generated if generated else found.brought
            for row in partition.rows(_Index, shard):
                taken[row.problem_id].add(row.sample_index)
            for waiting in partition.journal(shard).rows() if generated else ():
                if isinstance(waiting, RolloutRow):
                    taken[waiting.problem_id].add(waiting.sample_index)
        return found

    def pending(self) -> Iterator[Unit[ProblemSamples]]:
        """Every problem that lacks samples, in the order of shards."""
        for shard in range(self._workspace.shards):
            held = self._held(shard)
            for row in self.rows(ProblemRow, shard):
                if missing := self._missing(row, held):
                    yield Unit(shard, ProblemSamples(row, missing))

    def count(self) -> RolloutCounts:
        """How many problems, samples, samples that are there, and problems that lack any."""
        found = RolloutCounts()
        for shard in range(self._workspace.shards):
            held = self._held(shard)
            for row in self.rows(_NamedProblem, shard):
                wanted, missing = self._config.samples_for(row.role), len(self._missing(row, held))
                there = min(wanted, len(held.generated[row.problem_id]))
                found.problems += 1
                found.samples += there + missing
                found.there += there
                found.brought += wanted - there - missing
                found.pending += missing > 0
        return found


class ProblemSamples(NamedTuple):
    """A problem and the indices of the samples that it lacks."""

    problem: ProblemRow
    missing: Sequence[int]


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
    pending: int = 0


def pending(config: RolloutConfig, workspace: Store, run_seed: int) -> RolloutCounts:
    """What a run would ask for; changes nothing. UserError as `run` would raise."""
    made = RolloutGeneration(config, workspace, run_seed)
    made.guard()
    return made.pending().before


def _runs(indices: Sequence[int]) -> Iterator[list[int]]:
    """Sorted indices in groups without a gap."""
    for _, group in groupby(enumerate(indices), key=lambda pair: pair[1] - pair[0]):
        yield [index for _, index in group]


class PendingRollouts(Pending[ProblemSamples]):
    """The samples that problems lack."""

    def __init__(self, work: RolloutWork, workspace: Store) -> None:
        self._work, self._workspace = work, workspace
        self.before = work.count()
        self.total, self.open = self.before.problems, self.before.pending
        partitions = [partition.folder.name for partition in workspace.partitions(PROBLEMS)]
        self.inputs = {"problems": self.before.problems, "partitions": partitions}

    def units(self) -> Iterator[Unit[ProblemSamples]]:
        """A problem each."""
        return self._work.pending()

    def notes(self) -> Iterator[str]:
        """That some samples need not be generated."""
        if self.before.brought:
            total = self.before.samples + self.before.brought
            yield (
                f"{self.before.brought:,} of {total:,} samples were imported or came with a source, and are not "
                "generated."
            )

    def ledger(self, outcome: Outcome[ProblemSamples]) -> Ledger:
        """Count rollouts."""
        failed: dict[str, int] = {}
        for unit, error in outcome.failed:
            failed[error.reason] = failed.get(error.reason, 0) + len(unit.payload.missing)
        after = self._work.count()
        return Ledger("rollouts", taken=after.samples, out=after.there, failed=failed, skipped=self.before.there)

    def finish(self, reporter: Reporter) -> None:
        """Say in how many responses no rule reads an answer."""
        if (missing := unanswered.sentence(self._workspace.partition(ROLLOUTS))) is not None:
            reporter.note(missing)


class RolloutGeneration(Generation[ProblemSamples]):
    """`curate rollout`."""

    stage, table, unit = STAGE, ROLLOUTS, "problems"

    def __init__(self, config: RolloutConfig, workspace: Store, run_seed: int) -> None:
        super().__init__(workspace, config.engine, config.error_budget, run_seed)
        self._config = config

    def settings(self) -> dict[str, Any]:
        """Model, sampling, prompt, and how texts are cut and graded."""
        return generation.settings(self._config)

    def pending(self) -> PendingRollouts:
        """The samples that problems lack."""
        golds.check(self.workspace, ROLLOUTS)
        return PendingRollouts(RolloutWork(self._config, self.workspace), self.workspace)

    @cached_property
    def _policy(self) -> str:
        # Once, not for every problem: it reads the edges of the model's files.
        return generation.policy_digest(self._config)

    @cached_property
    def _images(self) -> StoredImages:
        return StoredImages(self.workspace)

    async def rows(self, unit: Unit[ProblemSamples], engine: Supervisor) -> list[Row]:
        """One request, unless imported samples have indices in between."""
        (problem, missing), config = unit.payload, self._config
        # Sample j draws from base + j, so however samples are shared out over requests, they are the same.
        base = seed(self.run_seed, STAGE, problem.problem_id, 0)
        samples: list[Sample] = []
        for run_of in _runs(missing):
            request = Request(
                request_id=f"{problem.problem_id}-{run_of[0]:03d}",
                prompt=prompts.render(config.prompt, problem.question, problem.choices, len(problem.image_hashes)),
                images=self._images.of(problem.image_hashes),
                prefix_ids=(),
                n=len(run_of),
                seed=base + run_of[0],
                sampling=generation.sampling(config, config.sampling.max_tokens),
            )
            samples += await engine.generate(request)
        # In a thread: grading a hard expression takes up to ten seconds, and the loop has other requests to serve.
        return await asyncio.to_thread(self._graded, problem, missing, samples, base)

    def _graded(self, problem: ProblemRow, missing: Sequence[int], samples: Sequence[Sample], base: int) -> list[Row]:
        return [self._row(problem, index, sample, base) for index, sample in zip(missing, samples, strict=True)]

    def _row(self, problem: ProblemRow, index: int, sample: Sample, base: int) -> RolloutRow:
        config, parts = self._config, thinking.apart(sample.text)
        pieces = steps.split(parts.text, config.max_steps, config.min_step_characters)
        if config.engine.kind == "replay" and sample.token_ends:
            check_cuts(pieces, sample.token_ends)
        graded = generation.graded(sample, parts.text, problem, config.words)
        return RolloutRow(
            rollout_id=rollout_id(problem.problem_id, index),
            problem_id=problem.problem_id,
            domain=problem.domain,
            role=problem.role,
            sample_index=index,
            reasoning=thinking.merged(sample.reasoning, parts.reasoning),
            text=parts.text,
            token_ids=list(sample.token_ids),
            steps=pieces,
            step_ends=steps.token_cuts(pieces, sample.token_ends, parts.start) if sample.token_ends else [],
            answer=graded.answer,
            outcome=graded.outcome,
            outcome_rule=graded.outcome_rule,
            gold=graded.gold,
            finish=sample.finish,
            mean_logprob=sample.mean_logprob,
            prompt_tokens=sample.prompt_tokens,
            tokens=sample.count(),
            seed=sample.seed_of(base + index),
            policy=self._policy,
        )

    def reject(self, unit: Unit[ProblemSamples], error: RowError) -> RejectRow:
        """A problem each."""
        return lineage.reject(STAGE, unit.payload.problem, error)


def run(
    config: RolloutConfig,
    workspace: Store,
    run_seed: int,
    reporter: Reporter,
    engines: Engines,
    replace: bool = False,
) -> Ledger:
    """Generate what is missing; the ledger counts rollouts. BudgetError when more fail than `error_budget`."""
    return RolloutGeneration(config, workspace, run_seed).run(reporter, engines, replace)
