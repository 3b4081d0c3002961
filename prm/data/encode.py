"""Examples to token ids, with one read position a step.

User turn: the images, then instruction, question and choices. Assistant turn: the steps. Each step is tokenised by
itself and the ids are concatenated, so that a prefix has the same ids whatever follows. White space at the end of a
step goes to the front of the next one: the read position is the last token of the step's own text, or, where a suffix
is read (`train.read: branch`), the last token of the suffix after it (`prm.data.branches`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from curate.errors import RowError, UserError
from curate.images import decode
from curate.models import pretrained
from curate.models.torch_companions import mend
from curate.text.prompts import problem_text
from prm.data.branches import Branches
from prm.data.examples import Example

mend()

from transformers import AutoProcessor  # noqa: E402 - after the mending

# Outputs of a processor that have one entry a token.
_PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
# How the names of those begin that hold the images themselves.
_PIXELS = "pixel_values"
# Stands for an assistant's text, to see what a chat template writes after it.
_ANSWER = "(the steps)"


class HasProblem(Protocol):
    """What a prompt is made of."""

    @property
    def question(self) -> str: ...
    @property
    def choices(self) -> Sequence[str]: ...
    @property
    def image_hashes(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class Prompt:
    """A user turn with its opened assistant turn: ids [T], kinds [T] (1 at image tokens), and its images.

    `shapes` are the small tensors that go with the images (their grids); `load` gives the pixels as the model takes
    them, which is what costs time and memory: a model that knows an image already does not call it.
    """

    key: tuple[Any, ...]
    ids: Tensor
    kinds: Tensor
    shapes: Mapping[str, Tensor]
    load: Callable[[], Mapping[str, Tensor]]

    @property
    def images(self) -> tuple[str, ...]:
        """Hashes of the images, in order."""
        found: tuple[str, ...] = self.key[2]
        return found

    def pixels(self) -> dict[str, Tensor]:
        """All that the model takes for the images."""
        return {**self.shapes, **self.load()}


@dataclass(frozen=True)
class Encoded:
    """A whole example: `ids` [T] without padding, `reads` where each step is read (null: no text).

    With `branches`, the ids of these come after those of the text, and the steps are read at their ends.
    """

    example: Example
    ids: Tensor
    kinds: Tensor
    reads: tuple[int | None, ...]
    branches: Branches | None = None

    def order(self) -> Tensor:
        """Place of each token in the text that it belongs to, [T]."""
        return torch.arange(len(self.ids)) if self.branches is None else self.branches.order()


def pieces(steps: Sequence[str]) -> list[str]:
    """The steps with trailing white space moved to the front of the next one; the last one's is dropped."""
    moved, carried = [], ""
    for step in steps:
        text = step.rstrip()
        moved.append(carried + text if text else "")
        carried = step[len(text) :] if text else carried + step
    return moved


def open_image(data: bytes, name: str) -> Image.Image:
    """Upright RGB image, on white where it is transparent; RowError when the bytes are none."""
    try:
        return decode(data)
    except RowError as error:
        raise RowError("image", f"{name} cannot be decoded: {error.detail}") from None


def _pixels(made: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in made.items() if name.startswith(_PIXELS)}


def load_processor(model: str, revision: str | None) -> Any:
    """Tokeniser and image processor of a model, the tokeniser alone of a text-only one; UserError when not there."""
    try:
        return pretrained.load(AutoProcessor, model, revision)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"The processor of {model} cannot be loaded ({reason}); check `train.model`.") from None


class Kept:
    """Tensors by key while there is room, in bytes. What is there stays: examples come round by epochs, and whoever
    makes room for the newest then finds nothing again.
    """

    def __init__(self, megabytes: int) -> None:
        self._room = megabytes * 2**20
        self._kept: dict[Any, Mapping[str, Tensor]] = {}

    def get(self, key: Any, make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """What is kept under this key, else what `make` gives."""
        found = self._kept.get(key)
        if found is None:
            found = make()
            self._room -= (size := sum(int(t.numel() * t.element_size()) for t in found.values()))
            if self._room >= 0:
                self._kept[key] = found
            else:
                self._room += size
        return found


class Encoder:
    """Encodes examples for one model. `images` maps hashes to original bytes.

    `processor` is the model's own, or its tokenizer where it reads text only. `read` and `suffix` as in
    `prm.config.TrainConfig`. UserError when the model cannot take these images, or has no chat.
    """

    def __init__(
        self,
        processor: Any,
        images: Mapping[str, bytes],
        instruction: str,
        max_length: int,
        cache_megabytes: int = 256,
        read: str = "step-end",
        suffix: str | None = None,
    ) -> None:
        self.processor, self.images, self.instruction, self.max_length = processor, images, instruction, max_length
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.sees = getattr(processor, "image_processor", None) is not None
        if images and not self.sees:
            raise UserError(
                f"This model reads text only, and the examples show {len(images):,} images; use a vision-language "
                "model, or leave out the sources with images."
            )
        if not (getattr(processor, "chat_template", None) or getattr(self.tokenizer, "chat_template", None)):
            raise UserError("This model has no chat template to write its turns with; use one that was tuned for chat.")
        named = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        self._special = [token for token in dict.fromkeys([*self.tokenizer.all_special_tokens, *named]) if token]
        self._prompts: dict[tuple[Any, ...], Prompt] = {}
        self._pixels = Kept(cache_megabytes)
        # What is read after each step; null where its own last token is.
        self.suffix = None if read == "step-end" else suffix or self._closing()
        self._read = read
        self._suffix_ids = self.tokens(self.suffix) if self.suffix else []

    def of(self, images: Mapping[str, bytes], cache_megabytes: int) -> Encoder:
        """An equal encoder for other images; it remembers nothing of this one's."""
        return Encoder(
            self.processor, images, self.instruction, self.max_length, cache_megabytes, self._read, self.suffix
        )

    def tokens(self, text: str) -> list[int]:
        """Ids of a piece of text, nothing added."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def token(self, text: str) -> int:
        """The one id of this text; UserError when the tokeniser cuts it into several."""
        ids = self.tokens(text)
        if len(ids) != 1:
            raise UserError(
                f'The label token "{text}" is {len(ids)} tokens here; choose `label_tokens` of one token each.'
            )
        return ids[0]

    def prompt(self, problem: HasProblem) -> Prompt:
        """The encoded user turn, worked out once; its pixels are kept while there is room."""
        key = (problem.question, tuple(problem.choices), tuple(problem.image_hashes))
        if key not in self._prompts:
            self._prompts[key] = self._prompt(problem, key)
        return self._prompts[key]

    def _prompt(self, problem: HasProblem, key: tuple[Any, ...]) -> Prompt:
        asked = problem_text(problem.question, problem.choices, len(problem.image_hashes))
        text = f"{self.instruction}\n{asked}"
        self._refuse_special(text)
        made = self._process(text, key[2])
        ids = made["input_ids"][0]
        kinds = made["mm_token_type_ids"][0] if "mm_token_type_ids" in made else torch.zeros_like(ids)
        images = {name: value for name, value in made.items() if name not in _PER_TOKEN}
        shapes = {name: value for name, value in images.items() if not name.startswith(_PIXELS)}
        self._pixels.get(key[2], lambda: _pixels(images))
        # The images do not depend on the text, so problems that show the same share what is kept of them.
        load = partial(self._pixels.get, key[2], lambda: _pixels(self._process(text, key[2])))
        return Prompt(key, ids, kinds, shapes, load)

    def _process(self, text: str, images: Sequence[str]) -> Mapping[str, Tensor]:
        missing = [name for name in images if name not in self.images]
        if missing:
            raise RowError("image", f"image {missing[0]} is not in the workspace")
        opened = [open_image(self.images[name], name) for name in images]
        chat = self._chat([("user", text)], len(opened))
        if not self.sees:
            plain: Mapping[str, Tensor] = self.tokenizer(chat, add_special_tokens=False, return_tensors="pt")
            return plain
        try:
            made: Mapping[str, Tensor] = self.processor(
                text=[chat],
                images=opened or None,
                return_tensors="pt",
                return_mm_token_type_ids=True,
                # The chat template has them already.
                add_special_tokens=False,
            )
        except Exception as error:
            # Every model's processor has its own way to refuse an image, such as one that is far too long and thin.
            if not images:
                raise
            raise RowError("image", f"the model's processor refuses the images: {error}") from None
        return made

    def _chat(self, turns: Sequence[tuple[str, str]], images: int = 0) -> str:
        """These (role, text) turns and the header of the next assistant turn; the images are in the first one."""
        messages: list[dict[str, Any]] = []
        for role, text in turns:
            parts = [*({"type": "image"} for _ in range(0 if messages else images)), {"type": "text", "text": text}]
            messages.append({"role": role, "content": parts if self.sees else text})
        return str(self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def _closing(self) -> str:
        """What the chat template writes from the end of an assistant's text to the start of the next."""
        _, found, after = self._chat([("user", "?"), ("assistant", _ANSWER)]).partition(_ANSWER)
        if not found or not after:
            raise UserError("The model's chat template does not close a turn after its text; set `train.suffix`.")
        return after

    def _refuse_special(self, text: str) -> None:
        # Written out in a text they would become control tokens: another turn, another image.
        for token in self._special:
            if token in text:
                raise RowError("special-token", f"the text contains the control token {token}")

    def encode(self, example: Example) -> Encoded:
        """The whole example; RowError when it is too long, shows no step, or cannot be put in tokens."""
        prompt = self.prompt(example)
        ids: list[int] = prompt.ids.tolist()
        ends: list[int | None] = []
        for piece in pieces(example.steps):
            self._refuse_special(piece)
            ids += self.tokens(piece)
            ends.append(len(ids) if piece else None)
        shown = tuple(end for end in ends if end is not None)
        if not shown:
            raise RowError("no-step", "the rollout has no step with text")
        branches, at = None, [end - 1 for end in shown]
        if self._suffix_ids:
            branches = Branches(len(ids), shown, len(self._suffix_ids))
            ids += self._suffix_ids * len(shown)
            at = list(branches.reads)
        if len(ids) > self.max_length:
            raise RowError("too-long", f"{len(ids)} tokens, max_length is {self.max_length}")
        kinds = torch.zeros(len(ids), dtype=prompt.kinds.dtype)
        kinds[: len(prompt.kinds)] = prompt.kinds
        places = iter(at)
        reads = tuple(None if end is None else next(places) for end in ends)
        return Encoded(example, torch.tensor(ids), kinds, reads, branches)
