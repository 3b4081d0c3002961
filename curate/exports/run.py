"""`curate export`: rollouts in, a folder of another tool's files out, with accounts that add up and a card."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from curate.errors import RowError, UserError
from curate.exports import card, facts, licences, target
from curate.exports.base import CardLayout, Format, Options
from curate.exports.formats.table import FORMATS
from curate.exports.records import Records
from curate.exports.report import ExportReport, Use, Wrote
from curate.exports.used import Used
from curate.runtime.reporter import Reporter
from curate.tables.lineage import Ledger, versions
from curate.tables.store import Store, write_atomic

STAGE = "export"


@dataclass(frozen=True)
class ExportRequest:
    """What is exported and how; nothing named is all."""

    format: str
    options: Options = field(default_factory=Options)
    roles: Sequence[str] = ()
    domains: Sequence[str] = ()

    def given(self) -> dict[str, object]:
        """What was chosen, by the names of the command's options."""
        found = {"role": list(self.roles), "domain": list(self.domains), **vars(self.options)}
        return {name: value for name, value in found.items() if value not in (None, [])}


@dataclass
class _ExportCounts:
    """Counts of an export under way."""

    rollouts: Ledger = field(default_factory=lambda: Ledger("rollouts"))
    steps: Ledger = field(default_factory=lambda: Ledger("steps"))
    splits: Counter[str] = field(default_factory=Counter)
    used: Used = field(default_factory=Used)

    def check(self) -> None:
        """Both accounts add up, and something came out; UserError with the reasons where nothing did."""
        self.rollouts.check(STAGE)
        self.steps.check(STAGE)
        if not self.rollouts.out:
            raise UserError(
                f"Nothing can be exported with these options: {self.rollouts.line()}; see `curate export --help`."
            )


def run(
    wanted: ExportRequest, folder: Path, workspace: Store, reporter: Reporter, replace: bool = False
) -> ExportReport:
    """Write the export whole, or nothing; UserError when there is nothing to write, or something in its place."""
    maker = FORMATS.find(wanted.format)
    strange = sorted(
        name for name, value in vars(wanted.options).items() if value is not None and name not in maker.takes
    )
    if strange:
        raise UserError(f"--{strange[0]} has no effect on format {wanted.format}; leave it out.")
    with target.fresh(folder, replace) as part:
        records = Records(workspace, wanted.roles, wanted.domains)
        reporter.start(STAGE, records.count, "rollouts")
        try:
            tally, layout = _write(maker(part, wanted.options), records, reporter)
        finally:
            reporter.finish()
        tally.check()
        known = facts.gather(workspace, tally.used)
        report = ExportReport(
            format=wanted.format,
            options=wanted.given(),
            rollouts=tally.rollouts,
            steps=tally.steps,
            splits=dict(sorted(tally.splits.items())),
            sources=_uses(tally.used, known),
            chains=_chains(tally.used, known),
            labels=dict(sorted(tally.used.labels.items())),
            versions=versions(),
        )
        (part / "README.md").write_text(card.text(folder.name, report, layout, known), encoding="utf-8")
        plain = json.dumps(report.to_json(), indent=1, ensure_ascii=False)
        write_atomic(part / target.MANIFEST, plain.encode())
    return report


def _write(made: Format, records: Records, reporter: Reporter) -> tuple[_ExportCounts, CardLayout]:
    tally = _ExportCounts()
    for rollout, item in records.all():
        steps = len(rollout.steps)
        tally.rollouts.taken += 1
        tally.steps.taken += steps
        try:
            if isinstance(item, RowError):
                raise item
            written = made.add(item)
        except RowError as error:
            _count(tally.rollouts, error.reason, 1)
            _count(tally.steps, error.reason, steps)
        else:
            tally.rollouts.out += 1
            tally.steps.out += written
            _count(tally.steps, "undefined", steps - written)
            tally.splits[rollout.role] += 1
            tally.used.add(item, written)
        reporter.advance()
    return tally, made.close()


def _count(ledger: Ledger, reason: str, count: int) -> None:
    if count:
        ledger.rejected[reason] = ledger.rejected.get(reason, 0) + count


def _uses(used: Used, known: facts.Provenance) -> list[Use]:
    found = []
    for (source, licence, revision), rows in sorted(used.sources.items(), key=lambda each: str(each[0])):
        made_here = known.sources.get(source, {}).get("kind") == "synthetic"
        found.append(Use(source, licence, revision, rows, licences.concern(licence, made_here)))
    return found


def _chains(used: Used, known: facts.Provenance) -> list[Wrote]:
    found = []
    for (part, model), rows in sorted(used.chains.items(), key=str):
        config = known.rollouts[part].config if part in known.rollouts else {}
        found.append(Wrote(part, model or config.get("model") or config.get("policy"), rows))
    return found
