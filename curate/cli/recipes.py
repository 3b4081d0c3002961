"""Commands that show the recipes that come with the package."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from curate.cli import options

app = typer.Typer(help="List the recipes of public datasets, or show one.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def every(context: typer.Context, as_json: options.Json = False) -> None:
    """List the recipes of public datasets, or show one."""
    if context.invoked_subcommand is not None:
        return
    from curate.recipe.shipped import summaries

    found = summaries()
    if as_json:
        typer.echo(json.dumps([asdict(summary) for summary in found], ensure_ascii=False))
        return
    from rich.table import Table

    from curate.runtime.progress import console

    table = Table(title="Recipes: curate ingest NAME", title_justify="left")
    for name in ("recipe", "role", "data", "answers", "licence", "about"):
        table.add_column(name, overflow="fold", no_wrap=name == "recipe")
    for summary in found:
        table.add_row(*(value or "" for value in asdict(summary).values()))
    console().print(table)


@app.command()
def show(name: Annotated[str, typer.Argument(help="Name of the recipe.", show_default=False)]) -> None:
    """Print a recipe, to read it or to start your own from it."""
    from curate.recipe.shipped import text

    typer.echo(text(name), nl=False)
