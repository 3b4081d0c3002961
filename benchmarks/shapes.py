"""What the trainer's benchmark trains on: a model and a workspace of examples, small for a CPU, large for a GPU."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from curate.seeds import content_hash
from curate.sources.synthetic import chain
from curate.sources.synthetic.tasks import TASKS
from curate.tables.rows import whole
from curate.tables.schema import EXAMPLES, IMAGES, PROBLEMS
from curate.tables.store import Store

DEMO = Path(__file__).parents[1] / "data" / "demo" / "backbone"
WORDS = ("one", "two", "three", "four", "five", "red", "blue", "left", "right", "sum", "area", "bar", "dot")
STEPS = 5


def large_model(folder: Path) -> Path:
    """A random Qwen2-VL of the 2B model's shape with the demo's tokenizer, in bf16."""
    from prm.data.encode import mend

    mend()
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    folder.mkdir(parents=True)
    for name in ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(DEMO / name, folder / name)
    processor = json.loads((DEMO / "processor_config.json").read_text())
    processor["image_processor"] |= {"patch_size": 14, "size": {"shortest_edge": 3136, "longest_edge": 1003520}}
    processor["video_processor"] |= {"patch_size": 14}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    config = Qwen2VLConfig(**json.loads((DEMO / "config.json").read_text()))
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 1536, 8960, 28
    text.num_attention_heads, text.num_key_value_heads, text.vocab_size = 12, 2, 151_936
    text.layer_types = ["full_attention"] * 28
    text.rope_parameters = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    text.max_position_embeddings = 32_768
    vision.depth, vision.embed_dim, vision.num_heads, vision.mlp_ratio = 32, 1280, 16, 4
    vision.hidden_size, vision.patch_size = 1536, 14
    text.initializer_range = vision.initializer_range = 0.02
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen2VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return folder


def layer_parameters(model: Path) -> int:
    """Parameters of the language model's layers, without embeddings."""
    text = json.loads((model / "config.json").read_text())["text_config"]
    hidden, wide = text["hidden_size"], text["intermediate_size"]
    kept = hidden * text["num_key_value_heads"] // text["num_attention_heads"]
    attention = 2 * hidden * hidden + 2 * hidden * kept + hidden + 2 * kept
    return text["num_hidden_layers"] * (attention + 3 * hidden * wide + 2 * hidden)


def _synthetic(rng: random.Random, domain: int) -> tuple[Image.Image, str, list[str], list[bool]]:
    """A problem of a domain's task with a chain that slips now and then: image, question, steps, right so far."""
    tasks = [task for task in TASKS.values() if task.name != "needles"]
    task = tasks[domain % len(tasks)]
    facts = task.sample(rng)
    slots = chain.solve(task, facts, [step for step in range(STEPS) if rng.random() < 0.2], rng)
    truth = chain.solve(task, facts)
    lines = chain.render(task, slots).split("\n")
    steps = [line + "\n" for line in lines[: STEPS - 1]] + ["\n".join(lines[STEPS - 1 :])]
    return (
        task.image(facts), task.question(facts), steps,
        [slots[: step + 1] == truth[: step + 1] for step in range(STEPS)],
    )  # fmt: skip


def _noise(rng: random.Random, index: int, side: int) -> tuple[Image.Image, str, list[str], list[bool]]:
    """A random image and random words: only the shape counts."""
    draw = np.random.default_rng(index)
    image = Image.fromarray(draw.integers(0, 255, (side, side, 3), dtype=np.uint8))
    steps = [f"Step {k}: " + " ".join(rng.choices(WORDS, k=24)) + ".\n" for k in range(1, STEPS + 1)]
    return image, f"How many in {index}?", steps, [rng.random() < 0.5 for _ in steps]


def _examples(domains: int, rows: int, meta: int, side: int | None) -> Iterator[tuple[dict, dict, dict]]:
    rng = random.Random(0)
    places = [("train", k, n) for k in range(domains) for n in range(rows)]
    places += [("meta", n % domains, n) for n in range(meta)]
    for index, (role, place, number) in enumerate(places):
        image, question, steps, right = _noise(rng, index, side) if side else _synthetic(rng, place)
        domain = f"d{place}"
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        name, key = f"{role}-{domain}-{number:04d}", content_hash(buffer.getvalue())
        yield (
            {"problem_id": name, "domain": domain, "role": role, "source": domain, "source_row": name,
             "revision": None, "licence": None, "question": question, "choices": [], "answer": "1", "accepted": [],
             "answer_type": "number", "tolerance": None, "image_hashes": [key], "truth": None},
            {"image_hash": key, "problem_id": name, "bytes": buffer.getvalue(), "format": "PNG",
             "width": image.width, "height": image.height, "perceptual_hash": "0" * 16, "orientation": None,
             "has_alpha": False, "note": None},
            {"rollout_id": f"{name}-000", "problem_id": name, "domain": domain, "role": role, "sample_index": 0,
             "question": question, "choices": [], "image_hashes": [key], "steps": steps, "answer": "1",
             "outcome": right[-1], "values": [0.9 if ok else 0.1 for ok in right], "weights": [1.0] * STEPS,
             "verdicts": [None] * STEPS, "masks": [None] * STEPS},
        )  # fmt: skip


def fill(workspace: Store, domains: int, rows: int, meta: int, side: int | None) -> None:
    """Commit examples of these many train domains with `rows` each and `meta` meta examples, one image each.

    `side` null: the embedded tasks; else random images of this many points a side, with some 24 words a step.
    """
    problems, images, examples = zip(*_examples(domains, rows, meta, side), strict=True)
    for table, found in ((PROBLEMS, problems), (IMAGES, images), (EXAMPLES, examples)):
        workspace.partition(table).commit_all(whole(table)(**row) for row in found)
