"""Commands that look at a workspace; they work while a stage runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curate.cli import options
from curate.errors import printable

if TYPE_CHECKING:
    from curate.runtime.frames import pl
    from curate.tables.catalog import QueryResult

# So many rows a terminal shows of a query where nothing else is said.
_ROWS = 1000


def _table(frame: pl.DataFrame, as_json: bool, title: str | None = None) -> None:
    if as_json:
        typer.echo(json.dumps(frame.to_dicts(), default=str, ensure_ascii=False))
        return
    from rich.table import Table
    from rich.text import Text

    from curate.runtime.progress import console

    table = Table(title=title, title_justify="left")
    for name, kind in frame.schema.items():
        table.add_column(name, justify="right" if kind.is_numeric() else "left", overflow="fold")
    for row in frame.iter_rows():
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    console().print(table)


def status(workspace: options.Workspace = options.WORKSPACE, as_json: options.Json = False) -> None:
    """Show the account of every stage, and the imports.

    In every account, in = out + rejected + duplicate + failed.
    """
    from curate.tables import catalog
    from curate.tables.store import Store

    frame = catalog.ledger(Store.open(workspace, create=False))
    _table(frame if as_json else frame.drop("unit", "written", "origin"), as_json, "Ledger")
    imports = frame.filter(frame["origin"].is_not_null())
    if not as_json and imports.height:
        _table(
            imports.select("partition", "origin", "out", "written").rename({"partition": "import"}), False, "Imports"
        )


def sql(
    query: Annotated[str, typer.Argument(help="One SQL statement, in DuckDB's dialect.", show_default=False)],
    workspace: options.Workspace = options.WORKSPACE,
    as_json: options.Json = False,
    write: Annotated[
        Path | None,
        typer.Option("--write", metavar="FILE", help="Write all rows to this .parquet, .csv, .jsonl or .json file."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=0, help=f"Maximum number of rows; 0 is all. Without it a table shows {_ROWS}, and a file gets all."
        ),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--max-seconds", min=0, help="Stop the query after this many seconds.")
    ] = None,
    megabytes: Annotated[
        int | None, typer.Option("--max-megabytes", min=1, help="Maximum memory of the query, in megabytes.")
    ] = None,
) -> None:
    """Query the tables with SQL.

    Tables are problems, images, rejects, rollouts, completions, step_labels, judgements, examples, ..., ledger. A query
    reads only these and changes nothing. Of two columns with the name n, the second is renamed to n_2.
    """
    from curate.inspect import query_results
    from curate.tables import catalog
    from curate.tables.store import Store

    place = Store.open(workspace, create=False)
    maximum = limit or None
    if write is not None:
        query_results.check(write, place)
    with catalog.ask(place, query, seconds, megabytes) as answer:
        for old, new in answer.renamed:
            typer.echo(f"There is a column {old} already; another one is called {new}. AS gives it a name.", err=True)
        if write is not None:
            rows = query_results.write(answer, maximum, write)
            typer.echo(json.dumps({"rows": rows, "file": str(write)}) if as_json else f"{rows:,} rows: {write}")
        elif as_json:
            query_results.write_json(answer, maximum, sys.stdout)
        else:
            _shown(answer, _ROWS if limit is None else maximum)


def _shown(answer: QueryResult, limit: int | None) -> None:
    """The rows as a table; how many more there are goes to standard error."""
    from curate.inspect import query_results

    frame = answer.frame(None if limit is None else limit + 1)
    if limit is None or len(frame) <= limit:
        _table(frame, False)
        return
    _table(frame.head(limit), False)
    more = query_results.left_out(answer, limit)
    typer.echo(f"{limit:,} rows are shown and {more} left out; --limit 0 shows all, --write keeps all.", err=True)


def show(
    identity: Annotated[str, typer.Argument(metavar="ID", help="Id of a problem or rollout, or the beginning of one.")],
    workspace: options.Workspace = options.WORKSPACE,
    as_json: options.Json = False,
) -> None:
    """Show one problem, or one rollout with its steps.

    A problem is shown with its image and its rollouts, a rollout with its step labels.
    """
    from curate.inspect import show as inspection
    from curate.tables.store import Store

    found = inspection.find(Store.open(workspace, create=False), identity)
    if as_json:
        typer.echo(json.dumps(found.to_json(), default=str, ensure_ascii=False))
        return
    from curate.runtime.progress import console

    console().print(inspection.render(found))


def profile(
    workspace: options.Workspace = options.WORKSPACE,
    as_json: options.Json = False,
    samples: Annotated[int, typer.Option(min=0, help="Number of sample problems per domain on the page.")] = 3,
) -> None:
    """Summarise the ingested data by domain.

    The summary has counts, lengths, sizes, rejects, duplicates, overlaps and licences. It is also written as an HTML
    page with sample problems.
    """
    from curate.inspect import profile as profiles
    from curate.inspect import profile_page
    from curate.tables.store import Store, write_atomic

    place = Store.open(workspace, create=False)
    built = profiles.build(place, samples)
    plain = json.dumps(built.to_json(), ensure_ascii=False, indent=1)
    folder = place.root / "reports"
    folder.mkdir(exist_ok=True)
    write_atomic(folder / "profile.json", plain.encode("utf-8", "replace"), alone=False)
    page = profile_page.page(built, place).encode("utf-8", "replace")
    write_atomic(folder / "profile.html", page, alone=False)
    if as_json:
        typer.echo(plain)
        return
    from curate.runtime.progress import console

    console().print(profile_page.table(built))
    typer.echo(f"html: {folder / 'profile.html'}")


def plan(
    recipe: options.Recipe,
    workspace: options.Workspace = options.WORKSPACE,
    settings: options.Settings = None,
    as_json: options.Json = False,
    pilot: Annotated[
        int | None, typer.Option(min=1, help="Run rollouts and completions of this many problems per domain first.")
    ] = None,
) -> None:
    """Estimate what rollout and label will still cost.

    The estimate is based on the stored rollouts or on a pilot, which times the engine, and whose rollouts are kept. The
    first prompt of each domain is printed, and the votes of a judge are counted.
    """
    from curate import pipeline
    from curate.inspect import plan as plans
    from curate.inspect import preview
    from curate.runtime import progress
    from curate.runtime.frames import pl
    from curate.tables.store import Store

    loaded, place = pipeline.load(recipe, settings or ()), Store.open(workspace, create=False)
    config, label, judge = pipeline.located(loaded, place), loaded.sections.get("label"), loaded.sections.get("judge")
    tried = None
    if pilot is not None:
        tried = plans.pilot(config, label, place, loaded.seed, pilot, progress.reporter(as_json))  # type: ignore[arg-type]
    made = plans.make(config, label, place, loaded.seed, tried, judge)  # type: ignore[arg-type]
    if as_json:
        typer.echo(json.dumps(made.to_json()))
        return
    for text in preview.rollouts(loaded, place):
        typer.echo(printable(text))
    _table(pl.DataFrame([vars(line) for line in made.lines], infer_schema_length=None), False, "Plan")
    typer.echo(plans.summary(made))


COMMANDS: dict[str, Callable[..., None]] = {
    "plan": plan,
    "status": status,
    "show": show,
    "sql": sql,
    "profile": profile,
}
