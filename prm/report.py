"""The dataset-quality report: all tables gathered into one typed `Report`, and written in every form.

`build` reads, `write` renders: report.json (schema in `Report.to_json`), report.md, report.html (one page that needs no
network). The terminal form is `prm.render.terminal`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate import catalog
from curate.errors import UserError
from curate.schema import ROLLOUTS, STEP_SCORES
from curate.store import Workspace, write_atomic
from prm import metrics, select, showcase, spend, stats, verdict
from prm.chance import Band, bands_for
from prm.config import LEARNED, PER_ROLLOUT
from prm.metrics import Interval, PairOrder
from prm.select import Selection
from prm.showcase import Chain, Picture
from prm.spend import Spend
from prm.stats import Curve, Facts, Over

if TYPE_CHECKING:
    from prm.browse import Browse
    from prm.stages import ReportConfig, SelectConfig

SCHEMA = "curate-prm/report/2"


@dataclass(frozen=True)
class DomainRow:
    """One row of the dataset-quality table. Weight and ranks are None for a domain that no run trained on.

    `band` is where chance may leave it (`prm.chance`); `verdict` is "up", "down", "indistinguishable" or "unknown".
    Losses are means over the first and last tenth of the updates, and over runs; `t` is the running t-statistic of the
    domain's dots at the end, over runs, and `signal` the one of the dots of all runs together (`prm.stats`).
    """

    domain: str
    weight: float | None
    interval: Interval | None
    band: Band | None
    verdict: str
    too_hard: bool
    rank: int | None
    best_rank: int | None
    worst_rank: int | None
    facts: Facts
    loss_first: float | None
    loss_last: float | None
    t: Over | None
    signal: float | None
    explanation: str


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
    spend: tuple[Spend, ...]
    selection: Selection | None
    ledger: tuple[Account, ...]
    notes: tuple[str, ...]
    chains: tuple[Chain, ...] = ()
    pictures: Mapping[str, Picture] = field(default_factory=dict, repr=False)

    @property
    def planted_total(self) -> PairOrder:
        """(bad, clean) pairs in the right order, over all runs."""
        return metrics.total_order(self.planted.values())

    @property
    def controls_total(self) -> PairOrder:
        """The same over all null runs: what the order is worth. Half of them is chance."""
        return metrics.total_order(self.planted_controls.values())

    def to_json(self) -> dict[str, Any]:
        """Plain values: the fields of the report by name, nested records as objects, missing as null.

        Left out are the pictures; `selection` is as in `Selection.to_json`; `planted` has right and total by run,
        `planted_controls` by null run.
        """
        left = {"pictures", "selection"}
        fields = {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__ if name not in left}
        return {"schema": SCHEMA} | fields | {"selection": self.selection.to_json() if self.selection else None}


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)
    if isinstance(value, Mapping):
        return {key: _plain(below) for key, below in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def build(workspace: Workspace, config: ReportConfig | None = None, choice: SelectConfig | None = None) -> Report:
    """Gather the report; parts whose tables are still empty are left out, and `notes` says so.

    UserError when the workspace has neither problems nor trained weights.
    """
    costs = spend.spent(workspace)
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
        spend=costs,
        selection=selection,
        ledger=_ledger(workspace),
        notes=(*_training_notes(trained, learned, least), *notes),
        chains=chains,
        pictures=showcase.pictures(workspace, chains),
    )


def _rows(facts: Mapping[str, Facts], trained: stats.Training, learned: bool, least: float) -> tuple[DomainRow, ...]:
    bands = bands_for(trained.final, trained.null, trained.neutral, trained.noise, least)
    runs = len(trained.final)
    weighings = verdict.weigh(trained.final, bands, learned)
    rows = []
    for domain in facts.keys() | weighings.keys():
        known, weighing, band = facts.get(domain, Facts()), weighings.get(domain), bands.get(domain)
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


def _selection(workspace: Workspace, choice: SelectConfig | None) -> tuple[Selection | None, list[str]]:
    if not workspace.files(STEP_SCORES) or not workspace.files(ROLLOUTS):
        return None, ["Best-of-N is left out: there are no step scores; run `prm score`."]
    if find_spec("torch") is None:
        return None, ["Best-of-N is left out: it needs torch; install the extra `train`."]
    from prm.stages import SelectConfig

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
        notes.append("Every rollout has a weight of its own; a domain's is their mean. Table: rollout_weights.")
    if not learned:
        notes.append(f"Weights are those of mode {trained.mode}: given, not learned.")
    elif not null:
        notes.append("No null run: weights cannot be told from chance; set `train.null_runs` to 5 or more.")
    elif null < 5:
        notes.append(f"Only {null} null run{'s' * (null > 1)}: the bands of chance are wide; use 5 or more.")
    if learned and least > 1:
        notes.append(
            f"Verdicts ask for {least:g} times a neutral weight, or its inverse, besides being clear of chance."
        )
    return notes


def _ledger(workspace: Workspace) -> tuple[Account, ...]:
    rows = catalog.ledger(workspace).to_dicts()
    columns = [name for name in Account.__dataclass_fields__ if name != "table"]
    return tuple(Account(table=row["table_name"], **{name: row[name] for name in columns}) for row in rows)


def write(report: Report, folder: Path, theme: str = "auto", chains: Browse | None = None) -> dict[str, Path]:
    """Write report.json, .md, .csv and .html into `folder`; their paths by "json", "markdown", "csv" and "html".

    With `chains` also the files of the page's browser, path "chains".

    `theme` is the look that the page opens with: "auto" (the reader's system), "light" or "dark".
    """
    from prm import browse
    from prm.render import markdown, page, table

    folder.mkdir(parents=True, exist_ok=True)
    forms = {
        "json": ("report.json", json.dumps(report.to_json(), ensure_ascii=False, indent=1, allow_nan=False)),
        "markdown": ("report.md", markdown.render(report)),
        "csv": ("report.csv", table.render(report)),
        "html": ("report.html", page.render(report, theme, chains.setup() if chains else None)),
    }
    # The page comes after what it reads; without chains those of an earlier page go.
    browse.clear(folder)
    paths = {"chains": browse.write(chains, folder)} if chains else {}
    for form, (name, text) in forms.items():
        paths[form] = folder / name
        # Lone surrogates cannot be UTF-8; the reader sees a replacement for them.
        write_atomic(paths[form], text.encode("utf-8", "replace"))
    return paths
