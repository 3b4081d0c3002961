"""The command that brings in rollouts which were generated elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from curate.cli import options


def import_rollouts(
    file: Annotated[Path, typer.Argument(help="Responses: JSON Lines, Parquet, CSV or TSV.", show_default=False)],
    recipe: Annotated[
        Path | None, typer.Option("--recipe", "-r", help="The recipe: its section rollout says how steps are cut.")
    ] = None,
    workspace: options.Workspace = options.WORKSPACE,
    settings: options.Settings = None,
    as_json: options.Json = False,
    replace: Annotated[bool, typer.Option("--replace", help="Delete this import's rows first.")] = False,
    name: Annotated[str | None, typer.Option(help="Name of the import; the file's name by default.")] = None,
    source: Annotated[str | None, typer.Option(help="The source of the problems, where there are several.")] = None,
    id_: Annotated[
        str | None, typer.Option("--id", metavar="COLUMN", help="Names the problem: its row in its source.")
    ] = None,
    response: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The text, or a list of texts: several rollouts.")
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="The gold answer, to be the same as the problem's; - compares nothing."),
    ] = None,
    policy: Annotated[str | None, typer.Option(help="The model that wrote the responses.")] = None,
) -> None:
    """Bring in rollouts that were generated elsewhere.

    Sample logs of lmms-eval and results of VLMEvalKit are known by their columns; other files need --id and --response.
    """
    from curate import catalog, imports
    from curate.chain import load
    from curate.errors import UserError
    from curate.store import Workspace

    if settings and recipe is None:
        raise UserError("--set has no effect without --recipe; give both or neither.")
    sections: Mapping[str, Any] = load(recipe, settings or ()).sections if recipe is not None else {}
    rollout = sections.get("rollout")
    cut = {} if rollout is None else {key: getattr(rollout, key) for key in ("max_steps", "min_step_characters")}
    config = imports.ImportConfig(
        file=file, name=name, source=source, id=id_, response=response, answer=answer, policy=policy, **cut
    )
    place = Workspace.open(workspace, create=False)
    with place.writing():
        ledger = imports.run(config, place, sections.get("ingest"), replace)
        catalog.write(place)
    typer.echo(json.dumps({"import": vars(ledger)}) if as_json else f"import: {ledger.line()}")


COMMANDS: dict[str, Callable[..., None]] = {"import-rollouts": import_rollouts}
