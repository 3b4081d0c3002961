"""Commands that hand a trained PRM on: export."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from prm.cli.options import PLACE, Json, Place


def export(
    run: Annotated[str, typer.Argument(help="A trained run of the workspace, by name.", show_default=False)],
    folder: Annotated[Path, typer.Argument(help="Where to write it.", show_default=False)],
    workspace: Place = PLACE,
    dtype: Annotated[str, typer.Option("--dtype", help="float32 or bfloat16; of the weights, not of the head.")] = (
        "float32"
    ),
    licence: Annotated[
        str, typer.Option("--licence", help="For the model card; the backbone's and the data's bind you.")
    ] = "other",
    as_json: Json = False,
    over: Annotated[bool, typer.Option("--replace", help="Delete an earlier export in that folder.")] = False,
) -> None:
    """Write a PRM as a folder that transformers loads and vLLM serves.

    Adapters are merged; a model card and how to read scores (prm.json) come with it.
    """
    from curate.store import Workspace
    from prm import export as exports

    made = exports.run(Workspace.open(workspace, create=False), run, folder, dtype, licence, over)
    if as_json:
        typer.echo(json.dumps(vars(made), default=str))
    else:
        typer.echo(f"{run}: {made.architecture} in {made.dtype}, head {made.head}, at {made.folder}")


COMMANDS: dict[str, Callable[..., None]] = {"export": export}
