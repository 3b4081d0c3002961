"""Training of the embedded models in parts, each resumable, by workers of one thread that share their gradients."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import Qwen2VLForConditionalGeneration

from curate.sources.synthetic.draw import SIDE
from curate.sources.synthetic.tasks import SyntheticTask
from making.network import PATCH
from making.sequences import Source
from making.sight import COLOUR_WORDS, IGNORE, NUMBER_WORDS, PLACE_WORDS, PLAIN, Ideal, cell_labels, patches

# The eyes' learning rate in all parts that train both, as a share of the others'.
EYE_RATE = 0.25
# Alone: their peak learning rate, and the weight of naming each label at the start and at the end.
EYES_PEAK, NAMING = 2e-3, (4.0, 0.5)
# What each part is made of: shares of kinds of sequences, at its start and at its end.
#   name: bare pairs of what is seen; doubt: the same with wrong numbers, to be found and put right; look: the first two
#   steps of several chains; solve: a whole chain; watch: after every token, is it right, or which would be; check: is
#   all right so far (only to measure); find: the same, with the first wrong value put right.
MIXES: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "words": ({"solve": 1.0}, {"solve": 1.0}),
    "looks": (
        {"name": 0.4, "doubt": 0.2, "look": 0.1, "solve": 0.2, "watch": 0.1},
        {"name": 0.05, "doubt": 0.1, "look": 0.05, "solve": 0.25, "watch": 0.25, "find": 0.3},
    ),
    "chains": (
        {"name": 0.1, "doubt": 0.1, "look": 0.1, "solve": 0.25, "watch": 0.2, "find": 0.25},
        {"solve": 0.25, "watch": 0.15, "find": 0.6},
    ),
    "checks": ({"find": 0.6, "watch": 0.3, "doubt": 0.1}, {"find": 0.9, "watch": 0.1}),
    "policy": ({"solve": 1.0}, {"solve": 1.0}),
}


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


def schedule(step: int, steps: int, warmup: int) -> float:
    """Share of the peak learning rate at this step: a linear warm-up, and a cosine down to a fiftieth."""
    return min(1, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1, step / steps))))


def teach_to_see(pupil: Pupil, tasks: list[SyntheticTask], source: Source, steps: int, size: int) -> dict[str, float]:
    """Train the vision tower alone to give what the ideal eye gives.

    A language model of this size would need many hours to teach its eyes through the text. The squared error alone
    does not make a token look at others (a bar's height, a row's head); naming each label from the token does, and
    counts for less and less as training goes on.
    """
    rng, tower = random.Random(f"eyes {source.seed} {dist.get_rank()}"), pupil.causal.model.visual
    sizes = (len(COLOUR_WORDS), len(PLACE_WORDS), len(NUMBER_WORDS), *PLAIN)
    readers = torch.nn.ModuleList(torch.nn.Linear(pupil.causal.config.text_config.hidden_size, n) for n in sizes)
    parameters = [*tower.parameters(), *readers.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=EYES_PEAK, betas=(0.9, 0.98), weight_decay=0.02)
    start = shown = time.monotonic()
    recent: list[float] = []
    for step in range(steps):
        facts = [(task, task.sample(rng)) for task in rng.choices(tasks, k=size)]
        pixels = torch.from_numpy(np.concatenate([patches(np.asarray(task.image(f))) for task, f in facts]))
        labels = torch.from_numpy(np.concatenate([cell_labels(f) for _, f in facts]))
        with torch.no_grad():
            wanted = pupil.ideal(labels)
        for group in optimiser.param_groups:
            group["lr"] = EYES_PEAK * schedule(step, steps, 100)
        tokens = tower(pixels, grid_thw=pupil.grid.expand(size, -1)).pooler_output
        # As a share of what is to be told: the tokens' spread over all images.
        loss = (tokens - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()
        named = [
            torch.nn.functional.cross_entropy(reader(tokens), label, ignore_index=IGNORE)
            for reader, label in zip(readers, labels.T, strict=True)
            if (label != IGNORE).any()
        ]
        share = NAMING[0] * (1 - step / steps) + NAMING[1] * step / steps
        (loss + share * torch.stack(named).mean()).backward()
        average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        recent.append(loss.item())
        if is_first() and time.monotonic() - shown > 20:
            shown = time.monotonic()
            print(f"eyes {shown - start:6.0f} s step {len(recent)} loss {np.mean(recent[-50:]):.4f}", flush=True)
    return {"steps": steps, "loss": float(np.mean(recent[-50:])), "seconds": round(time.monotonic() - start)}


def train(
    pupil: Pupil, source: Source, steps: int, peak: float, size: int, folder: Path, part: str
) -> dict[str, float]:
    """AdamW with warm-up and cosine over `steps`; what a killed training needs to go on is kept every two minutes."""
    # Only one of the two pairs of eyes is used.
    unused = pupil.ideal if source.sees == "pixels" else pupil.causal.model.visual
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
            for group in optimiser.param_groups:
                group["lr"] = peak * schedule(step, steps, 200) * group["share"]
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
