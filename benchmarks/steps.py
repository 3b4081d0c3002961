"""How published responses are cut into steps.

python benchmarks/steps.py FOLDER [--read N]

FOLDER holds responses (responses-*.jsonl: id, response). `--read N` prints the steps of N of them, drawn by seed, for
reading. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from pathlib import Path

from curate import steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--read", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    rows = [row for path in sorted(asked.folder.glob("responses-*.jsonl")) for row in map(json.loads, path.open())]
    for row in random.Random(asked.seed).sample(rows, asked.read):
        pieces = steps.split(row["response"])
        print(f"\n{row['id']}: {len(pieces)}", *(f"| {piece.strip()}" for piece in pieces), sep="\n")
    counts = Counter(len(steps.split(row["response"])) for row in rows)
    several = sum(count for number, count in counts.items() if number > 1)
    share = round(several / len(rows), 4)
    print(json.dumps({"responses": len(rows), "share": share, "steps": dict(sorted(counts.items()))}))


if __name__ == "__main__":
    main()
