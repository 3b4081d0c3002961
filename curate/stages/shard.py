"""Stage: labelled rollouts in, domain-tagged examples out, one partition a role. Everything the trainer reads.

A training example is a rollout with at least one defined step label, a meta example one with a decided outcome, a test
example any rollout that has steps. What is left out is counted by reason and listed in `rejects`; `not-labelled` are
rollouts that the label section leaves out on purpose, or whose completions failed and are still pending.

The judge's verdicts, where there are any, stand beside the labels. Only `shard.consensus` makes use of them: it gives
labels of training examples that they disagree with weight 0 and a reason.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import pyarrow.compute as pc

from curate.errors import RowError, UserError
from curate.recipe.sections import ShardConfig
from curate.runtime.reporter import Reporter
from curate.stages import golds
from curate.stages.active import dropped
from curate.stages.judge.opinions import Opinions
from curate.stages.monte_carlo import defined
from curate.tables import lineage
from curate.tables.lineage import Ledger
from curate.tables.rows import ExampleRow, RejectRow, columns_of
from curate.tables.schema import COMPLETIONS, EXAMPLES, PROBLEMS, ROLES, ROLLOUTS, STEP_LABELS
from curate.tables.store import Store, Writer
from curate.text import steps

STAGE = "shard"
# The partition of examples out of completions.
HARVEST = "harvest"
# Completions whose examples are committed together.
_CHUNK = 5000


@columns_of(PROBLEMS)
@dataclass(frozen=True, slots=True)
class _ShownProblem:
    """A problem as far as an example shows it, and where it came from."""

    problem_id: str
    domain: str
    source: str
    source_row: str
    question: str
    choices: Sequence[str]
    image_hashes: Sequence[str]


@columns_of(ROLLOUTS)
@dataclass(frozen=True, slots=True)
class _Rollout:
    """A rollout as far as an example shows it."""

    rollout_id: str
    problem_id: str
    domain: str
    role: str
    sample_index: int
    steps: Sequence[str]
    answer: str | None
    outcome: bool | None


@columns_of(STEP_LABELS)
@dataclass(frozen=True, slots=True)
class _Label:
    """A step label."""

    rollout_id: str
    step_index: int
    mode: str
    m: int | None
    value: float | None
    weight: float


@columns_of(COMPLETIONS)
@dataclass(frozen=True, slots=True)
class _Completion:
    """A completion as far as an example is made of it."""

    rollout_id: str
    step_index: int
    sample_index: int
    text: str
    answer: str | None
    outcome: bool | None


def _example(
    rollout: _Rollout,
    problem: _ShownProblem,
    labels: Mapping[int, _Label],
    min_graded: int,
    verdicts: Sequence[bool | None],
) -> ExampleRow:
    last = len(rollout.steps) - 1
    found = [labels.get(step) for step in range(len(rollout.steps))]
    counted = [each if defined(each, step == last, min_graded) else None for step, each in enumerate(found)]
    return ExampleRow(
        rollout_id=rollout.rollout_id,
        problem_id=rollout.problem_id,
        domain=rollout.domain,
        role=rollout.role,
        sample_index=rollout.sample_index,
        question=problem.question,
        choices=problem.choices,
        image_hashes=problem.image_hashes,
        steps=rollout.steps,
        answer=rollout.answer,
        outcome=rollout.outcome,
        values=[None if label is None else label.value for label in counted],
        weights=[0.0 if label is None else label.weight for label in counted],
        verdicts=verdicts,
        masks=[None] * len(counted),
    )


def _check(example: ExampleRow, labelled: bool) -> None:
    """RowError with the reason when an example is of no use to its role."""
    if not example.steps:
        raise RowError("no-steps", "the rollout has no text")
    if example.role == "train" and not labelled:
        raise RowError(
            "not-labelled", "it has no step labels: left out by the label section, or its completions failed"
        )
    if example.role == "train" and all(value is None for value in example.values):
        raise RowError("undefined", "no step has enough graded completions for a label")
    if example.role == "meta" and example.outcome is None:
        raise RowError("undecided", "a meta example needs an outcome")


def run(
    config: ShardConfig, workspace: Store, reporter: Reporter, max_steps: int = 12, min_characters: int = 1
) -> Ledger:
    """Write the examples of every role afresh; cheap, so never resumed. The ledger counts rollouts.

    `max_steps` and `min_characters` are those that rollouts are cut with; harvested completions are cut likewise.
    """
    problems = {row.problem_id: row for row in workspace.rows(_ShownProblem)}
    if not workspace.files(ROLLOUTS):
        raise UserError("The workspace has no rollouts; run `curate rollout` first.")
    golds.check(workspace, ROLLOUTS, COMPLETIONS)
    total, opinions = Ledger("rollouts"), Opinions.of(workspace)
    rejected: Counter[str] = Counter()
    reporter.start(STAGE, len(ROLES), "roles")
    for role in ROLES:
        ledger = _write_role(role, config, workspace, problems, opinions)
        total.taken += ledger.taken
        total.out += ledger.out
        total.masked |= ledger.masked
        rejected.update(ledger.rejected)
        reporter.advance()
    reporter.finish()
    total.rejected = dict(rejected)
    total.check(STAGE)
    if config.consensus is not None:
        reporter.note(opinions.summary())
    elif opinions.changed:
        reporter.note(f"{opinions.changed} rollouts have other steps than when they were judged: no verdicts for them.")
    workspace.partition(EXAMPLES, HARVEST).clear()
    if config.harvest is not None:
        book = _write_harvest(config.harvest, workspace, max_steps, min_characters)
        reporter.note(f"Harvested completions: {book.line()}.")
    return total


def _write_harvest(weight: float, workspace: Store, max_steps: int, min_characters: int) -> Ledger:
    """Examples out of the completions of training examples; the ledger counts completions."""
    partition = workspace.partition(EXAMPLES, HARVEST)
    examples = {row.rollout_id: row for row in workspace.partition(EXAMPLES, "train").rows(ExampleRow)}
    writer, ledger, left = Writer(partition), Ledger("completions"), Counter[str]()
    completions = workspace.rows(_Completion)
    while chunk := list(islice(completions, _CHUNK)):
        rows = []
        for completion in chunk:
            ledger.taken += 1
            example = examples.get(completion.rollout_id)
            kept = example.steps[: completion.step_index + 1] if example else []
            new = steps.split(completion.text, max(max_steps - len(kept), 1), min_characters)
            if example is None:
                left["rollout-left-out"] += 1
            elif completion.outcome is None:
                left["undecided"] += 1
            elif not new:
                left["no-steps"] += 1
            else:
                rows.append(_harvested(example, completion, kept, new, weight))
        ledger.out += writer.commit_all(rows)
    ledger.rejected = dict(left)
    ledger.check(HARVEST)
    lineage.write(partition, STAGE, {"harvest": weight}, {"completions": ledger.taken}, ledger)
    return ledger


def _harvested(
    example: ExampleRow, completion: _Completion, kept: Sequence[str], new: Sequence[str], weight: float
) -> ExampleRow:
    """The beginning has its labels in the rollout's own example; every new step's label is this chain's outcome."""
    steps = [*kept, *new]
    return replace(
        example,
        rollout_id=f"{example.rollout_id}.{completion.step_index:02d}.{completion.sample_index:03d}",
        steps=steps,
        answer=completion.answer,
        outcome=completion.outcome,
        values=[None] * len(kept) + [float(bool(completion.outcome))] * len(new),
        weights=[0.0] * len(kept) + [weight] * len(new),
        verdicts=[None] * len(steps),
        masks=[None] * len(steps),
    )


def _write_role(
    role: str, config: ShardConfig, workspace: Store, problems: Mapping[str, _ShownProblem], opinions: Opinions
) -> Ledger:
    by_rollout: dict[str, dict[int, _Label]] = defaultdict(dict)
    for label in workspace.rows(_Label, pc.field("role") == role):
        by_rollout[label.rollout_id][label.step_index] = label
    taken, rows, rejects, out = 0, list[ExampleRow](), list[RejectRow](), dropped(workspace)
    # Only the train set's labels are trained on.
    masking = config.consensus if role == "train" else None
    for rollout in workspace.rows(_Rollout, pc.field("role") == role):
        problem, labels = problems.get(rollout.problem_id), by_rollout[rollout.rollout_id]
        taken += 1
        try:
            if problem is None:
                raise RowError("no-problem", "its problem was deleted when its source was ingested again")
            if problem.problem_id in out:
                raise RowError(out[problem.problem_id], "its problem was dropped, see the table drops")
            verdicts = opinions.verdicts(rollout.rollout_id, rollout.steps)
            example = _example(rollout, problem, labels, config.min_graded, verdicts)
            _check(example, bool(labels))
            if masking is not None:
                example = opinions.mask(example, masking)
        except RowError as error:
            origin = problem or lineage.Unplaced("?", "?", rollout.problem_id)
            rejects.append(lineage.reject(STAGE, origin, error, f"/{rollout.sample_index}", rollout.rollout_id))
        else:
            rows.append(example)
    if masking is not None:
        opinions.check()
    lineage.write_rejects(workspace, f"{STAGE}-{role}", rejects)
    rejected = Counter(row.reason for row in rejects)
    partition = workspace.partition(EXAMPLES, role)
    partition.clear()
    ledger = Ledger("rollouts", taken=taken, out=partition.commit_all(rows), rejected=dict(rejected))
    if masking is not None:
        ledger.masked = {reason: count for reason, count in opinions.steps.items() if reason is not None}
    record: dict[str, Any] = config.model_dump() | {"role": role}
    lineage.write(partition, STAGE, record, {"rollouts": taken}, ledger)
    return ledger
