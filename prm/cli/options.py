"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Place = Annotated[
    Path, typer.Option("--workspace", "-w", envvar="CURATE_WORKSPACE", help="Folder with all tables and runs.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a key of the recipe; may be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables and progress.")]
Replace = Annotated[bool, typer.Option("--replace", help="Delete the results of this stage and start over.")]
PLACE = Path("workspace")
