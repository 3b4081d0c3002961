"""What every stage that asks an engine shares: guard, resume, count, generate, account, and the lineage record.

A stage says in a `Generation` how its table is guarded, in a `Pending` what is there and what is missing, and how a
unit of work becomes rows. `run` does the rest, in the order that keeps what was paid for: nothing is asked before the
settings are known to be those of the rows that are there, and the record says so before the first row is written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

from curate.engines.supervisor import Engines, Supervisor
from curate.errors import RowError
from curate.recipe.sections import EngineConfig
from curate.runtime.reporter import Reporter
from curate.stages.base import Outcome, Unit, resume, run_units
from curate.tables import lineage
from curate.tables.lineage import Ledger
from curate.tables.rows import RejectRow, Row
from curate.tables.schema import Table
from curate.tables.store import Partition, Store

P = TypeVar("P")


class Pending(ABC, Generic[P]):
    """What a stage is to do in a workspace as it is now."""

    total: int
    """Units that are wanted, done before or not."""
    open: int
    """Units that are pending."""
    inputs: Mapping[str, Any]
    """What the lineage record says of what was read."""

    @abstractmethod
    def units(self) -> Iterator[Unit[P]]:
        """The open units, shard by shard."""

    @abstractmethod
    def ledger(self, outcome: Outcome[P]) -> Ledger:
        """The account of the stage when this came of the units."""

    def notes(self) -> Iterable[str]:
        """What the user is to know before anything is generated, a sentence each."""
        return ()

    def finish(self, reporter: Reporter) -> None:
        """Do what follows when the table is written; most stages have nothing to add."""


class Generation(ABC, Generic[P]):
    """How one stage generates; `P` is the payload of its units."""

    stage: ClassVar[str]
    table: ClassVar[Table]
    unit: ClassVar[str]
    """What its units are, in the plural."""

    def __init__(self, workspace: Store, engine: EngineConfig, error_budget: float, run_seed: int) -> None:
        self.workspace, self.engine, self.error_budget, self.run_seed = workspace, engine, error_budget, run_seed

    @property
    def replace(self) -> str:
        """The command that deletes the stage's rows and starts over."""
        return f"curate {self.stage} --replace"

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What decides what the rows are; rows of other settings are never mixed with these."""

    @abstractmethod
    def pending(self) -> Pending[P]:
        """What is pending; UserError when there is nothing to go on."""

    @abstractmethod
    async def rows(self, unit: Unit[P], engine: Supervisor) -> list[Row]:
        """Ask the engine for a unit; RowError when it fails."""

    @abstractmethod
    def reject(self, unit: Unit[P], error: RowError) -> RejectRow:
        """The row of `rejects` of a unit that failed."""

    def guard(self) -> Partition:
        """The stage's partition; UserError where its rows were made with other settings."""
        partition = self.workspace.partition(self.table)
        lineage.guard(partition, self._record(), self.replace)
        return partition

    def _record(self) -> dict[str, Any]:
        return self.settings() | {"seed": self.run_seed}

    async def draw(
        self, engine: Supervisor, *, units: Iterable[Unit[P]], into: Partition, reporter: Reporter
    ) -> tuple[Outcome[P], dict[str, str]]:
        """Do these units; what came of them, and the versions of the engine that did them."""
        work = partial(self.rows, engine=engine)
        outcome = await run_units(into, units, work, self.engine.in_flight, reporter)
        return outcome, engine.versions()

    def run(self, reporter: Reporter, engines: Engines, replace: bool = False) -> Ledger:
        """Generate what is pending. BudgetError when more units fail than `error_budget`; the rest is kept."""
        if replace:
            self.workspace.partition(self.table).clear()
        partition, record = self.guard(), self._record()
        resume(partition)
        pending = self.pending()
        for note in pending.notes():
            reporter.note(note)
        outcome, versions = Outcome[P](), (lineage.read(partition) or {}).get("versions", {})
        if pending.open:
            lineage.write(partition, self.stage, record, pending.inputs)
            reporter.start(self.stage, pending.open, self.unit)
            draw = partial(self.draw, units=pending.units(), into=partition, reporter=reporter)
            outcome, versions = engines.run(self.engine, reporter.note, draw)
            reporter.finish()
        self._write_rejects(outcome.failed)
        ledger = pending.ledger(outcome)
        ledger.check(self.stage)
        lineage.write(partition, self.stage, record, pending.inputs, ledger, versions)
        pending.finish(reporter)
        outcome.check(pending.total, self.error_budget, self.unit)
        return ledger

    def _write_rejects(self, failed: Sequence[tuple[Unit[P], RowError]]) -> None:
        rejects = [self.reject(unit, error) for unit, error in failed]
        lineage.write_rejects(self.workspace, self.stage, rejects)
