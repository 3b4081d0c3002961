"""Stage: labelled rollouts in, a second opinion out: which step a language model takes for the first wrong one.

One unit is one rollout: its missing votes are asked for in one request and journalled together. An answer that cannot
be read is kept as it is, with null for its verdict; it is not asked again, because it would say the same. Opinions
stay in a table of their own; what `curate shard` makes of them is up to `shard.consensus`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeVar

import pyarrow.compute as pc

from curate.engines.base import Request, Sample
from curate.engines.supervisor import Engines, Supervisor
from curate.errors import RowError, UserError
from curate.recipe.sections import JudgeConfig
from curate.runtime.reporter import Reporter
from curate.seeds import FirstByHash, digest, seed
from curate.stages import generation
from curate.stages.active import dropped
from curate.stages.base import Outcome, Unit
from curate.stages.generating import Generation, Pending
from curate.stages.judge import judgement
from curate.stages.stored_images import StoredImages
from curate.tables import lineage
from curate.tables.lineage import Ledger
from curate.tables.rows import JudgementRow, RejectRow, Row, columns_of
from curate.tables.schema import JUDGEMENTS, PROBLEMS, ROLLOUTS, STEP_LABELS, Table
from curate.tables.store import Store, among
from curate.text import prompts, thinking

STAGE = "judge"


@columns_of(ROLLOUTS)
@dataclass(frozen=True, slots=True)
class _NamedRollout:
    """A rollout by its name alone."""

    rollout_id: str
    problem_id: str
    role: str
    domain: str


@columns_of(ROLLOUTS)
@dataclass(frozen=True, slots=True)
class JudgedRollout:
    """What a judge is shown of a rollout."""

    rollout_id: str
    problem_id: str
    sample_index: int
    steps: Sequence[str]


@columns_of(PROBLEMS)
@dataclass(frozen=True, slots=True)
class JudgedProblem:
    """What a judge is shown of its problem, and where that came from."""

    problem_id: str
    source: str
    source_row: str
    domain: str
    question: str
    choices: Sequence[str]
    image_hashes: Sequence[str]


@columns_of(JUDGEMENTS)
@dataclass(frozen=True, slots=True)
class _GivenVote:
    """Which vote there is, and on which steps."""

    rollout_id: str
    sample_index: int
    steps_digest: str


@columns_of(JUDGEMENTS)
@dataclass(frozen=True, slots=True)
class _Cost:
    """What a vote took, and whether it can be read."""

    sample_index: int
    prompt_tokens: int | None
    tokens: int | None
    unread: str | None


class MissingVotes(NamedTuple):
    """A rollout, its problem, and the indices of the votes that it lacks."""

    problem: JudgedProblem
    rollout: JudgedRollout
    missing: Sequence[int]


class _Labelled(Protocol):
    """The columns of a rollout that say whether it is judged."""

    @property
    def rollout_id(self) -> str: ...
    @property
    def problem_id(self) -> str: ...


K = TypeVar("K", bound=_Labelled)


def policy_digest(config: JudgeConfig) -> str:
    """What a judgement was drawn from: model, sampling and prompt."""
    template = prompts.template(config.prompt, prompts.JUDGE_TEMPLATES)
    return digest(settings(config), [template.name, template.version, template.text], length=16)


def settings(config: JudgeConfig) -> dict[str, Any]:
    """The part of the configuration that decides what the rows are; its digest guards the table.

    Not in it: which rollouts and how many votes (more may be added), and where the engine runs.
    """
    template = prompts.template(config.prompt, prompts.JUDGE_TEMPLATES)
    pixels = config.engine.max_pixels
    return {
        "model": generation.model_of(config.engine),
        "sampling": config.sampling.model_dump(),
        "prompt": f"{template.name}/{template.version}",
        "reading": judgement.VERSION,
        **({} if pixels is None else {"max_pixels": pixels}),
    }


@dataclass
class JudgeCounts:
    """Rollouts to judge, votes that are wanted, votes that are there, and rollouts that lack any."""

    rollouts: int = 0
    votes: int = 0
    there: int = 0
    pending: int = 0


class JudgeWork:
    """Labelled rollouts that the recipe wants judged and what of them is pending, shard by shard."""

    def __init__(self, config: JudgeConfig, workspace: Store) -> None:
        """UserError when there is none."""
        self._config, self._workspace, self._out = config, workspace, dropped(workspace)
        self._picked: frozenset[str] | None = None
        first = None if config.limit is None else FirstByHash(config.limit)
        seen = 0
        for shard in range(workspace.shards):
            for row in self._labelled(_NamedRollout, shard):
                seen += 1
                if first is not None:
                    first.add((row.role, row.domain), row.rollout_id)
        if not seen:
            roles = ", ".join(config.roles)
            raise UserError(f"There are no labelled rollouts of role {roles} to judge; run `curate label` first.")
        if first is not None:
            self._picked = first.names()

    def _labelled(self, kind: type[K], shard: int) -> Iterator[K]:
        """Rollouts of a shard that have a step label, and whose problem is still there."""
        roles = among("role", self._config.roles)
        labelled = self._names(STEP_LABELS, "rollout_id", shard, roles & pc.field("value").is_valid())
        if not labelled:
            return
        problems = self._names(PROBLEMS, "problem_id", shard) - self._out.keys()
        for row in self._workspace.rows(kind, roles, shard):
            if row.rollout_id in labelled and row.problem_id in problems:
                yield row

    def _names(self, table: Table, column: str, shard: int, where: Any = None) -> set[str]:
        batches = self._workspace.batches(table, [column], shard, where)
        return {name for batch in batches for name in batch[column].to_pylist()}

    def _rows(self, shard: int) -> Iterator[tuple[JudgedRollout, list[int]]]:
        """(rollout, indices of its missing votes) of a shard; UserError for a judgement of a chain that changed."""
        there: dict[str, set[int]] = defaultdict(set)
        judged: dict[str, str] = {}
        partition = self._workspace.partition(JUDGEMENTS)
        waiting = [row for row in partition.journal(shard).rows() if isinstance(row, JudgementRow)]
        votes: list[_GivenVote | JudgementRow] = [*partition.rows(_GivenVote, shard), *waiting]
        for vote in votes:
            there[vote.rollout_id].add(vote.sample_index)
            judged[vote.rollout_id] = vote.steps_digest
        for row in self._labelled(JudgedRollout, shard):
            name = row.rollout_id
            if self._picked is None or name in self._picked:
                if judged.get(name, (now := digest(row.steps))) != now:
                    raise UserError(
                        f"The rollout {name} has other steps than when it was judged; run `curate judge --replace` to "
                        "judge it again."
                    )
                yield row, [vote for vote in range(self._config.samples) if vote not in there[name]]

    def count(self) -> JudgeCounts:
        """See `JudgeCounts`."""
        found = JudgeCounts()
        for shard in range(self._workspace.shards):
            for _, missing in self._rows(shard):
                found.rollouts += 1
                found.votes += self._config.samples
                found.there += self._config.samples - len(missing)
                found.pending += bool(missing)
        return found

    def pending(self) -> Iterator[Unit[MissingVotes]]:
        """Every rollout that lacks votes, in the order of shards."""
        for shard in range(self._workspace.shards):
            lacking = [(row, missing) for row, missing in self._rows(shard) if missing]
            names = among("problem_id", sorted({row.problem_id for row, _ in lacking}))
            rows = self._workspace.rows(JudgedProblem, names, shard) if lacking else ()
            problems = {row.problem_id: row for row in rows}
            for row, missing in lacking:
                yield Unit(shard, MissingVotes(problems[row.problem_id], row, missing))


class PendingVotes(Pending[MissingVotes]):
    """The votes that rollouts lack."""

    def __init__(self, work: JudgeWork, workspace: Store) -> None:
        self._work, self._workspace, self._before = work, workspace, work.count()
        self.total, self.open = self._before.rollouts, self._before.pending
        self.inputs = {"rollouts": self._before.rollouts}

    def units(self) -> Iterator[Unit[MissingVotes]]:
        """A rollout each."""
        return self._work.pending()

    def ledger(self, outcome: Outcome[MissingVotes]) -> Ledger:
        """Count votes."""
        failed: Counter[str] = Counter()
        for unit, error in outcome.failed:
            failed[error.reason] += len(unit.payload.missing)
        after = self._work.count()
        return Ledger("votes", taken=after.votes, out=after.there, failed=dict(failed), skipped=self._before.there)

    def finish(self, reporter: Reporter) -> None:
        """Say what the judgements took."""
        reporter.note(cost(self._workspace))


class JudgeGeneration(Generation[MissingVotes]):
    """`curate judge`."""

    stage, table, unit = STAGE, JUDGEMENTS, "rollouts"

    def __init__(self, config: JudgeConfig, workspace: Store, run_seed: int) -> None:
        super().__init__(workspace, config.engine, config.error_budget, run_seed)
        self._config = config

    def settings(self) -> dict[str, Any]:
        """Model, sampling, prompt, and how answers are read."""
        return settings(self._config)

    def pending(self) -> PendingVotes:
        """The votes that rollouts lack."""
        return PendingVotes(JudgeWork(self._config, self.workspace), self.workspace)

    @cached_property
    def _policy(self) -> str:
        # Once: it reads the model's files.
        return policy_digest(self._config)

    @cached_property
    def _images(self) -> StoredImages:
        return StoredImages(self.workspace)

    async def rows(self, unit: Unit[MissingVotes], engine: Supervisor) -> list[Row]:
        """All missing votes in one request."""
        (problem, rollout, missing), config = unit.payload, self._config
        # Vote j draws from base + j, so however votes are shared out over requests, they are the same.
        base = seed(self.run_seed, STAGE, rollout.rollout_id, 0)
        request = Request(
            request_id=f"{STAGE}-{rollout.rollout_id}-{missing[0]:03d}",
            prompt=prompts.render_judge(
                config.prompt, problem.question, problem.choices, rollout.steps, len(problem.image_hashes)
            ),
            images=self._images.of(problem.image_hashes),
            prefix_ids=(),
            n=len(missing),
            seed=base + missing[0],
            sampling=generation.sampling(config, config.sampling.max_tokens),
        )
        samples = await engine.generate(request)
        return [self._row(rollout, vote, sample, base) for vote, sample in zip(missing, samples, strict=True)]

    def _row(self, rollout: JudgedRollout, vote: int, sample: Sample, base: int) -> JudgementRow:
        count = len(rollout.steps)
        reading = judgement.read(thinking.apart(sample.text).text, count, sample.finish)
        first = reading.first_error
        return JudgementRow(
            rollout_id=rollout.rollout_id,
            problem_id=rollout.problem_id,
            sample_index=vote,
            steps_digest=digest(rollout.steps),
            first_error=first,
            verdicts=None if first is None else judgement.verdicts(first, count),
            unread=reading.unread,
            text=sample.text,
            finish=sample.finish,
            prompt_tokens=sample.prompt_tokens,
            tokens=sample.count(),
            seed=sample.seed_of(base + vote),
            policy=self._policy,
        )

    def reject(self, unit: Unit[MissingVotes], error: RowError) -> RejectRow:
        """A rollout each."""
        problem, rollout, _ = unit.payload
        return lineage.reject(STAGE, problem, error, f"/{rollout.sample_index}", rollout.rollout_id)


def run(
    config: JudgeConfig,
    workspace: Store,
    run_seed: int,
    reporter: Reporter,
    engines: Engines,
    replace: bool = False,
) -> Ledger:
    """Ask for the votes that are missing; the ledger counts votes. BudgetError when more fail than `error_budget`."""
    return JudgeGeneration(config, workspace, run_seed).run(reporter, engines, replace)


def cost(workspace: Store) -> str:
    """What all stored judgements took and what could not be read of them, in one sentence."""
    votes = tokens = prompt = uncounted = 0
    unread: Counter[str] = Counter()
    for row in workspace.rows(_Cost):
        votes, tokens = votes + 1, tokens + (row.tokens or 0)
        # All votes on a chain read one prompt.
        prompt += (row.prompt_tokens or 0) if row.sample_index == 0 else 0
        uncounted += row.tokens is None or row.prompt_tokens is None
        unread.update([row.unread] if row.unread else [])
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(unread.items()))
    lost = f"; {unread.total():,} cannot be read ({reasons})" if unread else ""
    known = f" ({uncounted:,} of them without a count of tokens by their server)" if uncounted else ""
    return f"{votes:,} judgements{known}, {tokens:,} tokens generated on {prompt:,} of prompts{lost}."
