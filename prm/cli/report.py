"""`prm report`: of a recipe or a workspace, against another workspace, or served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curate.errors import UserError
from prm.distributed import launch

if TYPE_CHECKING:
    from curate.pipeline import Recipe
    from curate.tables.store import Store

_PORT = 8765


def report(
    context: typer.Context,
    target: Annotated[
        Path | None,
        typer.Argument(help="Recipe or workspace; by default the workspace of --workspace.", show_default=False),
    ] = None,
    workspace: Annotated[
        Path,
        typer.Option("--workspace", "-w", envvar="CURATE_WORKSPACE", help="Folder with all tables and runs."),
    ] = Path("workspace"),
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a key of the recipe; may be repeated."),
    ] = None,
    against: Annotated[
        Path | None, typer.Option("--against", metavar="WORKSPACE", help="Report the differences from this workspace.")
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the page with every chain, to this machine only; Ctrl+C ends it.")
    ] = False,
    port: Annotated[
        int | None, typer.Option("--port", help=f"Port of --serve, by default {_PORT}; 0 takes a free one.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead of tables and progress.")
    ] = False,
) -> None:
    """Write the dataset-quality table and its HTML page.

    The table is printed, and written as JSON, Markdown, CSV and one HTML page. For a workspace without a recipe, the
    settings of its last run are used. `prm report A --against B` reports the differences of two workspaces.
    """
    if launch.several():
        raise UserError("`prm report` runs as one process; start it without torchrun.")
    if port is not None and not serve:
        raise UserError("--port has no effect without --serve; add it, or leave --port out.")
    if serve and (as_json or against is not None):
        raise UserError("--serve shows the page of one workspace; leave --json and --against out.")
    source = context.get_parameter_source("workspace")
    # By its name: some versions of typer bring a click of their own.
    given = source is not None and source.name == "COMMANDLINE"
    loaded, place = _found(target, workspace, given, settings or [])
    if against is not None:
        _difference(loaded, place, against, as_json)
    elif serve:
        _serve(loaded, place, _PORT if port is None else port)
    else:
        _write(loaded, place, as_json)


def _found(target: Path | None, workspace: Path, given: bool, settings: list[str]) -> tuple[Recipe, Store]:
    """The recipe and the workspace that are meant."""
    from curate import pipeline
    from curate.tables.store import Store
    from prm.reporting import remembered

    folder = target if target is not None and target.is_dir() else None
    if folder is not None and given:
        raise UserError(f"{folder} is already a workspace; leave --workspace out, or give a recipe in its place.")
    # Before the workspace of --workspace is looked for: it is not what is missing.
    if target is not None and not target.exists():
        raise UserError(f"There is neither a recipe nor a workspace at {target}; check the path.")
    place = Store.open(folder or workspace, create=False)
    if folder is not None or target is None:
        return remembered.recipe(place, settings), place
    loaded = pipeline.load(target, settings)
    loaded.section("report")
    return loaded, place


def _write(loaded: Recipe, place: Store, as_json: bool) -> None:
    from curate import pipeline
    from curate.runtime import progress

    ledgers = pipeline.run(loaded, place, progress.reporter(as_json), ["report"])
    if as_json:
        typer.echo(json.dumps({"report": vars(ledgers["report"])}))


def _difference(loaded: Recipe, place: Store, other: Path, as_json: bool) -> None:
    from curate.runtime import progress
    from curate.tables.store import Store
    from prm.render import write
    from prm.reporting import build, compare

    if other.resolve() == place.root.resolve():
        raise UserError(f"{other} cannot be compared with itself; give another workspace to --against.")
    # What differs is shown by domain; there are no chains in it.
    config, choice = loaded.section("report").model_copy(update={"chains": 0}), loaded.sections.get("select")
    held = Store.open(other, create=False)
    with place.writing():
        built = [build.build(one, config, choice) for one in (place, held)]  # type: ignore[arg-type]
        made = compare.compare(*built)
        paths = write.write_difference(made, place.root / "reports", config.theme)
    if as_json:
        typer.echo(json.dumps(made.to_json(), ensure_ascii=False, allow_nan=False))
        return
    from prm.render import difference

    progress.console().print(difference.terminal(made))
    for kind, path in paths.items():
        typer.echo(f"{kind}: {path}")


def _serve(loaded: Recipe, place: Store, port: int) -> None:
    from prm.render import browse, page
    from prm.reporting import build
    from prm.serving import page_server

    config = loaded.section("report")
    chains, site = browse.served(place, config), page_server.bind(port)
    built = build.build(place, config, loaded.sections.get("select"))  # type: ignore[arg-type]
    shown = page.render(built, config.theme, chains.setup())
    typer.echo(f"http://{page_server.HOST}:{site.server_address[1]}/ shows {len(chains):,} chains; Ctrl+C ends it.")
    page_server.serve(site, shown, chains)
