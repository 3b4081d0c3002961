"""Format `trl`: stepwise supervision, as TRL's PRMTrainer reads it.

A row has `prompt`, `completions` (a text a step) and `labels` (a flag a step). From `PRMTrainer.tokenize_row` of TRL
1.13.0 (`trl/experimental/prm/prm_trainer.py`), the last release that has the trainer (trl pull request 7133 took it
out): the trainer puts a separator of its own behind each step and reads texts only.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from curate.exports import columns
from curate.exports.base import CardLayout, Item, Options, judged
from curate.exports.formats.hub import LOADING
from curate.exports.formats.parquet import ParquetShards
from curate.text import prompts

# More likely right than not.
THRESHOLD = 0.5
_FIELDS: dict[str, tuple[pa.DataType, str]] = {
    "prompt": (pa.string(), "The question with its lettered choices."),
    "completions": (pa.list_(pa.string()), "The steps up to the first one without a label."),
    "labels": (pa.list_(pa.bool_()), "One a step: whether its label is above the threshold."),
    "rollout_id": (pa.string(), "Identity of the row."),
    "domain": (pa.string(), "The group of problems that it is of."),
    "images": (pa.list_(columns.IMAGE), "The images, as original bytes; PRMTrainer passes them over."),
}


class Trl:
    """Parquet with the features in it, a split a role."""

    takes = frozenset({"threshold"})

    def __init__(self, folder: Path, options: Options) -> None:
        self._threshold = THRESHOLD if options.threshold is None else options.threshold
        self._shards = ParquetShards(folder, columns.schema({name: kind for name, (kind, _) in _FIELDS.items()}))
        self._imaged = 0

    def add(self, item: Item) -> int:
        """A labelled rollout."""
        found = judged(item, self._threshold)
        row = {
            "prompt": prompts.problem_text(item.problem.question, item.problem.choices, len(item.images)),
            "completions": [step for step, _ in found],
            "labels": [right for _, right in found],
            "rollout_id": item.rollout.rollout_id,
            "domain": item.rollout.domain,
            "images": columns.image_cells(item),
        }
        self._imaged += bool(item.images)
        self._shards.add(item.rollout.role, row)
        return len(found)

    def close(self) -> CardLayout:
        """Finish the files."""
        notes = [f"A step is right where its label is above {self._threshold:g}.", "Steps come without the white space "
                 "around them: PRMTrainer puts a separator behind each."]  # fmt: skip
        if self._imaged:
            notes.append(f"{self._imaged:,} rows are about images, which PRMTrainer does not read.")
        notes.append("PRMTrainer was part of TRL up to release 1.13 (`trl.experimental.prm`).")
        meanings = {name: meaning for name, (_, meaning) in _FIELDS.items()}
        return CardLayout(meanings, LOADING, notes, self._shards.close())
