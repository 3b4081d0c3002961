"""What `curate dedup` and `curate decontaminate` find in TabMWP, test set against dev set, and what they cost.

python benchmarks/overlap.py FOLDER [--before CHECKOUT] [--read 40]

FOLDER holds test.jsonl and dev.jsonl (id, question, choices, answer, image) and the images that they name, of
lupantech/PromptPG (data/tabmwp). The test set is the training side here and the dev set the clean one. Each command
runs as a user runs it, in a process of its own; memory is the peak of its processes by `VmHWM`. `--before` runs the
same commands of another checkout on a workspace of its own. `--read` prints so many of the reported pairs, drawn by
seed, to be read by eye; what ingest finds by the bytes of an image is among them. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from memory import run

from curate.tables.schema import DROPS, PROBLEMS, REJECTS
from curate.tables.store import Store

STAGES = ("dedup", "decontaminate")


def recipe(folder: Path, place: Path) -> Path:
    """Where the recipe of both sides lies."""
    columns = {"id": "id", "choices": "choices", "image": "image"}
    sources = [
        {"kind": "files", "name": name, "role": role, "path": str(folder / f"{name}.jsonl"), "columns": columns}
        for name, role in (("dev", "test"), ("tables", "train"))
    ]
    sources[1]["path"] = str(folder / "test.jsonl")
    made = place / "recipe.yaml"
    made.write_text(json.dumps({"name": "overlap", "ingest": {"sources": sources}} | {stage: {} for stage in STAGES}))
    return made


def measured(made: Path, workspace: Path) -> dict[str, Any]:
    """Seconds, peak bytes and account of each stage."""
    program = [str(Path(sys.executable).parent / "curate")]
    run([*program, "ingest", str(made), "-w", str(workspace)])
    found = {}
    for stage in STAGES:
        begun = time.monotonic()
        printed, peak = run([*program, stage, str(made), "-w", str(workspace), "--json"])
        ledger = json.loads(printed.splitlines()[-1])[stage]
        found[stage] = {"seconds": round(time.monotonic() - begun, 1), "mb": round(peak / 2**20)} | {
            name: ledger[name] for name in ("taken", "rejected")
        }
    return found


def pairs(workspace: Store) -> list[tuple[str, str, str, str, str]]:
    """(reason, question, answer, question, answer) of all that was dropped, or left out when it came in."""
    problems = {row["problem_id"]: row for row in workspace.read(PROBLEMS).to_pylist()}
    shown = {key: row for row in problems.values() if row["role"] == "test" for key in row["image_hashes"]}
    found = []
    for row in workspace.read(DROPS).to_pylist():
        both = [problems[row[name]] for name in ("problem_id", "against")]
        found.append(
            (row["reason"], *(f"{each['source_row']}: {each[k]}" for each in both for k in ("question", "answer")))
        )
    for row in workspace.read(REJECTS).to_pylist():
        other = shown.get(row["detail"].partition(" ")[0])
        if other is not None:
            said = f"{other['source_row']}: {other['question']}"
            found.append((row["reason"], f"row {row['source_row']}", "", said, other["answer"]))
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--read", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        made = recipe(asked.folder.resolve(), place)
        result = {"after": measured(made, place / "after")}
        if asked.before is not None:
            os.environ["PYTHONPATH"] = str(asked.before.resolve())
            result["before"] = measured(made, place / "before")
        reported = pairs(Store.open(place / "after"))
    for pair in random.Random(asked.seed).sample(reported, min(asked.read, len(reported))):
        print(" | ".join(pair))
    print(json.dumps(result | {"pairs": len(reported)}))


if __name__ == "__main__":
    main()
