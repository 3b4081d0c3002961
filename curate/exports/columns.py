"""The columns of a rollout as an export has it, and how `datasets` writes types down.

The types are those of `datasets` 4 and later (`datasets/features/features.py`: `Features.arrow_schema` puts them as
JSON into a schema's metadata, the card's `dataset_info` has them as YAML); tests compare both with the library's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from curate.exports.base import ExportedLabel, ExportRecord, Item

_text, _count, _real, _flag = pa.string(), pa.int64(), pa.float64(), pa.bool_()
# The struct that `datasets` takes for an image.
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
LABEL = pa.struct(
    [("value", _real), ("k", _count), ("m", _count), ("standard_error", _real), ("weight", _real), ("mode", _text)]
)


class ExportColumn(NamedTuple):
    """A column of an export: its type, what it means, and what it holds of a rollout."""

    kind: pa.DataType
    meaning: str
    of: Callable[[Item], Any]


def _labels(item: Item) -> list[dict[str, Any]] | None:
    return [_label(label) for label in item.labels] if any(item.labels) else None


def _label(label: ExportedLabel | None) -> dict[str, Any]:
    return {name: None if label is None else getattr(label, name) for name in LABEL.names}


# Images apart.
COLUMNS: dict[str, ExportColumn] = {
    "rollout_id": ExportColumn(_text, "Identity of the row.", lambda item: item.rollout.rollout_id),
    "problem_id": ExportColumn(
        _text, "Identity of the problem; rows of one problem share it.", lambda item: item.rollout.problem_id
    ),
    "domain": ExportColumn(
        _text, "The group of problems that a weight is learned for.", lambda item: item.rollout.domain
    ),
    "role": ExportColumn(
        _text, "`train`, `meta` or `test`; the sets share no problem and no image.", lambda item: item.rollout.role
    ),
    "source": ExportColumn(
        _text, "Where the problem came from, see the table of sources.", lambda item: item.problem.source
    ),
    "source_row": ExportColumn(_text, "Name of the problem's row in its source.", lambda item: item.problem.source_row),
    "revision": ExportColumn(
        _text,
        "Revision of the source, from the hub the commit that was read; null where it has none.",
        lambda item: item.problem.revision,
    ),
    "licence": ExportColumn(
        _text, "Licence of the source's data; null where none was stated.", lambda item: item.problem.licence
    ),
    "question": ExportColumn(_text, "The question, as its source has it.", lambda item: item.problem.question),
    "choices": ExportColumn(
        pa.list_(_text), "Answers to choose from; empty for free-form questions.", lambda item: item.problem.choices
    ),
    "answer": ExportColumn(_text, "The gold answer; null where the source has none.", lambda item: item.problem.answer),
    "accepted": ExportColumn(pa.list_(_text), "Further right answers.", lambda item: item.problem.accepted),
    "answer_type": ExportColumn(_text, "How answers are graded.", lambda item: item.problem.answer_type),
    "policy": ExportColumn(
        _text,
        "What the chain was sampled from: a digest of model, prompt and sampling, or `given:` and a name.",
        lambda item: item.rollout.policy,
    ),
    "sample_index": ExportColumn(
        _count, "Which sample of the problem it is, from 0.", lambda item: item.rollout.sample_index
    ),
    "steps": ExportColumn(
        pa.list_(_text),
        "The chain of thought in steps; joined without anything between them they are the whole.",
        lambda item: item.rollout.steps,
    ),
    "labels": ExportColumn(
        pa.list_(LABEL),
        "One a step: `value`, the label in [0, 1], null where it is undefined; `k` of `m` graded completions that were "
        "right; `standard_error` of the value; `weight` in training; `mode`, the rule. Null where the chain has none.",
        _labels,
    ),
    "final_answer": ExportColumn(
        _text, "The answer that the chain comes to; null where none was found.", lambda item: item.rollout.answer
    ),
    "outcome": ExportColumn(
        _flag, "Whether that answer is right; null where it is undecided.", lambda item: item.rollout.outcome
    ),
    "outcome_rule": ExportColumn(_text, "The rule that decided.", lambda item: item.rollout.outcome_rule),
    "finish": ExportColumn(
        _text, "How the sample ended, `stop` or `length`; null where it is not known.", lambda item: item.rollout.finish
    ),
}


def row_of(item: Item) -> dict[str, Any]:
    """The columns of a rollout, without its images."""
    return {name: column.of(item) for name, column in COLUMNS.items()}


def schema(columns: Mapping[str, pa.DataType]) -> pa.Schema:
    """A schema that `datasets` reads with its features, images included."""
    features = {name: _json(kind) for name, kind in columns.items()}
    return pa.schema(columns.items(), metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _json(kind: pa.DataType) -> Any:
    if kind == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"feature": _json(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {part.name: _json(part.type) for part in kind.fields}
    return {"dtype": _name(kind), "_type": "Value"}


def _name(kind: pa.DataType) -> str:
    return {"double": "float64"}.get(str(kind), str(kind))


def features(columns: Mapping[str, pa.DataType]) -> list[dict[str, Any]]:
    """The columns in the form of the card's `dataset_info`."""
    return [{"name": name, **_yaml(kind)} for name, kind in columns.items()]


def _yaml(kind: pa.DataType) -> dict[str, Any]:
    if kind == IMAGE:
        return {"dtype": "image"}
    if pa.types.is_list(kind):
        below = _yaml(kind.value_type)
        return {"list": below.get("dtype") or below.get("struct") or below}
    if pa.types.is_struct(kind):
        return {"struct": features({part.name: part.type for part in kind.fields})}
    return {"dtype": _name(kind)}


def image_cells(item: Item) -> Sequence[ExportRecord]:
    """The images as `datasets` has them."""
    return [{"bytes": each.data, "path": each.name} for each in item.images]
