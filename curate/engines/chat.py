"""The text side of a vision-language model: a request to unexpanded prompt ids.

"Unexpanded" is one placeholder token per image; the engine puts in as many as the image needs. The chat template
is the model's own; the images come first, then the text, then the header of the assistant's turn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from curate.engines.base import Request, RequestRejected, Sample
from curate.text import thinking


class Chat:
    """Renders requests for one model; `processor` is its `AutoProcessor` (or its tokenizer, for a text-only model)."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.sees = getattr(processor, "image_processor", None) is not None
        self._placeholders = {
            id_
            for name in ("image_token_id", "video_token_id", "audio_token_id")
            if isinstance(id_ := getattr(processor, name, None), int)
        }
        self._specials = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]

    def text(self, request: Request) -> str:
        """The prompt as text, up to and with the header of the assistant's turn.

        RequestRejected when the user's text spells one of the model's special tokens: it would be read as one, and end
        the turn or stand for an image that is not there.
        """
        for special in self._specials:
            if special in request.prompt:
                raise RequestRejected(f"the prompt spells the special token {special}")
        if request.images and not self.sees:
            raise RequestRejected("the model takes no images")
        content: Any = request.prompt
        if self.sees:
            content = [*({"type": "image"} for _ in request.images), {"type": "text", "text": request.prompt}]
        messages = [{"role": "user", "content": content}]
        return str(self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def ids(self, request: Request) -> list[int]:
        """Unexpanded prompt ids followed by the prefix ids, exactly as they were given."""
        if self._placeholders.intersection(request.prefix_ids):
            raise RequestRejected("the prefix contains an image placeholder, which the engine would expand")
        ids: list[int] = self.tokenizer(self.text(request), add_special_tokens=False)["input_ids"]
        return [*ids, *request.prefix_ids]

    def thoughts_apart(self, request: Request, samples: Sequence[Sample]) -> list[Sample]:
        """The samples; those that begin in a thought that the chat template opened, and never leave it, have no text.

        A sample that was cut while the model thought shows no mark that tells so.
        """
        if request.prefix_ids or not thinking.opens(self.text(request)):
            return list(samples)
        return [
            replace(each, text="", token_ends=(), reasoning=each.text) if thinking.all_thought(each.text) else each
            for each in samples
        ]

    def image_tokens(self, sizes: Sequence[tuple[int, int]]) -> int | None:
        """How many tokens images of these (height, width) take; null where the processor cannot tell beforehand.

        RequestRejected when it takes no image of such a shape.
        """
        count = getattr(self._processor, "_get_num_multimodal_tokens", None)
        if count is None or not sizes:
            return 0 if not sizes else None
        with refusing_images():
            return int(sum(count(image_sizes=[list(size) for size in sizes])["num_image_tokens"]))


@contextlib.contextmanager
def refusing_images() -> Iterator[None]:
    """Whatever a model's processor raises over images is the refusal of one request.

    Each has its own way to refuse an image, such as one that is far too long and thin.
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise RequestRejected(f"the model's processor refuses the images: {reason}") from error


def end_ids(tokenizer: Any, generation: Any) -> set[int]:
    """Ids that end a turn: the tokenizer's own and those of the model's generation config (null where it has none)."""
    given = getattr(generation, "eos_token_id", None)
    listed = [given] if isinstance(given, int) else list(given or ())
    return {id_ for id_ in [tokenizer.eos_token_id, *listed] if id_ is not None}
