"""What all runs of the trainer read: examples that were read, checked, encoded and, in some modes, chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from curate.errors import RowError, UserError
from curate.tables.lineage import Ledger
from curate.tables.schema import EXAMPLES
from curate.tables.store import Store
from prm.config import LearnedTraining, SubsetTraining, TrainConfig
from prm.data import subset
from prm.data.batches import by_value
from prm.data.encode import Encoded, Encoder, Kept, load_processor
from prm.data.examples import (
    Example,
    check_disjoint,
    check_trainable,
    fingerprint,
    read_examples,
    read_images,
    write_rejects,
)
from prm.data.meta import MetaRollouts, MetaSet, UpperLoss
from prm.loss_table import UPPER_LOSSES
from prm.training import validation
from prm.training.validation import HeldOut

STAGE = "train"


@dataclass(frozen=True)
class Data:
    """What every run reads: encoded rows by rollout, and which of them are for what.

    `pooled` is the number of rows in a batch when they are drawn from all domains as one pool (chosen rollouts). What
    is `held` out is in `rows`, not in `train`. `features` are those of images under a frozen vision tower, which is the
    same one in all runs.
    """

    encoder: Encoder
    rows: Mapping[str, Encoded]
    train: Mapping[str, Sequence[str]]
    outcomes: Mapping[str, bool]
    fingerprint: str
    features: Kept
    pooled: int | None = None
    held: HeldOut = field(default_factory=HeldOut)

    def strata(self, count: int) -> dict[str, dict[str, list[str]]]:
        """Domain -> strata of its train rows by their mean label, so that every batch has low and high ones: most of
        the variance of a domain's gradient along a meta direction is how many of either it happens to hold.
        """
        return {
            domain: by_value({name: self._mean_label(name) for name in names}, count)
            for domain, names in self.train.items()
        }

    def _mean_label(self, name: str) -> float:
        """Mean of the defined labels, each by its weight; of those that train."""
        example = self.rows[name].example
        pairs = [(v, w) for v, w in zip(example.values, example.weights, strict=True) if v is not None and w]
        return sum(v * w for v, w in pairs) / sum(w for _, w in pairs) if pairs else 0.0

    def meta_rollouts(self) -> MetaRollouts:
        """The meta set, as upper losses see it."""
        problems: dict[str, list[str]] = {}
        for name in self.outcomes:
            problems.setdefault(self.rows[name].example.problem_id, []).append(name)
        return MetaRollouts(self.outcomes, problems, {name: self.rows[name].example.domain for name in self.outcomes})


def prepare(config: TrainConfig, workspace: Store, run_seed: int = 0, rejects: bool = True) -> tuple[Data, Ledger]:
    """Read, check, encode and, in the modes that do, choose the examples; UserError when they cannot be trained on.

    `rejects`: write down what is left out; one process does.
    """
    if not workspace.files(EXAMPLES):
        raise UserError("The workspace has no examples; run `curate shard` first.")
    examples = read_examples(workspace, ("train", "meta", "test"))
    check_disjoint(examples)
    used = [targeted(example, config.target) for example in examples if example.role != "test"]
    processor = load_processor(config.model, config.revision)
    images = read_images(workspace, used)
    encoder = Encoder(
        processor, images, config.instruction, config.max_length, config.cache_megabytes, config.read, config.suffix
    )
    rows, left = _encode(used, encoder)
    pooled, held = None, validation.hold_out(config, used, rows)
    if isinstance(config, SubsetTraining):
        usable = [row.example for name, row in rows.items() if row.example.role == "train" and name not in held.names]
        # A batch is as large as it would be without the choice.
        pooled = config.rows_per_domain * len({example.domain for example in usable})
        out = subset.choose(config, usable, run_seed)
        rows = {name: row for name, row in rows.items() if name not in {example.rollout_id for example, _ in out}}
        left += out
    if rejects:
        write_rejects(workspace, STAGE, STAGE, left)
    rejected = Counter(error.reason for _, error in left)
    train = [row.example for name, row in rows.items() if row.example.role == "train" and name not in held.names]
    outcomes = {name: bool(row.example.outcome) for name, row in rows.items() if row.example.role == "meta"}
    check_trainable(train, [rows[name].example for name in outcomes], config)
    groups: dict[str, list[str]] = {}
    for example in train:
        groups.setdefault(example.domain, []).append(example.rollout_id)
    ledger = Ledger("examples", taken=len(used), out=len(rows), rejected=dict(rejected))
    ledger.check(STAGE)
    return Data(encoder, rows, groups, outcomes, fingerprint(used), Kept(config.cache_megabytes), pooled, held), ledger


def targeted(example: Example, target: str) -> Example:
    """Examples with the labels of `train.target`: for an outcome, only the label at the last step, null where
    undecided.
    """
    if target == "steps" or example.role != "train":
        return example
    before, value = len(example.steps) - 1, None if example.outcome is None else float(example.outcome)
    return replace(example, values=(*(None,) * before, value), weights=(*(0.0,) * before, 1.0))


def _encode(examples: Sequence[Example], encoder: Encoder) -> tuple[dict[str, Encoded], list[tuple[Example, RowError]]]:
    rows: dict[str, Encoded] = {}
    left: list[tuple[Example, RowError]] = []
    for example in examples:
        try:
            encoded = encoder.encode(example)
            _check_targets(encoded)
        except RowError as error:
            left.append((example, error))
        else:
            rows[example.rollout_id] = encoded
    return rows, left


def _check_targets(row: Encoded) -> None:
    example = row.example
    if example.role == "meta":
        if example.outcome is None:
            raise RowError("undecided", "a meta example without outcome")
        return
    if not any(v is not None and read is not None for v, read in zip(example.values, row.reads, strict=True)):
        raise RowError("no-label", "no step with both text and a label")


def meta_set(data: Data, config: LearnedTraining, seed: int, null_control: bool) -> tuple[Mapping[str, bool], MetaSet]:
    """Outcomes of the meta rollouts, as they are or without signal, and what an upper step draws of them."""
    upper, meta = upper_loss(config), data.meta_rollouts()
    if null_control:
        meta = upper.shuffled(meta, seed)
    return meta.outcomes, upper.meta_set(meta, config.upper.meta_rows // upper.rollouts, seed)


def upper_loss(config: LearnedTraining) -> UpperLoss:
    """The loss of the upper level, by its name."""
    found: UpperLoss = UPPER_LOSSES.find(config.upper.loss)
    return found


def meta_notes(config: TrainConfig, data: Data) -> list[str]:
    """How much of the meta set the upper loss can use; UserError when that is nothing."""
    note = upper_loss(config).note(data.meta_rollouts()) if isinstance(config, LearnedTraining) else None
    return [] if note is None else [note]
