"""`prm eval`: figures on published benchmarks with step labels, and calibration."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from curate.errors import UserError
from prm.distributed import launch


class Name(StrEnum):
    """What can be evaluated."""

    VISUALPROCESSBENCH = "visualprocessbench"
    PROCESSBENCH = "processbench"
    PRMBENCH = "prmbench"
    CALIBRATION = "calibration"


def command(
    benchmark: Annotated[
        Name, typer.Argument(help="Benchmark; calibration needs no data besides the workspace.", show_default=False)
    ],
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="PATH_OR_HUB_ID",
            help="File or folder of the benchmark, or its id on the hub.",
            show_default=False,
        ),
    ] = None,
    workspace: Annotated[
        Path,
        typer.Option(
            "--workspace",
            "-w",
            envvar="CURATE_WORKSPACE",
            help="Folder with the trained runs; results are written to it.",
        ),
    ] = Path("workspace"),
    runs: Annotated[
        list[str] | None, typer.Option("--run", help="Trained run to evaluate; may be repeated. By default all runs.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", help="Folder of a saved PRM to evaluate in place of runs.", show_default=False),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            help="Folder or zip archive of the images; by default the folder of the data.",
            show_default=False,
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Revision of the dataset on the hub.", show_default=False)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of rows per file or split.", show_default=False)
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set threshold, tune, missing, target, ...; may be repeated (see docs/recipe.md).",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead of tables and progress.")
    ] = False,
) -> None:
    """Evaluate PRMs on a benchmark, or their calibration.

    Every figure has an interval. Results, and files for the benchmark's own scorer, are written to
    WORKSPACE/reports/eval/BENCHMARK/RUN.
    """
    from curate.runtime.progress import reporter
    from curate.tables.store import Store

    if launch.several():
        raise UserError("`prm eval` runs as one process; start it without torchrun.")
    if model is not None and runs:
        raise UserError("--run does nothing with --model; give one of them.")
    # A saved PRM needs no workspace but for its results.
    place = Store.open(workspace, create=model is not None and benchmark is not Name.CALIBRATION)
    tell = reporter(as_json)
    with place.writing():
        # Only now: it imports torch, which whoever is refused need not wait for.
        from prm.bench import entry

        given = (tuple(runs or ()), model, images, revision, limit, tuple(settings or ()))
        asked = entry.EvalArguments(benchmark.value, data, *given)
        results = entry.evaluate(place, asked, tell)
    if as_json:
        typer.echo(
            json.dumps({"results": [result.to_json() for result, _ in results]}, ensure_ascii=False, allow_nan=False)
        )
        return
    from prm.bench import presentation

    tell.show(presentation.terminal([result for result, _ in results]))
    for _, folder in results:
        tell.show(f"files: {folder}")
