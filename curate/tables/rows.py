"""Rows of the tables as classes: a field for each column, checked against the table's schema where a class is defined.

A class that inherits `Row` is a whole row, which is what is written. Any other dataclass with `columns_of` names the
columns that its reader needs, so that only those are read from the disk: `Store.rows(ThatClass)`.

    @columns_of(ROLLOUTS)
    @dataclass(frozen=True, slots=True)
    class Graded:
        rollout_id: str
        outcome: bool | None
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import pyarrow as pa

from curate.tables import schema
from curate.tables.schema import Table

R = TypeVar("R")
# Its own name, because a column is called "bytes".
Binary = bytes
_SCALARS: dict[pa.DataType, type] = {
    pa.string(): str,
    pa.int64(): int,
    pa.int32(): int,
    pa.float64(): float,
    pa.bool_(): bool,
    pa.binary(): bytes,
}
_TABLES: dict[type, Table] = {}
_COLUMNS: dict[type, tuple[str, ...]] = {}
_WHOLE: dict[str, type[Row]] = {}


class Row:
    """Base of the classes that hold every column of their table."""

    __slots__ = ()


def columns_of(table: Table) -> Callable[[type[R]], type[R]]:
    """Decorate a dataclass whose fields are columns of `table`, with their types; TypeError where one is not."""

    def register(kind: type[R]) -> type[R]:
        hints = get_type_hints(kind)
        found = tuple(each.name for each in fields(cast(Any, kind)))
        for name in found:
            _check(kind, name, hints[name], table)
        if issubclass(kind, Row):
            if missing := sorted(set(table.schema.names) - set(found)):
                raise TypeError(f"{kind.__name__} lacks columns of {table.name}: {', '.join(missing)}")
            _WHOLE[table.name] = kind
        _TABLES[kind], _COLUMNS[kind] = table, found
        return kind

    return register


def _check(kind: type, name: str, hint: Any, table: Table) -> None:
    if name not in table.schema.names:
        raise TypeError(f"{kind.__name__}.{name} is no column of {table.name}")
    column = table.schema.field(name)
    inner, optional = _without_none(hint)
    if pa.types.is_list(column.type):
        of = get_args(inner)
        # What stands in a list may be null in every file.
        fits = get_origin(inner) in (list, Sequence) and _without_none(of[0])[0] is _SCALARS[column.type.value_type]
    else:
        fits = inner is _SCALARS[column.type]
    if not fits or optional != column.nullable:
        raise TypeError(f"{kind.__name__}.{name} is {hint}, but the column {table.name}.{name} is {column}")


def _without_none(hint: Any) -> tuple[Any, bool]:
    """The type without None, and whether None was in it."""
    if get_origin(hint) not in (types.UnionType, Union):
        return hint, False
    rest = [each for each in get_args(hint) if each is not type(None)]
    return (rest[0] if len(rest) == 1 else hint), len(rest) < len(get_args(hint))


def table_of(kind: type) -> Table:
    """The table whose columns a class names."""
    return _TABLES[kind]


def whole(table: Table) -> type[Row]:
    """The class of a table's whole rows."""
    return _WHOLE[table.name]


def column_names(kind: type) -> tuple[str, ...]:
    """The columns that a class names, in the order of its fields."""
    return _COLUMNS[kind]


def rows_of(kind: type[R], data: pa.Table | pa.RecordBatch) -> Iterator[R]:
    """The rows of an Arrow table or batch that has the class's columns."""
    return map(kind, *(data[name].to_pylist() for name in column_names(kind)))


@columns_of(schema.PROBLEMS)
@dataclass(frozen=True, slots=True)
class ProblemRow(Row):
    """A problem, with its gold answer where it has one."""

    problem_id: str
    domain: str
    role: str
    source: str
    source_row: str
    revision: str | None
    licence: str | None
    question: str
    choices: Sequence[str]
    answer: str | None
    accepted: Sequence[str]
    answer_type: str | None
    tolerance: float | None
    image_hashes: Sequence[str]
    truth: str | None


@columns_of(schema.DROPS)
@dataclass(frozen=True, slots=True)
class DropRow(Row):
    """Why a problem is left alone by later stages."""

    problem_id: str
    domain: str
    role: str
    by: str
    reason: str
    against: str
    against_domain: str
    against_role: str
    image_distance: int | None
    text_similarity: float | None


@columns_of(schema.IMAGES)
@dataclass(frozen=True, slots=True)
class ImageRow(Row):
    """An image and what its inspection found."""

    image_hash: str
    problem_id: str
    bytes: Binary
    format: str
    width: int
    height: int
    perceptual_hash: str
    orientation: int | None
    has_alpha: bool
    note: str | None


@columns_of(schema.REJECTS)
@dataclass(frozen=True, slots=True)
class RejectRow(Row):
    """What a stage left out, and why."""

    stage: str
    source: str
    source_row: str
    problem_id: str | None
    domain: str | None
    rollout_id: str | None
    step_index: int | None
    reason: str
    detail: str


@columns_of(schema.ROLLOUTS)
@dataclass(frozen=True, slots=True)
class RolloutRow(Row):
    """A chain of thought, graded."""

    rollout_id: str
    problem_id: str
    domain: str
    role: str
    sample_index: int
    reasoning: str | None
    text: str
    token_ids: Sequence[int]
    steps: Sequence[str]
    step_ends: Sequence[int]
    answer: str | None
    outcome: bool | None
    outcome_rule: str
    gold: str | None
    finish: str | None
    mean_logprob: float | None
    prompt_tokens: int | None
    tokens: int | None
    seed: int | None
    policy: str


@columns_of(schema.COMPLETIONS)
@dataclass(frozen=True, slots=True)
class CompletionRow(Row):
    """A chain that goes on from the steps of a rollout, graded."""

    rollout_id: str
    problem_id: str
    step_index: int
    sample_index: int
    reasoning: str | None
    text: str
    token_ids: Sequence[int]
    answer: str | None
    outcome: bool | None
    outcome_rule: str
    gold: str | None
    finish: str
    prompt_tokens: int | None
    tokens: int | None
    seed: int | None
    policy: str


@columns_of(schema.STEP_LABELS)
@dataclass(frozen=True, slots=True)
class StepLabelRow(Row):
    """The label of one step of a rollout."""

    rollout_id: str
    problem_id: str
    domain: str
    role: str
    step_index: int
    mode: str
    k: int | None
    m: int | None
    outcome: bool | None
    value: float | None
    standard_error: float | None
    weight: float
    tokens: int | None
    stopped: int | None
    truncated: int | None
    failed: int | None


@columns_of(schema.JUDGEMENTS)
@dataclass(frozen=True, slots=True)
class JudgementRow(Row):
    """A judge's vote on a rollout."""

    rollout_id: str
    problem_id: str
    sample_index: int
    steps_digest: str
    first_error: int | None
    verdicts: Sequence[bool] | None
    unread: str | None
    text: str
    finish: str
    prompt_tokens: int | None
    tokens: int | None
    seed: int | None
    policy: str


@columns_of(schema.EXAMPLES)
@dataclass(frozen=True, slots=True)
class ExampleRow(Row):
    """What the trainer reads of a rollout."""

    rollout_id: str
    problem_id: str
    domain: str
    role: str
    sample_index: int
    question: str
    choices: Sequence[str]
    image_hashes: Sequence[str]
    steps: Sequence[str]
    answer: str | None
    outcome: bool | None
    values: Sequence[float | None]
    weights: Sequence[float]
    verdicts: Sequence[bool | None]
    masks: Sequence[str | None]


@columns_of(schema.UPDATES)
@dataclass(frozen=True, slots=True)
class UpdateRow(Row):
    """A domain's weight and what moved it, at one update of a run."""

    run: str
    seed: int
    null_control: bool
    update: int
    step: int
    domain: str
    upper_rule: str | None
    weight: float
    raw: float | None
    dot: float | None
    t: float | None
    rows: int
    train_loss: float | None
    meta_loss: float | None
    cosine: float | None


@columns_of(schema.ROLLOUT_WEIGHTS)
@dataclass(frozen=True, slots=True)
class RolloutWeightRow(Row):
    """The weight of a single rollout at the end of a run."""

    run: str
    null_control: bool
    rollout_id: str
    problem_id: str
    domain: str
    weight: float | None
    reads: int
    dot: float | None
    dot_deviation: float | None


@columns_of(schema.VALIDATIONS)
@dataclass(frozen=True, slots=True)
class ValidationRow(Row):
    """What held-out problems said at one step of a run."""

    run: str
    null_control: bool
    step: int
    metric: str
    value: float | None
    rows: int
    kept: bool


@columns_of(schema.STEP_SCORES)
@dataclass(frozen=True, slots=True)
class StepScoreRow(Row):
    """A trained PRM's score of one step."""

    run: str
    rollout_id: str
    problem_id: str
    step_index: int
    score: float | None
