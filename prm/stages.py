"""The sections that `prm` adds to a recipe (entry point group `curate.stages`): train, score, select, report.

Imported by every command that reads such a recipe, so torch comes in only when a stage runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from curate.chain import Context, Recipe, Stage
from curate.config import Config
from curate.engines.models import locate
from curate.lineage import Ledger
from curate.source_sections import Role
from curate.store import Workspace
from prm.config import TrainConfig


class ScoreConfig(Config):
    """`prm score`: step scores of labelled or graded rollouts by the trained PRMs."""

    roles: tuple[Role, ...] = ("test",)
    """Whose examples are scored."""
    batch_rows: int = Field(default=32, ge=1)
    """Rollouts in one forward."""
    models: dict[str, str] = Field(default={})
    """Saved PRMs from elsewhere that score, too: a name for the tables, and a folder as `prm train` saves it (relative
    to the recipe)."""


class SelectConfig(Config):
    """`prm select`: best-of-N on the test set."""

    aggregation: str = "mean-log-odds"
    """How step scores become one rollout score, see `prm.aggregate`."""
    sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Numbers of candidates; those above what a problem has are left out."""


class ReportConfig(Config):
    """`prm report`: the dataset-quality table."""

    chains: int = Field(default=60, ge=0)
    """Rollouts that the page holds itself."""
    browse: int | None = Field(default=None, ge=0)
    """Rollouts in the page's browser of chains, 0 for none; null: 2,000 in files beside it, 100,000 when served."""
    completions: int | None = Field(default=None, ge=0)
    """Completions of each step that it has on demand; null: 2 in files, 64 when served."""
    least: float = Field(default=1.0, ge=1)
    """A verdict asks for a weight that is at least so many times that of a domain without effect, or at most its
    inverse, besides being clear of chance; 1 asks for no more than that."""
    theme: Literal["auto", "light", "dark"] = "auto"
    """Which look the page opens with; `auto` follows the reader's system."""


def _located(recipe: Recipe) -> TrainConfig:
    """The recipe's train section with the model's folder found."""
    config: TrainConfig = recipe.section("train")
    return config.model_copy(update={"model": locate(config.model, recipe.base)})


def follow(recipe: Recipe, workspace: Workspace, replace: bool) -> None:
    """`prm train` in a process of a team that another leads: trains along, tells and writes nothing."""
    from prm import train
    from prm.team import current

    train.run(_located(recipe), workspace, recipe.seed, replace=replace, team=current())


def _train(context: Context, config: TrainConfig) -> Ledger:
    from prm import train
    from prm.team import current

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
            reporter.note(f"{run} ends at step {step:,} of {total:,}: {metric} became no better for long enough.")

    result = train.run(config, context.workspace, context.recipe.seed, on_step, "train" in context.replace, current())
    reporter.finish()
    for note in result.notes:
        reporter.note(note)
    there = sum(one.there for one in result.runs)
    if there:
        reporter.note(f"{there} of {len(result.runs)} runs were trained before; nothing was trained again for them.")
    return result.ledger


def _score(context: Context, config: ScoreConfig) -> Ledger:
    from prm import score

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


TRAIN = Stage("train", 50, TrainConfig, _train)
SCORE = Stage("score", 60, ScoreConfig, _score)


def _select(context: Context, config: SelectConfig) -> Ledger:
    from prm import select
    from prm.render import terminal

    selection = select.run(context.workspace, config)
    select.write(selection, context.workspace)
    context.reporter.show(terminal.render_selection(selection))
    return Ledger("problems", taken=selection.problems, out=selection.problems)


def _report(context: Context, config: ReportConfig) -> Ledger:
    from prm import browse, report
    from prm.render import terminal

    built = report.build(context.workspace, config, context.recipe.sections.get("select"))  # type: ignore[arg-type]
    files = report.write(built, reports(context), config.theme, browse.beside(context.workspace, config))
    context.reporter.show(terminal.render(built))
    context.reporter.show("\n".join(f"{kind}: {path}" for kind, path in files.items()))
    return Ledger("domains", taken=len(built.domains), out=len(built.domains))


def reports(context: Context) -> Path:
    """Where results for people go."""
    folder = context.workspace.root / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


SELECT = Stage("select", 70, SelectConfig, _select)
REPORT = Stage("report", 80, ReportConfig, _report)
