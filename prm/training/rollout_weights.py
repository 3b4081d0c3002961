"""Weights of single rollouts at the end of a run: the table `rollout_weights`, one partition a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curate.tables import lineage
from curate.tables.lineage import Ledger
from curate.tables.rows import RolloutWeightRow
from curate.tables.schema import ROLLOUT_WEIGHTS
from curate.tables.store import Store
from prm.bilevel.instances import RolloutWeights
from prm.data.encode import Encoded


def write(
    workspace: Store,
    run: str,
    null_control: bool,
    weights: RolloutWeights | None,
    rows: Mapping[str, Encoded],
    settings: Mapping[str, Any],
) -> None:
    """Write a run's weights in place of what is there, with their lineage; nothing where domains have the weights."""
    partition = workspace.partition(ROLLOUT_WEIGHTS, run)
    partition.clear()
    if weights is None:
        return
    records = []
    for record in weights.account():
        example = rows[record.rollout_id].example
        records.append(
            RolloutWeightRow(
                run=run,
                null_control=null_control,
                rollout_id=record.rollout_id,
                problem_id=example.problem_id,
                domain=example.domain,
                weight=record.weight,
                reads=record.reads,
                dot=record.dot,
                dot_deviation=record.dot_deviation,
            )
        )
    partition.commit_all(records)
    ledger = Ledger("rollouts", taken=len(records), out=len(records))
    lineage.write(partition, "train", settings, {"examples": len(records)}, ledger)
