"""The long campaign: kills, faults, damage and hostile input, until the counts or the time are up.

python benchmarks/campaign [PART ...] [--count N] [--seconds S] [--seed N] [--only COMMAND ...] [--folder FOLDER]

Parts are kills, faults, flips and hostile. Each begins with the commands that write on a small workspace, disturbs
them, runs the same command again (or follows the cure that was told) and compares every row with an undisturbed run.
Progress is printed; the last line is one JSON object. The exit code is 1 where anything was not as it should be.
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
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--count", type=int, help="trials of each part")
    parser.add_argument("--seconds", type=float, default=3600.0, help="for each part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", action="append", metavar="COMMAND", help=f"of {', '.join(name for name, _ in bed.LINES)}"
    )
    parser.add_argument("--folder", type=Path, help="where the workspaces go; a temporary folder by default")
    given = parser.parse_args()
    if unknown := set(given.only or ()) - {name for name, _ in bed.LINES}:
        parser.error(f"there is no command {min(unknown)} in the campaign")
    parts = given.parts or list(PARTS)
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"there is no part {unknown[0]}; there are {', '.join(PARTS)}")
    # Not a `TemporaryDirectory`, which every fork that ends would delete.
    place = Path(tempfile.mkdtemp(dir=given.folder, prefix="campaign-"))
    try:
        found = campaign(place, parts, given.count, given.seconds, given.seed, given.only)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print(json.dumps(found, ensure_ascii=False))
    sys.exit(any(part["faults"] for part in found["parts"]))


def campaign(
    folder: Path, parts: list[str], count: int | None, seconds: float, seed: int, only: list[str] | None = None
) -> dict[str, object]:
    """All of these parts on one bed."""
    begin = time.monotonic()
    fork.preload(prm=not only or bool(set(only) & bed.TORCH))
    cases = bed.build(folder / "bed", set(only) if only else None, _say)
    (folder / "work").mkdir()
    found = [PARTS[part](cases, folder / "work", count or COUNTS[part], seconds, seed, _say) for part in parts]
    return {"seed": seed, "seconds": round(time.monotonic() - begin), "parts": found}


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
