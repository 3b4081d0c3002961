"""What the tables say about each training domain, and the paths of the domain weights. Reads tables, judges nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc

from curate.graders import NO_ANSWER
from curate.runtime.frames import pl
from curate.tables import lineage
from curate.tables.schema import GIVEN, PROBLEMS, ROLLOUTS, STEP_LABELS, UPDATES, Table
from curate.tables.store import Store
from prm.reporting import exclusions
from prm.reporting.null_band import WeightSpread
from prm.reporting.token_usage import TokenUsage

# Points of a curve on the page; more cannot be seen.
POINTS = 120
# A running t of fewer updates than this is anything, up to dozens.
_SETTLED = 10
_TRUNCATED = ("length", "repetition")


@dataclass(frozen=True)
class DomainFacts:
    """A domain's training data. Shares are in [0, 1], of its rollouts; None where there is nothing to take them of.

    `given` rollouts were imported or came with a source, and were not sampled here. `accuracy` is the share of right
    ones among rollouts with an outcome, `undecided` that of those without, `truncated` that of cut ones among those
    whose end is known (of given ones it is not), `no_answer` counts those in which no rule
    reads an answer, which count as wrong, `label_noise` is the mean standard error of the labels
    that were estimated from completions (a last step's label is known, not estimated). Rows left out are as in
    `prm.reporting.exclusions.ExclusionCounts`, `consensus_kept` is the share of labelled steps that were not masked,
    tokens are generated ones (`prm.reporting.token_usage.TokenUsage`).
    """

    problems: int = 0
    rollouts: int = 0
    labelled_steps: int = 0
    undefined_steps: int = 0
    accuracy: float | None = None
    mean_label: float | None = None
    label_noise: float | None = None
    undecided: float | None = None
    truncated: float | None = None
    rejects: int = 0
    duplicates: int = 0
    contaminated: int = 0
    consensus_kept: float | None = None
    rollout_tokens: int | None = None
    label_tokens: int | None = None
    judge_tokens: int | None = None
    licences: tuple[str, ...] = ()
    planted: tuple[str, ...] = ()
    given: int = 0
    no_answer: int = 0


@dataclass(frozen=True)
class Curve:
    """One line of a chart over lower steps: mean over runs with lowest and highest."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Over:
    """A figure over runs: mean, lowest and highest."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Training:
    """The runs of `prm train`: final weights run -> domain -> weight, and their paths.

    `neutral` is by run the final weight of a domain that moved the meta loss neither way, and `noise` how far a run's
    updates alone carry each log weight, for runs whose rule has such (`prm.reporting.null_band.bands_for`); `signal` is
    each domain's t-statistic over all runs, see `_signal`; `running` and `t` are the paths and ends of the one that
    each run kept for itself (`updates.t`); `cosine` the mean one between successive meta directions.
    """

    mode: str | None = None
    final: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    null: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    neutral: Mapping[str, float] = field(default_factory=dict)
    noise: Mapping[str, Mapping[str, WeightSpread]] = field(default_factory=dict)
    updates: int = 0
    weights: tuple[Curve, ...] = ()
    null_curve: Curve | None = None
    losses: tuple[Curve, ...] = ()
    meta: Curve | None = None
    loss_first: Mapping[str, float | None] = field(default_factory=dict)
    loss_last: Mapping[str, float | None] = field(default_factory=dict)
    signal: Mapping[str, float | None] = field(default_factory=dict)
    running: tuple[Curve, ...] = ()
    t: Mapping[str, Over] = field(default_factory=dict)
    cosine: float | None = None


def _frame(workspace: Store, table: Table, columns: Sequence[str], where: Any = None) -> pl.DataFrame:
    frame = pl.from_arrow(workspace.read(table, columns, where))
    assert isinstance(frame, pl.DataFrame)  # noqa: S101
    return frame


def domain_facts(workspace: Store, costs: Sequence[TokenUsage] = ()) -> tuple[dict[str, DomainFacts], int]:
    """Facts of each training domain, and how many rows that ingest left out belong to none of them.

    `costs` are what `prm.reporting.token_usage.spent` finds.
    """
    train = pc.field("role") == "train"
    problems = _frame(workspace, PROBLEMS, ["domain", "licence"], train)
    rollouts = _frame(workspace, ROLLOUTS, ["domain", "outcome", "outcome_rule", "finish", "policy"], train)
    labels = _frame(workspace, STEP_LABELS, ["domain", "m", "value", "standard_error"], train)
    fed_by = exclusions.sources(workspace)
    left, planted, kept = (
        exclusions.left_out(workspace, fed_by),
        exclusions.defects(fed_by),
        exclusions.consensus_kept(workspace),
    )
    usages = {usage.domain: usage for usage in costs if usage.role == "train"}
    by_problem = _grouped(
        problems, problems=pl.len(), licences=pl.col("licence").drop_nulls().unique().sort().cast(pl.String)
    )
    by_rollout = _grouped(
        rollouts,
        rollouts=pl.len(),
        no_answer=(pl.col("outcome_rule") == NO_ANSWER).sum(),
        given=pl.col("policy").str.starts_with(f"{GIVEN}:").sum(),
        accuracy=pl.col("outcome").cast(pl.Float64).mean(),
        undecided=pl.col("outcome").is_null().mean(),
        truncated=pl.col("finish").is_in(_TRUNCATED).mean(),
    )
    by_label = _grouped(
        labels,
        labelled_steps=pl.col("value").count(),
        undefined_steps=pl.col("value").null_count(),
        mean_label=pl.col("value").mean(),
        label_noise=pl.col("standard_error").filter(pl.col("m") > 0).mean(),
    )
    facts = {}
    for domain in sorted(by_problem.keys() | by_rollout.keys() | by_label.keys()):
        row = by_problem.get(domain, {}) | by_rollout.get(domain, {}) | by_label.get(domain, {})
        licences = tuple(row.pop("licences", ()))
        usage = usages.get(domain)
        facts[domain] = DomainFacts(
            **row,
            **vars(left.get(domain, exclusions.ExclusionCounts())),
            consensus_kept=kept.get(domain),
            rollout_tokens=usage.rollouts if usage else None,
            label_tokens=usage.completions if usage else None,
            judge_tokens=usage.judge if usage else None,
            licences=licences,
            planted=tuple(sorted(planted.get(domain, ()))),
        )
    return facts, sum(sum(vars(book).values()) for domain, book in left.items() if domain not in facts)


def _grouped(frame: pl.DataFrame, **columns: pl.Expr) -> dict[str, dict[str, Any]]:
    rows = frame.group_by("domain").agg(**columns).to_dicts()
    return {row.pop("domain"): row for row in rows}


def training(workspace: Store) -> Training:
    """The runs in the `updates` table; an empty `Training` before `prm train`."""
    frame = _frame(
        workspace,
        UPDATES,
        [
            *("run", "null_control", "update", "step", "domain", "upper_rule", "weight", "raw"),
            *("dot", "t", "train_loss", "meta_loss", "cosine"),
        ],
    )
    if frame.is_empty():
        return Training()
    real, null = frame.filter(~pl.col("null_control")), frame.filter(pl.col("null_control"))
    # Their raw weights are log weights before they are scaled.
    mirrored = frame.filter(pl.col("upper_rule") == "mirror").drop_nulls("raw")
    records = (lineage.read(workspace.partition(UPDATES, run)) for run in real["run"].unique().sort())
    modes = sorted({record["config"].get("mode", "domain") for record in records if record})
    first, last = _ends(real)
    return Training(
        mode=modes[0] if len(modes) == 1 else None,
        final=_final(real),
        null=_final(null),
        neutral=_neutral(mirrored),
        noise=_noise(mirrored),
        updates=int(real["update"].max() or 0) if len(real) else 0,  # type: ignore[arg-type]
        weights=_curves(_held(real), "weight"),
        null_curve=_null_curve(null),
        losses=_loss_curves(real),
        meta=_meta_curve(real),
        loss_first=first,
        loss_last=last,
        signal=_signal(real),
        running=_curves(real.drop_nulls("t").filter(pl.col("update") >= _SETTLED), "t"),
        t=_last_t(real),
        cosine=_mean(_by_update(real)["cosine"]),
    )


def _by_update(frame: pl.DataFrame) -> pl.DataFrame:
    """One row of each update of a run; always the same one, so that sums are the same to the last bit."""
    return frame.unique(["run", "update"], keep="first", maintain_order=True)


def _mean(column: pl.Series) -> float | None:
    mean = column.mean()
    return None if mean is None else float(mean)  # type: ignore[arg-type]


def _signal(frame: pl.DataFrame) -> dict[str, float | None]:
    """Mean / standard deviation x sqrt(n) of a domain's dots over all n updates of all runs; None when it has none.

    Above 0 its gradient helps the meta set. Noise alone stays within about 2 either way, or more where updates are not
    independent: `upper.meta_ema` makes neighbours alike.
    """
    dot = pl.col("dot")
    grouped = frame.drop_nulls("dot").group_by("domain").agg(mean=dot.mean(), spread=dot.std(), n=pl.len())
    return {
        domain: mean / spread * n**0.5 if spread else None
        for domain, mean, spread, n in grouped.select("domain", "mean", "spread", "n").iter_rows()
    }


def _final(frame: pl.DataFrame) -> dict[str, dict[str, float]]:
    last = frame.filter(pl.col("update") == pl.col("update").max().over("run"))
    final: dict[str, dict[str, float]] = defaultdict(dict)
    for run, domain, weight in last.sort("run", "domain").select("run", "domain", "weight").iter_rows():
        final[run][domain] = weight
    return dict(final)


def _neutral(frame: pl.DataFrame) -> dict[str, float]:
    """Mirrored run -> the scale that all its weights have."""
    last = frame.filter(pl.col("update") == pl.col("update").max().over("run"))
    scale = (pl.col("weight").log() - pl.col("raw")).mean().exp()
    return dict(last.group_by("run").agg(scale=scale).select("run", "scale").iter_rows())


def _noise(frame: pl.DataFrame) -> dict[str, dict[str, WeightSpread]]:
    """Mirrored run -> domain -> what its updates alone spread the log weight, which is the sum of n changes: n times
    their variance. Runs with fewer than three have none.
    """
    found: dict[str, dict[str, WeightSpread]] = defaultdict(dict)
    change = pl.col("raw").diff().over("run", "domain")
    changes = frame.sort("run", "domain", "update").with_columns(change=change).drop_nulls("change")
    grouped = changes.group_by("run", "domain").agg(spread=pl.col("change").var(), n=pl.len(), end=pl.col("raw").last())
    known = grouped.filter(pl.col("n") > 2).select("run", "domain", "spread", "n", "end")
    for run, domain, spread, n, end in known.iter_rows():
        found[run][domain] = WeightSpread(n * spread, n - 1.0, end, 1)
    return dict(found)


def _thinned(steps: Sequence[int]) -> set[int]:
    """At most `POINTS` of the sorted steps, with the first and the last; and the first few."""
    if len(steps) <= POINTS:
        return set(steps)
    return {*steps[:3]} | {steps[round(index * (len(steps) - 1) / (POINTS - 1))] for index in range(POINTS)}


def _last_t(frame: pl.DataFrame) -> dict[str, Over]:
    """Gather for each domain the last running t that a run has, over runs."""
    t, last = pl.col("t"), pl.col("update") == pl.col("update").max().over("run", "domain")
    ends = frame.drop_nulls("t").filter(last).group_by("domain").agg(mean=t.mean(), low=t.min(), high=t.max())
    return {domain: Over(*figures) for domain, *figures in ends.select("domain", "mean", "low", "high").iter_rows()}


def _curves(frame: pl.DataFrame, column: str) -> tuple[Curve, ...]:
    """Curves of a column over steps, one for each domain."""
    value = pl.col(column)
    grouped = frame.group_by("domain", "step").agg(mean=value.mean(), low=value.min(), high=value.max())
    kept = grouped.filter(pl.col("step").is_in(list(_thinned(sorted(frame["step"].unique())))))
    curves = []
    for (domain,), part in sorted(kept.sort("step").partition_by("domain", as_dict=True).items()):
        columns = (tuple(part[name]) for name in ("step", "mean", "low", "high"))
        curves.append(Curve(str(domain), *columns))
    return tuple(curves)


def _held(frame: pl.DataFrame) -> pl.DataFrame:
    """With the weights of the start once more right before the first update: until then they do not move."""
    first = frame.filter(pl.col("update") > 0).group_by("run", "domain").agg(before=pl.col("step").min() - 1)
    start = frame.filter(pl.col("update") == 0).join(first, on=["run", "domain"]).filter(pl.col("before") > 0)
    return pl.concat([frame, start.with_columns(step=pl.col("before")).select(frame.columns)])


def _null_curve(frame: pl.DataFrame) -> Curve | None:
    """Mean, lowest and highest of all weights of null runs at each step."""
    if frame.is_empty():
        return None
    pooled = _held(frame).with_columns(domain=pl.lit("null runs"))
    return _curves(pooled, "weight")[0]


def _binned(frame: pl.DataFrame, column: str, name: str) -> Curve | None:
    """Mean of a noisy column in at most `POINTS` / 2 bins of steps."""
    frame = frame.drop_nulls(column)
    if frame.is_empty():
        return None
    width = max(1, -(-(int(frame["step"].max()) + 1) // (POINTS // 2)))  # type: ignore[arg-type]
    bins = frame.group_by(pl.col("step") // width).agg(at=pl.col("step").max(), value=pl.col(column).mean()).sort("at")
    return Curve(name, tuple(bins["at"]), tuple(bins["value"]))


def _loss_curves(frame: pl.DataFrame) -> tuple[Curve, ...]:
    parts = sorted(frame.partition_by("domain", as_dict=True).items())
    curves = (_binned(part, "train_loss", str(domain)) for (domain,), part in parts)
    return tuple(curve for curve in curves if curve is not None)


def _meta_curve(frame: pl.DataFrame) -> Curve | None:
    return _binned(_by_update(frame), "meta_loss", "meta loss")


def _ends(frame: pl.DataFrame) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Mean train loss over the first and the last tenth (at least one) of the updates that have one."""
    first: dict[str, float | None] = {}
    last: dict[str, float | None] = {}
    for (domain,), part in frame.drop_nulls("train_loss").partition_by("domain", as_dict=True).items():
        updates = sorted(part["update"].unique())
        tenth = max(1, len(updates) // 10)
        for ends, chosen in ((first, updates[:tenth]), (last, updates[-tenth:])):
            ends[str(domain)] = _mean(part.filter(pl.col("update").is_in(chosen))["train_loss"])
    return first, last
