"""What an engine is: requests in, completions out, one error per request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from curate.recipe.sections import EngineConfig


@dataclass(frozen=True)
class Sampling:
    """Every sampling field, set explicitly, so that no engine falls back on a model's own defaults."""

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    repetition_penalty: float = 1.0


@dataclass(frozen=True)
class Image:
    """One image of a request: its content hash, and the bytes that the hash stands for."""

    image_hash: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Request:
    """One request for `n` samples.

    `prompt` is the user turn's text; the images come before it, in order. `prefix_ids` are token ids that the
    assistant has already written and the engine continues from; they are never re-tokenised. `prefix_text` is the same
    prefix as text, for engines that take no token ids (a server); one of the two is enough where an engine says so.
    Sample j of n draws from seed + j. `max_tokens` of `sampling` counts new tokens only.
    """

    request_id: str
    prompt: str
    images: Sequence[Image]
    prefix_ids: Sequence[int]
    n: int
    seed: int
    sampling: Sampling
    prefix_text: str = ""


# The seed of a sample that was drawn from the request's own one.
ASKED = -1


@dataclass(frozen=True)
class Sample:
    """One sampled text. `finish` is one of `schema.FINISHES`; `error` says why when it is "error".

    `token_ids` has the new tokens without the end-of-turn token; `token_ends[i]` is the length of the decoded text
    after token i, in characters, so that a cut between steps can be placed between tokens (see
    `curate.engines.detokenize`); both are empty where an engine does not tell. `mean_logprob` is the mean natural
    log-probability of the sampled tokens, the end-of-turn token included, under the model before temperature, top-p
    and top-k; null where the engine does not tell. `prompt_tokens` counts the prompt with its images and the prefix;
    null where the engine does not tell. `reasoning` is what the model thought before it answered, where the engine
    tells it apart from the text; marks of thoughts that stand in the text are left there (see `curate.text.thinking`).
    `tokens` counts what was generated where `token_ids` does not. `seed` is `ASKED`, or another one that it was drawn
    from, or null for none.
    """

    text: str
    token_ids: Sequence[int]
    token_ends: Sequence[int]
    finish: str
    mean_logprob: float | None
    prompt_tokens: int | None
    error: str | None = None
    reasoning: str | None = None
    tokens: int | None = None
    seed: int | None = ASKED

    def count(self) -> int | None:
        """Generated tokens, thoughts included; null where the engine does not tell."""
        if self.tokens is not None:
            return self.tokens
        # Nothing at all is generated only by a model that ends its turn at once.
        ended = self.finish == "stop" and not self.text and not self.reasoning
        return len(self.token_ids) if self.token_ids or ended else None

    def seed_of(self, asked: int) -> int | None:
        """What it was drawn from, where `asked` is the request's seed and the sample's place in it."""
        return asked if self.seed == ASKED else self.seed


class EngineDead(Exception):
    """The engine cannot answer any more; the stage restarts it once and then gives up, keeping what is done."""


class RequestRejected(Exception):
    """One request cannot be served (too long, an image it cannot read); the others go on."""


class Engine(Protocol):
    """Turns requests into samples. Used as an async context manager: entering starts it, leaving frees it."""

    async def __aenter__(self) -> Engine:
        """Start; raises UserError when the model or the server is not there."""
        ...

    async def __aexit__(self, *error: object) -> None:
        """Stop and free."""
        ...

    async def generate(self, request: Request) -> list[Sample]:
        """`request.n` samples in order; raises RequestRejected for this request alone, EngineDead for all."""
        ...

    def versions(self) -> dict[str, str]:
        """Package versions and model revision, for the lineage record."""
        ...


class EngineMaker(Protocol):
    """An engine's class. `on_note` is told one plain sentence for the user at a time."""

    uses: frozenset[str]
    """Which of `max_model_len`, `max_pixels` and `urls` have an effect; to set another one is an error."""

    def __call__(self, config: EngineConfig, on_note: Callable[[str], None]) -> Engine: ...
