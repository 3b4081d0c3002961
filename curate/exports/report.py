"""What an export did: its accounts, its rows by source and licence, and what to look at before it is handed on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from curate.tables.lineage import Ledger

SCHEMA = "curate-prm/export/1"


@dataclass(frozen=True)
class Use:
    """Rows of one source, licence and revision in the export; `concern` is why they may not be handed on, if so."""

    source: str
    licence: str | None
    revision: str | None
    rows: int
    concern: str | None = None

    def line(self) -> str:
        """One line for people."""
        named = f' ("{self.licence}")' if self.licence else ""
        return f"{self.rows:,} rows of source {self.source}: {self.concern}{named}"


@dataclass(frozen=True)
class Wrote:
    """Rows whose chains are of one partition of `rollouts`; `model` as far as it is known."""

    partition: str
    model: str | None
    rows: int


@dataclass(frozen=True)
class ExportReport:
    """`rollouts` and `steps` are the accounts; `splits` counts rows by role, `labels` labelled steps by mode."""

    format: str
    options: Mapping[str, Any]
    rollouts: Ledger
    steps: Ledger
    splits: Mapping[str, int]
    sources: Sequence[Use]
    chains: Sequence[Wrote] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def concerns(self) -> list[Use]:
        """Sources whose licence is unknown or forbids handing them on."""
        return [use for use in self.sources if use.concern]

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the schema's name."""
        return {"schema": SCHEMA} | asdict(self)
