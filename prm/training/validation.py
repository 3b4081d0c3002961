"""How good a PRM is on held-out problems of the train set (`prm.data.holdout`), as one number; see `ValidationConfig`.

The meta set would not do: the weights of the run were learned on it. The test set is for the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from curate.errors import UserError
from prm import metrics
from prm.config import TrainConfig
from prm.data.encode import Encoded, Encoder
from prm.data.examples import Example
from prm.data.holdout import held_out
from prm.distributed.process_group import ProcessGroup
from prm.model.aggregate import Aggregation, aggregation
from prm.model.inference import safe_scores, step_logits
from prm.model.reward_model import Prm
from prm.scoring.best_of_n import Candidate, share_right
from prm.validation_config import ThresholdValidation, ValidationConfig

_MISSING = {
    "brier": "a labelled step",
    "auroc": "both right and wrong steps at train.validation.threshold",
    "first-error-f1": "both wrong and right chains at train.validation.threshold",
    "best-of-n": "both a right and a wrong rollout of one problem",
}


@dataclass(frozen=True)
class HeldOut:
    """What is held out: `names` of all rollouts of the held-out problems, and the rows among them that are measured.

    These leave harvested completions out, which come with the problem and sample index of their rollout.
    """

    names: frozenset[str] = frozenset()
    rows: Sequence[Encoded] = ()


def hold_out(config: TrainConfig, examples: Sequence[Example], rows: Mapping[str, Encoded]) -> HeldOut:
    """Choose what is held out of these examples, and of the rows of those that can be encoded.

    Nothing is held out without `train.validation`.

    UserError when nothing can be, or the metric has no value on it, whatever the scores.
    """
    train = [example for example in examples if example.role == "train"]
    if config.validation is None or not train:
        return HeldOut()
    problems = held_out(train, config.validation.share)
    if not problems:
        raise UserError(
            "No training problem can be held out, as every domain has only one, or images that tie all of them "
            "together; set train.validation to null."
        )
    names = frozenset(example.rollout_id for example in train if example.problem_id in problems)
    first: dict[tuple[str, int], Encoded] = {}
    # The name of a harvested completion begins with that of its rollout.
    for name in sorted(names & rows.keys()):
        first.setdefault((rows[name].example.problem_id, rows[name].example.sample_index), rows[name])
    _check(config, config.validation, list(first.values()))
    return HeldOut(names, list(first.values()))


def _check(config: TrainConfig, how: ValidationConfig, rows: Sequence[Encoded]) -> None:
    blank = [torch.zeros(sum(read is not None for read in row.reads)) for row in rows]
    if measure(how, aggregation(config.aggregation), rows, blank) is None:
        raise UserError(
            f"The {len(rows)} held-out rollouts lack {_MISSING[how.metric]}, so train.validation.metric {how.metric} "
            "has no value; raise train.validation.share, or choose another metric."
        )


def notes(config: TrainConfig, held: HeldOut, train: Mapping[str, Any]) -> list[str]:
    """What is held out, and of which domains nothing is."""
    if config.validation is None:
        return []
    domain_of = {row.example.problem_id: row.example.domain for row in held.rows}
    without = sorted(train.keys() - set(domain_of.values()))
    told = f"; none of {', '.join(without)}" if without else ""
    return [
        f"Held out: {len(held.names):,} rollouts, not trained on; {config.validation.metric} is measured on "
        f"{len(held.rows):,} of {len(domain_of):,} problems{told}."
    ]


class Validation:
    """Evaluates a PRM on rows, each process of a group its part of them."""

    def __init__(
        self, config: TrainConfig, prm: Prm, encoder: Encoder, rows: Sequence[Encoded], process_group: ProcessGroup
    ) -> None:
        if config.validation is None:
            raise ValueError("nothing to validate by")
        self.config, self.prm, self.encoder, self.rows, self.process_group = (
            config.validation,
            prm,
            encoder,
            rows,
            process_group,
        )
        self.aggregate, self.batch_rows = aggregation(config.aggregation), config.micro_rows

    def value(self) -> float | None:
        """The metric of the PRM as it is now, the same on every process; None when a logit is no number."""
        return measure(self.config, self.aggregate, self.rows, self._logits())

    def _logits(self) -> list[Tensor]:
        """Logits [read steps] of each row, float64."""
        sizes = [sum(read is not None for read in row.reads) for row in self.rows]
        place_of = {row.example.rollout_id: place for place, row in enumerate(self.rows)}
        found = [torch.zeros(size, dtype=torch.float64) for size in sizes]
        for part, counts in self.process_group.share(self.rows, lambda row: len(row.ids)):
            for row, logits in step_logits(self.prm, self.encoder, part, self.batch_rows):
                if counts:
                    found[place_of[row.example.rollout_id]] = logits.double().cpu()
        self.process_group.fold(self.prm)
        # Every row is one process's, and 0 on the others.
        summed = self.process_group.total(torch.cat(found).tolist())
        return list(torch.tensor(summed, dtype=torch.float64).split(sizes))


def measure(
    config: ValidationConfig, aggregate: Aggregation, rows: Sequence[Encoded], logits: Sequence[Tensor]
) -> float | None:
    """The metric of these rows with these logits [read steps] each; None where it has no value."""
    if not all(bool(of_steps.isfinite().all()) for of_steps in logits):
        return None
    if config.metric == "best-of-n":
        return _best_of_n(rows, [float(aggregate(of_steps)) for of_steps in logits])
    chains = [chain for chain in _labelled(rows, logits) if chain]
    steps = [step for chain in chains for step in chain]
    if not isinstance(config, ThresholdValidation):
        return metrics.brier([s for s, _, _ in steps], [v for _, v, _ in steps], [w for _, _, w in steps])
    if config.metric == "auroc":
        return metrics.auroc([s for s, _, _ in steps], [v > config.threshold for _, v, _ in steps])
    found, true = (
        [metrics.first_error([step[column] for step in chain], config.threshold) for chain in chains]
        for column in (0, 1)
    )
    return metrics.first_error_f1(found, true)


def _labelled(rows: Sequence[Encoded], logits: Sequence[Tensor]) -> Iterator[list[tuple[float, float, float]]]:
    """(score, label, weight) of each row's steps that have a label with weight; others are passed over."""
    for row, of_steps in zip(rows, logits, strict=True):
        labels = zip(row.reads, row.example.values, row.example.weights, strict=True)
        read = [(value, weight) for at, value, weight in labels if at is not None]
        scored = zip(safe_scores(of_steps).tolist(), read, strict=True)
        yield [(score, value, weight) for score, (value, weight) in scored if value is not None and weight > 0]


def _best_of_n(rows: Sequence[Encoded], scores: Sequence[float]) -> float | None:
    """Share of problems whose best-scored rollout is right, of those with several graded ones; None where all these are
    right or all wrong in each problem, so that no score changes anything.
    """
    problems: dict[str, list[Candidate]] = {}
    for row, score in zip(rows, scores, strict=True):
        example = row.example
        if example.outcome is not None:
            candidate = Candidate(example.sample_index, None, example.outcome, {"": score})
            problems.setdefault(example.problem_id, []).append(candidate)
    several = [candidates for candidates in problems.values() if len(candidates) > 1]
    if not any(len({candidate.outcome for candidate in candidates}) > 1 for candidates in several):
        return None
    return math.fsum(share_right(candidates, "") for candidates in several) / len(several)
