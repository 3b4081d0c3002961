"""The command that brings a workspace of an earlier release up to date."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from curate.cli import options

if TYPE_CHECKING:
    from rich.table import Table

    from curate.upgrading.upgrade import UpgradeResult


def upgrade(workspace: options.Workspace = options.WORKSPACE, as_json: options.Json = False) -> None:
    """Bring a workspace of an earlier release up to date.

    Tables get the columns that they have now, and stored texts are graded anew; nothing is generated, and no row is
    lost. A killed upgrade goes on when it is run again. Make a copy first if the earlier release is to read it, too.
    """
    from curate import api
    from curate.runtime import progress

    result = api.upgrade(workspace, progress.reporter(as_json))
    if as_json:
        typer.echo(json.dumps(asdict(result)))
    elif not result.changed:
        typer.echo("The workspace is up to date; nothing was changed.")
    else:
        _show(result)


def _show(result: UpgradeResult) -> None:
    from curate.runtime import progress

    if result.layout:
        typer.echo("All files have checksums now, and say where they belong.")
    if result.migrated:
        progress.console().print(_table(result))
    for place, graded in result.regraded.items():
        typer.echo(f"{place}: {graded.rows:,} texts graded anew, {graded.changed:,} outcomes changed.")
    if any(graded.changed for graded in result.regraded.values()):
        typer.echo("Run `curate label` and `curate shard` again: labels and examples are of the old outcomes.")
    if result.settings:
        typer.echo(f"{result.settings} lineage records have the settings that this release writes.")


def _table(result: UpgradeResult) -> Table:
    from rich.table import Table as RichTable

    table = RichTable(box=None, pad_edge=False)
    for name in ("table", "partition"):
        table.add_column(name)
    for name in ("from version", "to", "rows"):
        table.add_column(name, justify="right")
    for each in result.migrated:
        table.add_row(each.table, each.partition, str(each.from_version), str(each.to_version), f"{each.rows:,}")
    return table


COMMANDS: dict[str, Callable[..., None]] = {"upgrade": upgrade}
