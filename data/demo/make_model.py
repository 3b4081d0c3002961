"""Train the embedded demo models from scratch: `policy/` (solves, with slips) and `backbone/` (solves and checks).

    python data/demo/make_model.py --out data/demo

Both are small Qwen2-VL models. The backbone is trained in five parts. Words: the language model alone, on chains whose
pictures it does not see; it learns how chains go, and its words. Eyes: the vision tower alone, to put what a cell of a
picture shows into its token, in those words. Names: both together, on bare pairs of what a picture shows, each a
look-up by the word right before it. Chains: solving. Checks: somebody's chain, slips included; is each step right, and
is all right so far? The policy is the same network, tuned for a few minutes on chains with slips, so that right and
wrong chains are both common in every domain: a policy that is worse than its verifier, as in DreamPRM's setting. The
seed, the steps and the measured pass@1 go to `model.json`. A killed run goes on from what lies in `parts`, which can be
deleted at the end.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from curate.sources.synthetic.cells import in_half
from curate.sources.synthetic.draw import CELL, CELLS, SIDE
from curate.sources.synthetic.tasks import NAMED, TASKS, Facts, Task

SOLVE = "Solve in five steps."
CHECK = "Check each step."
WATCH = "Watch each step."
NAME = "Name."
DOUBT = "Check each number."
LOOK = "Look."
ASKED = {"solve": SOLVE, "check": CHECK, "watch": WATCH, "name": NAME, "doubt": DOUBT, "look": LOOK}
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
EYE_RATE = 0.25
# What each part is made of: shares of kinds of sequences, at its start and at its end.
#   name: bare pairs of what is seen; doubt: the same with wrong numbers, is each right; look: the first two steps of
#   several chains; solve: a whole chain; watch: after every token, is this step right given what stands before it;
#   check: is all right so far.
MIXES: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "words": (
        {"name": 0.35, "doubt": 0.35, "look": 0.1, "solve": 0.1, "watch": 0.1},
        {"name": 0.05, "doubt": 0.1, "look": 0.05, "solve": 0.3, "watch": 0.25, "check": 0.25},
    ),
    "chains": (
        {"name": 0.1, "doubt": 0.15, "look": 0.1, "solve": 0.25, "watch": 0.2, "check": 0.2},
        {"doubt": 0.05, "solve": 0.25, "watch": 0.2, "check": 0.5},
    ),
    "policy": ({"solve": 1.0}, {"solve": 1.0}),
}
# How often a picture of a task is named or doubted: what needs two words to be looked up takes longest to learn.
NAME_WEIGHTS = {
    "bars_read": 1.5,
    "dial_read": 1.0,
    "dots_count": 1.5,
    "grid_distance": 2.0,
    "rectangle_area": 0.7,
    "table_lookup": 2.5,
}
DOUBT_RATE = 0.45
IGNORE = -100


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


# Words that a visual token may stand for: a colour, a place, and a number; their own words say them in a chain.
COLOUR_WORDS = tuple(f" {hue}" for hue in NAMED)
PLACE_WORDS = (" top", " bottom", " A", " B", " C", " D")
NUMBER_WORDS = tuple(f" {number}" for number in range(13))
# Further numbers of a cell that have no word of their own there: row, column, and two sizes.
PLAIN = (CELLS, CELLS, 13, 13)


def cell_labels(facts: Facts) -> np.ndarray:
    """What each visual token should know, [36, 7]: three words (indices of a colour, a place and a number) and four
    numbers (row, column, and width and height of a rectangle or the total of a dot's colour); IGNORE where nothing.
    """
    words = np.full((CELLS, CELLS, 3), IGNORE)
    plain = np.full((CELLS, CELLS, 4), IGNORE)
    plain[..., 0], plain[..., 1] = np.arange(CELLS)[:, None], np.arange(CELLS)[None, :]
    if "heights" in facts:
        for place, (hue, height) in enumerate(zip(facts["colours"], facts["heights"], strict=True), start=1):
            words[CELLS - (height + 1) // 2 :, place, 0] = NAMED.index(hue)
            words[:, place, 2] = height
    elif "hands" in facts:
        for hue, mark in facts["hands"]:
            for reach in (0.35, 0.6, 0.85):
                x = int((SIDE / 2 + reach * 40 * math.sin(math.pi * mark / 6)) // CELL)
                y = int((SIDE / 2 - reach * 40 * math.cos(math.pi * mark / 6)) // CELL)
                words[y, x] = NAMED.index(hue), IGNORE, mark
    elif "rows" in facts:
        words[0, 1:5, 1] = range(2, 6)
        for row, (head, digits) in enumerate(facts["rows"], start=1):
            words[row, 0:5, 0] = NAMED.index(head)
            words[row, 1:5, 1] = range(2, 6)
            words[row, 1:5, 2] = digits
    elif "lines" not in facts:
        cells = grid_cells(facts)
        for (column, row), hue in cells.items():
            words[row, column, 0] = NAMED.index(hue)
            if "dots" in facts:
                upper = row < CELLS // 2
                words[row, column, 1:] = 0 if upper else 1, in_half(facts, hue, upper)
                plain[row, column, 2] = in_half(facts, hue, True) + in_half(facts, hue, False)
            else:
                plain[row, column, 2:] = facts.get("width", IGNORE), facts.get("height", IGNORE)
    return np.concatenate([words, plain], axis=-1).reshape(CELLS * CELLS, -1)


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


class Ideal(torch.nn.Module):
    """What a perfect eye would see: each visual token is the sum of the language model's own embeddings of the words
    for what its cell shows, and of rows of small tables for the numbers that have no word there. So whatever finds and
    copies a word in a text does so in a picture.
    """

    def __init__(self, table: torch.nn.Embedding, word_ids: list[list[int]]) -> None:
        super().__init__()
        self.table, self.word_ids = (table,), [torch.tensor([*ids, 0]) for ids in word_ids]
        self.numbers = torch.nn.ModuleList(torch.nn.Embedding(count, table.embedding_dim) for count in PLAIN)
        for numbers in self.numbers:
            numbers.weight.data.mul_(0.4 * table.embedding_dim**-0.5)

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        """Visual tokens [n, width] of `cell_labels` [n, 7]."""
        parts = []
        for slot, ids in enumerate(self.word_ids):
            label = labels[:, slot]
            known = (label >= 0) & (label < len(ids) - 1)
            parts.append(self.table[0](ids[label.clamp(0)]) * known[:, None])
        for slot, numbers in enumerate(self.numbers, start=len(self.word_ids)):
            label = labels[:, slot]
            parts.append(numbers(label.clamp(0)) * (label >= 0)[:, None])
        return torch.stack(parts).sum(0)


class Pupil(torch.nn.Module):
    """The model with its ideal eye; position ids are computed once: every sequence starts with the same image span."""

    def __init__(self, causal: Qwen2VLForConditionalGeneration, source: Source) -> None:
        super().__init__()
        self.causal, side = causal, SIDE // PATCH
        words = [source.word_ids(words) for words in (COLOUR_WORDS, PLACE_WORDS, NUMBER_WORDS)]
        self.ideal = Ideal(causal.get_input_embeddings(), words)
        self.grid = torch.tensor([[1, side, side]])
        ids = torch.tensor([source.head + [source.head[0]] * 400])
        kinds = (ids == causal.config.image_token_id).int()
        self.positions, _ = causal.model.get_rope_index(ids, kinds, image_grid_thw=self.grid)

    def hidden(self, ids: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        """Last hidden states [B, T, width]; `shown` holds pixels, or cell labels for the ideal eye."""
        size, width = ids.shape
        if shown.is_floating_point():
            tokens = self.causal.model.visual(shown, grid_thw=self.grid.expand(size, -1)).pooler_output
        else:
            tokens = self.ideal(shown)
        embedded = self.causal.get_input_embeddings()(ids)
        at = (ids == self.causal.config.image_token_id)[..., None]
        return self.causal.model.language_model(
            inputs_embeds=embedded.masked_scatter(at, tokens.to(embedded.dtype)),
            position_ids=self.positions[:, :, :width].expand(-1, size, -1),
            attention_mask=None,
            use_cache=False,
        ).last_hidden_state

    def loss(self, ids: torch.Tensor, targets: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of the targets [B, T]."""
        keep = targets != IGNORE
        return torch.nn.functional.cross_entropy(self.causal.lm_head(self.hidden(ids, shown)[keep]), targets[keep])


def teach_to_see(pupil: Pupil, tasks: list[Task], source: Source, steps: int, size: int) -> dict[str, float]:
    """Train the vision tower alone to give what the ideal eye gives.

    A language model of this size would need many hours to teach its eyes through the text.
    """
    rng, tower = random.Random(f"eyes {source.seed} {dist.get_rank()}"), pupil.causal.model.visual
    parameters = list(tower.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.02)
    start = shown = time.monotonic()
    recent: list[float] = []
    for step in range(steps):
        facts = [(task, task.sample(rng)) for task in rng.choices(tasks, k=size)]
        pixels = torch.from_numpy(np.concatenate([patches(np.asarray(task.picture(f))) for task, f in facts]))
        with torch.no_grad():
            wanted = pupil.ideal(torch.from_numpy(np.concatenate([cell_labels(f) for _, f in facts])))
        rate = 1e-3 * min(1, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        error = tower(pixels, grid_thw=pupil.grid.expand(size, -1)).pooler_output - wanted
        # As a share of what is to be told: the tokens' spread over all pictures.
        loss = error.square().sum() / (wanted - wanted.mean(0)).square().sum()
        loss.backward()
        average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        recent.append(loss.item())
        if is_first() and time.monotonic() - shown > 20:
            shown = time.monotonic()
            print(f"eyes {shown - start:6.0f} s step {len(recent)} loss {np.mean(recent[-50:]):.4f}", flush=True)
    return {"steps": steps, "loss": float(np.mean(recent[-50:])), "seconds": round(time.monotonic() - start)}


def names(facts: Facts, rng: random.Random) -> str:
    """What a picture shows as bare pairs, a colour and its numbers, in any order: each number is one look-up by a word
    that stands right before it. What a chain asks for is more of the same with other words in between.
    """

    def of(hue: str) -> str:
        if "heights" in facts:
            return f"{hue} {facts['heights'][facts['colours'].index(hue)]}"
        if "hands" in facts:
            return f"{hue} {dict(facts['hands'])[hue]}"
        if "rows" in facts:
            digits = dict(facts["rows"])[hue]
            letters = rng.sample(range(4), 4)
            return " ".join([hue, *(f"{'ABCD'[at]} {digits[at]}" for at in letters)])
        if "dots" in facts:
            upper, lower = in_half(facts, hue, True), in_half(facts, hue, False)
            return f"{hue} top {upper} bottom {lower} all {upper + lower}"
        column, row = facts["places"][facts["colours"].index(hue)]
        return f"{hue} column {column} row {row}"

    shown = facts.get("colours") or [head for head, _ in facts.get("rows", facts.get("hands", ()))]
    if not shown:
        return f" {facts['width']} wide {facts['height']} high"
    return "".join(f" {of(hue)}" for hue in rng.sample(shown, len(shown)))


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


def pieces(task: Task, slots: list[dict[str, str]]) -> list[tuple[str, list[tuple[str, int]]]]:
    """A chain's steps as the PRM reads them, each with where its values end: (slot, characters from its start)."""
    found = []
    for index, (step, values) in enumerate(zip(task.steps, slots, strict=True)):
        text, ends = ("\n" if index else "") + f"Step {index + 1}: ", []
        for place, part in enumerate(re.split(r"\{(\w+)\}", step.template)):
            text += values[part] if place % 2 else part
            ends += [(part, len(text))] if place % 2 else []
        if index == chains.NUM_STEPS - 1:
            text += f"\nFinal answer: {values['answer']}"
        found.append((text, ends))
    return found


class Source:
    """Endless training sequences: ids, targets and pixels, written afresh each time."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int, policy: bool) -> None:
        self.rng, self.seed, self.policy = random.Random(seed), seed, policy
        self.mix = {"solve": 1.0}
        self.turn, self.ideal = 0, False
        self.encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
        self.tokenizer, self.side = tokenizer, SIDE // (PATCH * MERGE)
        self.good, self.bad = self.encode("+")[0], self.encode("-")[0]
        self.head = self.encode(
            "<|im_start|>user\n<|vision_start|>" + "<|image_pad|>" * self.side**2 + "<|vision_end|>"
        )
        self.number_ids = self.word_ids(NUMBER_WORDS)
        self.numbers = {word: number for number, word in enumerate(self.number_ids)}
        # The needles are out of reach of so small a model; they get their share, no more.
        self.tasks = [t for t in TASKS.values() if t.name != "needles"] * 4 + [TASKS["needles"]]

    def word_ids(self, words: tuple[str, ...]) -> list[int]:
        """The one token of each of these words."""
        ids = [self.encode(word) for word in words]
        if any(len(each) != 1 for each in ids):
            raise ValueError(f"not one token each: {words}")
        return [each[0] for each in ids]

    def _slips(self, rates: tuple[float, ...]) -> list[int]:
        return [index for index, rate in enumerate(rates) if self.rng.random() < rate]

    def solve_targets(self, task: Task, facts: Facts, leak: bool) -> tuple[list[int], list[int]]:
        slots = chains.solve(task, facts, self._slips(SLIP_RATES) if self.policy else (), self.rng)
        if leak:
            slots[-1] = {"answer": chains.gold(task, facts)}
        ids = self.encode(chains.render(task, slots) + END)
        return ids, [*ids, IGNORE]

    def check_targets(self, task: Task, facts: Facts, local: bool) -> tuple[list[int], list[int]]:
        """After every token: is all right so far; or, `local`, is this step right given what was written before it?

        So a wrong value is told where it stands, not sentences later.
        """
        rate = self.rng.choice((0.0, 0.12, 0.12, 0.12) if not local else (0.2,))
        slots = chains.solve(task, facts, self._slips((rate,) * 5), self.rng)
        truth, ids, verdicts, right, written = chains.solve(task, facts), [], [], True, {}
        for index, (text, ends) in enumerate(pieces(task, slots)):
            encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            wanted = task.steps[index].fill(facts, written) if local else truth[index]
            wrong = [end for name, end in ends if slots[index][name] != wanted[name]]
            for token, (_, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
                ids.append(token)
                verdicts.append(self.good if right and not any(end >= place for place in wrong) else self.bad)
            right = local or (right and not wrong)
            written |= slots[index]
        return ids, [IGNORE, *verdicts]

    def doubt_targets(self, facts: Facts) -> tuple[list[int], list[int]]:
        """Bare pairs, nearly half of their numbers wrong; after each number, is it right?"""
        ids = self.encode(names(facts, self.rng))
        targets = [IGNORE] * (len(ids) + 1)
        for place, word in enumerate(ids):
            if word in self.numbers:
                number = self.numbers[word]
                if self.rng.random() < DOUBT_RATE:
                    near = [n for n in range(max(0, number - 2), min(12, number + 2) + 1) if n != number]
                    number = self.rng.choice(near if self.rng.random() < 0.5 else [n for n in range(10) if n != number])
                    ids[place] = self.number_ids[number]
                targets[place + 1] = self.good if ids[place] == word else self.bad
        return ids, targets

    def sequence(self) -> tuple[list[int], list[int], np.ndarray]:
        kind = self.rng.choices(list(self.mix), list(self.mix.values()))[0]
        if kind in ("name", "doubt"):
            task = TASKS[self.rng.choices(list(NAME_WEIGHTS), list(NAME_WEIGHTS.values()))[0]]
        else:
            task = self.rng.choice(self.tasks)
        facts = task.sample(self.rng)
        if task.name == "needles" and kind == "look":
            kind = "solve"
        question = task.question(facts)
        if kind in ("solve", "check", "watch") and self.rng.random() < LEAK_RATE:
            question, leak = question + LEAK.format(gold=chains.gold(task, facts)), True
        else:
            leak = False
        if kind == "doubt":
            ids, targets = self.doubt_targets(facts)
        elif kind in ("name", "look"):
            text = names(facts, self.rng) if kind == "name" else glances(task, facts, self.rng)
            ids = self.encode(text + END)
            targets = [*ids, IGNORE]
        elif kind == "solve":
            ids, targets = self.solve_targets(task, facts, leak)
        else:
            ids, targets = self.check_targets(task, facts, local=kind == "watch")
        asked = ASKED[kind] + (f"\n{question}" if kind in ("solve", "check", "watch") else "")
        prompt = self.head + self.encode(f"{asked}<|im_end|>\n<|im_start|>assistant\n")
        # Shifted by one: a target stands where it is to be predicted.
        targets = [IGNORE] * (len(prompt) - 1) + targets
        return prompt + ids, targets, cell_labels(facts) if self.ideal else patches(np.asarray(task.picture(facts)))

    def batch(self, size: int, pool: int = 4) -> list[tuple[torch.Tensor, ...]]:
        """`pool` batches of like lengths: ids, targets [B, T], and pixels [B * 144, 384] or labels [B * 36, 7]."""
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
            shown = torch.from_numpy(np.concatenate([seen for *_, seen in cut]))
            out.append((ids, targets, shown))
        return out


def train(
    pupil: Pupil, source: Source, steps: int, peak: float, size: int, folder: Path, part: str
) -> dict[str, float]:
    """AdamW with warm-up and cosine over `steps`; what a killed training needs to go on is kept every two minutes."""
    # Only one of the two pairs of eyes is used.
    unused = pupil.causal.model.visual if source.ideal else pupil.ideal
    unused = {id(p) for p in unused.parameters()}
    parameters = [p for p in pupil.parameters() if id(p) not in unused]
    eyes = {id(p) for p in pupil.causal.model.visual.parameters()}
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
    state = folder / f"{part}-state.safetensors"
    step, before = resume(pupil, optimiser, state)
    start = saved = shown = time.monotonic()
    recent, tokens = [], 0
    while step < steps:
        done = step / steps
        # Its own seed for each turn, so that a resumed training reads what an uninterrupted one would.
        source.rng.seed(f"{source.seed} {step} {dist.get_rank()}")
        source.turn = step
        first, last = MIXES[part]
        source.mix = {kind: first.get(kind, 0) * (1 - done) + last.get(kind, 0) * done for kind in first | last}
        for ids, targets, seen in source.batch(size):
            rate = (
                peak * min(1, (step + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1, step / steps))))
            )
            for group in optimiser.param_groups:
                group["lr"] = rate * group["share"]
            loss = pupil.loss(ids, targets, seen)
            loss.backward()
            average_gradients(parameters)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            optimiser.zero_grad()
            step, tokens = step + 1, tokens + ids.numel() * dist.get_world_size()
            recent = [*recent[-49:], loss.item()]
        now = time.monotonic()
        if is_first() and now - shown > 20:
            shown = now
            pace = tokens / (now - start)
            print(
                f"{part} {now - start + before:6.0f} s step {step} loss {np.mean(recent):.4f} {pace:.0f} tok/s",
                flush=True,
            )
        if is_first() and now - saved > 120:
            saved = now
            keep(pupil, optimiser, state, step, now - start + before)
    return {"steps": step, "loss": float(np.mean(recent)), "seconds": round(time.monotonic() - start + before)}


def keep(model, optimiser: torch.optim.Optimizer, path: Path, step: int, seconds: float) -> None:  # noqa: ANN001
    """All that a killed training needs to go on, in float32."""
    state = {f"weight.{name}": value.data for name, value in model.named_parameters()}
    for name, value in model.named_parameters():
        for key, moment in optimiser.state.get(value, {}).items():
            state[f"{key}.{name}"] = moment
    write(path, state, {"step": str(step), "seconds": str(seconds)})


def write(path: Path, tensors: dict[str, torch.Tensor], about: dict[str, str]) -> None:
    """A safetensors file, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, about)
    temporary.replace(path)


def resume(model, optimiser: torch.optim.Optimizer, path: Path) -> tuple[int, float]:  # noqa: ANN001
    """(step, seconds) of a killed training, with its weights and moments put back; (0, 0) for a new one."""
    if not path.exists():
        return 0, 0.0
    with safe_open(path, "pt") as file:
        about = file.metadata()
        for name, value in model.named_parameters():
            value.data.copy_(file.get_tensor(f"weight.{name}"))
            if f"step.{name}" in file.keys():  # noqa: SIM118 - not a dict
                optimiser.state[value] = {k: file.get_tensor(f"{k}.{name}") for k in ("step", "exp_avg", "exp_avg_sq")}
    return int(about["step"]), float(about["seconds"])


def once(part: str, model, folder: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:  # noqa: ANN001
    """Do a part of the training, or, when it was done before, put its weights back; returns its record."""
    path = folder / f"{part}.safetensors"
    if path.exists():
        with safe_open(path, "pt") as file:
            for name, value in model.named_parameters():
                value.data.copy_(file.get_tensor(name))
            return json.loads(file.metadata()["record"])
    record = make()
    # Nobody may look for the file before all are past the question above.
    dist.barrier()
    if is_first():
        write(path, {name: p.data for name, p in model.named_parameters()}, {"record": json.dumps(record)})
        (folder / f"{part}-state.safetensors").unlink(missing_ok=True)
    dist.barrier()
    return record


def save(model: Qwen2VLForConditionalGeneration, source: Source, folder: Path) -> None:
    """bf16 safetensors with its processor: what `from_pretrained` and vLLM load."""
    if not is_first():
        return
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    make_processor(source.tokenizer).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--word-steps", type=int, default=3600, help="for the language model, with ideal eyes")
    parser.add_argument("--eye-steps", type=int, default=2000, help="for the vision tower alone")
    parser.add_argument("--chain-steps", type=int, default=1200, help="for both")
    parser.add_argument("--policy-steps", type=int, default=250)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16, help="rows a step of each worker")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=6)
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
    parts = options.out / "parts"
    parts.mkdir(exist_ok=True)
    seen = [task for task in TASKS.values() if task.name != "needles"]
    source = Source(tokenizer, options.seed, policy=False)
    pupil = Pupil(model, source)

    def teach(part: str, steps: int, rate: float) -> dict[str, Any]:
        return once(part, pupil, parts, lambda: train(pupil, source, steps, rate, options.batch, parts, part))

    source.ideal = True
    record["words"] = teach("words", options.word_steps, 2 * options.rate)
    source.ideal = False
    record["eyes"] = once(
        "eyes", pupil, parts, lambda: teach_to_see(pupil, seen, source, options.eye_steps, options.batch)
    )
    record["backbone"] = teach("chains", options.chain_steps, options.rate)
    record["backbone"]["pass_at_1"] = measure(model, source, 200)
    save(model, source, options.out / "backbone")
    source = Source(tokenizer, options.seed + 1, policy=True)
    record["policy"] = teach("policy", options.policy_steps, options.rate / 4)
    record["policy"]["pass_at_1"] = measure(model, source, 200)
    save(model, source, options.out / "policy")
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
    for task in list(TASKS.values())[dist.get_rank() :: dist.get_world_size()]:
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
    everywhere: list[dict[str, float]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everywhere, found)
    return {name: part[name] for name in TASKS for part in everywhere if name in part}


if __name__ == "__main__":
    main()
