"""Chains to step scores, by the code of `prm score`: which PRMs, and what each of them says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from curate.errors import RowError, UserError, did_you_mean
from curate.runtime.reporter import Reporter
from curate.seeds import content_hash, digest
from curate.tables.store import Store
from prm.bench.suites.base import LabelledRollout, ScoredRollout
from prm.data.examples import Example
from prm.model.saved import model_folder, read_card
from prm.scoring import score

# Chains that are encoded together.
_BLOCK = 256


@dataclass(frozen=True)
class Model:
    """A saved PRM and the name that its results go by."""

    name: str
    folder: Path


def models(workspace: Store, runs: Sequence[str], folder: Path | None) -> list[Model]:
    """The PRM in a folder, or those of these runs of the workspace (all, when none is named)."""
    found = _named(workspace, runs, folder)
    for model in found:
        if read_card(model.folder).of_outcomes:
            raise UserError(
                f"{model.name} is an outcome reward model and has no scores of steps; choose PRMs with --run or "
                "--model. `prm select` compares it."
            )
    return found


def _named(workspace: Store, runs: Sequence[str], folder: Path | None) -> list[Model]:
    if folder is not None:
        # It names a folder, and the card may come from anywhere.
        run = re.sub(r"[^A-Za-z0-9._-]", "_", read_card(folder).run)
        return [Model(f"model-{run}-{digest(str(folder.resolve()), length=6)}", folder)]
    there = score.trained_runs(workspace)
    unknown = [run for run in runs if run not in there]
    if not there:
        raise UserError("There is no trained PRM in the workspace; run `prm train` first, or give --model FOLDER.")
    if unknown:
        raise UserError(f'There is no trained run "{unknown[0]}"{did_you_mean(unknown[0], there)}')
    return [Model(run, model_folder(workspace, run)) for run in runs or there]


def scores(
    model: Model, examples: Sequence[Example], images: dict[str, bytes], batch_rows: int, reporter: Reporter
) -> dict[str, tuple[list[float | None], str | None]]:
    """Scores of each example by its name, null for a step without one, and why there is none at all."""
    prm, encoder = score.load_prm(model.folder, images)
    found: dict[str, tuple[list[float | None], str | None]] = {}
    for start in range(0, len(examples), _BLOCK):
        block = examples[start : start + _BLOCK]
        for example, result in score.scored(prm, encoder, block, batch_rows):
            none: list[float | None] = [None] * len(example.steps)
            refused = isinstance(result, RowError)
            found[example.rollout_id] = (none, result.reason) if refused else (result, None)  # type: ignore
        reporter.advance(len(block), model.name)
    return found


def score_chains(
    model: Model, chains: Sequence[LabelledRollout], batch_rows: int, reporter: Reporter
) -> Iterator[ScoredRollout]:
    """Each chain with its scores, in order; one that cannot be shown has none."""
    examples = {place: chain.example(place) for place, chain in enumerate(chains) if chain.lacks is None}
    images = {content_hash(data): data for chain in chains for data in chain.images}
    found = scores(model, list(examples.values()), images, batch_rows, reporter)
    reporter.advance(len(chains) - len(examples), model.name)
    for place, chain in enumerate(chains):
        if chain.lacks is not None:
            yield ScoredRollout(chain, (None,) * len(chain.steps), chain.lacks.reason)
        else:
            of_steps, reason = found[examples[place].rollout_id]
            yield ScoredRollout(chain, tuple(of_steps), reason)
