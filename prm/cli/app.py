"""`prm`: train PRMs with learned domain weights, score and select with them, report on the data."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curate.errors import UserError, guarded
from prm.cli import evaluate, hand_on, report
from prm.cli.options import PLACE as _PLACE
from prm.cli.options import Json, Place, Replace, Settings
from prm.distributed import launch

if TYPE_CHECKING:
    from curate.pipeline import Stage

app = typer.Typer(
    name="prm",
    help="Train process reward models with learned domain weights, and report what they say about the data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain help: importing rich takes longer than all the rest.
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RecipeFile = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]


def _stage(
    name: str,
    recipe: Path,
    workspace: Path,
    settings: Sequence[str] | None,
    as_json: bool,
    replace: bool = False,
    instead: Mapping[str, Stage] = MappingProxyType({}),
) -> None:
    from curate import api, pipeline
    from curate.runtime import progress

    if name != "train" and launch.several():
        raise UserError(f"`prm {name}` runs as one process; start it without torchrun.")
    place, chosen = api.open_store(workspace, create=False), frozenset([name] if replace else ())
    reporter, loaded = progress.reporter(as_json), api.load(recipe, settings or ())
    ledger = pipeline.run(loaded, place, reporter, [name], chosen, instead)[name]
    if as_json:
        typer.echo(json.dumps({name: vars(ledger)}))


def _train_together(
    recipe: Path, workspace: Path, settings: Sequence[str] | None, as_json: bool, replace: bool
) -> None:
    """`prm train` in one of several processes: the first does what it would do alone, the others only train along."""
    from curate import pipeline
    from curate.tables.store import Store
    from prm import stages
    from prm.distributed.torch_group import joined

    with joined() as process_group, contextlib.ExitStack() as held:
        with process_group.gate():
            loaded, place = pipeline.load(recipe, settings or ()), Store.open(workspace, create=False)
            if process_group.leads:
                held.enter_context(place.writing())
        if process_group.leads:
            _stage("train", recipe, workspace, settings, as_json, replace, {"train": stages.train_in(process_group)})
        else:
            stages.follow(loaded, place, replace, process_group)


def _option(key: str, text: str, flag: str = "") -> Any:
    """A setting of the section `train` that has an option of its own."""
    return typer.Option(flag or f"--{key}", help=f"{text}; the same as --set train.{key}=N.", show_default=False)


@app.command()
def train(
    recipe: RecipeFile,
    workspace: Place = _PLACE,
    settings: Settings = None,
    seeds: Annotated[int | None, _option("seeds", "Number of runs with different batches and heads")] = None,
    null: Annotated[
        int | None, _option("null_runs", "Number of null runs, with shuffled meta outcomes", "--null")
    ] = None,
    parallel: Annotated[int | None, _option("parallel", "Number of runs at a time, each in its own process")] = None,
    as_json: Json = False,
    replace: Replace = False,
) -> None:
    """Train PRMs and learn the weights of domains or rollouts.

    One PRM is trained for each seed, and null runs with shuffled meta outcomes beside them. `train.mode` says what is
    weighted. With several GPUs, runs are trained side by side. To train one run on several devices, use torchrun
    --nproc-per-node 4 -m prm train RECIPE.
    """
    given = {"seeds": seeds, "null_runs": null, "parallel": parallel}
    settings = [*(settings or ()), *(f"train.{key}={value}" for key, value in given.items() if value is not None)]
    if launch.several():
        _train_together(recipe, workspace, settings, as_json, replace)
    else:
        _stage("train", recipe, workspace, settings, as_json, replace)


@app.command()
def score(
    recipe: RecipeFile,
    workspace: Place = _PLACE,
    settings: Settings = None,
    as_json: Json = False,
    replace: Replace = False,
) -> None:
    """Score every step of rollouts with the trained PRMs."""
    _stage("score", recipe, workspace, settings, as_json, replace)


@app.command()
def select(recipe: RecipeFile, workspace: Place = _PLACE, settings: Settings = None, as_json: Json = False) -> None:
    """Pick the best of N rollouts of each test problem.

    The pick of the PRM is compared with first, majority vote, random and oracle.
    """
    _stage("select", recipe, workspace, settings, as_json)


app.command("report")(report.report)


app.command("eval")(evaluate.command)

for _name, _command in hand_on.COMMANDS.items():
    app.command(_name)(_command)


def main() -> None:
    """Entry point: exit codes as `curate.errors.ExitCode`."""
    launch.guarded(app) if launch.several() else guarded(app)
