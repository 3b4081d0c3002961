"""What the label stage costs beside the engine: memory and prefixes a second, with an engine that answers at once.

python benchmarks/label_memory.py [--rollouts 200000] [--problem-rollouts 4] [--steps 3]

The simulated engine, `pooled` with two completions a prefix in the mean, a tenth of the rollouts and all of them; the
rollouts are there before, each measurement is a process of its own. `again` is the same command once more, when nothing
is pending. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from memory import run


def recipe(folder: Path, rollouts: int, each: int, steps: int | None) -> None:
    rows = folder / "rows.jsonl"
    with rows.open("w") as file:
        for number in range(rollouts // each):
            file.write(json.dumps({"question": f"Problem {number} [gold={number}]", "answer": str(number)}) + "\n")
    engine = {"kind": "simulated", "model": "world", "args": {"world": "states", "steps": steps}}
    tree = {
        "name": "b",
        "seed": 1,
        "ingest": {"sources": [{"kind": "files", "name": "rows", "path": str(rows)}]},
        "rollout": {"engine": engine, "samples": each, "prompt": "free", "sampling": {"max_tokens": 2000}},
        "label": {},
    }
    (folder / "recipe.yaml").write_text(json.dumps(tree))


def stages(folder: Path, *names: str) -> None:
    """Seconds of these stages, the ledger of the last one, and the peak memory of this process, in bytes."""
    from curate import pipeline
    from curate.runtime.reporter import Silent
    from curate.tables.store import Store

    begin = time.perf_counter()
    ledgers = pipeline.run(pipeline.load(folder / "recipe.yaml"), Store.open(folder / "w"), Silent(), names)
    seconds, ledger = time.perf_counter() - begin, ledgers[names[-1]]
    assert ledger.out == ledger.taken, ledger.line()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "units": ledger.taken, "skipped": ledger.skipped, "peak": peak}))


def measure(folder: Path, *names: str) -> dict:
    text, _ = run([sys.executable, __file__, "--part", *names, "--out", str(folder)])
    found = json.loads(text.strip().splitlines()[-1])
    print(f"{', '.join(names)}: {found}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rollouts", type=int, default=200_000)
    parser.add_argument("--problem-rollouts", type=int, default=4)
    parser.add_argument("--steps", type=int, help="of every chain; as they come when left out")
    parser.add_argument("--part", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        stages(options.out, *options.part)
        return
    said: dict[str, dict] = {}
    for size in (options.rollouts // 10, options.rollouts):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            recipe(folder, size, options.problem_rollouts, options.steps)
            measure(folder, "ingest", "rollout")
            first, again = measure(folder, "label"), measure(folder, "label")
        said[str(size)] = {
            "prefixes": first["units"],
            "prefixes_per_s": round(first["units"] / first["seconds"]),
            "again_s": round(again["seconds"], 1),
            "peak_mb": round(first["peak"] / 2**20),
            "again_peak_mb": round(again["peak"] / 2**20),
        }
    few, many = said.values()
    growth = (many["peak_mb"] - few["peak_mb"]) * 2**20 / (0.9 * options.rollouts)
    print(json.dumps({"rollouts": said, "growth_bytes_a_rollout": round(growth)}))


if __name__ == "__main__":
    main()
