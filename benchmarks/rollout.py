"""What the rollout stage costs beside the engine: against bare vLLM, and with an engine that answers at once.

python benchmarks/rollout.py [--problems 600] [--rounds 6] [--requests 1000000]

`wall_vs_vllm`: seconds of the stage, from the table of problems to the committed table of rollouts, over those of
vLLM's own `LLM.generate` with the same prompts, images, seeds and settings in one batch; engines are started and warm
in both, each in a process of its own, in turn; the mean of all rounds counts, with the ratio of each round beside it.
`requests_per_s` and memory: the simulated engine, one sample a problem, a tenth of the requests and all of them. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from memory import run

MODEL = Path(__file__).parents[1] / "data" / "demo" / "policy"
TASKS = ("bars_read", "dots_count", "grid_distance", "table_lookup", "rectangle_area", "dial_read")
SAMPLES = 4


def recipe(folder: Path, problems: int) -> Path:
    each = max(problems // len(TASKS), 1)
    tree = {
        "name": "b",
        "seed": 1,
        "ingest": {"sources": [{"kind": "synthetic", "name": t, "task": t, "rows": each} for t in TASKS]},
        "rollout": {
            "engine": {"kind": "vllm", "model": str(MODEL), "max_model_len": 512, "in_flight": 512},
            "prompt": "short-five",
            "samples": SAMPLES,
            "sampling": {"temperature": 1.0, "max_tokens": 128},
        },
    }
    path = folder / f"{problems}.yaml"
    path.write_text(json.dumps(tree))
    return path


def ingested(folder: Path, problems: int) -> tuple:
    from curate import pipeline
    from curate.runtime.reporter import Silent
    from curate.tables.store import Store

    loaded, workspace = pipeline.load(recipe(folder, problems)), Store.open(folder / f"w{problems}")
    pipeline.run(loaded, workspace, Silent(), ["ingest"])
    return loaded, workspace


def stage(folder: Path, problems: int) -> None:
    """Seconds of the stage on a warm engine, and what the engine says at its end."""
    from curate import pipeline
    from curate.engines.supervisor import Engines
    from curate.runtime.reporter import Silent
    from curate.stages import rollout

    class Notes(Silent):
        def note(self, text: str) -> None:
            print(text)

    warm, small = ingested(folder, 12)
    loaded, workspace = ingested(folder, problems)
    with Engines() as engines:
        rollout.run(pipeline.located(warm, small), small, 1, Notes(), engines)
        begin = time.perf_counter()
        ledger = rollout.run(pipeline.located(loaded, workspace), workspace, 1, Notes(), engines)
        seconds = time.perf_counter() - begin
    assert ledger.out == ledger.taken, ledger.line()
    tokens = sum(workspace.read(rollout_table(), ["tokens"])["tokens"].to_pylist())
    print(json.dumps({"seconds": seconds, "samples": ledger.out, "tokens": tokens}))


def rollout_table():
    from curate.tables.schema import ROLLOUTS

    return ROLLOUTS


def bare(folder: Path, problems: int) -> None:
    """Seconds of `LLM.generate` for the same."""
    from curate import pipeline
    from curate.engines import vllm as engine
    from curate.engines.base import Request
    from curate.seeds import seed
    from curate.stages import generation
    from curate.stages.rollout import STAGE, RolloutWork
    from curate.stages.stored_images import StoredImages
    from curate.tables.rows import ProblemRow
    from curate.text import prompts

    def requests(problems: int) -> list:
        loaded, workspace = ingested(folder, problems)
        config = pipeline.located(loaded, workspace)
        images = StoredImages(workspace)
        return [
            Request(
                row.problem_id,
                prompts.render(config.prompt, row.question, row.choices, len(row.image_hashes)),
                images.of(row.image_hashes),
                (),
                SAMPLES,
                seed(1, STAGE, row.problem_id, 0),
                generation.sampling(config, config.sampling.max_tokens),
            )
            for row in RolloutWork(config, workspace).rows(ProblemRow)
        ]

    loaded, workspace = ingested(folder, 12)
    # Its own settings, prompts and sampling, so that vLLM is asked for the same.
    ours = engine.VllmEngine(pipeline.located(loaded, workspace).engine, lambda text: None)
    small, large = requests(12), requests(problems)
    import vllm
    from vllm.engine.arg_utils import EngineArgs

    from curate.engines.chat import Chat, end_ids
    from curate.engines.images import DecodedImages as Decoded
    from curate.engines.transformers import load_generation_config, load_processor
    from curate.models import torch_companions

    torch_companions.mend()
    arguments = ours._arguments(EngineArgs.__dataclass_fields__)
    llm = vllm.LLM(**arguments)
    ours._chat = Chat(load_processor(str(MODEL), None))
    ours._end_ids = end_ids(ours._chat.tokenizer, load_generation_config(str(MODEL), None))
    ours._images, ours._max_len = Decoded(), 512

    def generate(asked: list) -> int:
        outputs = llm.generate(
            [ours._prompt(each) for each in asked], [ours._sampling(each) for each in asked], use_tqdm=False
        )
        return sum(len(one.token_ids) for output in outputs for one in output.outputs)

    generate(small)
    begin = time.perf_counter()
    tokens = generate(large)
    seconds = time.perf_counter() - begin
    print(json.dumps({"seconds": seconds, "samples": SAMPLES * len(large), "tokens": tokens}))


def simulated(folder: Path, requests: int) -> None:
    """Seconds from the table of problems to the committed table of rollouts."""
    from curate import pipeline
    from curate.runtime.reporter import Silent
    from curate.tables.store import Store

    rows = folder / f"{requests}.jsonl"
    with rows.open("w") as file:
        for number in range(requests):
            file.write(json.dumps({"question": f"Problem {number} [gold={number}]", "answer": str(number)}) + "\n")
    tree = {
        "name": "b",
        "ingest": {"sources": [{"kind": "files", "name": "rows", "path": str(rows)}]},
        "rollout": {"engine": {"kind": "simulated", "model": "world"}, "samples": 1, "prompt": "free"},
    }
    path = folder / f"{requests}.yaml"
    path.write_text(json.dumps(tree))
    workspace = Store.open(folder / f"w{requests}")
    pipeline.run(pipeline.load(path), workspace, Silent(), ["ingest"])
    begin = time.perf_counter()
    ledger = pipeline.run(pipeline.load(path), workspace, Silent(), ["rollout"])["rollout"]
    seconds = time.perf_counter() - begin
    assert (ledger.out, ledger.taken) == (requests, requests), ledger.line()
    print(json.dumps({"seconds": seconds}))


PARTS = {"stage": stage, "bare": bare, "simulated": simulated}


def measure(part: str, size: int) -> tuple[dict, list[str], int]:
    with tempfile.TemporaryDirectory() as scratch:
        text, maximum = run([sys.executable, __file__, "--part", part, "--size", str(size), "--out", scratch])
    notes = text.strip().splitlines()
    # vLLM writes its own log to standard output, also when it ends.
    last = next(line for line in reversed(notes) if line.startswith("{"))
    print(f"{part} ({size:,}): {last}, {maximum / 2**20:,.0f} MB")
    return json.loads(last), notes, maximum


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--problems", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=6, help="of both sides")
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        PARTS[options.part](options.out, options.size)
        return
    found: dict[str, list[dict]] = {"stage": [], "bare": []}
    cache = ""
    for number in range(options.rounds):
        # The order turns round, so that a machine that slows down or speeds up favours neither.
        for part in list(found)[:: -1 if number % 2 else 1]:
            result, notes, _ = measure(part, options.problems)
            found[part].append(result)
            cache = next((note for note in notes if "prefix cache" in note), cache)
    mean = {part: sum(each["seconds"] for each in results) / options.rounds for part, results in found.items()}
    pairs = [round(one["seconds"] / other["seconds"], 3) for one, other in zip(*found.values(), strict=True)]
    _, _, small = measure("simulated", options.requests // 10)
    whole, _, maximum = measure("simulated", options.requests)
    print(
        json.dumps(
            {
                "wall_vs_vllm": round(mean["stage"] / mean["bare"], 3),
                "pairs": pairs,
                "seconds": {part: round(each, 2) for part, each in mean.items()},
                "tokens": {part: results[0]["tokens"] for part, results in found.items()},
                "prefix_cache": cache,
                "requests": options.requests,
                "requests_per_s": round(options.requests / whole["seconds"]),
                "peak_mb": round(maximum / 2**20),
                "growth_mb": round((maximum - small) / 2**20),
            }
        )
    )


if __name__ == "__main__":
    main()
