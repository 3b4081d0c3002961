"""Train the embedded demo models from scratch: `policy/` (solves, with slips) and `backbone/` (solves and checks).

    python data/demo/make_model.py --out data/demo

Both are small Qwen2-VL models. The vision tower is trained first, alone, to put what a cell of a picture shows into its
token. Then the whole network is trained on the synthetic tasks: captions first; then three sequences in five solve a
problem, two in five read somebody's chain, slips included, and tell after each step whether all is right so far. The
policy is the same network, tuned for a few minutes on chains with slips, so that right and wrong chains are both
common in every domain: a policy that is worse than its verifier, as in DreamPRM's setting. The seed, the steps and the
measured pass@1 go to `model.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from pathlib import Path

from curate.engines.torch_companions import mend

mend()

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from curate.sources.synthetic import chain as chains
from curate.sources.synthetic.draw import CELL, CELLS, SIDE
from curate.sources.synthetic.tasks import NAMED, TASKS, Facts, Task

SOLVE = "Solve in five steps."
CHECK = "Check each step."
DESCRIBE = "Describe."
LOOK = "Look."
LEAK = " (answer: {gold})"
PATCH, MERGE = 8, 2
# Pixels are centred on the paper, so that its tint, which tells the place, is not drowned in white.
PAPER, INK = 0.88, 0.25
PAD, START, END, EOT = "<|vision_start|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"
SPECIALS = [EOT, START, END, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# A slip at a step is carried on, so about half of the policy's chains go wrong somewhere.
SLIP_RATES = (0.06, 0.16, 0.07, 0.12, 0.06)
LEAK_RATE = 0.05
CHECK_WEIGHT = 4.0
EYE_RATE = 0.25
IGNORE = -100
HUES = ("none", *NAMED, "black")
STATE = "training-state.safetensors"


def make_tokenizer(seed: int, size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that any text goes through; what the tasks say is merged into whole words."""
    rng = random.Random(seed)
    corpus = []
    for task in TASKS.values():
        for _ in range(400):
            facts = task.sample(rng)
            corpus.append(chains.render(task, chains.solve(task, facts, [2, 3], rng)))
            corpus.append(f"{SOLVE}\n{CHECK}\n{task.question(facts)}{LEAK.format(gold=chains.gold(task, facts))}")
    corpus += [
        "user\nassistant\nsystem\nThe answer is correct. assistant user "
        "a of to in and is that for it as was with be by on"
    ] * 9
    corpus += [" ".join(f"is {n}" for n in range(100))] * 40
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIALS, initial_alphabet=alphabet)
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=EOT, additional_special_tokens=SPECIALS
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


def make_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLProcessor:
    """The ordinary Qwen2-VL processor at 8 pixels a patch; larger pictures are scaled down to 36 visual tokens."""
    images = Qwen2VLImageProcessor(
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=2,
        image_mean=[PAPER] * 3,
        image_std=[INK] * 3,
        size={"shortest_edge": 32 * 32, "longest_edge": SIDE * SIDE},
    )
    videos = Qwen2VLVideoProcessor(patch_size=PATCH, merge_size=MERGE, temporal_patch_size=2)
    return Qwen2VLProcessor(images, tokenizer, videos, chat_template=TEMPLATE)


def make_config(tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int) -> Qwen2VLConfig:
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIALS}
    heads = hidden // 32
    return Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": hidden * 8 // 3 // 32 * 32,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads // 2,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            # The library's 0.02 is for wide models; at this width attention would take long to form.
            "initializer_range": hidden**-0.5 * 0.8,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            "bos_token_id": None,
            "eos_token_id": ids[END],
            "pad_token_id": ids[EOT],
        },
        vision_config={
            "depth": 3,
            "embed_dim": hidden // 2,
            "num_heads": hidden // 64,
            "hidden_size": hidden,
            "initializer_range": hidden**-0.5 * 0.8,
            "mlp_ratio": 3,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def patches(picture: np.ndarray) -> np.ndarray:
    """What the processor makes of one 96 x 96 picture: [144, 3 * 2 * 8 * 8], patches of a token side by side."""
    values = (picture.astype(np.float32) / 255 - PAPER) / INK
    side = SIDE // (PATCH * MERGE)
    grid = values.transpose(2, 0, 1).reshape(3, side, MERGE, PATCH, side, MERGE, PATCH)
    grid = grid.transpose(1, 4, 2, 5, 0, 3, 6).reshape(-1, 3, 1, PATCH, PATCH)
    return np.repeat(grid, 2, axis=2).reshape(side * side * MERGE * MERGE, -1)


def grid_cells(facts: Facts) -> dict[tuple[int, int], str]:
    """Colour by (column, row) of the pictures that are made of coloured cells."""
    if "dots" in facts:
        return {(c, r): hue for c, r, hue in facts["dots"]}
    if "places" in facts:
        return {(c - 1, r - 1): hue for (c, r), hue in zip(facts["places"], facts["colours"], strict=True)}
    columns = range(facts["column"], facts["column"] + facts["width"])
    rows = range(facts["row"], facts["row"] + facts["height"])
    return {(c, r): facts["colour"] for c in columns for r in rows}


def cell_labels(facts: Facts) -> np.ndarray:
    """What each visual token should know, [36, 6]: colour, sign, row, column, and two numbers; IGNORE where nothing.

    The numbers: a bar's height; a hand's mark; width and height of a rectangle; how many of the colour in the row.
    """
    labels = np.full((CELLS, CELLS, 6), IGNORE)
    labels[..., 2], labels[..., 3] = np.arange(CELLS)[:, None], np.arange(CELLS)[None, :]
    labels[..., 0] = labels[..., 1] = 0
    if "heights" in facts:
        for place, (hue, height) in enumerate(zip(facts["colours"], facts["heights"], strict=True), start=1):
            labels[CELLS - (height + 1) // 2 :, place, 0] = HUES.index(hue)
            labels[:, place, 4] = height
    elif "hands" in facts:
        labels[..., 0] = IGNORE
        for hue, mark in facts["hands"]:
            for reach in (0.35, 0.6, 0.85):
                x = int((SIDE / 2 + reach * 40 * math.sin(math.pi * mark / 6)) // CELL)
                y = int((SIDE / 2 - reach * 40 * math.cos(math.pi * mark / 6)) // CELL)
                labels[y, x, 0], labels[y, x, 4] = HUES.index(hue), mark
    elif "rows" in facts:
        labels[0, 1:5, 1] = range(11, 15)
        for row, (head, digits) in enumerate(facts["rows"], start=1):
            labels[row, 0, 0] = HUES.index(head)
            labels[row, 1:5, 1] = [digit + 1 for digit in digits]
            labels[row, 0:5, 5] = HUES.index(head)
    else:
        cells = grid_cells(facts)
        for (column, row), hue in cells.items():
            labels[row, column, 0] = HUES.index(hue)
            in_row = sum(1 for (_, r), other in cells.items() if r == row and other == hue)
            labels[row, column, 4] = facts.get("width", in_row)
            labels[row, column, 5] = facts.get("height", IGNORE)
    return labels.reshape(-1, 6)


def is_first() -> bool:
    """Whether this worker is the one that prints and saves."""
    return dist.get_rank() == 0


def average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """The mean over all workers, which each saw other rows."""
    for parameter in parameters:
        # One worker's rows may not touch a parameter that another's do.
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    grads = [parameter.grad for parameter in parameters]
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for grad, mean in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(mean.view_as(grad))


def teach_to_see(model: Qwen2VLForConditionalGeneration, tasks: list[Task], seed: int, steps: int, size: int) -> float:
    """Train the vision tower alone to put what a cell shows into its token; returns the last loss.

    A language model of this size would need many hours to teach its eyes through the text.
    """
    rng, tower = random.Random(f"eyes {seed} {dist.get_rank()}"), model.model.visual
    width = model.config.text_config.hidden_size
    heads = torch.nn.ModuleList(torch.nn.Linear(width, count) for count in (len(HUES), 15, CELLS, CELLS, 13, 13))
    parameters = [*tower.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.02)
    grid = torch.tensor([[1, SIDE // PATCH, SIDE // PATCH]]).expand(size, -1)
    start = shown = time.monotonic()
    recent: list[float] = []
    for step in range(steps):
        done = step / steps
        facts = [(task, task.sample(rng)) for task in rng.choices(tasks, k=size)]
        pixels = torch.from_numpy(np.concatenate([patches(np.asarray(task.picture(f))) for task, f in facts]))
        labels = torch.from_numpy(np.concatenate([cell_labels(f) for _, f in facts]))
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * min(1, (len(recent) + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        tokens = tower(pixels, grid_thw=grid).pooler_output
        losses = [
            torch.nn.functional.cross_entropy(head(tokens), labels[:, slot], ignore_index=IGNORE)
            for slot, head in enumerate(heads)
            if (labels[:, slot] != IGNORE).any()
        ]
        loss = sum(losses)
        loss.backward()
        average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        recent.append(loss.item())
        if is_first() and time.monotonic() - shown > 20:
            shown = time.monotonic()
            parts = " ".join(f"{one.item():.3f}" for one in losses)
            print(
                f"eyes {shown - start:6.0f} s step {len(recent)} loss {np.mean(recent[-50:]):.4f} ({parts})", flush=True
            )
    return float(np.mean(recent[-50:]))


def caption(task: Task, facts: Facts) -> str:
    """All that a picture shows, in reading order: what teaches a small model to see, long before it can reason."""
    if "heights" in facts:
        return "".join(f" {hue} {height}" for hue, height in zip(facts["colours"], facts["heights"], strict=True))
    if "hands" in facts:
        return "".join(f" {hue} {mark}" for hue, mark in facts["hands"])
    if task.family == "table":
        return "\n".join(f" {head} " + " ".join(map(str, digits)) for head, digits in facts["rows"])
    cells = grid_cells(facts)
    side = range(CELLS)
    return "\n".join("".join(f" {cells[c, r]}" if (c, r) in cells else "." for c in side) for r in side)


def glances(task: Task, facts: Facts, rng: random.Random, count: int = 3) -> str:
    """The first two steps (what is asked, what is seen) of `count` chains that ask for other things of one picture.

    This is a chain's hard part, three times as dense as in whole chains.
    """
    shown = facts.get("colours") or [head for head, _ in facts.get("rows", facts.get("hands", ()))]
    order = rng.sample(shown, len(shown))
    lines = []
    for turn in range(min(count, len(order)) or 1):
        asked = dict(facts)
        if order:
            asked["first"], asked["second"] = order[turn], order[turn - 1]
        if "letter" in facts:
            asked["letter"] = rng.choice("ABCD")
        slots = chains.solve(task, asked)
        lines += [f"Step {i + 1}: {task.steps[i].template.format(**slots[i])}" for i in (0, 1)]
    return "\n".join(lines)


class Source:
    """Endless training sequences: ids, targets and pixels, written afresh each time."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int, check_share: float, policy: bool) -> None:
        self.rng, self.seed, self.check_share, self.policy = random.Random(seed), seed, check_share, policy
        self.caption_share, self.turn = 0.0, 0
        self.encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
        self.tokenizer, self.side = tokenizer, SIDE // (PATCH * MERGE)
        self.good, self.bad = self.encode("+")[0], self.encode("-")[0]
        self.head = self.encode(
            "<|im_start|>user\n<|vision_start|>" + "<|image_pad|>" * self.side**2 + "<|vision_end|>"
        )
        # The needles are out of reach of so small a model; they get their share, no more.
        self.tasks = [t for t in TASKS.values() if t.name != "needles"] * 4 + [TASKS["needles"]]

    def _slips(self, rates: tuple[float, ...]) -> list[int]:
        return [index for index, rate in enumerate(rates) if self.rng.random() < rate]

    def solve_targets(self, task: Task, facts: Facts, leak: bool) -> tuple[list[int], list[int]]:
        slots = chains.solve(task, facts, self._slips(SLIP_RATES) if self.policy else (), self.rng)
        if leak:
            slots[-1] = {"answer": chains.gold(task, facts)}
        ids = self.encode(chains.render(task, slots) + END)
        return ids, [*ids, IGNORE]

    def check_targets(self, task: Task, facts: Facts) -> tuple[list[int], list[int]]:
        """At the end of each step the target is whether all is right so far, elsewhere the next token.

        The next tokens are what makes checking learnable: who expects the right value notices a wrong one.
        """
        rates = (0.12,) * 5 if self.rng.random() < 0.8 else (0.0,) * 5
        slots = chains.solve(task, facts, self._slips(rates), self.rng)
        truth, right, ids, ends = chains.solve(task, facts), True, [], {}
        text = chains.render(task, slots).split("\n")
        for index, line in enumerate([*text[:4], "\n".join(text[4:])]):
            ids += self.encode(("\n" if index else "") + line)
            right = right and slots[index] == truth[index]
            ends[len(ids)] = self.good if right else self.bad
        return ids, [ends.get(place, token) for place, token in enumerate([*ids, IGNORE])]

    def sequence(self) -> tuple[list[int], list[int], np.ndarray]:
        task = self.rng.choice(self.tasks)
        facts = task.sample(self.rng)
        if task.name != "needles" and self.rng.random() < self.caption_share:
            describe = self.rng.random() < 0.4
            asked = DESCRIBE if describe else LOOK
            ids = self.encode((caption(task, facts) if describe else glances(task, facts, self.rng)) + END)
            targets = [*ids, IGNORE]
        else:
            check, leak = self.rng.random() < self.check_share, self.rng.random() < LEAK_RATE
            question = task.question(facts) + (LEAK.format(gold=chains.gold(task, facts)) if leak else "")
            asked = f"{CHECK if check else SOLVE}\n{question}"
            ids, targets = self.check_targets(task, facts) if check else self.solve_targets(task, facts, leak)
        prompt = self.head + self.encode(f"{asked}<|im_end|>\n<|im_start|>assistant\n")
        # Shifted by one: a target stands where it is to be predicted.
        targets = [IGNORE] * (len(prompt) - 1) + targets
        return prompt + ids, targets, patches(np.asarray(task.picture(facts)))

    def batch(self, size: int, pool: int = 4) -> list[tuple[torch.Tensor, ...]]:
        """`pool` batches of like lengths: ids, targets [B, T] and pixels [B * 144, 384]."""
        rows = sorted((self.sequence() for _ in range(size * pool)), key=lambda row: len(row[0]))
        cuts = [rows[i * size : (i + 1) * size] for i in range(pool)]
        # All workers have rows of like lengths at the same time, so that none waits for another.
        random.Random(f"order {self.turn}").shuffle(cuts)
        out = []
        for cut in cuts:
            width = max(len(ids) for ids, *_ in cut)
            ids = torch.full((size, width), self.tokenizer.pad_token_id)
            targets = torch.full((size, width), IGNORE)
            for row, (one, at, _) in enumerate(cut):
                ids[row, : len(one)], targets[row, : len(at)] = torch.tensor(one), torch.tensor(at)
            out.append((ids, targets, torch.from_numpy(np.concatenate([pixels for *_, pixels in cut]))))
        return out


class Runner:
    """Forward passes with the position ids computed once: every sequence starts with the same image span."""

    def __init__(self, model: Qwen2VLForConditionalGeneration, head: list[int], verdicts: list[int]) -> None:
        self.model, self.verdicts, side = model, torch.tensor(verdicts), SIDE // PATCH
        self.grid = torch.tensor([[1, side, side]])
        ids = torch.tensor([head + [head[0]] * 400])
        kinds = (ids == model.config.image_token_id).int()
        self.positions, _ = model.model.get_rope_index(ids, kinds, image_grid_thw=self.grid)

    def loss(self, ids: torch.Tensor, targets: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        size, width = ids.shape
        hidden = self.model.model(
            input_ids=ids,
            position_ids=self.positions[:, :, :width].expand(-1, size, -1),
            attention_mask=None,
            pixel_values=pixels,
            image_grid_thw=self.grid.expand(size, -1),
            mm_token_type_ids=(ids == self.model.config.image_token_id).int(),
            use_cache=False,
        ).last_hidden_state
        keep = targets != IGNORE
        logits = self.model.lm_head(hidden[keep])
        losses = torch.nn.functional.cross_entropy(logits, targets[keep], reduction="none")
        # A checking sequence has 5 verdicts and some 60 other targets: without a weight nobody would learn to check.
        weight = torch.where(torch.isin(targets[keep], self.verdicts), CHECK_WEIGHT, 1.0)
        return (losses * weight).sum() / weight.sum()


def train(model, source: Source, steps: int, peak: float, size: int, folder: Path, log: str) -> dict[str, float]:  # noqa: ANN001
    """AdamW with warm-up and cosine over `steps`; what a killed training needs to go on is kept every two minutes."""
    runner = Runner(model, source.head, [source.good, source.bad])
    parameters = list(model.parameters())
    eyes = {id(p) for p in model.model.visual.parameters()}
    groups = [
        {
            "params": [p for p in parameters if (p.ndim > 1) == wide and (id(p) in eyes) == eye],
            "weight_decay": 0.05 if wide else 0.0,
            # The eyes see already when this starts.
            "share": EYE_RATE if eye else 1.0,
        }
        for wide in (True, False)
        for eye in (True, False)
    ]
    optimiser = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), fused=True)
    step, before = resume(model, optimiser, folder)
    start = saved = shown = time.monotonic()
    recent, tokens = [], 0
    while step < steps:
        done = step / steps
        # Its own seed for each turn, so that a resumed training reads what an uninterrupted one would.
        source.rng.seed(f"{source.seed} {step} {dist.get_rank()}")
        source.turn = step
        # First to see, then to reason.
        source.caption_share = 0.0 if source.policy else max(0.1, 0.95 * (1 - done / 0.3))
        for ids, targets, pixels in source.batch(size):
            rate = (
                peak * min(1, (step + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1, step / steps))))
            )
            for group in optimiser.param_groups:
                group["lr"] = rate * group["share"]
            loss = runner.loss(ids, targets, pixels)
            loss.backward()
            average_gradients(parameters)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            step, tokens = step + 1, tokens + ids.numel() * dist.get_world_size()
            recent = [*recent[-49:], loss.item()]
        now = time.monotonic()
        if is_first() and now - shown > 20:
            shown = now
            pace = tokens / (now - start)
            print(
                f"{log} {now - start + before:6.0f} s step {step} loss {np.mean(recent):.4f} {pace:.0f} tok/s",
                flush=True,
            )
        if is_first() and now - saved > 120:
            saved = now
            save(model, source, folder)
            keep(model, optimiser, folder, step, now - start + before)
    if is_first():
        save(model, source, folder)
        (folder / STATE).unlink(missing_ok=True)
    return {"steps": step, "loss": float(np.mean(recent)), "seconds": round(time.monotonic() - start + before)}


def keep(model, optimiser: torch.optim.Optimizer, folder: Path, step: int, seconds: float) -> None:  # noqa: ANN001
    """All that a killed training needs to go on, in float32."""
    state = {f"weight.{name}": value.data for name, value in model.named_parameters()}
    for name, value in model.named_parameters():
        for key, moment in optimiser.state[value].items():
            state[f"{key}.{name}"] = moment
    where = folder / STATE
    save_file(
        {k: v.contiguous() for k, v in state.items()},
        where.with_suffix(".tmp"),
        {"step": str(step), "seconds": str(seconds)},
    )
    where.with_suffix(".tmp").replace(where)


def resume(model, optimiser: torch.optim.Optimizer, folder: Path) -> tuple[int, float]:  # noqa: ANN001
    """(step, seconds) of a killed training, with its weights and moments put back; (0, 0) for a new one."""
    if not (folder / STATE).exists():
        return 0, 0.0
    with safe_open(folder / STATE, "pt") as file:
        about = file.metadata()
        for name, value in model.named_parameters():
            value.data.copy_(file.get_tensor(f"weight.{name}"))
            optimiser.state[value] = {k: file.get_tensor(f"{k}.{name}") for k in ("step", "exp_avg", "exp_avg_sq")}
    return int(about["step"]), float(about["seconds"])


def save(model: Qwen2VLForConditionalGeneration, source: Source, folder: Path) -> None:
    """bf16 safetensors with its processor: what `from_pretrained` and vLLM load."""
    import copy

    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    make_processor(source.tokenizer).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--eye-steps", type=int, default=1800, help="for the vision tower alone, first of all")
    parser.add_argument("--steps", type=int, default=5000, help="for the backbone")
    parser.add_argument("--policy-steps", type=int, default=250)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16, help="rows a step of each worker")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--rate", type=float, default=1e-3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (options, f"file://{folder}/meet"), options.workers)


def work(rank: int, options: argparse.Namespace, meet: str) -> None:
    """One worker. All start from the same seed and see the same mean gradients, so they stay equal."""
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=options.workers)
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    tokenizer = make_tokenizer(options.seed, 640)
    model = Qwen2VLForConditionalGeneration(make_config(tokenizer, options.hidden, options.layers))
    if is_first():
        size = sum(p.numel() for p in model.parameters())
        print(f"{size / 1e6:.2f} M parameters, {len(tokenizer)} tokens", flush=True)
    record = {
        "seed": options.seed,
        "batch": options.batch * options.workers,
        "rate": options.rate,
        "slip_rates": SLIP_RATES,
    }
    backbone, policy = options.out / "backbone", options.out / "policy"
    source = Source(tokenizer, options.seed, 0.4, policy=False)
    if not (backbone / STATE).exists():
        seen = [task for task in TASKS.values() if task.name != "needles"]
        eyes = teach_to_see(model, seen, options.seed, options.eye_steps, options.batch)
        record["eyes"] = {"steps": options.eye_steps, "loss": eyes}
    record["backbone"] = train(model, source, options.steps, options.rate, options.batch, backbone, "backbone")
    record["backbone"]["pass_at_1"] = measure(model, source, 200)
    source = Source(tokenizer, options.seed + 1, 0.0, policy=True)
    record["policy"] = train(model, source, options.policy_steps, options.rate / 4, options.batch, policy, "policy")
    record["policy"]["pass_at_1"] = measure(model, source, 200)
    if is_first():
        (options.out / "model.json").write_text(json.dumps(record, indent=2) + "\n")
        print(json.dumps(record, indent=2))
    dist.destroy_process_group()


@torch.no_grad()
def measure(model: Qwen2VLForConditionalGeneration, source: Source, count: int) -> dict[str, float]:
    """Share of right answers at temperature 1, one chain for each of `count` new problems of every task."""
    model.eval()
    processor = make_processor(source.tokenizer)
    processor.tokenizer.padding_side = "left"
    ask = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{}\n{}<|im_end|>\n<|im_start|>assistant\n"
    found = {}
    for task in TASKS.values():
        rng = random.Random(f"measure {task.name}")
        problems = [task.sample(rng) for _ in range(count)]
        texts = [ask.format(SOLVE, task.question(facts)) for facts in problems]
        pictures = [task.picture(facts) for facts in problems]
        batch = processor(text=texts, images=pictures, return_tensors="pt", padding=True)
        written = model.generate(**batch, max_new_tokens=110, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
        chains_ = source.tokenizer.batch_decode(written[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        answers = [text.rpartition("Final answer:")[2].strip() for text in chains_]
        right = [a == chains.gold(task, facts) for a, facts in zip(answers, problems, strict=True)]
        found[task.name] = sum(right) / count
    model.train()
    return found


if __name__ == "__main__":
    main()
