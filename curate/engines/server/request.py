"""What a chat completions server is asked, in the form that this server takes: pure, but for what it has learned.

Every server takes other parameters. One that it refuses and that only carries information is left out from then on. One
that decides what is sampled is never left out, unless its value is the same as none: another distribution would be
sampled in silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from curate.engines.base import ASKED, Request
from curate.engines.server.refusals import Refusal

# Parameters that change what is told, and not what is sampled. That a server goes on from a beginning without being
# told to is found out, see `curate.engines.server.continuing`.
_INFORM = (
    "logprobs",
    "return_token_ids",
    "stream_options",
    "stream",
    "continue_final_message",
    "add_generation_prompt",
)
# A parameter and the value with which it has no effect.
_NEUTRAL: dict[str, Any] = {"top_p": 1.0, "temperature": 1.0, "top_k": 0, "repetition_penalty": 1.0}
_BUDGETS = ("max_tokens", "max_completion_tokens")
# Some servers take no wider seeds, and some round wider ones to a double: all samples of a request would be the same.
_SEED_BITS = 31
# As many seeds as a request has samples.
_LEAST_BITS = 8


@dataclass
class Dialect:
    """What one server takes. `left_out` are parameters that it is not sent, `most` the samples of one request."""

    left_out: set[str] = field(default_factory=set)
    maximum: int = 256
    budget: str = "max_tokens"
    seed_bits: int = _SEED_BITS
    mark: str | None = None
    """What a message is marked with that the server is to go on from."""

    def seed(self, request: Request, first: int) -> int | None:
        """The seed that is sent for the samples from `first` on; null where none is.

        The low bits, because seeds of a request differ in those alone: those of its samples stay apart.
        """
        return None if "seed" in self.left_out else (request.seed + first) & (1 << self.seed_bits) - 1

    def seeds(self, request: Request, first: int, count: int) -> list[int | None]:
        """What these samples are drawn from, as `Sample.seed` says it."""
        sent = self.seed(request, first)
        if sent is None:
            return [None] * count
        return [ASKED if sent == request.seed + first else sent + index for index in range(count)]

    def body(self, model: str, request: Request, first: int, count: int, images: Sequence[str]) -> dict[str, Any]:
        """What is sent for the samples `first` to `first + count` of a request, its images as data URIs."""
        given = request.sampling
        fields: dict[str, Any] = {
            "model": model,
            "messages": _messages(request, self.mark, images),
            "n": count,
            "seed": self.seed(request, first),
            "temperature": given.temperature,
            "top_p": given.top_p,
            self.budget: given.max_tokens,
            "logprobs": True,
            "return_token_ids": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        # These only where they say something: other servers refuse what they do not know.
        if given.top_k:
            fields["top_k"] = given.top_k
        if given.repetition_penalty != 1.0:
            fields["repetition_penalty"] = given.repetition_penalty
        if request.prefix_text:
            fields |= {"continue_final_message": True, "add_generation_prompt": False}
        hidden = self.left_out | ({"stream_options"} if "stream" in self.left_out else set())
        # One that was left out because it had no effect is sent where it has one.
        return {
            name: value
            for name, value in fields.items()
            if name not in hidden or (name in _NEUTRAL and value != _NEUTRAL[name])
        }

    def learn(self, refusal: Refusal, body: Mapping[str, Any]) -> list[str]:
        """Take a refusal of this body; what is done otherwise from now on, in words, [] where nothing can be."""
        names = refusal.names([name for name in body if name not in ("model", "messages")])
        if "stream_options" in names and "stream" in names:
            names.remove("stream")  # which explains the other
        done = list[str]()
        mark = refusal.mark()
        if mark and mark != self.mark and body["messages"][-1]["role"] == "assistant":
            self.mark = mark
            done.append(f"goes on from messages that are marked {mark}: true")
        # The temperature last: some servers refuse it only beside `top_p`.
        for name in sorted(names, key="temperature".__eq__):
            if name == "temperature" and done:
                break
            neutral = body[name] == (_NEUTRAL | {"n": 1}).get(name)
            if name in _INFORM or neutral:
                self.maximum = 1 if name == "n" else self.maximum
                self.left_out.add(name)
                done.append(f"refuses {name}, which is left out")
            elif name == "n":
                self.maximum = min(
                    self.maximum, max((each for each in refusal.numbers() if 0 < each < body["n"]), default=1)
                )
                done.append(f"gives no more than {self.maximum} of the samples at once; more requests are made")
            elif name == _BUDGETS[0] and refusal.unknown and not refusal.too_large:
                self.budget = _BUDGETS[1]
                done.append(f"refuses {name}, which is sent as {self.budget}")
            elif name == "seed" and (bits := self._width(refusal, body["seed"])):
                self.seed_bits = bits
                done.append(f"takes seeds of {bits} bits")
        return done

    def needed(self, refusal: Refusal, body: Mapping[str, Any]) -> str | None:
        """What to do about a refused parameter that decides what is sampled; null where none was refused."""
        names = refusal.names([name for name in body if name in (*_NEUTRAL, "seed")])
        if not names or not (refusal.unknown or refusal.places & set(names)):
            return None
        if names[0] == "seed":
            return "set engine.args.seed: false, if samples that cannot be drawn again will do"
        return f"set sampling.{names[0]} to {_NEUTRAL[names[0]]:g}, or to a value that the server takes"

    def _width(self, refusal: Refusal, sent: int) -> int:
        """Bits of the widest seeds within a bound that the refusal names; 0 where it names no narrower one."""
        least, maximum = (1 << _LEAST_BITS) - 1, (1 << self.seed_bits) - 1
        return (
            max((each for each in refusal.numbers() if least <= each < maximum and each != sent), default=0) + 1
        ).bit_length() - 1


def _messages(request: Request, mark: str | None, images: Sequence[str]) -> list[dict[str, Any]]:
    """The user's turn, and the beginning of the assistant's where there is one."""
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": uri}} for uri in images]
    # Servers of models without eyes take texts only.
    content = [*parts, {"type": "text", "text": request.prompt}] if parts else request.prompt
    turns: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if request.prefix_text:
        turns.append({"role": "assistant", "content": request.prefix_text, **({mark: True} if mark else {})})
    return turns
