"""Commands that hand a trained PRM on: export, serve."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from prm.cli.options import PLACE, Json, Place


def export(
    run: Annotated[str, typer.Argument(help="Name of a trained run of the workspace.", show_default=False)],
    folder: Annotated[Path, typer.Argument(help="Folder to write to.", show_default=False)],
    workspace: Place = PLACE,
    dtype: Annotated[str, typer.Option("--dtype", help="float32 or bfloat16, for the weights without the head.")] = (
        "float32"
    ),
    licence: Annotated[
        str, typer.Option("--licence", help="Licence for the model card; those of backbone and data bind you.")
    ] = "other",
    as_json: Json = False,
    over: Annotated[bool, typer.Option("--replace", help="Replace an earlier export in the folder.")] = False,
) -> None:
    """Export a PRM to a folder for transformers and vLLM.

    Adapters are merged. The folder also has a model card, and prm.json, which says how to read scores.
    """
    from curate.tables.store import Store
    from prm.serving import export as exports

    made = exports.run(Store.open(workspace, create=False), run, folder, dtype, licence, over)
    if as_json:
        typer.echo(json.dumps(vars(made), default=str))
    else:
        typer.echo(f"{run}: {made.architecture} in {made.dtype}, head {made.head}, at {made.folder}")


def serve(
    target: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER_OR_RUN", help="Exported folder, or name of a run of the workspace.", show_default=False
        ),
    ],
    workspace: Place = PLACE,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8765,
    remote: Annotated[
        bool, typer.Option("--allow-remote", help="Let other machines connect; there is no password.")
    ] = False,
    batch_rows: Annotated[
        int, typer.Option("--batch-rows", min=1, help="Maximum number of chains in one forward pass.")
    ] = 16,
    queue_rows: Annotated[
        int, typer.Option("--queue-rows", min=1, help="Maximum number of waiting chains; more are refused with 503.")
    ] = 256,
    names: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="Further host name that requests may use; may be repeated."),
    ] = None,
    max_pixels: Annotated[
        int,
        typer.Option(
            "--max-pixels",
            min=1,
            help="Maximum pixels of an image; all images of a request may have four times as many.",
        ),
    ] = 32_000_000,
    max_megabytes: Annotated[
        int, typer.Option("--max-megabytes", min=1, help="Maximum size of a request, in megabytes.")
    ] = 64,
) -> None:
    """Serve the scores of a PRM over HTTP.

    POST /score takes {"question", "choices", "images" (base64), "steps"} or a list of these; GET /health and GET /info
    describe the server.
    """
    from prm.serving import server
    from prm.serving.rows import Limits

    folder = server.locate(target, workspace)
    usual = Limits()
    # A list that never finds room in the queue is too long.
    rows = min(usual.rows, queue_rows)
    limits = replace(usual, body_bytes=max_megabytes * 2**20, pixels=max_pixels, rows=rows)
    limits = replace(limits, request_pixels=4 * max_pixels)
    with server.bind(host, port, remote) as bound:

        def on_ready(address: str) -> None:
            typer.echo(f"Serving {folder.resolve().name} at {address}; Ctrl+C stops.")

        allowed = [name.lower() for name in names or ()]
        server.run(folder, bound, batch_rows, queue_rows, limits, on_ready, allowed)


COMMANDS: dict[str, Callable[..., None]] = {"export": export, "serve": serve}
