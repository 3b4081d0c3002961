"""The long campaign: kills, faults, damage and hostile input, until the counts or the time are up.

python benchmarks/campaign [PART[:COUNT] ...] [--seconds S] [--seed N] [--only COMMAND ...] [--folder FOLDER]

Parts are kills, faults, flips and hostile; a count is of trials, for flips of each kind of file. Each part begins with
the commands that write on a small workspace, disturbs them, runs the same command again (or follows the cure that was
told) and compares every row with an undisturbed run. Progress is printed; the last line is one JSON object. The exit
code is 1 where anything was not as it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import bed
import faults
import flips
import fork
import hostile
import kills

COUNTS = {"kills": 1000, "faults": 200, "flips": 40, "hostile": 300}
PARTS = {"kills": kills.run, "faults": faults.run, "flips": flips.run, "hostile": hostile.run}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}, as in kills:50; all by default"
    )
    parser.add_argument("--seconds", type=float, default=3600.0, help="for each part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", action="append", metavar="COMMAND", help=f"of {', '.join(name for name, _ in bed.LINES)}"
    )
    parser.add_argument("--folder", type=Path, help="where the workspaces go; a temporary folder by default")
    given = parser.parse_args()
    if unknown := set(given.only or ()) - {name for name, _ in bed.LINES}:
        parser.error(f"there is no command {min(unknown)} in the campaign")
    parts = dict(_part(text, parser) for text in given.parts or PARTS)
    # Not a `TemporaryDirectory`, which every fork that ends would delete.
    place = Path(tempfile.mkdtemp(dir=given.folder, prefix="campaign-"))
    try:
        found = campaign(place, parts, given.seconds, given.seed, given.only)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print(json.dumps(found, ensure_ascii=False))
    sys.exit(any(part["faults"] for part in found["parts"]))


def _part(text: str, parser: argparse.ArgumentParser) -> tuple[str, int]:
    name, colon, count = text.partition(":")
    if name not in PARTS or (colon and not count.isdecimal()):
        parser.error(f"there is no part {text}; there are {', '.join(PARTS)}, and kills:50 is fifty kills")
    return name, int(count) if colon else COUNTS[name]


def campaign(
    folder: Path, parts: dict[str, int], seconds: float, seed: int, only: list[str] | None = None
) -> dict[str, object]:
    """All of these parts on one bed."""
    begin = time.monotonic()
    fork.preload(prm=not only or bool(set(only) & bed.TORCH))
    cases = bed.build(folder / "bed", set(only) if only else None, _say)
    (folder / "work").mkdir()
    found = [PARTS[part](cases, folder / "work", count, seconds, seed, _say) for part, count in parts.items()]
    return {"seed": seed, "seconds": round(time.monotonic() - begin), "parts": found}


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
