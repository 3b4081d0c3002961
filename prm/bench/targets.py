"""What step scores are held against, out of a workspace: counts of completions, the chain's outcome, or exact truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from curate.errors import UserError
from curate.sources.synthetic import judge_truth
from curate.tables.rows import columns_of
from curate.tables.schema import GIVEN, PROBLEMS, STEP_LABELS
from curate.tables.store import Store, among
from prm.bench.config import Target
from prm.data.examples import Example

# Modes of labels whose k of m are independent completions of the prefix; others stop early or follow another rule.
_COUNTED = ("exact", "pooled", GIVEN)


@columns_of(STEP_LABELS)
@dataclass(frozen=True, slots=True)
class LabelCounts:
    """What a step's label says of its completions."""

    rollout_id: str
    step_index: int
    mode: str
    k: int | None
    m: int | None
    value: float | None


@columns_of(PROBLEMS)
@dataclass(frozen=True, slots=True)
class ProblemTruth:
    """What the testbed knows of a problem that it drew."""

    problem_id: str
    truth: str | None


@dataclass(frozen=True)
class Aim:
    """The target of one step: `share` in [0, 1] is right of `draws` completions; None draws: it is known exactly."""

    share: float
    draws: int | None


@dataclass(frozen=True)
class Aims:
    """Targets of each example's steps by rollout, null where a step has none; `left` counts these steps by reason."""

    target: Target
    of: Mapping[str, Sequence[Aim | None]]
    left: Mapping[str, int]


def aims(workspace: Store, examples: Sequence[Example], target: Target | None) -> Aims:
    """The targets of these examples; UserError where there are none of the wanted kind."""
    if target in (None, "counts"):
        found = _counts(workspace, examples)
        if any(aim for steps in found.of.values() for aim in steps):
            return found
        if target == "counts":
            raise UserError(
                "No step of these examples has counts of independent completions; label them with `label.mode` exact "
                "or pooled (`label.roles`), or choose another eval.target."
            )
    found = _outcomes(examples) if target in (None, "outcome") else _truths(workspace, examples)
    if not any(aim for steps in found.of.values() for aim in steps):
        wanted = {"outcome": "a graded outcome", "truth": "a known truth: they are not of synthetic problems"}
        raise UserError(f"None of {len(examples):,} examples has {wanted[found.target]}; choose another eval.target.")
    return found


def _counts(workspace: Store, examples: Sequence[Example]) -> Aims:
    names = [example.rollout_id for example in examples]
    # By role, as a list of rollouts may be long.
    roles = sorted({example.role for example in examples})
    rows = {(row.rollout_id, row.step_index): row for row in workspace.rows(LabelCounts, among("role", roles))}
    found: dict[str, list[Aim | None]] = {}
    left = Counter[str]()
    for name, example in zip(names, examples, strict=True):
        found[name] = []
        for step in range(len(example.steps)):
            row, aim, reason = rows.get((name, step)), None, "unlabelled"
            if row is not None and row.mode not in _COUNTED:
                reason = f"label-mode-{row.mode}"
            elif row is not None and row.m and row.k is not None:
                aim = Aim(row.k / row.m, row.m)
            elif row is not None and row.m == 0 and step == len(example.steps) - 1 and row.value is not None:
                # The chain is over: its value is its outcome.
                aim = Aim(row.value, None)
            found[name].append(aim)
            left[reason] += aim is None
    return Aims("counts", found, {reason: count for reason, count in sorted(left.items()) if count})


def _outcomes(examples: Sequence[Example]) -> Aims:
    """The chain's own outcome: one completion of each prefix, and known at the last step."""
    found: dict[str, list[Aim | None]] = {}
    undecided = 0
    for example in examples:
        last = len(example.steps) - 1
        if example.outcome is None:
            found[example.rollout_id] = [None] * (last + 1)
            undecided += last + 1
        else:
            share = float(example.outcome)
            found[example.rollout_id] = [Aim(share, None if step == last else 1) for step in range(last + 1)]
    return Aims("outcome", found, {"undecided": undecided} if undecided else {})


def _truths(workspace: Store, examples: Sequence[Example]) -> Aims:
    """Whether all steps so far are right, by the testbed's own judge."""
    truths = {row.problem_id: row.truth for row in workspace.rows(ProblemTruth, pc.field("truth").is_valid())}
    found: dict[str, list[Aim | None]] = {}
    unknown = 0
    for example in examples:
        truth = truths.get(example.problem_id)
        if truth is None:
            found[example.rollout_id] = [None] * len(example.steps)
            unknown += len(example.steps)
            continue
        steps, right = list[Aim | None](), True
        for verdict in judge_truth(truth, example.steps):
            right = right and verdict
            steps.append(Aim(float(right), None))
        found[example.rollout_id] = steps
    return Aims("truth", found, {"no-known-truth": unknown} if unknown else {})
