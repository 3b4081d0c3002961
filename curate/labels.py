"""Step labels out of stored completions, and whether completions and rollouts belong to one policy."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate import lineage, montecarlo, rules
from curate.lineage import Ledger
from curate.montecarlo import Label
from curate.rules import Outcomes, Rule
from curate.schema import STEP_LABELS, Row
from curate.seeds import digest, shard_of
from curate.store import Workspace

# How far the completions of first steps may be from their rollouts' own outcomes, in standard errors.
SUSPICIOUS = 4.0


@dataclass(frozen=True)
class Drawn:
    """The stored completions of one prefix, in order of sample index."""

    outcomes: Outcomes = ()
    finishes: Sequence[str] = ()
    tokens: Sequence[int] = ()


Store = Mapping[tuple[str, int], Drawn]
NOTHING = Drawn()


def whole(rollout: Row, store: Store, enough: Sequence[Rule]) -> bool:
    """Whether the rollout has all completions that one of these rules asks for; one without steps has not."""
    steps = range(len(rollout["steps"]) - 1)
    return bool(rollout["steps"]) and any(
        all(not rule.owed(rollout, step, store.get((rollout["rollout_id"], step), NOTHING).outcomes) for step in steps)
        for rule in enough
    )


def rows_of(rollout: Row, store: Store, mode: str, rule: Rule, history: Sequence[Rule]) -> list[Row]:
    """The labels of all steps of a rollout."""
    drawn = [store.get((rollout["rollout_id"], step), NOTHING) for step in range(len(rollout["steps"]) - 1)]
    used = [rule.used(rules.usable(rollout, step, each.outcomes, rule, history)) for step, each in enumerate(drawn)]
    found = [*rule.labels(rollout, used), montecarlo.known(rollout["outcome"])]
    return [
        _row(rollout, step, mode, label, outcomes, each)
        for step, (label, outcomes, each) in enumerate(zip(found, [*used, ()], [*drawn, NOTHING], strict=True))
    ]


def _row(rollout: Row, step: int, mode: str, label: Label, outcomes: Outcomes, drawn: Drawn) -> Row:
    k, m = montecarlo.count(outcomes)
    finishes = list(drawn.finishes[: len(outcomes)])
    return {
        "rollout_id": rollout["rollout_id"],
        "problem_id": rollout["problem_id"],
        "domain": rollout["domain"],
        "role": rollout["role"],
        "step_index": step,
        "mode": mode,
        "k": k,
        "m": m,
        "outcome": rollout["outcome"],
        "value": label.value,
        "standard_error": label.standard_error,
        "weight": 1.0,
        "tokens": sum(drawn.tokens[: len(outcomes)]),
        "stopped": finishes.count("stop"),
        "truncated": finishes.count("length") + finishes.count("repetition"),
        "failed": finishes.count("error"),
    }


def write(
    workspace: Workspace,
    rollouts: Sequence[Row],
    store: Store,
    entry: Mapping[str, Any],
    rule: Rule,
    history: Sequence[Rule],
    enough: Sequence[Rule],
) -> Ledger:
    """Labels of these rollouts in place of those there are; nothing when they are the same. Counts rollouts.

    A rollout that lacks completions by all rules of `enough` (its requests failed) gets no labels yet: it is owed.
    """
    partition = workspace.partition(STEP_LABELS)
    ready = [row for row in rollouts if whole(row, store, enough)]
    sizes = [
        [
            row["rollout_id"],
            *(len(store.get((row["rollout_id"], s), NOTHING).outcomes) for s in range(len(row["steps"]))),
        ]
        for row in sorted(ready, key=lambda row: str(row["rollout_id"]))
    ]
    inputs = {"rollouts": len(rollouts), "completions": digest(sizes)}
    record = lineage.read(partition)
    ledger = Ledger("rollouts", taken=len(rollouts), out=len(ready))
    if len(ready) < len(rollouts):
        ledger.failed = {"without-completions": len(rollouts) - len(ready)}
    if record is not None and record["complete"] and record["config"] == dict(entry) and record["inputs"] == inputs:
        ledger.skipped = len(ready)
        return ledger
    partition.clear()
    by_shard: dict[int, list[Row]] = defaultdict(list)
    for row in ready:
        by_shard[shard_of(row["problem_id"], workspace.shards)] += rows_of(row, store, entry["mode"], rule, history)
    for shard, rows in sorted(by_shard.items()):
        partition.commit(shard, rows)
    lineage.write(partition, "label", dict(entry), inputs, ledger)
    return ledger


def disagreement(rollouts: Sequence[Row], store: Store) -> float | None:
    """How many standard errors the first steps' completions are from their rollouts' outcomes; None for too few.

    Both have the same mean when they come from one policy under one prompt and token budget (the martingale of
    `montecarlo`), so a large number means that they do not. Problems are the independent units.
    """
    gaps: dict[str, list[float]] = defaultdict(list)
    for row in rollouts:
        k, m = montecarlo.count(store.get((row["rollout_id"], 0), NOTHING).outcomes)
        if m and row["outcome"] is not None and len(row["steps"]) > 1:
            gaps[row["problem_id"]].append(row["outcome"] - k / m)
    means = [sum(each) / len(each) for each in gaps.values()]
    if len(means) < 20:
        return None
    mean = sum(means) / len(means)
    variance = sum((each - mean) ** 2 for each in means) / (len(means) - 1)
    return mean / math.sqrt(variance / len(means)) if variance else 0.0
