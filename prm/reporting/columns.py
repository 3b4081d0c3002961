"""The columns of the report: one entry makes a column in every form of the report that it names.

The forms are the terminal, Markdown, the page, CSV and JSON, and the difference of two workspaces. An installed package
adds a column with an entry point in the group `prm.report_columns` whose value is a `ReportColumn`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

from curate.errors import UserError
from curate.runtime.registry import Registry
from prm.reporting.formats import MISSING, as_it_is, number, over, percent, spread
from prm.reporting.report_column import DomainRow, Form, ReportColumn, ShownAs, arranged
from prm.reporting.stats import DomainFacts

# Titles of the terminal's tables.
QUALITY, DATA = "Dataset quality", "Data and training"


def _fact(name: str, help_text: str, **how: Any) -> ReportColumn[DomainRow]:
    """A column that is one of the domain's facts."""
    return ReportColumn(name, help_text, lambda row: getattr(row.facts, name), json=f"facts.{name}", **how)


def _part(name: str, part: str) -> Callable[[DomainRow], Any]:
    """`row.name.part`; None where there is no `row.name`."""
    return lambda row: None if getattr(row, name) is None else getattr(getattr(row, name), part)


def _machine(
    name: str, help_text: str, value: Callable[[DomainRow], Any], json: bool | str = False
) -> ReportColumn[DomainRow]:
    """A column for programs; people see it as a part of another one."""
    return ReportColumn(name, help_text, value, json=json)


def _people(name: str, help_text: str, value: Callable[[DomainRow], Any], **how: Any) -> ReportColumn[DomainRow]:
    """A column for people that puts several of those for programs together; `json` is where the JSON has them so."""
    return ReportColumn(name, help_text, value, csv=False, **{"json": False} | how)


def _ranks(ranks: Sequence[int | None]) -> str:
    mean, best, worst = ranks
    return MISSING if mean is None else str(mean) if best == worst else f"{mean} ({best}–{worst})"


def _weight_spread(row: DomainRow) -> str:
    interval = spread(row.interval, "–")
    return number(row.weight) + ("" if interval == MISSING else f"  {interval}")


def _losses(ends: Sequence[float | None]) -> str:
    return MISSING if None in ends else f"{number(ends[0], 3)} → {number(ends[1], 3)}"


_share = partial(percent, digits=1)
_loss = partial(number, digits=3)
_MARKDOWN = ShownAs()

# Leads every table.
DOMAIN: ReportColumn[DomainRow] = ReportColumn(
    "domain",
    "name of the training domain",
    lambda row: row.domain,
    left=True,
    terminal=ShownAs(),
    markdown=_MARKDOWN,
    page=ShownAs(),
)

# In the order of the CSV; forms for people put some first, see `arranged`.
COLUMNS: tuple[ReportColumn[DomainRow], ...] = (
    DOMAIN,
    ReportColumn(
        "verdict",
        "up, down, indistinguishable (from chance) or unknown",
        lambda row: row.verdict,
        left=True,
        terminal=ShownAs(QUALITY),
        compared=True,
    ),
    _people(
        "marked_verdict",
        "verdict, and whether the domain is too hard",
        lambda row: row.verdict + (", too hard" if row.too_hard else ""),
        heading="verdict",
        left=True,
        markdown=_MARKDOWN,
        page=ShownAs("weight"),
    ),
    _machine("too_hard", "whether less than a tenth of its rollouts are right", lambda row: row.too_hard, json=True),
    _people(
        "weight_spread",
        "weight and interval",
        _weight_spread,
        show=as_it_is,
        terminal=ShownAs(QUALITY, "weight  interval"),
    ),
    ReportColumn(
        "weight",
        "mean final weight over runs; the mean over domains is 1",
        lambda row: row.weight,
        markdown=_MARKDOWN,
        page=ShownAs("weight", "mean"),
    ),
    _machine("weight_low", "lower end of the weight's interval over runs", _part("interval", "low")),
    _machine("weight_high", "upper end of the weight's interval over runs", _part("interval", "high")),
    _machine("weight_interval", "t (Student, 95 %), range (two runs) or single (one run)", _part("interval", "method")),
    _people(
        "interval",
        "both ends of the weight's interval over runs",
        lambda row: row.interval,
        show=spread,
        json="interval",
        markdown=_MARKDOWN,
        page=ShownAs("weight"),
    ),
    _machine("null_band_low", "lower end of the band that chance gives this domain", _part("band", "low")),
    _machine("null_band_high", "upper end of the band that chance gives this domain", _part("band", "high")),
    _people(
        "chance",
        "both ends of the band that chance gives this domain",
        lambda row: row.band,
        show=spread,
        json="band",
        terminal=ShownAs(QUALITY, show=partial(spread, between="–")),
        markdown=_MARKDOWN,
        page=ShownAs("weight"),
    ),
    _machine("rank", "rank of the mean weight, 1 is the heaviest", lambda row: row.rank, json=True),
    _machine("best_rank", "best rank in any run", lambda row: row.best_rank, json=True),
    _machine("worst_rank", "worst rank in any run", lambda row: row.worst_rank, json=True),
    _people(
        "ranks",
        "rank of the mean weight, and best to worst over runs where they differ",
        lambda row: (row.rank, row.best_rank, row.worst_rank),
        show=_ranks,
        heading="rank",
        terminal=ShownAs(QUALITY, key="of the mean (best–worst over runs)"),
        markdown=_MARKDOWN,
        page=ShownAs("weight"),
    ),
    _machine("t", "running t of the domain's dots at the end, mean over runs", _part("t", "mean")),
    _machine("t_low", "lowest running t over runs", _part("t", "low")),
    _machine("t_high", "highest running t over runs", _part("t", "high")),
    _machine("t_pooled", "t of the dots of all runs together", lambda row: row.signal, json="signal"),
    ReportColumn(
        "loss_first",
        "mean train loss over the first tenth of the updates",
        lambda row: row.loss_first,
        _loss,
        markdown=_MARKDOWN,
        page=ShownAs("train loss", "first"),
    ),
    ReportColumn(
        "loss_last",
        "mean train loss over the last tenth of the updates",
        lambda row: row.loss_last,
        _loss,
        markdown=_MARKDOWN,
        page=ShownAs("train loss", "last"),
    ),
    _fact(
        "problems",
        "problems that came in",
        terminal=ShownAs(QUALITY),
        markdown=_MARKDOWN,
        page=ShownAs("data"),
        compared=True,
        told=True,
    ),
    _fact(
        "rejects",
        "rows that ingest rejected, neither as duplicates nor as contaminated",
        heading="rejected",
        markdown=ShownAs(heading="rejects"),
        page=ShownAs("data"),
        compared=True,
        told=True,
    ),
    _fact(
        "duplicates",
        "rows or problems left out as duplicates (ingest, dedup)",
        markdown=_MARKDOWN,
        page=ShownAs("data", "duplicate"),
        compared=True,
        told=True,
    ),
    _fact(
        "contaminated",
        "rows or problems left out because the meta or test set shows them",
        markdown=_MARKDOWN,
        page=ShownAs("data"),
        compared=True,
        told=True,
    ),
    _people(
        "left_out",
        "rejected / duplicate / shown by meta or test set",
        lambda row: f"{row.facts.rejects:,} / {row.facts.duplicates:,} / {row.facts.contaminated:,}",
        terminal=ShownAs(DATA, key="rejected / duplicate / shown by meta or test set"),
    ),
    _fact(
        "rollouts",
        "chains, sampled here or given",
        markdown=_MARKDOWN,
        page=ShownAs("rollouts", "count"),
        compared=True,
        told=True,
    ),
    _fact("given", "rollouts that were imported or came with a source"),
    _fact("no_answer", "rollouts in which no rule reads an answer; they count as wrong"),
    _fact(
        "accuracy",
        "share of rollouts with an outcome that are right",
        show=percent,
        heading="right",
        terminal=ShownAs(QUALITY, key="share of the rollouts with an outcome that are right"),
        markdown=_MARKDOWN,
        page=ShownAs("rollouts"),
        compared=True,
    ),
    _fact(
        "undecided",
        "share of rollouts without an outcome",
        show=_share,
        terminal=ShownAs(DATA),
        markdown=_MARKDOWN,
        page=ShownAs("rollouts"),
    ),
    _fact(
        "truncated",
        "share of rollouts cut by length or repetition, of those whose end is known",
        show=_share,
        terminal=ShownAs(DATA),
        markdown=_MARKDOWN,
        page=ShownAs("rollouts"),
    ),
    _fact(
        "labelled_steps",
        "steps with a label",
        markdown=_MARKDOWN,
        page=ShownAs("step labels", "count"),
        compared=True,
        told=True,
    ),
    _fact("undefined_steps", "steps whose label is undefined", told=True),
    _fact("mean_label", "mean label", markdown=_MARKDOWN, page=ShownAs("step labels", "mean")),
    _fact(
        "label_noise",
        "mean standard error of the labels estimated from completions",
        terminal=ShownAs(DATA, "noise", "standard error of a label"),
        markdown=_MARKDOWN,
        page=ShownAs("step labels", "noise"),
    ),
    _fact(
        "consensus_kept",
        "share of labelled steps that the judge did not mask",
        show=percent,
        terminal=ShownAs(DATA, "kept", "by consensus"),
        markdown=_MARKDOWN,
        page=ShownAs("step labels"),
    ),
    _fact("rollout_tokens", "tokens generated for rollouts"),
    _fact("label_tokens", "tokens generated for completions"),
    _fact("judge_tokens", "tokens that the judge generated"),
    _fact(
        "licences",
        "licences of its problems; the CSV separates them by semicolons",
        heading="licence",
        left=True,
        markdown=_MARKDOWN,
        page=ShownAs(),
    ),
    _fact(
        "planted",
        "defects planted on purpose; the CSV separates them by semicolons",
        left=True,
        markdown=_MARKDOWN,
        page=ShownAs("data"),
    ),
    _people(
        "known",
        "defects planted on purpose, or that the domain is too hard",
        lambda row: ", ".join(row.facts.planted) or ("too hard" if row.too_hard else ""),
        left=True,
        terminal=ShownAs(QUALITY),
    ),
    _people(
        "loss",
        "mean train loss over the first and over the last tenth of the updates",
        lambda row: (row.loss_first, row.loss_last),
        show=_losses,
        terminal=ShownAs(DATA),
    ),
    _people(
        "running_t",
        "running t of the domain's dots at the end: mean over runs, and lowest to highest where they differ",
        lambda row: row.t,
        show=over,
        json="t",
        terminal=ShownAs(DATA, "t", "of its dots, mean over runs", lambda t: number(t.mean if t else None, 1)),
        markdown=ShownAs(heading="running t (over runs)"),
        page=ShownAs("weight"),
    ),
    ReportColumn("explanation", "the verdict in a sentence", lambda row: row.explanation, csv=False),
)


REPORT_COLUMNS: Registry[Any] = Registry(
    "prm.report_columns",
    "report column",
    {column.name: column for column in COLUMNS},
    of="prm.reporting.report_column:ReportColumn",
)


def report_columns() -> tuple[ReportColumn[DomainRow], ...]:
    """Every column: those of this project, then those of installed packages by name.

    UserError for one of a package that is no `ReportColumn`, or whose key is taken.
    """
    found, taken = list(COLUMNS), _taken(COLUMNS)
    for name in REPORT_COLUMNS.installed():
        column: ReportColumn[DomainRow] = REPORT_COLUMNS.find(name)
        if both := _taken([column]) & taken:
            raise UserError(
                f'An installed package brings the report column "{name}", whose key is taken '
                f"({', '.join(sorted(both))}); rename it there, or uninstall the package."
            )
        found.append(column)
        taken |= _taken([column])
    return tuple(found)


def shown_in(form: Form, first: Sequence[str] = ()) -> list[ReportColumn[DomainRow]]:
    """The columns beside the domain that a form for people has, those whose names are in `first` before the others."""
    found = (column for column in report_columns() if column is not DOMAIN and column.shown(form) is not None)
    return arranged(found, first)


def _taken(columns: Sequence[ReportColumn[DomainRow]]) -> set[str]:
    """Names of the columns, and their keys with all that stands above them."""
    names = {column.name for column in columns}
    for column in columns:
        parts = column.key.split(".") if column.key else []
        names |= {".".join(parts[: place + 1]) for place in range(len(parts))}
    return names


# The JSON has a row's keys in the order of the records; what is no field of them comes after.
_FACTS = [f"facts.{field.name}" for field in fields(DomainFacts)]
_RECORD = [key for field in fields(DomainRow) for key in (_FACTS if field.name == "facts" else [field.name])]


def plain_values(value: Any) -> Any:
    """A value as JSON can hold it: records as objects with their fields, a row of the table with its columns' keys."""
    if isinstance(value, DomainRow):
        return _plain_row(value)
    if is_dataclass(value):
        return {field.name: plain_values(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain_values(below) for key, below in value.items()}
    return [plain_values(item) for item in value] if isinstance(value, tuple | list) else value


def _plain_row(row: DomainRow) -> dict[str, Any]:
    made: dict[str, Any] = {}
    keyed = {column.key: column for column in report_columns() if column.key}
    for key in sorted(keyed, key=lambda key: _RECORD.index(key) if key in _RECORD else len(_RECORD)):
        *above, last = key.split(".")
        place = made
        for part in above:
            place = place.setdefault(part, {})
        place[last] = plain_values(keyed[key].value(row))
    return made
