"""Stored texts graded anew by the rules of this release: what a text says does not change, how it is read does.

Sampling is what costs, and a better grader is no reason to sample again. Steps stay where they were cut, because
completions go on from them. Rows whose outcome a source stated, whose problem is gone, or whose gold answer is another
one now, stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from curate.engines.base import Sample
from curate.graders import KNOWN, Words, assess, extract, grade, wanted_of
from curate.recipe.sections import AnswerWords
from curate.stages import generation
from curate.stages.generation import Graded
from curate.stages.golds import gold_of
from curate.tables import marks, rewriting
from curate.tables.rows import CompletionRow, ProblemRow, RolloutRow, columns_of, rows_of
from curate.tables.schema import ROLLOUTS
from curate.tables.store import Partition, Store, read_file

# Outcomes by these rules do not hang on how an answer is read.
_CUT_SHORT = "cut-short"
_EXTRACTED = "extracted/"


@dataclass(frozen=True)
class Regraded:
    """How many rows were graded anew, and how many outcomes are others now."""

    rows: int = 0
    changed: int = 0

    def __add__(self, other: Regraded) -> Regraded:
        return Regraded(self.rows + other.rows, self.changed + other.changed)


@columns_of(ROLLOUTS)
@dataclass(frozen=True, slots=True)
class _Steps:
    """The steps that a completion goes on from."""

    rollout_id: str
    steps: Sequence[str]


def words_of(settings: Mapping[str, object]) -> Words:
    """The words that answers were read with, out of a lineage record's configuration."""
    given = settings.get("answer_words")
    return AnswerWords.model_validate(given).table if given is not None else KNOWN


def rollouts(store: Store, partition: Partition, words: Words) -> Regraded:
    """Grade a partition of `rollouts` anew, a file at a time; a kill in between is made good by the next call."""
    total = Regraded()
    for shard in range(store.shards):
        problems = {row.problem_id: row for row in store.rows(ProblemRow, shard=shard)}
        for path in partition.files(shard):
            before = list(rows_of(RolloutRow, read_file(path, partition.table, partition.table.schema.names)))
            after = [_rollout(row, problems.get(row.problem_id), words) for row in before]
            total += _kept(partition, path, before, after)
    return total


def completions(store: Store, partition: Partition, words: Words) -> Regraded:
    """Grade a partition of `completions` anew, each with the steps that it goes on from."""
    total = Regraded()
    for shard in range(store.shards):
        problems = {row.problem_id: row for row in store.rows(ProblemRow, shard=shard)}
        steps = {row.rollout_id: row.steps for row in store.rows(_Steps, shard=shard)}
        for path in partition.files(shard):
            before = list(rows_of(CompletionRow, read_file(path, partition.table, partition.table.schema.names)))
            after = [_completion(row, problems.get(row.problem_id), steps.get(row.rollout_id), words) for row in before]
            total += _kept(partition, path, before, after)
    return total


Row = RolloutRow | CompletionRow
G = TypeVar("G", RolloutRow, CompletionRow)


def _kept(partition: Partition, path: Path, before: Sequence[Row], after: Sequence[Row]) -> Regraded:
    changed = sum(old.outcome != new.outcome for old, new in zip(before, after, strict=True))
    if list(before) != list(after):
        rewriting.rewrite(partition, path, after, marks.settings_of(path))
    return Regraded(sum(row.gold is not None for row in before), changed)


def _settled(row: Row, problem: ProblemRow | None) -> bool:
    """Whether a row keeps its grade."""
    return problem is None or row.gold is None or row.finish == "error" or gold_of(problem) != row.gold


def _rollout(row: RolloutRow, problem: ProblemRow | None, words: Words) -> RolloutRow:
    if _settled(row, problem) or row.outcome_rule == _CUT_SHORT:
        return row
    assert problem is not None and problem.answer is not None and problem.answer_type is not None  # noqa: S101
    if row.finish is not None:
        return _with(row, generation.graded(_sample(row, row.finish), row.text, problem, words))
    if row.outcome_rule.startswith(_EXTRACTED):
        rest = (problem.answer_type, problem.choices, problem.accepted, problem.tolerance)
        verdict = grade(row.answer, problem.answer, *rest)
        return replace(row, outcome=verdict.outcome, outcome_rule=f"{_EXTRACTED}{verdict.rule}")
    found, assessed = extract(row.text, wanted_of(problem, words)), assess(row.text, problem, words)
    answer = None if found is None else found.answer
    return replace(row, answer=answer, outcome=assessed.outcome, outcome_rule=assessed.rule)


def _completion(
    row: CompletionRow, problem: ProblemRow | None, steps: Sequence[str] | None, words: Words
) -> CompletionRow:
    if _settled(row, problem) or steps is None:
        return row
    assert problem is not None  # noqa: S101
    whole = "".join(steps[: row.step_index + 1]) + row.text
    return _with(row, generation.graded(_sample(row, row.finish), whole, problem, words))


def _with(row: G, graded: Graded) -> G:
    return replace(row, answer=graded.answer, outcome=graded.outcome, outcome_rule=graded.outcome_rule)


def _sample(row: Row, finish: str) -> Sample:
    return Sample(row.text, row.token_ids, (), finish, None, row.prompt_tokens)
