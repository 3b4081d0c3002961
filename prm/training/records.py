"""What is recorded and shown of the updates of a run: rows of the table `updates`, and a progress line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from curate.tables.rows import UpdateRow, columns_of
from curate.tables.schema import UPDATES
from curate.tables.store import Partition
from prm.bilevel.loop import Bilevel, Update, learning_rate
from prm.config import TrainConfig


@columns_of(UPDATES)
@dataclass(frozen=True, slots=True)
class DomainWeight:
    """A domain's weight at an update."""

    update: int
    domain: str
    weight: float


def progress(config: TrainConfig, state: Bilevel, update: Update | None) -> dict[str, float]:
    """What a progress line may show: learning rate, clipped and skipped so far; after an update weights and losses."""
    info = {"lr": learning_rate(config, state.done - 1), "clipped": state.clipped, "skipped": state.skipped}
    if update is not None:
        info |= {f"weight {domain}": weight for domain, weight in update.weights.items()}
        info |= {"meta_loss": update.meta_loss} if update.meta_loss is not None else {}
        losses = [loss for domain in update.weights if (loss := update.tally.mean(domain)) is not None]
        info |= {"train_loss": sum(losses) / len(losses)} if losses else {}
    return info


def update_rows(run: str, seed: int, null_control: bool, update: Update, upper_rule: str | None) -> list[UpdateRow]:
    """The rows of an update, one a domain; `upper_rule` is null where no weights are learned."""
    return [
        UpdateRow(
            run=run,
            seed=seed,
            null_control=null_control,
            update=update.number,
            step=update.step,
            domain=domain,
            upper_rule=upper_rule,
            weight=weight,
            raw=update.raw[domain],
            dot=update.dots[domain],
            t=None,
            rows=update.tally.rows.get(domain, 0),
            train_loss=update.tally.mean(domain),
            meta_loss=update.meta_loss,
            cosine=update.cosine,
        )
        for domain, weight in update.weights.items()
    ]


def with_t(rows: Sequence[UpdateRow]) -> list[UpdateRow]:
    """All update rows of a run, in order, each with the t-statistic of its domain's dots so far: mean / standard
    deviation x sqrt(n), null below two dots or where they do not vary. A left-out update counts for nothing.
    """
    seen: dict[str, tuple[int, float, float]] = {}
    found = []
    for row in rows:
        count, mean, squares = seen.get(row.domain, (0, 0.0, 0.0))
        if row.dot is not None:
            # Welford's sums: dots may be far smaller than their squares' rounding.
            count, away = count + 1, row.dot - mean
            mean += away / count
            squares += away * (row.dot - mean)
            seen[row.domain] = count, mean, squares
        spread = math.sqrt(squares / (count - 1)) if count > 1 else 0.0
        found.append(replace(row, t=mean / spread * math.sqrt(count) if spread else None))
    return found


def last_weights(partition: Partition) -> dict[str, float]:
    """Domain weights of a run's last update."""
    rows = list(partition.rows(DomainWeight))
    last = max(row.update for row in rows)
    return {row.domain: row.weight for row in rows if row.update == last}
