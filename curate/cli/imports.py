"""The commands that bring in rollouts which were generated elsewhere, and take them away again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from curate.cli import options

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


def _unescaped(text: str) -> str:
    r"""A text in which `\n`, `\t` and `\r` stand for a line's end, a tab and a return, and `\\` for a backslash."""
    return re.sub(r"\\([ntr\\])", lambda match: _ESCAPES[match[1]], text)


def import_rollouts(
    file: Annotated[
        Path, typer.Argument(help="File of responses: JSON Lines, JSON, Parquet, CSV, TSV or XLSX.", show_default=False)
    ],
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe",
            "-r",
            help="Recipe whose section rollout says how to cut steps and read answers.",
        ),
    ] = None,
    workspace: options.Workspace = options.WORKSPACE,
    settings: options.Settings = None,
    as_json: options.Json = False,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Import again from scratch; what was made from rollouts that do not come back is removed."
        ),
    ] = False,
    name: Annotated[str | None, typer.Option(help="Name of the import; by default the name of the file.")] = None,
    records: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Key of a JSON object that holds the records, as a list or by their ids."),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Source of the problems; by default ids are looked up in all sources.")
    ] = None,
    source_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column with the source of each row's problem.")
    ] = None,
    id_: Annotated[
        str | None,
        typer.Option(
            "--id",
            metavar="COLUMN",
            help="Column with the row of the problem in its source; # takes the number of the row.",
        ),
    ] = None,
    response: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="Column with the response: text, chat or list of texts; may be repeated for one text.",
        ),
    ] = None,
    lists: Annotated[
        Literal["turns", "samples"] | None,
        typer.Option(help="What a list of texts means; by default turns in columns such as messages or conversations."),
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Column with the gold answer, which must equal the problem's; - compares nothing."
        ),
    ] = None,
    outcome: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Column that says right or wrong, in place of our grade (kept in outcome_rule)."
        ),
    ] = None,
    extracted: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column with an extracted answer, which is graded in place of the one that we extract.",
        ),
    ] = None,
    reasoning: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column with the thoughts before the response.")
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="Cut responses off before this text; \\n is a line break, \\\\ a backslash; may be repeated.",
        ),
    ] = None,
    filter_: Annotated[
        str | None,
        typer.Option(
            "--filter", help="Filter whose lines count, in a log with one line per filter; by default the first."
        ),
    ] = None,
    policy: Annotated[str | None, typer.Option(help="Model that wrote the responses.")] = None,
    policy_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column with the model that wrote each row's responses.")
    ] = None,
) -> None:
    """Import existing responses as rollouts.

    Sample logs of lmms-eval and results of VLMEvalKit are recognised; other files need --id and --response. A column
    a.b is the field b of the column a.
    """
    from curate.errors import UserError
    from curate.pipeline import load
    from curate.runtime.progress import reporter
    from curate.stages.ingest import imports
    from curate.tables import catalog
    from curate.tables.store import Store

    if settings and recipe is None:
        raise UserError("--set has no effect without --recipe; give both or neither.")
    sections: Mapping[str, Any] = load(recipe, settings or ()).sections if recipe is not None else {}
    rollout = sections.get("rollout")
    cut = (
        {}
        if rollout is None
        else {key: getattr(rollout, key) for key in ("max_steps", "min_step_characters", "answer_words")}
    )
    config = imports.ImportConfig(
        file=file,
        records=records,
        name=name,
        source=source,
        source_column=source_column,
        id=id_,
        response=tuple(response or ()),
        lists=lists,
        answer=answer,
        outcome=outcome,
        extracted=extracted,
        reasoning=reasoning,
        stop=tuple(map(_unescaped, stop or ())),
        filter=filter_,
        policy=policy,
        policy_column=policy_column,
        **cut,
    )
    place = Store.open(workspace, create=False)
    with place.writing():
        ledger = imports.run(config, place, sections.get("ingest"), replace, reporter(as_json))
        catalog.write(place)
    typer.echo(json.dumps({"import": vars(ledger)}) if as_json else f"import: {ledger.line()}")


def remove_import(
    name: Annotated[str, typer.Argument(help="Name of the import, as `curate status` lists it.", show_default=False)],
    workspace: options.Workspace = options.WORKSPACE,
    as_json: options.Json = False,
) -> None:
    """Remove an import and everything that was made from it.

    Its rollouts are removed with their completions, step labels, judgements, examples and scores. Stages that had any
    of them are incomplete until they run again.
    """
    from curate.stages.ingest import removal
    from curate.tables import catalog
    from curate.tables.store import Store

    place = Store.open(workspace, create=False)
    with place.writing():
        gone = removal.remove(place, name)
        catalog.write(place)
    if as_json:
        typer.echo(json.dumps({"removed": gone}))
        return
    typer.echo(f"Removed {name}: " + ", ".join(f"{count:,} {table.replace('_', ' ')}" for table, count in gone.items()))


COMMANDS: dict[str, Callable[..., None]] = {"import-rollouts": import_rollouts, "remove-import": remove_import}
