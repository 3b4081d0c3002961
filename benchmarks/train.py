"""The trainer's speed and memory: plain, bi-level with a whole and a quarter meta batch, and the reference's way.

python benchmarks/train.py [--turns 24]                    the demo's backbone and tasks
python benchmarks/train.py --large --apart [--turns 4]     a random model of Qwen2-VL-2B's shape, for a GPU

(a) mode uniform, (b) mode domain, an upper step every fifth lower one, the meta batch as large as the train batch,
(c) with a quarter of that, (d) `benchmarks/reference.py`. Each part is a process of its own, warmed up; then they take
turns, one whole cycle or more at a time while the others wait, in an order that rotates. Speed is labelled steps per
second of lower steps over all turns; a ratio's quartiles are over its turns. `--apart` has one process alive at a
time, where the device holds no more. Memory is the peak of the device, on a CPU that of the process. Model FLOPs are
6 a token and parameter of the language model's layers: the vision tower is frozen in (a) to (c) and its output kept.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from operator import truediv
from pathlib import Path
from statistics import quantiles

import shapes
import torch

from curate.recipe.parsing import validate
from curate.tables.store import Store

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


Turn = Callable[[], dict[str, float]]


def ours(part: str, options: argparse.Namespace) -> Turn:
    """Cycles of lower and upper steps of (a), (b) or (c), warm: what one turn does."""
    from prm.config import AnyTrainConfig
    from prm.training import run, train

    config = validate(AnyTrainConfig, settings(part, options), "train")
    data, _ = train.prepare(config, Store.open(options.workspace))
    _, state = run.start(0, False, config, data)
    with torch.no_grad():
        # Every image is seen once before the clock starts.
        list(state.objective.train_losses(list(data.rows)))

    def turn() -> dict[str, float]:
        found = {"steps": 0, "tokens": 0}
        for _ in range(UNROLL):
            rows = [data.rows[name] for names in state.train.rows(state.done).values() for name in names]
            found["steps"] += sum(len(row.reads) for row in rows)
            found["tokens"] += sum(len(row.ids) for row in rows)
            state.step()
        return found | {"skipped": state.skipped}

    return turn


def reference(options: argparse.Namespace) -> Turn:
    """Make turns of (d), the way of the reference."""
    from reference import Reference

    from prm.data.encode import load_processor
    from prm.data.examples import read_examples, read_images

    workspace = Store.open(options.workspace)
    examples = read_examples(workspace, ("train", "meta"))
    train, meta = ([each for each in examples if each.role == role] for role in ("train", "meta"))
    processor = load_processor(str(options.model), None)
    state = Reference(str(options.model), train, meta, read_images(workspace, examples), processor, options.large)

    def turn() -> dict[str, float]:
        for _ in range(UNROLL):
            state.step()
        return {"steps": UNROLL, "tokens": 0, "skipped": 0}

    return turn


def serve(name: str, options: argparse.Namespace) -> None:
    """A part: one JSON line when it is ready, and one for each line that comes in."""
    turn = reference(options) if name == "d" else ours(name, options)
    for _ in range(2):
        turn()
    print("{}", flush=True)
    for _ in sys.stdin:
        begin, found = clock(), {"steps": 0, "tokens": 0, "skipped": 0}
        while (end := clock()) - begin < options.seconds:
            done = turn()
            found["steps"] += done["steps"]
            found["tokens"] += done["tokens"]
            found["skipped"] = done["skipped"]
        print(json.dumps(found | {"seconds": end - begin, "peak_gib": peak_gib()}), flush=True)


class Part:
    """The parent's end of a part."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        given = ["--part", name, *(f"--{key}={getattr(options, key)}" for key in _PASSED)]
        given += [f"--{key}" for key in ("large", "compile") if getattr(options, key)]
        self.name, self.turns = name, []
        self.process = subprocess.Popen(
            [sys.executable, __file__, *given], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def _heard(self) -> dict[str, float]:
        line = self.process.stdout.readline()
        if not line:
            raise subprocess.CalledProcessError(self.process.wait(), f"part {self.name}")
        return json.loads(line)

    def ready(self) -> None:
        """Wait until it is warm."""
        self._heard()

    def take(self) -> None:
        """One turn; what waits elsewhere has stopped spinning by then."""
        time.sleep(_QUIET)
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.turns.append(self._heard())
        last = self.turns[-1]
        print(f"{self.name} {last['steps'] / last['seconds']:.1f}", flush=True)

    def end(self) -> None:
        """Let it end."""
        self.process.stdin.close()
        self.process.wait()

    def speed(self, what: str = "steps") -> float:
        """Per second, over all turns."""
        return sum(turn[what] for turn in self.turns) / sum(turn["seconds"] for turn in self.turns)

    def speeds(self) -> list[float]:
        """Labelled steps per second, turn by turn."""
        return [turn["steps"] / turn["seconds"] for turn in self.turns]


_PASSED = ("model", "workspace", "rows", "domains", "micro", "seconds")
# Threads of a process that waits spin for a while after their last work.
_QUIET = 0.3


def take_turns(options: argparse.Namespace) -> dict[str, Part]:
    """All parts, each with its turns."""
    parts: dict[str, Part] = {}
    if options.apart:
        for name in options.parts:
            parts[name] = Part(name, options)
            parts[name].ready()
            for _ in range(options.turns):
                parts[name].take()
            parts[name].end()
        return parts
    for name in options.parts:
        # One after the other: they would slow each other's start.
        parts[name] = Part(name, options)
        parts[name].ready()
    for number in range(options.turns):
        order = [*parts.values()]
        for part in order[number % len(order) :] + order[: number % len(order)]:
            part.take()
    for part in parts.values():
        part.end()
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--large", action="store_true", help="a random model of Qwen2-VL-2B's shape, bf16")
    parser.add_argument("--compile", action="store_true", help="with train.compile")
    parser.add_argument("--turns", type=int, default=24, help="of each part")
    parser.add_argument("--apart", action="store_true", help="one process at a time, all its turns in a row")
    parser.add_argument("--rows", type=int, default=4, help="rollouts of a domain in a batch")
    parser.add_argument("--domains", type=int, default=8)
    parser.add_argument("--micro", type=int, default=16, help="rollouts in one forward")
    parser.add_argument("--side", type=int, default=448, help="with --large: of the images, in points")
    parser.add_argument("--seconds", type=float, default=2, help="of a turn, at least; cycles are whole")
    parser.add_argument("--parts", default="abcd", help="which to measure")
    parser.add_argument("--part", choices=tuple("abcd"), help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, default=shapes.DEMO, help=argparse.SUPPRESS)
    parser.add_argument("--workspace", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        serve(options.part, options)
        return
    with tempfile.TemporaryDirectory() as scratch:
        if options.large:
            options.model = shapes.large_model(Path(scratch) / "model")
        options.workspace = Path(scratch) / "workspace"
        meta = options.rows * options.domains
        side = options.side if options.large else None
        shapes.fill(Store.open(options.workspace), options.domains, 4 * options.rows, meta, side)
        parts = take_turns(options)
        layers = shapes.layer_parameters(options.model)
    speed = {name: part.speed() for name, part in parts.items()}
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    flops = next((flops for name, flops in PEAK.items() if name in card), None)
    ratios = {f"{x}_over_{y}": (x, y) for x, y in ("ba", "ca", "bd") if {x, y} <= {*speed}}
    pairs = {key: sorted(map(truediv, parts[x].speeds(), parts[y].speeds())) for key, (x, y) in ratios.items()}
    print(
        json.dumps(
            {
                "device": card,
                "torch": torch.__version__,
                **{key: round(speed[x] / speed[y], 3) for key, (x, y) in ratios.items()},
                "quartiles": {
                    key: [round(q, 3) for q in quantiles(each)] for key, each in pairs.items() if len(each) > 1
                },
                "labelled_steps_per_s": {name: round(each, 2) for name, each in speed.items()},
                "mfu": round(6 * layers * parts["a"].speed("tokens") / flops, 3) if flops and "a" in parts else None,
                "peak_gib": {name: round(part.turns[-1]["peak_gib"], 2) for name, part in parts.items()},
                "skipped_updates": {name: part.turns[-1]["skipped"] for name, part in parts.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
