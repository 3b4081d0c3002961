"""What the embedded models are trained on: endless sequences of several kinds, written afresh each time."""

from __future__ import annotations

import random
import re

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from curate.sources.synthetic import chain as chains
from curate.sources.synthetic.cells import in_half
from curate.sources.synthetic.draw import SIDE
from curate.sources.synthetic.tasks import TASKS, Facts, SyntheticTask
from making.network import CHECK, END, LEAK, MERGE, PATCH, SOLVE
from making.sight import IGNORE, NUMBER_WORDS, cell_labels, patches

WATCH = "Watch each step."
NAME = "Name."
DOUBT = "Check each number."
LOOK = "Look."
ASKED = {"solve": SOLVE, "check": CHECK, "find": CHECK, "watch": WATCH, "name": NAME, "doubt": DOUBT, "look": LOOK}
# A slip at a step is carried on, so about half of the policy's chains go wrong somewhere.
SLIP_RATES = (0.06, 0.16, 0.07, 0.12, 0.06)
LEAK_RATE = 0.05
# How often an image of a task is named or doubted: what needs two words to be looked up takes longest to learn.
NAME_WEIGHTS = {
    "bars_read": 1.5,
    "dial_read": 1.0,
    "dots_count": 1.5,
    "grid_distance": 2.0,
    "rectangle_area": 0.7,
    "table_lookup": 2.5,
}
DOUBT_RATE = 0.45


def names(facts: Facts, rng: random.Random) -> str:
    """What an image shows as bare pairs, a colour and its numbers, in any order: each number is one look-up by a word
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


def glances(task: SyntheticTask, facts: Facts, rng: random.Random, count: int = 3) -> str:
    """The first two steps (what is asked, what is seen) of `count` chains that ask for other things of one image.

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


def pieces(task: SyntheticTask, slots: list[dict[str, str]]) -> list[tuple[str, list[tuple[str, int]]]]:
    """A chain's steps as the PRM reads them, each with where its values end: (slot, characters from its start)."""
    found = []
    for index, (step, values) in enumerate(zip(task.steps, slots, strict=True)):
        text, ends = ("\n" if index else "") + f"Step {index + 1}: ", []
        for place, part in enumerate(re.split(r"\{(\w+)\}", step.template)):
            text += values[part] if place % 2 else part
            ends += [(part, len(text))] if place % 2 else []
        if index == chains.NUM_STEPS - 1:
            text += f"\nFinal answer: {values['answer']}"
            ends.append(("answer", len(text)))
        found.append((text, ends))
    return found


class Source:
    """Endless training sequences: ids, targets and pixels, written afresh each time."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int, policy: bool) -> None:
        self.rng, self.seed, self.policy = random.Random(seed), seed, policy
        self.mix = {"solve": 1.0}
        self.turn, self.sees = 0, "pixels"
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

    def solve_targets(self, task: SyntheticTask, facts: Facts, leak: bool) -> tuple[list[int], list[int]]:
        slots = chains.solve(task, facts, self._slips(SLIP_RATES) if self.policy else (), self.rng)
        if leak:
            slots[-1] = {"answer": chains.gold(task, facts)}
        ids = self.encode(chains.render(task, slots) + END)
        return ids, [*ids, IGNORE]

    def watch_targets(self, task: SyntheticTask, facts: Facts) -> tuple[list[int], list[int]]:
        """After every token: is it right given what was written before it; if not, the token that should stand there.

        To name what should stand there is to look it up, which is learned soon; to say only whether the two are the
        same is not (`docs/measurements/embedded-models.md`).
        """
        slots, written, ids, verdicts = chains.solve(task, facts, self._slips((0.2,) * 5), self.rng), {}, [], []
        for index, (text, ends) in enumerate(pieces(task, slots)):
            encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            wanted = task.steps[index].fill(facts, written)
            found = [self.good] * len(encoded["input_ids"])
            for name, end in ends:
                if slots[index][name] == wanted[name]:
                    continue
                start = end - len(slots[index][name])
                inside = [at for at, (a, b) in enumerate(encoded["offset_mapping"]) if a < end and b > start]
                right = self.encode(f" {wanted[name]}")
                for place, at in enumerate(inside):
                    if place >= len(right) or encoded["input_ids"][at] != right[place]:
                        # What follows in this value makes no sense any more.
                        for each in inside[place:]:
                            found[each] = IGNORE
                        found[at] = right[place] if place < len(right) else self.bad
                        break
            ids += encoded["input_ids"]
            verdicts += found
            written |= slots[index]
        return ids, [IGNORE, *verdicts]

    def check_targets(self, task: SyntheticTask, facts: Facts, find: bool = False) -> tuple[list[int], list[int]]:
        """After every token: is all right so far? So a wrong value is told where it stands, not sentences later. To
        `find` is to name, at the first wrong value, the one that should stand there.
        """
        rate = self.rng.choice((0.0, 0.12, 0.12, 0.12))
        slots = chains.solve(task, facts, self._slips((rate,) * 5), self.rng)
        truth, ids, verdicts, right = chains.solve(task, facts), [], [], True
        for index, (text, ends) in enumerate(pieces(task, slots)):
            encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            wrong = {end: truth[index][name] for name, end in ends if slots[index][name] != truth[index][name]}
            for token, (_, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
                ids.append(token)
                if right and end in wrong:
                    named = self.encode(f" {wrong[end]}")
                    verdicts.append(named[0] if find and len(named) == 1 else self.bad)
                else:
                    verdicts.append(self.good if right else self.bad)
                right = right and end not in wrong
        return ids, [IGNORE, *verdicts]

    def doubt_targets(self, facts: Facts) -> tuple[list[int], list[int]]:
        """Bare pairs, nearly half of their numbers wrong; after each number, is it right, or which would be?"""
        ids = self.encode(names(facts, self.rng))
        targets = [IGNORE] * (len(ids) + 1)
        for place, word in enumerate(ids):
            if word in self.numbers:
                number = self.numbers[word]
                if self.rng.random() < DOUBT_RATE:
                    near = [n for n in range(max(0, number - 2), min(12, number + 2) + 1) if n != number]
                    number = self.rng.choice(near if self.rng.random() < 0.5 else [n for n in range(10) if n != number])
                    ids[place] = self.number_ids[number]
                targets[place + 1] = self.good if ids[place] == word else word
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
        if kind in ("solve", "check", "find", "watch") and self.rng.random() < LEAK_RATE:
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
        elif kind == "watch":
            ids, targets = self.watch_targets(task, facts)
        else:
            ids, targets = self.check_targets(task, facts, find=kind == "find")
        asked = ASKED[kind] + (f"\n{question}" if kind in ("solve", "check", "find", "watch") else "")
        prompt = self.head + self.encode(f"{asked}<|im_end|>\n<|im_start|>assistant\n")
        # Shifted by one: a target stands where it is to be predicted.
        targets = [IGNORE] * (len(prompt) - 1) + targets
        return prompt + ids, targets, self.seen(task, facts)

    def seen(self, task: SyntheticTask, facts: Facts) -> np.ndarray:
        """What the model gets of an image: `pixels`; `labels`, for the ideal eye; or only the `places` of cells."""
        if self.sees == "pixels":
            return patches(np.asarray(task.image(facts)))
        labels = cell_labels(facts)
        if self.sees == "places":
            labels[:, :3] = labels[:, 5:] = IGNORE
        return labels

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
