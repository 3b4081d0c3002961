"""`prm eval calibration`: a PRM's step scores on held-out examples of the workspace against what came of the steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from curate.errors import UserError
from curate.runtime.reporter import Reporter
from curate.seeds import content_hash, digest
from curate.tables.store import Store
from prm.bench import calibration, resample, run
from prm.bench.calibration import ScoredStep
from prm.bench.config import CalibrationConfig
from prm.bench.resample import Figure
from prm.bench.result import BenchmarkResult, Group, ScoreBin, StepCounts
from prm.bench.score import Model, scores
from prm.bench.targets import Aims, aims
from prm.data.examples import Example, read_examples, read_images

NAME = "calibration"
_READING = (
    "Noise is what finitely many completions add to the Brier score, excess the rest of it, the mean squared error of "
    "the scores; bias is mean score less mean target."
)
_TARGETS = {
    "counts": "the share of right answers among completions of each step's prefix (last steps: the outcome)",
    "outcome": "whether the chain ends right, which is one completion of each of its prefixes",
    "truth": "whether all steps so far are right, by the testbed's exact judge",
}


def evaluate(
    workspace: Store, models: Sequence[Model], config: CalibrationConfig, limit: int | None, reporter: Reporter
) -> list[tuple[BenchmarkResult, dict[str, str]]]:
    """The result of each model, with its steps as a file; `limit` takes so many examples, first by hash.

    UserError where there are no examples, or no target of the wanted kind.
    """
    examples = read_examples(workspace, (config.role,))
    if not examples:
        raise UserError(f"There is no example with role {config.role}; run `curate shard`, or set eval.role.")
    taken = sorted(examples, key=lambda example: digest("limit", example.rollout_id))[:limit]
    wanted, images = aims(workspace, taken, config.target), read_images(workspace, taken)
    found = []
    reporter.start("eval", len(taken) * len(models), f"examples by {len(models)} PRM{'s' * (len(models) > 1)}")
    for model in models:
        scored = scores(model, taken, images, config.batch_rows, reporter)
        found.append(_result(model, taken, wanted, scored, config, len(examples)))
    reporter.finish()
    return found


def _result(
    model: Model,
    examples: Sequence[Example],
    wanted: Aims,
    scored: dict[str, tuple[list[float | None], str | None]],
    config: CalibrationConfig,
    total: int,
) -> tuple[BenchmarkResult, dict[str, str]]:
    steps, unscored = _steps(examples, wanted, scored)
    if not steps:
        raise UserError(f"{model.name} gives none of the {len(examples):,} examples a score: {dict(unscored)}.")
    rows = ((step.problem, step.group, calibration.cells(step, config.bins)) for step in steps)
    counted = resample.tally(rows, stratified=True)
    figures = resample.figures(counted, calibration.measure, config.resamples, config.seed)
    groups = tuple(_group(name, steps, examples, wanted, scored, figures, config) for name in (*counted.groups, None))
    shown = calibration.SHOWN
    result = BenchmarkResult(
        benchmark=NAME,
        title="Calibration",
        run=model.name,
        headline="excess" if figures[None, "excess"].value is not None else "brier",
        shown=shown,
        groups=groups,
        account={"examples": total, "taken": len(examples), "steps": len(steps), "unscored": dict(unscored)}
        | {"steps_without_target": dict(wanted.left)},
        data={"role": config.role, "target": wanted.target, "fingerprint": _fingerprint(examples, wanted)},
        model=run.about(model),
        settings=config.model_dump(mode="json"),
        rule=f"The target is {_TARGETS[wanted.target]}. {_READING}",
        intervals=run.intervals(config, True).removesuffix(", with the threshold as it is"),
        notes=tuple(_notes(wanted, config, len(examples), total, unscored)),
    )
    return result, {"steps.jsonl": "".join(_line(step) for step in steps)}


def _steps(
    examples: Sequence[Example], wanted: Aims, scored: dict[str, tuple[list[float | None], str | None]]
) -> tuple[list[ScoredStep], Counter[str]]:
    """Steps with both score and target; and how many with a target have no score, by reason."""
    steps, unscored = list[ScoredStep](), Counter[str]()
    for example in examples:
        of_steps, reason = scored[example.rollout_id]
        for score, aim in zip(of_steps, wanted.of[example.rollout_id], strict=True):
            if aim is None:
                continue
            if score is None:
                unscored[reason or "no-text"] += 1
                continue
            about = (example.domain, example.problem_id, example.rollout_id)
            steps.append(ScoredStep(*about, score, aim.share, aim.draws))
    return steps, unscored


def _group(
    name: str | None,
    steps: Sequence[ScoredStep],
    examples: Sequence[Example],
    wanted: Aims,
    scored: dict[str, tuple[list[float | None], str | None]],
    figures: dict[tuple[str | None, str], Figure],
    config: CalibrationConfig,
) -> Group:
    part = [step for step in steps if name in (None, step.group)]
    here = [example for example in examples if name in (None, example.domain)]
    named = {figure: each for (group, figure), each in figures.items() if group == name}
    kept = {figure: each for figure, each in named.items() if not figure.startswith("bin ")}
    kept["ece_of_chance"] = calibration.chance(part, config.bins, config.seed)
    targets = [aim for example in here for aim in wanted.of[example.rollout_id]]
    counts = StepCounts(
        problems=len({step.problem for step in part}),
        chains=len({step.chain for step in part}),
        steps=len(part),
        unlabelled=sum(aim is None for aim in targets),
        unscored=dict(Counter(why for each in here if (why := scored[each.rollout_id][1]) is not None)),
        unscored_steps=sum(aim is not None for aim in targets) - len(part),
    )
    return Group(name, kept, counts, tuple(_bins(part, named, config.bins)))


def _bins(steps: Sequence[ScoredStep], figures: dict[str, Figure], bins: int) -> list[ScoreBin]:
    """The filled bins."""
    found = []
    for place in range(bins):
        part = [step for step in steps if calibration.bin_of(step.score, bins) == place]
        if part:
            problems = len({step.problem for step in part})
            predicted = sum(step.score for step in part) / len(part)
            observed = calibration.widened(figures[f"bin {place}"], problems)
            found.append(ScoreBin(place / bins, (place + 1) / bins, len(part), problems, predicted, observed))
    return found


def _fingerprint(examples: Sequence[Example], wanted: Aims) -> str:
    rows = [
        [example.rollout_id, [None if aim is None else [aim.share, aim.draws] for aim in wanted.of[example.rollout_id]]]
        for example in examples
    ]
    return content_hash(digest(rows).encode())


def _line(step: ScoredStep) -> str:
    from prm.bench.suites.base import line

    return line(vars(step) | {"draws": step.draws})


def _notes(wanted: Aims, config: CalibrationConfig, taken: int, total: int, unscored: Counter[str]) -> list[str]:
    notes = []
    if config.role != "test":
        notes.append(f"The examples are of role {config.role}, which the PRM was trained on: this is not held out.")
    if taken < total:
        notes.append(f"Only {taken:,} of {total:,} examples, drawn by hash.")
    if unscored:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(unscored.items()))
        notes.append(f"Steps without a score are left out: {reasons}.")
    if wanted.target == "outcome":
        notes.append("One completion a step says nothing of its own noise: no noise floor, and no excess over it.")
    return notes
