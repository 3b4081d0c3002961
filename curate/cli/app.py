"""`curate`: commands in the order of the chain."""

from __future__ import annotations

import os

import typer

from curate.cli import exports, imports, init, look, recipes, stages, upgrade
from curate.errors import UserError, guarded

app = typer.Typer(
    name="curate",
    help="Curate multimodal reasoning data for process reward models: stage by stage, or a whole recipe.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain help: importing rich takes longer than all the rest.
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for group in (init, stages, imports, exports, look, upgrade):
    for name, command in group.COMMANDS.items():
        app.command(name)(command)
app.add_typer(recipes.app, name="recipes")


def _alone() -> None:
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError("`curate` runs as one process; only training runs in several (`prm train --help`).")
    app()


def main() -> None:
    """Entry point: exit codes as `curate.errors.ExitCode`."""
    guarded(_alone)
