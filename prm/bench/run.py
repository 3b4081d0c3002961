"""`prm eval` on a benchmark: score, judge, figures with intervals, and the files of the benchmark's own scorer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from curate.errors import UserError
from curate.runtime.reporter import Reporter
from curate.seeds import content_hash, digest
from curate.tables.lineage import versions
from prm.bench import resample
from prm.bench.config import BenchConfig, FixedThreshold, HeldOutThreshold, SubsetThreshold, VerdictConfig
from prm.bench.read import Loaded
from prm.bench.result import BenchmarkResult, Group, StepCounts, Threshold
from prm.bench.score import Model, score_chains
from prm.bench.suites.base import Benchmark, Judge, ScoredRollout
from prm.model.reward_model import HEAD_FILE
from prm.model.saved import read_card

# So many thresholds are tried, at quantiles of the scores.
_CANDIDATES = 100


def evaluate(
    benchmark: Benchmark, loaded: Loaded, models: Sequence[Model], config: VerdictConfig, reporter: Reporter
) -> list[tuple[BenchmarkResult, dict[str, str]]]:
    """The result of each model, with the texts of its scorer's files by name.

    UserError when the settings do not fit the benchmark, or the part that the threshold is chosen on has no figure.
    """
    if isinstance(config, SubsetThreshold) and benchmark.name != "processbench":
        raise UserError(f"eval.tune gsm8k is for processbench, and this is {benchmark.name}; use held-out.")
    found = []
    reporter.start("eval", len(loaded.chains) * len(models), f"chains by {len(models)} PRM{'s' * (len(models) > 1)}")
    for model in models:
        scored = list(score_chains(model, loaded.chains, config.batch_rows, reporter))
        found.append(judged(benchmark, loaded, scored, model, config))
    reporter.finish()
    return found


def judged(
    benchmark: Benchmark, loaded: Loaded, scored: Sequence[ScoredRollout], model: Model, config: VerdictConfig
) -> tuple[BenchmarkResult, dict[str, str]]:
    """Figures of scored chains, and the files in the layout of the benchmark's scorer, which hold all of them."""
    used, tuning, rule = _parts(scored, config)
    value = config.threshold if isinstance(config, FixedThreshold) else _best(benchmark, tuning, config)
    if value is None:
        raise UserError(
            "The chains that the threshold is to be chosen on have no figure, as a class or a group is missing among "
            "them; raise eval.held_out, or leave eval.tune out."
        )
    judge = Judge(value, config.missing)
    counted = _tally(benchmark, used, judge)
    figures = resample.figures(counted, benchmark.measure, config.resamples, config.seed)
    names = [*counted.groups, None]
    groups = tuple(
        Group(name, {figure: each for (group, figure), each in figures.items() if group == name}, _counts(used, name))
        for name in names
    )
    best = _best(benchmark, used, config)
    result = BenchmarkResult(
        benchmark=benchmark.name,
        title=benchmark.title,
        run=model.name,
        headline=benchmark.headline,
        shown=benchmark.shown,
        groups=groups,
        account=account(loaded, scored, len(scored) - len(used)),
        data=loaded.data,
        model=about(model),
        settings=config.model_dump(mode="json"),
        rule=benchmark.rule,
        intervals=intervals(config, benchmark.stratified),
        threshold=Threshold(value, rule, best, None if best is None else _headline(benchmark, used, best, config)),
        notes=tuple(_notes(benchmark, loaded, scored, config, groups)),
    )
    return result, dict(benchmark.files(scored, judge, model.name))


def _parts(
    scored: Sequence[ScoredRollout], config: VerdictConfig
) -> tuple[list[ScoredRollout], list[ScoredRollout], str]:
    """What figures are made of, what the threshold is chosen on, and the rule in words."""
    if isinstance(config, FixedThreshold):
        return list(scored), [], f"fixed at {config.threshold:g} beforehand"
    if not isinstance(config, HeldOutThreshold):
        part = [each for each in scored if each.chain.group == config.tune]
        if not part:
            raise UserError(
                "eval.tune is gsm8k, and no chain belongs to that subset; read it as well, or use held-out."
            )
        return list(scored), part, "the best for the F1 of gsm8k, whose own figures are therefore too good"
    held = [each for each in scored if _held(each.chain.problem, config)]
    used = [each for each in scored if not _held(each.chain.problem, config)]
    if not held or not used:
        raise UserError("There are too few problems to hold some out; leave eval.tune out.")
    share = f"{config.held_out:.0%}"
    return used, held, f"the best on {share} of the problems, drawn by hash, which the figures leave out"


def _held(problem: str, config: HeldOutThreshold) -> bool:
    return int(digest("eval held-out", config.seed, problem, length=8), 16) < config.held_out * 16**8


def _tally(benchmark: Benchmark, scored: Sequence[ScoredRollout], judge: Judge) -> resample.ResampledCounts:
    rows = ((each.chain.problem, each.chain.group, benchmark.count(each, judge)) for each in scored)
    return resample.tally(rows, benchmark.stratified)


def _headline(
    benchmark: Benchmark, scored: Sequence[ScoredRollout], threshold: float, config: VerdictConfig
) -> float | None:
    """The figure that the benchmark is known by; for one subset alone, its F1."""
    counted = _tally(benchmark, scored, Judge(threshold, config.missing))
    return benchmark.measure(counted.sums, counted.groups)[None, benchmark.headline]


def _best(benchmark: Benchmark, scored: Sequence[ScoredRollout], config: VerdictConfig) -> float | None:
    """The threshold with the highest headline figure on these chains, of ties the nearest to 0.5; None without any."""
    values = [score for each in scored for score in each.scores if score is not None]
    if not values:
        return None
    candidates = np.unique(np.quantile(values, np.linspace(0, 1, _CANDIDATES + 1)[:-1])).tolist()
    tried = [(_headline(benchmark, scored, each, config), each) for each in (0.5, *candidates)]
    known = [(value, -abs(each - 0.5), each) for value, each in tried if value is not None]
    return max(known)[2] if known else None


def _counts(scored: Sequence[ScoredRollout], group: str | None) -> StepCounts:
    part = [each for each in scored if group in (None, each.chain.group)]
    pairs = [pair for each in part for pair in zip(each.chain.labels, each.scores, strict=True)]
    return StepCounts(
        problems=len({each.chain.problem for each in part}),
        chains=len(part),
        steps=sum(label is not None for label, _ in pairs),
        unlabelled=sum(label is None for label, _ in pairs),
        unscored=dict(sorted(Counter(each.reason for each in part if each.reason is not None).items())),
        unscored_steps=sum(label is not None and score is None for label, score in pairs),
    )


def account(loaded: Loaded, scored: Sequence[ScoredRollout], held: int) -> dict[str, Any]:
    """Where every chain of the benchmark went: in = unread + duplicate + held out for the threshold + evaluated."""
    ledger = loaded.ledger
    return {
        "chains": ledger.taken,
        "unread": ledger.rejected,
        "duplicate": ledger.duplicate,
        "held_out": held,
        "evaluated": len(scored) - held,
    }


def about(model: Model) -> dict[str, Any]:
    """What the PRM is: its card's run, its head by content, how it reads, and versions."""
    card = read_card(model.folder)
    head = model.folder / HEAD_FILE
    content = content_hash(head.read_bytes()) if head.is_file() else None
    read = {"instruction": card.instruction, "max_length": card.max_length, "suffix": card.suffix}
    return {"run": card.run, "head": card.head, "head_content": content} | read | {"versions": versions()}


def intervals(config: BenchConfig, stratified: bool) -> str:
    """How the intervals were made, in words."""
    kept = ", within each group" if stratified else ""
    return (
        f"95 % percentile intervals of {config.resamples:,} bootstrap resamples of whole problems{kept}, seed "
        f"{config.seed}, with the threshold as it is"
    )


def _notes(
    benchmark: Benchmark,
    loaded: Loaded,
    scored: Sequence[ScoredRollout],
    config: VerdictConfig,
    groups: Sequence[Group],
) -> list[str]:
    notes = []
    if loaded.data["limit"] is not None:
        notes.append(f"Only the first {loaded.data['limit']:,} rows of each part: no figure of the whole benchmark.")
    lacking = sum(not each.whole for each in scored)
    if lacking:
        how = "a wrong verdict on each such step" if config.missing == "wrong" else "nothing, their chains left out"
        notes.append(f"{lacking:,} of {len(scored):,} chains lack scores of some or all steps; counted as {how}.")
    known = {group.name for group in groups}
    if benchmark.name == "processbench" and (absent := [name for name in benchmark.splits if name not in known]):
        notes.append(f"The average is without {', '.join(absent)}, which were not read.")
    return notes
