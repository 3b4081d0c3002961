"""What a chat completions server answers, whole or as a stream, as one checked value: pure, from parsed JSON.

Both forms hold the same: a stream has each choice's text, tokens and log-probabilities in pieces. Whatever does not
have the promised shape is an `Unusable` answer, never a sample.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from curate.engines.base import Sample
from curate.engines.detokenize import join_bytes

_FINISHES = {"stop": "stop", "length": "length", "repetition": "repetition"}
# The server ended the choice on its own account; asking again may help.
_BROKEN = ("abort", "error")


class Unusable(Exception):
    """An answer that is none: another shape, cut off, or empty."""


@dataclass
class _Choice:
    """One sample as far as it has come."""

    texts: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)
    finish: str | None = None

    def add(self, said: dict[str, Any], choice: dict[str, Any]) -> bool:
        """Take a piece; whether it brought anything. `said` is the choice's message or delta."""
        content, ids = said.get("content"), choice.get("token_ids")
        logprobs = choice.get("logprobs")
        entries = logprobs.get("content") if isinstance(logprobs, dict) else None
        finish = choice.get("finish_reason")
        if content is not None:
            self.texts.append(_is(content, str, "a text"))
        self.ids += [_is(each, int, "a token id") for each in _is(ids or [], list, "token ids")]
        self.entries += [_is(each, dict, "a log-probability") for each in _is(entries or [], list, "log-probabilities")]
        self.finish = self.finish if finish is None else _is(finish, str, "a finish reason")
        return bool(content or ids or entries or finish)


class Answer:
    """An answer under way: `add` chunk after chunk of a stream, or the one whole answer, then `samples`."""

    def __init__(self) -> None:
        self._choices: dict[int, _Choice] = {}
        self._prompt_tokens = 0

    def line(self, line: str) -> bool:
        """Take one line of an event stream; whether it brought text, tokens or an end."""
        name, _, data = line.partition(":")
        if name != "data" or data.strip() == "[DONE]":
            return False
        return self.add(data)

    def add(self, data: str | bytes) -> bool:
        """Take a JSON document, a chunk or a whole answer; whether it brought text, tokens or an end."""
        try:
            tree = _is(json.loads(data), dict, "an object")
        except (ValueError, RecursionError):
            raise Unusable("it is not valid JSON") from None
        if tree.get("error"):
            raise Unusable(f"it says {json.dumps(tree['error'])[:200]}")
        usage = tree.get("usage")
        if isinstance(usage, dict) and isinstance(usage.get("prompt_tokens"), int):
            self._prompt_tokens = usage["prompt_tokens"]
        brought = False
        for choice in _is(tree.get("choices") or [], list, "choices"):
            index = _is(_is(choice, dict, "a choice").get("index"), int, "an index")
            said = choice.get("delta") or choice.get("message") or {}
            brought |= self._choices.setdefault(index, _Choice()).add(_is(said, dict, "a message"), choice)
        return brought

    def samples(self, n: int) -> list[Sample]:
        """The n samples in order; Unusable when the answer is not that."""
        if sorted(self._choices) != list(range(n)):
            raise Unusable(f"it has {len(self._choices)} samples for n={n}")
        return [_sample(self._choices[index], self._prompt_tokens) for index in range(n)]


def _is(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Unusable(f"it has {type(value).__name__} in place of {what}")
    return value


def _sample(choice: _Choice, prompt_tokens: int) -> Sample:
    text, entries, drawn = "".join(choice.texts), choice.entries, choice.ids
    if choice.finish is None or choice.finish in _BROKEN:
        raise Unusable("it broke off" if choice.finish is None else f"a sample ended with {choice.finish}")
    # A model may end its turn at once; then one token tells of it. Otherwise the text was lost on its way.
    if not text and choice.finish in _FINISHES and max(len(entries), len(drawn)) != 1:
        raise Unusable("a sample has no text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unusable("a sample's text is no Unicode") from None
    finish = _FINISHES.get(choice.finish, "error")
    ends = _ends(text, [_bytes(entry) for entry in entries], finish == "stop")
    if len(drawn) == len(entries) and ends:
        ids = drawn[: len(ends)]
    else:
        ids, ends = [], []
    return Sample(
        text=text,
        token_ids=ids,
        token_ends=ends,
        finish=finish,
        mean_logprob=_mean([entry.get("logprob") for entry in entries]),
        prompt_tokens=prompt_tokens,
        error=f"the server ended with {choice.finish}" if finish == "error" else None,
    )


def _bytes(entry: dict[str, Any]) -> bytes:
    try:
        return bytes(entry.get("bytes") or b"")
    except (TypeError, ValueError):
        raise Unusable("a token's bytes are none") from None


def _mean(values: Sequence[Any]) -> float | None:
    known = [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _ends(text: str, pieces: Sequence[bytes], ended: bool) -> list[int]:
    """Where each token ends in `text`, the end-of-turn token left out; [] when the pieces do not spell the text."""
    # Servers that list the end-of-turn token give it no bytes, or those of its name.
    for count in (len(pieces) - 1, len(pieces)) if ended else (len(pieces),):
        if count >= 0:
            spelled, ends = join_bytes(pieces[:count])
            if spelled == text:
                return ends
    return []
