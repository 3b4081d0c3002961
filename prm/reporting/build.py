"""Gather the dataset-quality report from all tables of a workspace into one typed `prm.reporting.model.Report`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from importlib.util import find_spec

from curate.errors import UserError
from curate.tables import catalog
from curate.tables.schema import ROLLOUTS, STEP_SCORES
from curate.tables.store import Store
from prm.config import LEARNED, PER_ROLLOUT
from prm.reporting import showcase, stats, token_usage, verdict
from prm.reporting.model import Account, Report
from prm.reporting.null_band import bands_for
from prm.reporting.report_column import DomainRow
from prm.reporting.stats import DomainFacts
from prm.scoring import select
from prm.scoring.select import Selection
from prm.sections import ReportConfig, SelectConfig


def build(workspace: Store, config: ReportConfig | None = None, choice: SelectConfig | None = None) -> Report:
    """Gather the report; parts whose tables are still empty are left out, and `notes` says so.

    UserError when the workspace has neither problems nor trained weights.
    """
    costs = token_usage.spent(workspace)
    facts, unattributed = stats.domain_facts(workspace, costs)
    trained = stats.training(workspace)
    if not facts and not trained.final:
        raise UserError("There is nothing to report on; run `curate ingest` with a source of role train first.")
    learned = trained.mode in (None, *LEARNED)
    least = config.least if config else 1.0
    rows = _rows(facts, trained, learned, least)
    selection, notes = _selection(workspace, choice)
    chains = showcase.chains(workspace, config.chains if config else 60)
    bad, clean = _known(rows) if learned else ([], [])
    return Report(
        workspace=workspace.root.resolve().name,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        mode=trained.mode,
        runs=tuple(trained.final),
        final=trained.final,
        updates=trained.updates,
        cosine=trained.cosine,
        null_runs=len(trained.null),
        agreement=verdict.agreement(trained.final),
        domains=rows,
        planted=verdict.planted_order(trained.final, bad, clean),
        planted_controls=verdict.planted_order(trained.null, bad, clean),
        unattributed_rejects=unattributed,
        weights=trained.weights,
        null_curve=trained.null_curve,
        running=trained.running,
        losses=trained.losses,
        meta_loss=trained.meta,
        token_usage=costs,
        selection=selection,
        ledger=accounts(workspace),
        notes=(*_training_notes(trained, learned, least), *notes),
        chains=chains,
        images=showcase.images(workspace, chains),
    )


def _rows(
    facts: Mapping[str, DomainFacts], trained: stats.Training, learned: bool, least: float
) -> tuple[DomainRow, ...]:
    bands = bands_for(trained.final, trained.null, trained.neutral, trained.noise, least)
    runs = len(trained.final)
    weighings = verdict.weigh(trained.final, bands, learned)
    rows = []
    for domain in facts.keys() | weighings.keys():
        known, weighing, band = facts.get(domain, DomainFacts()), weighings.get(domain), bands.get(domain)
        rows.append(
            DomainRow(
                domain=domain,
                weight=weighing.weight if weighing else None,
                interval=weighing.interval if weighing else None,
                band=band,
                verdict=weighing.verdict if weighing else verdict.UNKNOWN,
                too_hard=verdict.too_hard(known.accuracy),
                rank=weighing.rank if weighing else None,
                best_rank=weighing.best_rank if weighing else None,
                worst_rank=weighing.worst_rank if weighing else None,
                facts=known,
                loss_first=trained.loss_first.get(domain),
                loss_last=trained.loss_last.get(domain),
                t=trained.t.get(domain),
                signal=trained.signal.get(domain),
                explanation=verdict.explain(weighing, band, runs, known.accuracy, known.planted, learned, least),
            )
        )
    return tuple(sorted(rows, key=lambda row: (row.weight is None, -(row.weight or 0), row.domain)))


def _known(rows: tuple[DomainRow, ...]) -> tuple[list[str], list[str]]:
    """Domains with a planted defect, and clean ones that carry a signal."""
    bad = [row.domain for row in rows if row.facts.planted and row.weight is not None]
    clean = [row.domain for row in rows if not row.facts.planted and not row.too_hard and row.weight is not None]
    return bad, clean


def _selection(workspace: Store, choice: SelectConfig | None) -> tuple[Selection | None, list[str]]:
    if not workspace.files(STEP_SCORES) or not workspace.files(ROLLOUTS):
        return None, ["Best-of-N is left out: there are no step scores; run `prm score`."]
    if find_spec("torch") is None:
        return None, ["Best-of-N is left out: it needs torch; install the extra `train`."]
    try:
        return select.run(workspace, choice or SelectConfig()), []
    except UserError as error:
        return None, [f"Best-of-N is left out. {error}"]


def _training_notes(trained: stats.Training, learned: bool, least: float) -> list[str]:
    runs, null, notes = len(trained.final), len(trained.null), list[str]()
    if not runs:
        return ["No weights yet: the table shows the data alone; run `prm train`."]
    if runs < 3:
        kind = "there are no intervals" if runs == 1 else "intervals are the range of the runs"
        notes.append(f"Only {runs} trained run{'s' * (runs > 1)}: {kind}; use 3 or more.")
    if trained.mode in PER_ROLLOUT:
        notes.append("Every rollout has a weight of its own (table rollout_weights); a domain's weight is their mean.")
    if not learned:
        notes.append(f"Weights are those of mode {trained.mode}: given, not learned.")
    elif not null:
        notes.append("No null run: weights cannot be told from chance; set `train.null_runs` to 5 or more.")
    elif null < 5:
        notes.append(f"Only {null} null run{'s' * (null > 1)}: null bands are wide; use 5 or more.")
    if learned and least > 1:
        notes.append(f"A verdict requires {least:g} times a neutral weight, or its inverse, outside of the null band.")
    return notes


def accounts(workspace: Store) -> tuple[Account, ...]:
    """The accounts of every partition that a stage wrote."""
    columns = ("table_name" if field.name == "table" else field.name for field in fields(Account))
    return tuple(Account(*row) for row in catalog.ledger(workspace).select(*columns).iter_rows())
