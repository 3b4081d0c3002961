"""The way of the original DreamPRM code, written anew from its description for comparison.

One row is one prefix: the image is opened and run through the processor in the dataset's `__getitem__`, each time;
batches have one row; the score is a linear layer over the vocabulary's logits at the last position after the chat
suffix; the loss is its domain's weight times the squared error. After every fifth step the upper level scores each
prefix of a whole meta response by a forward of its own, averages their log-odds, takes the gradient of the squared
error with respect to all parameters (v), and the lower loss of the last row at phi + e v and at phi - e v,
e = 0.01 / ||v||, graphs built in both, gives the hypergradient (Betty's `darts`), for AdamW on the raw weights.

Where it differs: what makes its published state fail to start is left right, and log-odds are taken from the logits
instead of from a sigmoid that saturates. (arXiv 2505.20241; repository coder-qicao/DreamPRM at b1ac486)
"""

from __future__ import annotations

import io
from typing import Any

import torch
from PIL import Image
from torch import Tensor

UNROLL = 5


class Rows(torch.utils.data.Dataset):
    """One prefix of one rollout each, made into model inputs when it is asked for."""

    def __init__(self, prefixes: list[tuple[Any, int]], images: dict[str, bytes], processor: Any, device: str) -> None:
        self.prefixes, self.images, self.processor, self.device = prefixes, images, processor, device

    def __len__(self) -> int:
        return len(self.prefixes)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Any, int]:
        example, step = self.prefixes[index]
        images = [Image.open(io.BytesIO(self.images[name])).convert("RGB") for name in example.image_hashes]
        text = f"{example.question}\n\n{''.join(example.steps[: step + 1])}"
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": text}]
        chat = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        made = self.processor(text=[chat], images=images, return_tensors="pt", return_mm_token_type_ids=True)
        return {name: value.to(self.device) for name, value in made.items()}, example, step


class Reference:
    """Its two levels; `step` is one lower step, with an upper one when it is due."""

    def __init__(
        self, model: str, train: list[Any], meta: list[Any], images: dict[str, bytes], processor: Any, half: bool
    ) -> None:
        from transformers import AutoModelForImageTextToText

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if half else torch.float32
        self.model = AutoModelForImageTextToText.from_pretrained(model, dtype=dtype, attn_implementation="sdpa")
        self.model.to(self.device).train()
        vocabulary = self.model.config.get_text_config().vocab_size
        self.head = torch.nn.Linear(vocabulary, 1, device=self.device)
        self.half = half
        self.domains = sorted({example.domain for example in train})
        self.raw = torch.zeros(len(self.domains), device=self.device, requires_grad=True)
        self.parameters = [*self.model.parameters(), *self.head.parameters()]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=5e-7)
        self.upper = torch.optim.AdamW([self.raw], lr=0.01, weight_decay=1e-3)
        prefixes = [(example, step) for example in train for step in range(len(example.steps))]
        self.rows = Rows(prefixes, images, processor, self.device)
        self.meta, self.images, self.processor = meta, images, processor
        self.order = torch.randperm(len(prefixes), generator=torch.Generator().manual_seed(1)).tolist()
        self.done = self.updates = 0

    def _logit(self, inputs: dict[str, Tensor]) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.half):
            logits = self.model(**inputs).logits[:, -1]
            return self.head(logits.to(self.head.weight.dtype))[:, 0]

    def _lower(self, inputs: dict[str, Tensor], example: Any, step: int) -> Tensor:
        weights = torch.nn.functional.softplus(self.raw)
        weight = (weights / weights.mean())[self.domains.index(example.domain)]
        return weight * (torch.sigmoid(self._logit(inputs).float()) - example.values[step]).square().mean()

    def step(self) -> None:
        """One row, and every fifth time a meta response."""
        row = self.rows[self.order[self.done % len(self.order)]]
        self.optimiser.zero_grad()
        self._lower(*row).backward()
        self.optimiser.step()
        self.done += 1
        if self.done % UNROLL == 0:
            self._upper_step(row)

    def _upper_step(self, row: tuple[dict[str, Tensor], Any, int]) -> None:
        example = self.meta[self.updates % len(self.meta)]
        prefixes = Rows([(example, k) for k in range(len(example.steps))], self.images, self.processor, self.device)
        score = torch.sigmoid(torch.cat([self._logit(prefixes[k][0]) for k in range(len(prefixes))]).float().mean())
        loss = (score - float(example.outcome)) ** 2
        v = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        v = [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, v, strict=True)]
        epsilon = 0.01 / torch.cat([g.flatten().float() for g in v]).norm().clamp(min=1e-12)
        ends = []
        for by in (epsilon, -2 * epsilon):
            with torch.no_grad():
                for p, g in zip(self.parameters, v, strict=True):
                    p.add_(by.to(p.dtype) * g)
            ends.append(torch.autograd.grad(self._lower(*row), self.raw)[0])
        with torch.no_grad():
            for p, g in zip(self.parameters, v, strict=True):
                p.add_(epsilon.to(p.dtype) * g)
        self.raw.grad = -(ends[0] - ends[1]) / (2 * epsilon)
        self.upper.step()
        self.updates += 1
