"""Text-only rows per second of `curate ingest`, its memory, and how long a second run takes to find nothing left.

python benchmarks/rows.py [--rows 1000000]

Rows of JSON Lines without images, ingested by the command as a user runs it, in processes of their own: a tenth of
the rows, all of them, and the same command again. Memory is the peak of the process tree by `VmHWM`. The last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from memory import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with (folder / "rows.jsonl").open("w") as file:
            for number in range(rows):
                question = f"What is {number} plus {7 * number} minus {number}? Say it in one word."
                file.write(json.dumps({"id": f"r{number}", "question": question, "answer": str(7 * number)}) + "\n")
        recipe = folder / "rows.yaml"
        source = {"kind": "files", "name": "rows", "path": "rows.jsonl", "columns": {"id": "id"}}
        recipe.write_text(json.dumps({"name": "rows", "ingest": {"sources": [source]}}))

        def ingest(workspace: str, *more: str) -> tuple[dict, float, int]:
            command = [
                str(Path(sys.executable).parent / "curate"),
                "ingest",
                str(recipe),
                "-w",
                str(folder / workspace),
            ]
            begin = time.perf_counter()
            text, maximum = run([*command, "--json", *more])
            return json.loads(text.strip().splitlines()[-1])["ingest"], time.perf_counter() - begin, maximum

        _, _, small = ingest("small", "--limit", str(rows // 10))
        first, seconds, maximum = ingest("all")
        assert (first["taken"], first["out"]) == (rows, rows), first
        print(f"{rows:,} rows: {seconds:.1f} s, {rows / seconds:,.0f} rows/s, {maximum / 2**20:,.0f} MB")
        second, again, _ = ingest("all")
        assert second["skipped"] == rows, second
        print(
            json.dumps(
                {
                    "rows": rows,
                    "rows_per_s": round(rows / seconds),
                    "first_s": round(seconds, 1),
                    "again_s": round(again, 2),
                    "peak_mb": round(maximum / 2**20),
                    "growth_mb": round((maximum - small) / 2**20),
                    "bytes_per_row": round((maximum - small) / (rows - rows // 10)),
                }
            )
        )


if __name__ == "__main__":
    main()
