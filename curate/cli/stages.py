"""Commands that run stages of a recipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from curate.cli import options


def _run(
    recipe: Path,
    workspace: Path,
    settings: list[str] | None,
    as_json: bool,
    only: Sequence[str],
    replace: Sequence[str],
) -> None:
    from curate import chain, progress
    from curate.store import Workspace

    def say(name: str, ledger: object) -> None:
        if not as_json:
            typer.echo(f"{name}: {ledger.line()}")  # type: ignore[attr-defined]

    loaded = chain.load(recipe, settings or ())
    place = Workspace.open(workspace)
    ledgers = chain.run(loaded, place, progress.reporter(as_json), only, frozenset(replace), say)
    if as_json:
        typer.echo(json.dumps({name: vars(ledger) for name, ledger in ledgers.items()}))


def ingest(
    recipe: options.Recipe,
    workspace: options.Workspace = options.WORKSPACE,
    settings: options.Settings = None,
    as_json: options.Json = False,
    replace: Annotated[
        list[str] | None, typer.Option("--replace", metavar="SOURCE", help="Delete this source's rows first.")
    ] = None,
) -> None:
    """Bring problems and images in; odd rows become rejects.

    Each reject keeps its source's row and the reason.
    """
    _run(recipe, workspace, settings, as_json, ["ingest"], replace or ())


def rollout(
    recipe: options.Recipe,
    workspace: options.Workspace = options.WORKSPACE,
    settings: options.Settings = None,
    as_json: options.Json = False,
    replace: options.Replace = False,
) -> None:
    """Sample chains of thought, cut into steps and graded."""
    _run(recipe, workspace, settings, as_json, ["rollout"], ["rollout"] if replace else ())


def label(
    recipe: options.Recipe,
    workspace: options.Workspace = options.WORKSPACE,
    settings: options.Settings = None,
    as_json: options.Json = False,
    replace: options.Replace = False,
) -> None:
    """Estimate step labels by completing every prefix."""
    _run(recipe, workspace, settings, as_json, ["label"], ["label"] if replace else ())


def shard(
    recipe: options.Recipe,
    workspace: options.Workspace = options.WORKSPACE,
    settings: options.Settings = None,
    as_json: options.Json = False,
) -> None:
    """Write examples for training, meta and test set."""
    _run(recipe, workspace, settings, as_json, ["shard"], ())


def run(
    recipe: options.Recipe,
    workspace: options.Workspace = options.WORKSPACE,
    settings: options.Settings = None,
    as_json: options.Json = False,
) -> None:
    """Run a recipe's whole chain, or what is left of it.

    The same command again resumes, and skips what is finished.
    """
    _run(recipe, workspace, settings, as_json, (), ())


COMMANDS: dict[str, Callable[..., None]] = {
    "ingest": ingest,
    "rollout": rollout,
    "label": label,
    "shard": shard,
    "run": run,
}
