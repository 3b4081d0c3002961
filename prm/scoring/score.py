"""Stage: a trained PRM and examples in, step scores out, one partition a run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import pyarrow.compute as pc
import torch

from curate.errors import RowError, UserError
from curate.models.location import fingerprint
from curate.seeds import shard_of
from curate.tables import lineage
from curate.tables.lineage import Ledger
from curate.tables.rows import StepScoreRow
from curate.tables.schema import STEP_SCORES, UPDATES
from curate.tables.store import Partition, Store
from prm.data.encode import Encoded, Encoder, load_processor
from prm.data.examples import Example, read_examples, read_images, write_rejects
from prm.model.inference import step_logits, step_scores
from prm.model.reward_model import Prm
from prm.model.saved import has_card, model_folder, read_card

STAGE = "score"
REPLACE = "prm score --replace"
# Examples between two commits.
_BLOCK = 512

T = TypeVar("T")
OnRows = Callable[[str, int, int], None]


def _batched(rows: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _nobody(run: str, done: int, total: int) -> None:
    """Tells nobody."""


def trained_runs(workspace: Store) -> list[str]:
    """Runs with a saved PRM, by name."""
    names = (partition.folder.name for partition in workspace.partitions(UPDATES))
    return [name for name in names if has_card(model_folder(workspace, name))]


def run(
    workspace: Store,
    runs: Sequence[str] = (),
    roles: Sequence[str] = ("test",),
    batch_rows: int = 32,
    on_rows: OnRows = _nobody,
    replace: bool = False,
    models: Mapping[str, Path] = MappingProxyType({}),
) -> Ledger:
    """Score the examples of these roles with the PRMs of these runs (all, when empty), and with saved PRMs from
    elsewhere by their folders, under the names that `models` gives them; the ledger counts examples.

    What was scored before is skipped and counted. UserError when there is no PRM, or nothing to score.
    """
    trained = trained_runs(workspace)
    for name in models:
        if name in trained:
            raise UserError(f'"{name}" of `score.models` is a run of this workspace; call the model something else.')
    names = dict.fromkeys(list(runs) or trained) | dict(models)
    if not names:
        raise UserError("There is no trained PRM in the workspace; run `prm train` first.")
    examples = read_examples(workspace, roles)
    if not examples:
        raise UserError(f"There is no example with role {' or '.join(roles)}; run `curate shard` first.")
    images, total, rejected = read_images(workspace, examples), Ledger("examples"), Counter[str]()
    for name, given in names.items():
        ledger = _score_run(workspace, name, given, examples, images, batch_rows, on_rows, replace)
        total.taken, total.out, total.skipped = (
            total.taken + ledger.taken,
            total.out + ledger.out,
            total.skipped + ledger.skipped,
        )
        rejected.update(ledger.rejected)
    total.rejected = dict(rejected)
    total.check(STAGE)
    return total


def _score_run(
    workspace: Store,
    name: str,
    given: Path | None,
    examples: Sequence[Example],
    images: dict[str, bytes],
    batch_rows: int,
    on_rows: OnRows,
    replace: bool,
) -> Ledger:
    partition, folder = workspace.partition(STEP_SCORES, name), given or model_folder(workspace, name)
    if replace:
        partition.clear()
    card = read_card(folder)
    trained = lineage.read(workspace.partition(UPDATES, name)) or {} if given is None else {}
    settings = {"run": name, "training": trained.get("digest"), "instruction": card.instruction}
    if given is not None:
        settings["training"] = fingerprint(str(given), None)
    if card.of_outcomes:
        settings["target"] = "outcome"
    lineage.guard(partition, settings, REPLACE)
    scored = partition.keys()
    there = {rollout for _, rollout, _ in scored}
    pending = [example for example in examples if example.rollout_id not in there]
    ledger = Ledger("examples", taken=len(examples), skipped=len(examples) - len(pending))
    if pending:
        lineage.write(partition, STAGE, settings, {"examples": len(examples)})
        prm, encoder = load_prm(folder, images)
        # Which rollouts share a forward changes a score by a rounding. Those of one shard are kept together in a file,
        # so what a kill or a damaged file leaves to do is done as it was, to the last bit.
        by_shard: dict[int, list[Example]] = defaultdict(list)
        for example in pending:
            by_shard[shard_of(example.problem_id, workspace.shards)].append(example)
        for block in (block for _, part in sorted(by_shard.items()) for block in _batched(part, _BLOCK)):
            partition.commit_all(score_examples(prm, encoder, block, name, batch_rows, card.of_outcomes))
            on_rows(name, len(block), len(pending))
    left = _unscored(partition, examples)
    write_rejects(workspace, STAGE, f"{STAGE}-{name}", left)
    ledger.rejected = {"no-score": len(left)} if left else {}
    ledger.out = ledger.taken - sum(ledger.rejected.values())
    ledger.check(STAGE)
    lineage.write(partition, STAGE, settings, {"examples": len(examples)}, ledger)
    return ledger


def _unscored(partition: Partition, examples: Sequence[Example]) -> list[tuple[Example, RowError]]:
    """Examples without a single score."""
    table = partition.read(["rollout_id", "score"])
    scored = set(table.filter(pc.is_valid(table["score"]))["rollout_id"].to_pylist())
    error = RowError("no-score", "it is too long, has no step with text, or cannot be put in tokens")
    return [(example, error) for example in examples if example.rollout_id not in scored]


def load_prm(folder: Path, images: dict[str, bytes]) -> tuple[Prm, Encoder]:
    """A saved PRM with its encoder, on a GPU where there is one."""
    card = read_card(folder)
    prm = Prm.load(str(folder))
    prm.to("cuda" if torch.cuda.is_available() else "cpu")
    prm.use_precision(card.precision)
    processor, read = load_processor(str(folder), None), "branch" if card.suffix else "step-end"
    return prm, Encoder(processor, images, card.instruction, card.max_length, read=read, suffix=card.suffix)


def scored(
    prm: Prm, encoder: Encoder, examples: Sequence[Example], batch_rows: int, of_outcomes: bool = False
) -> Iterator[tuple[Example, list[float | None] | RowError]]:
    """Each example with its scores in (0, 1), null for a step without text; or with why it has none."""
    encoded: list[Encoded] = []
    for example in examples:
        try:
            encoded.append(encoder.encode(example))
        except RowError as error:
            yield example, error
    for row, logits in step_logits(prm, encoder, encoded, batch_rows):
        yield row.example, step_scores(row, logits, of_outcomes)


def score_examples(
    prm: Prm, encoder: Encoder, examples: Sequence[Example], run: str, batch_rows: int, of_outcomes: bool = False
) -> list[StepScoreRow]:
    """Rows of `step_scores`; an example that cannot be encoded, or is too long, gives null scores."""
    rows: list[StepScoreRow] = []
    for example, scores in scored(prm, encoder, examples, batch_rows, of_outcomes):
        rows.extend(_rows(run, example, [None] * len(example.steps) if isinstance(scores, RowError) else scores))
    return rows


def _rows(run: str, example: Example, scores: Sequence[float | None]) -> list[StepScoreRow]:
    return [
        StepScoreRow(run, example.rollout_id, example.problem_id, index, score) for index, score in enumerate(scores)
    ]
