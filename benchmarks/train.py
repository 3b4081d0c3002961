"""The trainer's speed and memory: plain, bi-level with a whole and a quarter meta batch, and the reference's way.

python benchmarks/train.py [--rounds 3]            the demo's backbone and tasks
python benchmarks/train.py --large [--rounds 1]    a random model of Qwen2-VL-2B's shape, for a GPU

(a) mode uniform, (b) mode domain, an upper step every fifth lower one, the meta batch as large as the train batch,
(c) with a quarter of that, (d) `benchmarks/reference.py`. Labelled steps per second of lower steps; each configuration
in a process of its own, warmed up, in turn, `--rounds` times; the best round counts. Memory is the peak of the device,
on a CPU that of the process. Model FLOPs are 6 a token and parameter of the language model's layers: the vision tower
is frozen in (a) to (c) and its output kept. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import shapes
import torch
from memory import run

from curate.config import validate
from curate.store import Workspace

# Dense bf16 of one card, in FLOP/s.
PEAK = {"H100": 989e12, "H200": 989e12}
UNROLL = 5


def clock() -> float:
    """Seconds, when all that was asked of the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_gib() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def settings(part: str, options: argparse.Namespace) -> dict:
    """The `train` section of (a), (b) or (c)."""
    batch = options.rows * options.domains
    found = {
        "model": str(options.model), "rows_per_domain": options.rows, "steps": 10_000, "micro_rows": options.micro,
        "precision": "bfloat16" if options.large else "float32", "head": "scalar", "compile": options.compile,
    }  # fmt: skip
    if part == "a":
        return found | {"mode": "uniform"}
    return found | {"upper": {"unroll": UNROLL, "warmup": 0, "meta_rows": batch if part == "b" else batch // 4}}


def ours(part: str, options: argparse.Namespace) -> dict:
    """Steps of (a), (b) or (c): whole cycles of lower and upper steps, when every picture was seen before."""
    from prm import train
    from prm.config import TrainConfig

    config = validate(TrainConfig, settings(part, options), "train")
    data, _ = train.prepare(config, Workspace.open(options.workspace))
    _, state = train.start(0, False, config, data)
    labelled = tokens = cycles = 0
    with torch.no_grad():
        # Every picture is seen once before the clock starts.
        list(state.objective.train_losses(list(data.rows)))
    while state.done < UNROLL:
        state.step()
    begin, end = clock(), 0.0
    while cycles < 2 or end - begin < options.seconds:
        for _ in range(UNROLL):
            rows = [data.rows[name] for names in state.train.rows(state.done).values() for name in names]
            labelled += sum(len(row.reads) for row in rows)
            tokens += sum(len(row.ids) for row in rows)
            state.step()
        cycles, end = cycles + 1, clock()
    return {"steps_per_s": labelled / (end - begin), "tokens_per_s": tokens / (end - begin), "skipped": state.skipped}


def reference(options: argparse.Namespace) -> dict:
    """Steps of (d)."""
    from reference import Reference

    from prm.encode import load_processor
    from prm.examples import read_examples, read_images

    workspace = Workspace.open(options.workspace)
    examples = read_examples(workspace, ("train", "meta"))
    train, meta = ([each for each in examples if each.role == role] for role in ("train", "meta"))
    processor = load_processor(str(options.model), None)
    state = Reference(str(options.model), train, meta, read_images(workspace, examples), processor, options.large)
    for _ in range(UNROLL):
        state.step()
    before, begin, end = state.done, clock(), 0.0
    while state.done - before < 2 * UNROLL or end - begin < options.seconds:
        for _ in range(UNROLL):
            state.step()
        end = clock()
    return {"steps_per_s": (state.done - before) / (end - begin)}


def part(name: str, options: argparse.Namespace) -> None:
    found = reference(options) if name == "d" else ours(name, options)
    print(json.dumps(found | {"peak_gib": peak_gib()}))


def measure(name: str, options: argparse.Namespace) -> dict:
    """A part in a process of its own."""
    given = ["--part", name, *(f"--{key}={getattr(options, key)}" for key in _PASSED)]
    given += ["--large"] if options.large else []
    given += ["--compile"] if options.compile else []
    text, _ = run([sys.executable, __file__, *given])
    found = json.loads(text.strip().splitlines()[-1])
    print(name, {key: round(value, 2) for key, value in found.items()}, flush=True)
    return found


_PASSED = ("model", "workspace", "rows", "domains", "micro", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--large", action="store_true", help="a random model of Qwen2-VL-2B's shape, bf16")
    parser.add_argument("--compile", action="store_true", help="with train.compile")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=4, help="rollouts of a domain in a batch")
    parser.add_argument("--domains", type=int, default=8)
    parser.add_argument("--micro", type=int, default=16, help="rollouts in one forward")
    parser.add_argument("--side", type=int, default=448, help="with --large: of the pictures, in points")
    parser.add_argument("--seconds", type=float, default=8, help="that each part is measured for, at least")
    parser.add_argument("--parts", default="abcd", help="which to measure")
    parser.add_argument("--part", choices=tuple("abcd"), help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, default=shapes.DEMO, help=argparse.SUPPRESS)
    parser.add_argument("--workspace", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        part(options.part, options)
        return
    with tempfile.TemporaryDirectory() as scratch:
        if options.large:
            options.model = shapes.large_model(Path(scratch) / "model")
        options.workspace = Path(scratch) / "workspace"
        rows = 4 * options.rows
        # Every picture is seen once before the clock starts.
        options.warm = rows // options.rows
        meta = options.rows * options.domains
        shapes.fill(
            Workspace.open(options.workspace), options.domains, rows, meta, options.side if options.large else None
        )
        found: dict[str, list[dict]] = {name: [] for name in options.parts}
        for _ in range(options.rounds):
            for name, results in found.items():
                results.append(measure(name, options))
        layers = shapes.layer_parameters(options.model)
    best = {name: max(results, key=lambda each: each["steps_per_s"]) for name, results in found.items()}
    speed = {name: each["steps_per_s"] for name, each in best.items()}
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    flops = next((flops for name, flops in PEAK.items() if name in card), None)
    print(
        json.dumps(
            {
                "device": card,
                "torch": torch.__version__,
                **{f"{x}_over_{y}": round(speed[x] / speed[y], 3) for x, y in ("ba", "ca", "bd") if {x, y} <= {*speed}},
                "labelled_steps_per_s": {name: round(each, 2) for name, each in speed.items()},
                "mfu": round(6 * layers * best["a"]["tokens_per_s"] / flops, 3) if flops and "a" in best else None,
                "peak_gib": {name: round(each["peak_gib"], 2) for name, each in best.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
