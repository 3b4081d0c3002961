"""The command that hands data on to other tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from curate.cli import options
from curate.errors import UserError


def export(
    format_: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT",
            help="Format: datasets, trl, visualprm, dreamprm, webdataset, or one of an installed package.",
            show_default=False,
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="New folder to write to.", show_default=False)],
    workspace: options.Workspace = options.WORKSPACE,
    as_json: options.Json = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an earlier export in the folder.")] = False,
    role: Annotated[
        list[str] | None, typer.Option(help="Export only train, meta or test; may be repeated.", metavar="ROLE")
    ] = None,
    domain: Annotated[
        list[str] | None, typer.Option(help="Export only this domain; may be repeated.", metavar="NAME")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="A step whose label is above this is right (default 0.5 for trl, 0 for visualprm)."
        ),
    ] = None,
    system: Annotated[
        Path | None, typer.Option(help="Text file with the system turn (visualprm).", metavar="FILE")
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Upload the export to the Hugging Face hub as a private dataset."),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Make the uploaded dataset public.")] = False,
    any_licence: Annotated[
        bool, typer.Option("--any-licence", help="Upload even if a licence is unknown or forbids it.")
    ] = False,
) -> None:
    """Write rollouts and labels in another tool's format.

    What the format cannot hold is left out and counted. A card names the origin of every row.
    """
    from curate.exports import push as pushing
    from curate.exports.base import Options
    from curate.exports.run import ExportRequest, run
    from curate.runtime import progress
    from curate.tables.schema import ROLES
    from curate.tables.store import Store

    _check(role or [], ROLES, push, public, any_licence)
    api = None
    if push is not None:
        api = pushing.hub()
        pushing.check_name(push)
    wanted = ExportRequest(format_, Options(threshold, _read(system)), role or (), domain or ())
    report = run(wanted, folder, Store.open(workspace, create=False), progress.reporter(as_json), replace)
    if not as_json:
        typer.echo(f"export: {report.rollouts.line()}")
        typer.echo(f"export: {report.steps.line()}")
        for use in report.concerns:
            typer.echo(f"Look at the licence: {use.line()}.", err=True)
    address = None
    if push is not None and api is not None:
        if report.concerns and not any_licence:
            raise UserError(
                f"The export is in {folder.name}, and was not pushed: {report.concerns[0].line()}"
                f"{f' (and {len(report.concerns) - 1} more)' if len(report.concerns) > 1 else ''}; give --any-licence "
                "when you have looked at it."
            )
        address = pushing.push(folder, push, public, api)
    if as_json:
        typer.echo(json.dumps(report.to_json() | {"pushed": address}, ensure_ascii=False))
    elif address is not None:
        typer.echo(f"pushed: {address}")


def _check(role: list[str], known: tuple[str, ...], push: str | None, public: bool, any_licence: bool) -> None:
    from curate.errors import did_you_mean

    for each in role:
        if each not in known:
            raise UserError(f'--role: there is no set "{each}"{did_you_mean(each, known)}')
    if push is None and (public or any_licence):
        raise UserError(
            f"--{'public' if public else 'any-licence'} has no effect without --push; give both or neither."
        )


def _read(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The file {path} cannot be read ({error}); check --system.") from None
    if not text:
        raise UserError(f"The file {path} is empty; check --system.")
    return text


COMMANDS: dict[str, Callable[..., None]] = {"export": export}
