"""The trainer on a GPU: labelled steps per second and memory, plain and bi-level, on a model of Qwen2-VL-2B's size.

python benchmarks/gpu.py [--tiny] [--steps 20] [--rows 4] [--micro 8] [--side 448]

Random weights, random pictures and texts; the shapes are what counts. Four domains, an upper step every fifth lower
one. (a) is mode uniform, (b) domain with a meta batch as large as a train batch, (c) with a quarter of it; each from a
fresh start, the first 25 steps not counted: every picture was seen then. Model FLOPs are 6 a token and parameter of the
language model's layers; the vision tower is frozen and its output kept. The last line is one JSON object. `--tiny` is a
small model for a CPU.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from curate.config import validate
from curate.schema import EXAMPLES, IMAGES, PROBLEMS
from curate.seeds import content_hash
from curate.store import Workspace

BACKBONE = Path(__file__).parents[1] / "data" / "demo" / "backbone"
DOMAINS = ("a", "b", "c", "d")
# Dense bf16 of one card, in FLOP/s.
PEAK = {"H100": 989e12, "H200": 989e12}


def make_model(folder: Path, tiny: bool) -> int:
    """A random model with the demo's tokenizer; returns the parameters of its language model."""
    from prm.encode import mend

    mend()
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    folder.mkdir(parents=True)
    for name in ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(BACKBONE / name, folder / name)
    processor = json.loads((BACKBONE / "processor_config.json").read_text())
    processor["image_processor"] |= {"patch_size": 14, "size": {"shortest_edge": 3136, "longest_edge": 1003520}}
    processor["video_processor"] |= {"patch_size": 14}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    config = Qwen2VLConfig(**json.loads((BACKBONE / "config.json").read_text()))
    text, vision = config.text_config, config.vision_config
    vision.patch_size = 14
    if not tiny:
        text.hidden_size, text.intermediate_size, text.num_hidden_layers = 1536, 8960, 28
        text.num_attention_heads, text.num_key_value_heads, text.vocab_size = 12, 2, 151_936
        text.layer_types = ["full_attention"] * 28
        text.rope_parameters = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
        text.max_position_embeddings = 32_768
        vision.depth, vision.embed_dim, vision.num_heads, vision.mlp_ratio = 32, 1280, 16, 4
        vision.hidden_size = 1536
    text.initializer_range = vision.initializer_range = 0.02
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen2VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    count = sum(p.numel() for p in model.model.language_model.layers.parameters())
    print(f"model: {sum(p.numel() for p in model.parameters()):,} parameters, {count:,} in the language model's layers")
    return count


def make_workspace(folder: Path, rows: int, side: int) -> Workspace:
    """Examples of four train domains and a meta set, each with a picture of its own and five steps."""
    workspace, rng = Workspace.open(folder), random.Random(0)
    draw = np.random.default_rng(0)
    words = ["one", "two", "three", "four", "five", "red", "blue", "left", "right", "sum", "area", "bar", "dot"]
    examples, problems, images = [], [], []
    for role, domain in [*(("train", d) for d in DOMAINS), *(("meta", d) for d in DOMAINS)]:
        for number in range(rows):
            buffer = io.BytesIO()
            Image.fromarray(draw.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(buffer, "PNG")
            name, key = f"{role}{domain}{number:04d}", content_hash(buffer.getvalue())
            steps = [f"Step {k}: " + " ".join(rng.choices(words, k=24)) + ".\n" for k in range(1, 6)]
            right = bool(rng.random() < 0.5)
            images.append(
                {"image_hash": key, "problem_id": name, "bytes": buffer.getvalue(), "format": "PNG", "width": side,
                 "height": side, "perceptual_hash": "0" * 16, "orientation": None, "has_alpha": False, "note": None}
            )  # fmt: skip
            problems.append(
                {"problem_id": name, "domain": domain, "role": role, "source": domain, "source_row": name,
                 "revision": None, "licence": None, "question": f"How many in {name}?", "choices": [], "answer": "1",
                 "accepted": [], "answer_type": "number", "tolerance": None, "image_hashes": [key], "truth": None}
            )  # fmt: skip
            examples.append(
                {"rollout_id": f"{name}-000", "problem_id": name, "domain": domain, "role": role, "sample_index": 0,
                 "question": f"How many in {name}?", "choices": [], "image_hashes": [key], "steps": steps,
                 "answer": "1", "outcome": right, "values": [rng.random() for _ in steps], "weights": [1.0] * 5}
            )  # fmt: skip
    for table, found in ((IMAGES, images), (PROBLEMS, problems), (EXAMPLES, examples)):
        workspace.partition(table).commit_all(found)
    return workspace


def measure(workspace: Workspace, settings: dict, steps: int, warm: int = 25) -> dict:
    """Speed and memory of one configuration."""
    from prm import train
    from prm.config import TrainConfig

    config = validate(TrainConfig, settings, "train")
    data, _ = train.prepare(config, workspace)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    _, state = train.start(0, False, config, data)
    tokens = labelled = 0
    for number in range(warm + steps):
        if number == warm:
            if cuda:
                torch.cuda.synchronize()
            begin = time.perf_counter()
        rows = [data.rows[name] for part in state.train.rows(state.done).values() for name in part]
        state.step()
        if number >= warm:
            labelled += sum(len(row.reads) for row in rows)
            tokens += sum(len(row.ids) for row in rows)
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
    result = {
        "labelled_steps_per_s": labelled / seconds,
        "tokens_per_s": tokens / seconds,
        "tokens_per_row": tokens / (steps * len(rows)),
        "peak_gib": peak,
        "skipped": state.skipped,
    }
    print({key: round(value, 2) if isinstance(value, float) else value for key, value in result.items()}, flush=True)
    del state
    if cuda:
        torch.cuda.empty_cache()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rows", type=int, default=4, help="per domain and batch")
    parser.add_argument("--micro", type=int, default=8, help="rollouts in one forward")
    parser.add_argument("--side", type=int, default=448, help="of the pictures, in points")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    layers = make_model(folder / "model", options.tiny)
    workspace = make_workspace(folder / "w", 16, options.side)
    batch = options.rows * len(DOMAINS)
    common = {
        "model": str(folder / "model"), "precision": "bfloat16", "rows_per_domain": options.rows, "steps": 1000,
        "micro_rows": options.micro, "head": "scalar", "clip": 1.0,
    }  # fmt: skip
    upper = {"unroll": 5, "warmup": 0}
    found = {
        "a": measure(workspace, common | {"mode": "uniform"}, options.steps),
        "b": measure(workspace, common | {"upper": upper | {"meta_rows": batch}}, options.steps),
        "c": measure(workspace, common | {"upper": upper | {"meta_rows": max(batch // 4, 1)}}, options.steps),
    }
    shutil.rmtree(folder)
    speed = {name: each["labelled_steps_per_s"] for name, each in found.items()}
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    peak = next((flops for name, flops in PEAK.items() if name in card), None)
    print(
        json.dumps(
            {
                "device": card,
                "torch": torch.__version__,
                "b_over_a": round(speed["b"] / speed["a"], 3),
                "c_over_a": round(speed["c"] / speed["a"], 3),
                "labelled_steps_per_s": {name: round(each, 2) for name, each in speed.items()},
                "tokens_per_row": round(found["a"]["tokens_per_row"], 1),
                "mfu": round(6 * layers * found["a"]["tokens_per_s"] / peak, 3) if peak else None,
                "peak_gib": {name: each["peak_gib"] and round(each["peak_gib"], 1) for name, each in found.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
