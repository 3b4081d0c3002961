"""Every table: its columns, its key and its version. The only place where a column is named.

Rows are objects of the classes in `curate.tables.rows`. Missing is null, never 0 and never an empty string.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

ROLES = ("train", "meta", "test")
# Finish classes of a generation; "error" is missing data, never a wrong answer.
FINISHES = ("stop", "length", "repetition", "error")
# The mode of step labels that came with their source, and the head of its rollouts' policy.
GIVEN = "given"


@dataclass(frozen=True)
class Table:
    """One table: `key` names a row; rows go to shards by `shard_by`."""

    name: str
    version: int
    schema: pa.Schema
    key: tuple[str, ...]
    shard_by: str
    row_group: int = 10_000

    def to_arrow(self, rows: Iterable[Any]) -> pa.Table:
        """Rows (see `curate.tables.rows`) as an Arrow table of exactly this schema."""
        rows = list(rows)
        arrays = [pa.array([getattr(row, each.name) for row in rows], each.type) for each in self.schema]
        return pa.Table.from_arrays(arrays, schema=self.schema)

    def key_of(self, row: Any) -> tuple[Any, ...]:
        """The key of a row."""
        return tuple(getattr(row, column) for column in self.key)

    def shard_key(self, row: Any) -> str:
        """What a row goes to its shard by."""
        return str(getattr(row, self.shard_by))


def _table(
    name: str, columns: dict[str, pa.DataType], key: tuple[str, ...], shard_by: str = "problem_id", **rest: Any
) -> Table:
    optional = rest.pop("optional", ())
    fields = [pa.field(column, kind, nullable=column in optional) for column, kind in columns.items()]
    version = rest.pop("version", 1)
    metadata = {"curate.table": name, "curate.version": str(version)}
    return Table(name, version, pa.schema(fields, metadata=metadata), key, shard_by, **rest)


_text, _count, _real, _flag = pa.string(), pa.int64(), pa.float64(), pa.bool_()
_texts, _tokens = pa.list_(pa.string()), pa.list_(pa.int32())

PROBLEMS = _table(
    "problems",
    {
        "problem_id": _text,
        "domain": _text,
        "role": _text,
        "source": _text,
        "source_row": _text,
        "revision": _text,
        "licence": _text,
        "question": _text,
        "choices": _texts,
        "answer": _text,
        "accepted": _texts,
        "answer_type": _text,
        "tolerance": _real,
        "image_hashes": _texts,
        "truth": _text,
    },
    key=("problem_id",),
    # No gold answer: only where the source brings chains whose steps are labelled.
    optional=("revision", "licence", "answer", "answer_type", "tolerance", "truth"),
    version=3,
)

# Problems that later stages leave alone, and which other problem each is too much like.
DROPS = _table(
    "drops",
    {
        "problem_id": _text,
        "domain": _text,
        "role": _text,
        "by": _text,
        "reason": _text,
        "against": _text,
        "against_domain": _text,
        "against_role": _text,
        "image_distance": _count,
        "text_similarity": _real,
    },
    key=("problem_id", "by"),
    optional=("image_distance", "text_similarity"),
)

IMAGES = _table(
    "images",
    {
        "image_hash": _text,
        "problem_id": _text,
        "bytes": pa.binary(),
        "format": _text,
        "width": _count,
        "height": _count,
        "perceptual_hash": _text,
        "orientation": _count,
        "has_alpha": _flag,
        "note": _text,
    },
    key=("image_hash",),
    optional=("orientation", "note"),
    row_group=100,
)

REJECTS = _table(
    "rejects",
    {
        "stage": _text,
        "source": _text,
        "source_row": _text,
        "problem_id": _text,
        "domain": _text,
        "rollout_id": _text,
        "step_index": _count,
        "reason": _text,
        "detail": _text,
    },
    key=("stage", "source", "source_row"),
    shard_by="source_row",
    # Not known before the row is a problem, the problem has a rollout, or the rollout has steps.
    optional=("problem_id", "domain", "rollout_id", "step_index"),
    version=2,
)

ROLLOUTS = _table(
    "rollouts",
    {
        "rollout_id": _text,
        "problem_id": _text,
        "domain": _text,
        "role": _text,
        "sample_index": _count,
        # What the model thought before it answered; the text, the steps and the answer leave it out.
        "reasoning": _text,
        "text": _text,
        "token_ids": _tokens,
        "steps": _texts,
        "step_ends": _tokens,
        "answer": _text,
        "outcome": _flag,
        "outcome_rule": _text,
        # What decided the outcome, see `curate.stages.golds`; null where the source stated it, or has no gold answer.
        "gold": _text,
        "finish": _text,
        "mean_logprob": _real,
        "prompt_tokens": _count,
        "tokens": _count,
        "seed": _count,
        "policy": _text,
    },
    key=("rollout_id",),
    # How a chain that a source brought was sampled is not known.
    optional=("reasoning", "answer", "outcome", "gold", "finish", "mean_logprob", "prompt_tokens", "tokens", "seed"),
    version=4,
)

COMPLETIONS = _table(
    "completions",
    {
        "rollout_id": _text,
        "problem_id": _text,
        "step_index": _count,
        "sample_index": _count,
        "reasoning": _text,
        "text": _text,
        "token_ids": _tokens,
        "answer": _text,
        "outcome": _flag,
        "outcome_rule": _text,
        "gold": _text,
        "finish": _text,
        "prompt_tokens": _count,
        "tokens": _count,
        "seed": _count,
        "policy": _text,
    },
    key=("rollout_id", "step_index", "sample_index"),
    # Not every server counts tokens or takes a seed.
    optional=("reasoning", "answer", "outcome", "gold", "prompt_tokens", "tokens", "seed"),
    version=3,
)

STEP_LABELS = _table(
    "step_labels",
    {
        "rollout_id": _text,
        "problem_id": _text,
        "domain": _text,
        "role": _text,
        "step_index": _count,
        "mode": _text,
        "k": _count,
        "m": _count,
        "outcome": _flag,
        "value": _real,
        "standard_error": _real,
        "weight": _real,
        "tokens": _count,
        "stopped": _count,
        "truncated": _count,
        "failed": _count,
    },
    key=("rollout_id", "step_index"),
    # Labels that a source brought may come without counts.
    optional=("k", "m", "outcome", "value", "standard_error", "tokens", "stopped", "truncated", "failed"),
    version=3,
)

# Opinions of a language model, one row a vote; never mixed with the step labels.
JUDGEMENTS = _table(
    "judgements",
    {
        "rollout_id": _text,
        "problem_id": _text,
        "sample_index": _count,
        "steps_digest": _text,
        "first_error": _count,
        "verdicts": pa.list_(_flag),
        "unread": _text,
        "text": _text,
        "finish": _text,
        "prompt_tokens": _count,
        "tokens": _count,
        "seed": _count,
        "policy": _text,
    },
    key=("rollout_id", "sample_index"),
    # An answer that cannot be read says nothing, and `unread` why; else `first_error` is -1 where there is none.
    optional=("first_error", "verdicts", "unread", "prompt_tokens", "tokens", "seed"),
    version=2,
)

EXAMPLES = _table(
    "examples",
    {
        "rollout_id": _text,
        "problem_id": _text,
        "domain": _text,
        "role": _text,
        "sample_index": _count,
        "question": _text,
        "choices": _texts,
        "image_hashes": _texts,
        "steps": _texts,
        "answer": _text,
        "outcome": _flag,
        "values": pa.list_(pa.float64()),
        "weights": pa.list_(pa.float64()),
        # The judge's opinion of each step, and why a label has weight 0 though it is there; null where there is none.
        "verdicts": pa.list_(_flag),
        "masks": _texts,
    },
    key=("rollout_id",),
    optional=("answer", "outcome"),
    version=2,
)

UPDATES = _table(
    "updates",
    {
        "run": _text,
        "seed": _count,
        "null_control": _flag,
        "update": _count,
        "step": _count,
        "domain": _text,
        # How weights were updated, see `train.upper.rule`; null where none are learned.
        "upper_rule": _text,
        "weight": _real,
        "raw": _real,
        "dot": _real,
        # Mean / standard deviation x sqrt(n) of the run's dots so far; null below two or where they do not vary.
        "t": _real,
        "rows": _count,
        "train_loss": _real,
        "meta_loss": _real,
        "cosine": _real,
    },
    key=("run", "update", "domain"),
    shard_by="run",
    # No raw weight of a domain where rollouts have the weights.
    optional=("upper_rule", "raw", "dot", "t", "train_loss", "meta_loss", "cosine"),
    version=4,
)

# Where every rollout has a weight of its own: the weights at the end of a run.
ROLLOUT_WEIGHTS = _table(
    "rollout_weights",
    {
        "run": _text,
        "null_control": _flag,
        "rollout_id": _text,
        "problem_id": _text,
        "domain": _text,
        "weight": _real,
        "reads": _count,
        "dot": _real,
        "dot_deviation": _real,
    },
    key=("run", "rollout_id"),
    # Not known before the rollout was in a batch; a deviation takes two readings.
    optional=("weight", "dot", "dot_deviation"),
)

# What was found on held-out training problems while a run was under way, one row an evaluation.
VALIDATIONS = _table(
    "validations",
    {
        "run": _text,
        "null_control": _flag,
        "step": _count,
        "metric": _text,
        "value": _real,
        "rows": _count,
        "kept": _flag,
    },
    key=("run", "step"),
    shard_by="run",
    # No number where the PRM's scores were none. `kept`: the saved PRM is of this step.
    optional=("value",),
)

STEP_SCORES = _table(
    "step_scores",
    {
        "run": _text,
        "rollout_id": _text,
        "problem_id": _text,
        "step_index": _count,
        "score": _real,
    },
    key=("run", "rollout_id", "step_index"),
    optional=("score",),
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        PROBLEMS,
        DROPS,
        IMAGES,
        REJECTS,
        ROLLOUTS,
        COMPLETIONS,
        STEP_LABELS,
        JUDGEMENTS,
        EXAMPLES,
        UPDATES,
        ROLLOUT_WEIGHTS,
        VALIDATIONS,
        STEP_SCORES,
    )
}
