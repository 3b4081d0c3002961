"""The command that writes a recipe for data that nobody has described yet."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curate.cli import options
from curate.errors import UserError

if TYPE_CHECKING:
    from curate.discovery.run import InitResult


def init(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="File, folder, or id of a dataset on the hub.", show_default=False)
    ],
    recipe: Annotated[
        Path | None, typer.Option("--recipe", "-r", help="Recipe file to write; by default named after the data.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing recipe.")] = False,
    as_json: options.Json = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY.PATH=VALUE",
            help="Set a key of every source, such as columns.answer=NAME; may be repeated.",
        ),
    ] = None,
    config: Annotated[str | None, typer.Option(help="Configuration of a dataset on the hub.")] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Split of a dataset on the hub; may be repeated. By default all.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of a dataset on the hub.")] = None,
) -> None:
    """Inspect unknown data and write a recipe for it.

    The command guesses which columns hold question, answer, choices, images and chains, tries them on the first rows,
    and says which guesses are sure and which are not.
    """
    from curate.discovery import hub, run
    from curate.discovery.tables import Found, local

    where = Path(data)
    here = where.exists()
    name = run.name_of(where.resolve() if here else where)
    out = recipe or Path(f"{name}.yaml")
    run.check_free(out, force)
    if here:
        given = {"config": config, "split": split, "revision": revision}
        for option, value in given.items():
            if value:
                raise UserError(f"--{option} has no effect on files; leave it out.")
        found = local(where, out.parent)
    else:
        found = Found(hub.tables(hub.HubDataset(data, config, split or (), revision)))
    result = run.drafted(name, out, found, run.given(settings or ()))
    run.write(name, data, result, force)
    typer.echo(json.dumps(result.to_json(), ensure_ascii=False) if as_json else shown(result))
    if not result.ready:
        raise UserError(run.unready(result))


def shown(result: InitResult) -> str:
    """What was found, to be read on a terminal."""
    from curate.discovery.recipe import alternatives, plain

    lines = []
    for draft, trial, title in zip(result.drafts, result.trials, result.titles, strict=True):
        lines.append(f"{title} -> {draft.settings['name']} ({draft.settings.get('role', 'train')})")
        types = ", ".join(f"{count} {kind}" for kind, count in trial.types.most_common())
        rejects = "".join(
            f"; {count} {reason} ({trial.examples[reason][:120]})" for reason, count in trial.rejected.most_common(3)
        )
        lines.append(f"  of the first {trial.taken} rows {trial.out} would come in: {types}{rejects}")
        for sure in (True, False):
            for guess in draft.guesses:
                if guess.sure == sure:
                    others = f"; or: {alternatives(guess)}" if guess.others and not sure else ""
                    mark = "sure" if sure else "NOT SURE"
                    lines.append(f"  {mark}: {guess.key}: {plain(guess.value)} - {guess.why}{others}")
    lines += [f"left out: {title}: {why}" for title, why in result.left_out]
    lines += result.notes
    lines.append(f"{result.recipe} is written. Next: curate ingest {result.recipe} --dry-run")
    return "\n".join(lines)


COMMANDS: dict[str, Callable[..., None]] = {"init": init}
