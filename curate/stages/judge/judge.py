"""Stage: labelled rollouts in, a second opinion out: which step a language model takes for the first wrong one.

One unit is one rollout: its missing votes are asked for in one request and journalled together. An answer that cannot
be read is kept as it is, with null for its verdict; it is not asked again, because it would say the same. Opinions
stay in a table of their own; what `curate shard` makes of them is up to `shard.consensus`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow.compute as pc

from curate.engines.base import Request, Sample
from curate.engines.supervisor import Engines, Supervisor
from curate.errors import UserError
from curate.recipe.sections import JudgeConfig
from curate.runtime.reporter import Reporter
from curate.seeds import FirstByHash, digest, seed
from curate.stages import generation
from curate.stages.active import dropped
from curate.stages.base import Outcome, Unit, resume, run_units
from curate.stages.judge import judgement
from curate.stages.stored_images import StoredImages
from curate.tables import lineage
from curate.tables.lineage import Ledger
from curate.tables.schema import JUDGEMENTS, PROBLEMS, ROLLOUTS, STEP_LABELS, Row, Table
from curate.tables.store import Store, among
from curate.text import prompts, thinking

STAGE = "judge"
REPLACE = "curate judge --replace"
_LIGHT = ("rollout_id", "problem_id", "role", "domain")
_CHAIN = ("rollout_id", "problem_id", "sample_index", "steps")
_PROBLEM = ("problem_id", "source", "source_row", "domain", "question", "choices", "image_hashes")


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
    """Rollouts to judge, votes that are wanted, votes that are there, and rollouts that are owed any."""

    rollouts: int = 0
    votes: int = 0
    there: int = 0
    owed: int = 0


class JudgeWork:
    """Labelled rollouts that the recipe wants judged and what of them is owed, shard by shard."""

    def __init__(self, config: JudgeConfig, workspace: Store) -> None:
        """UserError when there is none."""
        self._config, self._workspace, self._out = config, workspace, dropped(workspace)
        self._picked: frozenset[str] | None = None
        first = None if config.limit is None else FirstByHash(config.limit)
        seen = 0
        for shard in range(workspace.shards):
            for row in self._labelled(shard, _LIGHT):
                seen += 1
                if first is not None:
                    first.add((row["role"], row["domain"]), row["rollout_id"])
        if not seen:
            roles = ", ".join(config.roles)
            raise UserError(f"There are no labelled rollouts of role {roles} to judge; run `curate label` first.")
        if first is not None:
            self._picked = first.names()

    def _labelled(self, shard: int, columns: Sequence[str]) -> Iterator[Row]:
        """Rollouts of a shard that have a step label, and whose problem is still there."""
        roles = among("role", self._config.roles)
        labelled = self._names(STEP_LABELS, "rollout_id", shard, roles & pc.field("value").is_valid())
        if not labelled:
            return
        problems = self._names(PROBLEMS, "problem_id", shard) - self._out.keys()
        for batch in self._workspace.batches(ROLLOUTS, columns, shard, roles):
            for row in batch.to_pylist():
                if row["rollout_id"] in labelled and row["problem_id"] in problems:
                    yield row

    def _names(self, table: Table, column: str, shard: int, where: Any = None) -> set[str]:
        batches = self._workspace.batches(table, [column], shard, where)
        return {name for batch in batches for name in batch[column].to_pylist()}

    def _rows(self, shard: int) -> Iterator[tuple[Row, list[int]]]:
        """(rollout, indices of its missing votes) of a shard; UserError for a judgement of a chain that changed."""
        there: dict[str, set[int]] = defaultdict(set)
        judged: dict[str, str] = {}
        partition = self._workspace.partition(JUDGEMENTS)
        committed = partition.read(["rollout_id", "sample_index", "steps_digest"], shard).to_pylist()
        for row in [*committed, *partition.journal(shard).rows()]:
            there[row["rollout_id"]].add(row["sample_index"])
            judged[row["rollout_id"]] = row["steps_digest"]
        for row in self._labelled(shard, _CHAIN):
            if self._picked is None or row["rollout_id"] in self._picked:
                name = row["rollout_id"]
                if judged.get(name, (now := digest(row["steps"]))) != now:
                    raise UserError(
                        f"The rollout {name} has other steps than when it was judged; run `{REPLACE}` to judge anew."
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
                found.owed += bool(missing)
        return found

    def owed(self) -> Iterator[tuple[int, Row, Row, list[int]]]:
        """(shard, problem, rollout, missing votes) of every rollout that lacks any, in the order of shards."""
        for shard in range(self._workspace.shards):
            owed = [(row, missing) for row, missing in self._rows(shard) if missing]
            names = among("problem_id", sorted({row["problem_id"] for row, _ in owed}))
            problems = {
                row["problem_id"]: row
                for batch in (self._workspace.batches(PROBLEMS, _PROBLEM, shard, names) if owed else ())
                for row in batch.to_pylist()
            }
            for row, missing in owed:
                yield shard, problems[row["problem_id"]], row, missing


def _votes(rollout: Row, missing: Sequence[int], samples: Sequence[Sample], base: int, policy: str) -> list[Row]:
    rows, count = [], len(rollout["steps"])
    for vote, sample in zip(missing, samples, strict=True):
        reading = judgement.read(thinking.apart(sample.text).text, count, sample.finish)
        first = reading.first_error
        rows.append(
            {
                "rollout_id": rollout["rollout_id"],
                "problem_id": rollout["problem_id"],
                "sample_index": vote,
                "steps_digest": digest(rollout["steps"]),
                "first_error": first,
                "verdicts": None if first is None else judgement.verdicts(first, count),
                "unread": reading.unread,
                "text": sample.text,
                "finish": sample.finish,
                "prompt_tokens": sample.prompt_tokens,
                "tokens": sample.count(),
                "seed": sample.seed_of(base + vote),
                "policy": policy,
            }
        )
    return rows


async def _work(
    unit: Unit, *, engine: Supervisor, config: JudgeConfig, policy: str, images: StoredImages, run_seed: int
) -> list[Row]:
    problem, rollout, missing = unit.payload
    # Vote j draws from base + j, so however votes are shared out over requests, they are the same.
    base = seed(run_seed, STAGE, rollout["rollout_id"], 0)
    request = Request(
        request_id=f"{STAGE}-{rollout['rollout_id']}-{missing[0]:03d}",
        prompt=prompts.render_judge(
            config.prompt, problem["question"], problem["choices"], rollout["steps"], len(problem["image_hashes"])
        ),
        images=images.of(problem),
        prefix_ids=(),
        n=len(missing),
        seed=base + missing[0],
        sampling=generation.sampling(config, config.sampling.max_tokens),
    )
    return _votes(rollout, missing, await engine.generate(request), base, policy)


def run(
    config: JudgeConfig,
    workspace: Store,
    run_seed: int,
    reporter: Reporter,
    engines: Engines,
    replace: bool = False,
) -> Ledger:
    """Ask for the votes that are owed; the ledger counts votes. BudgetError when more fail than `error_budget`."""
    partition = workspace.partition(JUDGEMENTS)
    if replace:
        partition.clear()
    record = settings(config) | {"seed": run_seed}
    lineage.guard(partition, record, REPLACE)
    resume(partition)
    wanted = JudgeWork(config, workspace)
    before = wanted.count()
    inputs = {"rollouts": before.rollouts}
    outcome, extra = Outcome(), (lineage.read(partition) or {}).get("versions", {})
    if before.owed:
        lineage.write(partition, STAGE, record, inputs)
        reporter.start(STAGE, before.owed, "rollouts")
        work = partial(_run, config=config, workspace=workspace, wanted=wanted, run_seed=run_seed, reporter=reporter)
        outcome, extra = engines.run(config.engine, reporter.note, work)
        reporter.finish()
    ledger = _account(workspace, wanted, before, outcome)
    lineage.write(partition, STAGE, record, inputs, ledger, extra)
    reporter.note(cost(workspace))
    outcome.check(before.rollouts, config.error_budget, "rollouts")
    return ledger


async def _run(
    engine: Supervisor,
    *,
    config: JudgeConfig,
    workspace: Store,
    wanted: JudgeWork,
    run_seed: int,
    reporter: Reporter,
) -> tuple[Outcome, Mapping[str, str]]:
    units = (Unit(shard, payload) for shard, *payload in wanted.owed())
    # Once: it reads the model's files.
    policy, images = policy_digest(config), StoredImages(workspace)
    work = partial(_work, engine=engine, config=config, policy=policy, images=images, run_seed=run_seed)
    outcome = await run_units(workspace.partition(JUDGEMENTS), units, work, config.engine.in_flight, reporter)
    return outcome, engine.versions()


def _account(workspace: Store, wanted: JudgeWork, before: JudgeCounts, outcome: Outcome) -> Ledger:
    failed: Counter[str] = Counter()
    rejects = []
    for unit, error in outcome.failed:
        problem, rollout, missing = unit.payload
        failed[error.reason] += len(missing)
        rejects.append(lineage.reject(STAGE, problem, error, f"/{rollout['sample_index']}"))
    lineage.write_rejects(workspace, STAGE, rejects)
    after = wanted.count()
    ledger = Ledger("votes", taken=after.votes, out=after.there, failed=dict(failed), skipped=before.there)
    ledger.check(STAGE)
    return ledger


def cost(workspace: Store) -> str:
    """What all stored judgements took and what could not be read of them, in one sentence."""
    votes = tokens = prompt = uncounted = 0
    unread: Counter[str] = Counter()
    for batch in workspace.batches(JUDGEMENTS, ["sample_index", "prompt_tokens", "tokens", "unread"]):
        for row in batch.to_pylist():
            votes, tokens = votes + 1, tokens + (row["tokens"] or 0)
            # All votes on a chain read one prompt.
            prompt += (row["prompt_tokens"] or 0) if row["sample_index"] == 0 else 0
            uncounted += row["tokens"] is None or row["prompt_tokens"] is None
            unread.update([row["unread"]] if row["unread"] else [])
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(unread.items()))
    lost = f"; {unread.total():,} cannot be read ({reasons})" if unread else ""
    known = f" ({uncounted:,} of them without a count of tokens by their server)" if uncounted else ""
    return f"{votes:,} judgements{known}, {tokens:,} tokens generated on {prompt:,} of prompts{lost}."
