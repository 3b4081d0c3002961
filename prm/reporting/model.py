"""The dataset-quality report as one typed value, `Report`, that every form of it is made from. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prm import metrics
from prm.metrics import PairOrder
from prm.reporting.columns import plain_values
from prm.reporting.report_column import DomainRow
from prm.reporting.showcase import ShownImage, ShownRollout
from prm.reporting.stats import Curve
from prm.reporting.token_usage import TokenUsage
from prm.scoring.select import Selection

SCHEMA = "curate-prm/report/3"


@dataclass(frozen=True)
class Account:
    """The ledger of one partition; taken = out + duplicate + rejected + failed. None where it is not complete."""

    stage: str
    table: str
    partition: str
    unit: str | None
    taken: int | None
    out: int | None
    duplicate: int | None
    rejected: int | None
    failed: int | None
    reasons: str | None
    complete: bool

    @property
    def adds_up(self) -> bool | None:
        """Whether the accounts add up; None before the stage is complete."""
        if None in (parts := (self.taken, self.out, self.duplicate, self.rejected, self.failed)):
            return None
        taken, *rest = parts
        return taken == sum(part or 0 for part in rest)


@dataclass(frozen=True)
class Report:
    """Everything that any form of the report shows.

    `domains` is sorted by weight, the heaviest first; `final` is run -> domain -> weight after the last update;
    `cosine` is the mean one between successive meta directions; `running` are the paths of the running t.
    """

    workspace: str
    made: str
    mode: str | None
    runs: tuple[str, ...]
    final: Mapping[str, Mapping[str, float]]
    updates: int
    cosine: float | None
    null_runs: int
    agreement: float | None
    domains: tuple[DomainRow, ...]
    planted: Mapping[str, PairOrder]
    planted_controls: Mapping[str, PairOrder]
    unattributed_rejects: int
    weights: tuple[Curve, ...]
    null_curve: Curve | None
    running: tuple[Curve, ...]
    losses: tuple[Curve, ...]
    meta_loss: Curve | None
    token_usage: tuple[TokenUsage, ...]
    selection: Selection | None
    ledger: tuple[Account, ...]
    notes: tuple[str, ...]
    chains: tuple[ShownRollout, ...] = ()
    images: Mapping[str, ShownImage] = field(default_factory=dict, repr=False)

    @property
    def planted_total(self) -> PairOrder:
        """(bad, clean) pairs in the right order, over all runs."""
        return metrics.total_order(self.planted.values())

    @property
    def controls_total(self) -> PairOrder:
        """(bad, clean) pairs in the right order over all null runs: what the order is worth. Half of them is chance."""
        return metrics.total_order(self.planted_controls.values())

    def to_json(self) -> dict[str, Any]:
        """Plain values: the fields of the report by name, nested records as objects, missing as null.

        Rows of `domains` have the keys that `prm.reporting.columns.COLUMNS` gives.

        Left out are the images; `selection` is as in `Selection.to_json`; `planted` has right and total by run,
        `planted_controls` by null run.
        """
        left = {"images", "selection"}
        fields = {name: plain_values(getattr(self, name)) for name in self.__dataclass_fields__ if name not in left}
        return {"schema": SCHEMA} | fields | {"selection": self.selection.to_json() if self.selection else None}
