"""The columns of a rollout as an export has it, and how `datasets` writes types down.

The types are those of `datasets` 4 and later (`datasets/features/features.py`: `Features.arrow_schema` puts them as
JSON into a schema's metadata, the card's `dataset_info` has them as YAML); tests compare both with the library's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from curate.exports.base import Item
from curate.tables.schema import Row

_text, _count, _real, _flag = pa.string(), pa.int64(), pa.float64(), pa.bool_()
# The struct that `datasets` takes for an image.
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
LABEL = pa.struct(
    [("value", _real), ("k", _count), ("m", _count), ("standard_error", _real), ("weight", _real), ("mode", _text)]
)

# Column -> (type, meaning), images apart.
COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "rollout_id": (_text, "Identity of the row."),
    "problem_id": (_text, "Identity of the problem; rows of one problem share it."),
    "domain": (_text, "The group of problems that a weight is learned for."),
    "role": (_text, "`train`, `meta` or `test`; the sets share no problem and no image."),
    "source": (_text, "Where the problem came from, see the table of sources."),
    "source_row": (_text, "Name of the problem's row in its source."),
    "revision": (_text, "Revision of the source, from the hub the commit that was read; null where it has none."),
    "licence": (_text, "Licence of the source's data; null where none was stated."),
    "question": (_text, "The question, as its source has it."),
    "choices": (pa.list_(_text), "Answers to choose from; empty for free-form questions."),
    "answer": (_text, "The gold answer; null where the source has none."),
    "accepted": (pa.list_(_text), "Further right answers."),
    "answer_type": (_text, "How answers are graded."),
    "policy": (
        _text,
        "What the chain was sampled from: a digest of model, prompt and sampling, or `given:` and a name.",
    ),
    "sample_index": (_count, "Which sample of the problem it is, from 0."),
    "steps": (
        pa.list_(_text),
        "The chain of thought in steps; joined without anything between them they are the whole.",
    ),
    "labels": (
        pa.list_(LABEL),
        "One a step: `value`, the label in [0, 1], null where it is undefined; `k` of `m` graded completions that were "
        "right; `standard_error` of the value; `weight` in training; `mode`, the rule. Null where the chain has none.",
    ),
    "final_answer": (_text, "The answer that the chain comes to; null where none was found."),
    "outcome": (_flag, "Whether that answer is right; null where it is undecided."),
    "outcome_rule": (_text, "The rule that decided."),
    "finish": (_text, "How the sample ended, `stop` or `length`; null where it is not known."),
}


def row_of(item: Item) -> Row:
    """The columns of a rollout, without its images."""
    rollout, problem = item.rollout, item.problem
    own = {
        "labels": [_label(label) for label in item.labels] if any(item.labels) else None,
        "final_answer": rollout["answer"],
        "answer": problem["answer"],
    }
    return {name: own[name] if name in own else rollout.get(name, problem.get(name)) for name in COLUMNS}


def _label(label: Row | None) -> Row:
    return {name: None if label is None else label[name] for name in LABEL.names}


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


def image_cells(item: Item) -> Sequence[Row]:
    """The images as `datasets` has them."""
    return [{"bytes": each.data, "path": each.name} for each in item.images]
