"""The sections that `prm` adds to a recipe (entry point group `curate.stages`): train, score, select, report.

Imported by every command that reads such a recipe, so torch comes in only when a stage runs.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from curate.models.location import locate
from curate.pipeline import Context, Recipe, Stage
from curate.tables.lineage import Ledger
from curate.tables.schema import TABLES
from curate.tables.store import Store
from prm.config import AnyTrainConfig, TrainConfig
from prm.sections import ReportConfig, ScoreConfig, SelectConfig

if TYPE_CHECKING:
    from prm.distributed.process_group import ProcessGroup


def _located(recipe: Recipe) -> TrainConfig:
    """The recipe's train section with the model's folder found."""
    config: TrainConfig = recipe.section("train")
    return config.model_copy(update={"model": locate(config.model, recipe.base)})


def follow(recipe: Recipe, workspace: Store, replace: bool, process_group: ProcessGroup) -> None:
    """`prm train` in a process of a group that another leads: trains along, tells and writes nothing."""
    from prm.training import train

    train.run(_located(recipe), workspace, recipe.seed, replace=replace, process_group=process_group)


def train_in(process_group: ProcessGroup) -> Stage:
    """The stage `train` for the process of a group that leads it: it does what it would do alone, with the others."""
    return dataclasses.replace(TRAIN, run=partial(_train, process_group=process_group))


def _train(context: Context, config: TrainConfig, process_group: ProcessGroup | None = None) -> Ledger:
    from prm.distributed.process_group import ALONE
    from prm.training import train

    config = _located(context.recipe)
    reporter = context.reporter
    runs, metric = train.plans(config, context.recipe.seed), config.validation.metric if config.validation else ""
    reached: dict[str, int] = {}
    reporter.start("train", config.steps * len(runs), f"steps of {len(runs)} runs")

    def on_step(run: str, step: int, total: int, info: dict[str, float]) -> None:
        ends = "ended" in info
        before, reached[run] = reached.get(run, 0), total if ends else step
        found = f", {metric} {info[metric]:.4f}" if metric in info else ""
        loss = f", loss {info['train_loss']:.4f}" if "train_loss" in info else ""
        reporter.advance(reached[run] - before, f"{run}{loss}{found}")
        if ends:
            reporter.note(f"{run} ends at step {step:,} of {total:,}: {metric} did not improve for long enough.")

    group, replace = process_group or ALONE, "train" in context.replace
    result = train.run(config, context.workspace, context.recipe.seed, on_step, replace, group)
    reporter.finish()
    for note in result.notes:
        reporter.note(note)
    there = sum(one.there for one in result.runs)
    if there:
        reporter.note(f"{there} of {len(result.runs)} runs were trained before; nothing was trained again for them.")
    return result.ledger


def _score(context: Context, config: ScoreConfig) -> Ledger:
    from prm.scoring import score

    reporter, done = context.reporter, {"": 0}

    def on_rows(run: str, count: int, total: int) -> None:
        if run not in done:
            done[run] = 0
            reporter.note(f"scoring {total:,} examples with {run}")
        done[run] = count

    return score.run(
        context.workspace,
        roles=config.roles,
        batch_rows=config.batch_rows,
        on_rows=on_rows,
        replace="score" in context.replace,
        models={name: Path(locate(folder, context.recipe.base)) for name, folder in config.models.items()},
    )


TRAIN = Stage(
    "train",
    AnyTrainConfig,
    _train,
    reads=("examples", "images"),
    writes=("updates", "rollout_weights", "validations", "rejects"),
)
# The trained PRMs are no table, so the stage is named that makes them.
SCORE = Stage("score", ScoreConfig, _score, reads=("examples", "images", "train"), writes=("step_scores", "rejects"))


def _select(context: Context, config: SelectConfig) -> Ledger:
    from prm.render import terminal
    from prm.scoring import select

    selection = select.run(context.workspace, config)
    select.write(selection, context.workspace)
    context.reporter.show(terminal.render_selection(selection))
    return Ledger("problems", taken=selection.problems, out=selection.problems)


def _report(context: Context, config: ReportConfig) -> Ledger:
    from prm.render import browse, terminal, write
    from prm.reporting import build

    built = build.build(context.workspace, config, context.recipe.sections.get("select"))  # type: ignore[arg-type]
    files = write.write_report(built, reports(context), config.theme, browse.beside(context.workspace, config))
    context.reporter.show(terminal.render(built))
    context.reporter.show("\n".join(f"{kind}: {path}" for kind, path in files.items()))
    return Ledger("domains", taken=len(built.domains), out=len(built.domains))


def reports(context: Context) -> Path:
    """Where results for people go."""
    folder = context.workspace.root / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


SELECT = Stage("select", SelectConfig, _select, reads=("problems", "rollouts", "step_scores", "train"))
# All tables of this project.
REPORT = Stage("report", ReportConfig, _report, reads=(*TABLES, "select"))
