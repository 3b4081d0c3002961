"""What a chat completions server answers, whole or as a stream, as one checked value: pure, from bytes.

Both forms hold the same: a stream has each choice's text, tokens and log-probabilities in pieces. Servers spell much of
it in their own way, which is read here where it leaves no doubt. Whatever does not have the promised shape is an
`Unusable` answer, never a sample; a figure that cannot be right is null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from curate.engines.base import Sample
from curate.engines.detokenize import join_bytes
from curate.engines.server.event_stream import Documents, Unusable

__all__ = ["AnswerRefused", "ChatAnswer", "Unusable"]

_FINISHES = {
    "stop": ("stop", "eos", "eos_token", "end", "end_turn", "stop_sequence", "stop_token", "complete", "completed",
             "done", "finished", "normal"),
    "length": ("length", "max_tokens", "max_new_tokens", "max_length", "max_output_tokens", "model_length",
               "model_context_window_exceeded", "context_length_exceeded"),
    "repetition": ("repetition",),
    # The server ended the choice on its own account; asking again may help.
    "broken": ("abort", "aborted", "error", "cancelled", "canceled", "timeout", "network_error", "load", "unload",
               "insufficient_system_resource"),
    "filter": ("content_filter", "content_filtered", "safety", "recitation", "blocklist", "prohibited_content", "spii",
               "sensitive", "refusal"),
}  # fmt: skip
_CLASSES = {name: kind for kind, names in _FINISHES.items() for name in names}
_REASONING = ("reasoning_content", "reasoning", "thinking")
# Parts of a content that hold no text of the model.
_SILENT_PARTS = ("redacted_thinking", "signature")
_MAX_COUNT = 2**31 - 1
# Of the log of a probability; a little above 0 is rounding.
_MAX_LOGPROB = 0.01
_STATUSES = frozenset(map(str, range(400, 600)))
_BYTES_A_TOKEN = 4096
_BYTES_A_CHOICE = 2**20


class AnswerRefused(Exception):
    """An answer that is an error: its body, as text or parsed, its status (0 where it tells none), its headers."""

    def __init__(self, tree: Any, status: int, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__(status)
        self.tree, self.status, self.headers = tree, status, headers


@dataclass
class _Choice:
    """One sample as far as it has come."""

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    ids: list[Any] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)
    finish: str | None = None
    in_pieces: bool = False
    ends: int = 0
    overrun: bool = False
    """Whether more came behind its end."""

    def add(self, choice: dict[str, Any]) -> bool:
        """Take a piece; whether it brought anything."""
        delta, message = choice.get("delta"), choice.get("message")
        said = _is(delta or message or {"content": choice.get("text")}, dict, "a message")
        text, thought = _content(said.get("content"))
        thought += next((found for name in _REASONING if (found := _thought(said.get(name)))), "")
        refusal = said.get("refusal")
        if self.finish is not None and (text or thought) and text != "".join(self.texts):
            self.overrun = True
        self.in_pieces |= bool(delta)
        if not delta and text and self.in_pieces:
            # Some streams end with the whole message.
            self.texts.clear()
            self.thoughts = [] if thought else self.thoughts
        self.texts.append(text)
        self.thoughts.append(thought)
        self.refusals.append(refusal if isinstance(refusal, str) else "")
        ids, logprobs = choice.get("token_ids"), choice.get("logprobs")
        entries = logprobs.get("content") if isinstance(logprobs, dict) else None
        self.ids += _is(ids or [], list, "token ids")
        self.entries += [_is(each, dict, "a log-probability") for each in _is(entries or [], list, "log-probabilities")]
        finish = choice.get("finish_reason") or None
        self.ends += finish is not None
        self.finish = self.finish if finish is None else _is(finish, str, "a finish reason")
        return bool(text or thought or refusal or ids or entries or finish)


class ChatAnswer:
    """An answer under way to a request for `n` samples of at most `max_tokens`: `feed` and `close`, then `samples`."""

    def __init__(self, n: int, max_tokens: int) -> None:
        self.n, self._max_tokens = n, max_tokens
        self._documents = Documents(n * (_BYTES_A_CHOICE + _BYTES_A_TOKEN * max_tokens))
        self._choices: dict[int, _Choice] = {}
        self._usage: dict[str, Any] = {}
        self._pieces = 0
        # A count of all tokens stands at the end of a stream.
        self._over = False
        self._whole = False
        self._unnumbered = False
        self.odd: set[str] = set()
        """Figures that cannot be right and are left out, in words."""

    @property
    def streamed(self) -> bool:
        """Whether it came as a stream."""
        return self._documents.streamed

    @property
    def mixed(self) -> bool:
        """Whether pieces came of which it is not known to which of several samples they belong."""
        few = len(self._choices) < self.n and any(each.overrun or each.ends > 1 for each in self._choices.values())
        return self.n > 1 and (self._unnumbered or few)

    def feed(self, data: bytes) -> bool:
        """Take bytes; whether they brought text, thoughts, tokens or an end. Unusable, or Refused for an error."""
        brought = [self._add(tree) for tree in self._documents.feed(data)]
        return any(brought)

    def close(self) -> None:
        """Take the end of the bytes."""
        for tree in self._documents.close():
            self._add(tree)

    def _add(self, tree: Any) -> bool:
        if not isinstance(tree, dict):
            return False
        _check_error(tree)
        if isinstance(tree.get("usage"), dict):
            self._usage |= {key: value for key, value in tree["usage"].items() if value is not None}
            self._over |= not tree.get("choices")
        choices = [_is(each, dict, "a choice") for each in _is(tree.get("choices") or [], list, "choices")]
        self._pieces += bool(choices)
        indices = [self._index(place, each) for place, each in enumerate(choices)]
        self._whole = bool(choices) and self._pieces == 1 and not any("delta" in each for each in choices)
        if self._whole and len(set(indices)) < len(indices):
            indices = list(range(len(choices)))  # they all call themselves the first
        pieces = zip(indices, choices, strict=True)
        brought = [self._choices.setdefault(index, _Choice()).add(piece) for index, piece in pieces]
        return any(brought)

    def _index(self, place: int, choice: dict[str, Any]) -> int:
        index = choice.get("index")
        if index is None:
            self._unnumbered |= self.streamed or self._pieces > 1
            return place
        return _is(int(index) if isinstance(index, str) and index.isdecimal() else index, int, "an index")  # type: ignore[no-any-return]

    def samples(self, seeds: Sequence[int | None]) -> list[Sample]:
        """The samples in order, and what each was drawn from; fewer than n where the server gives no more.

        Unusable when the answer is not that.
        """
        if self.mixed:
            raise Unusable(f"it does not say which of n={self.n} samples its pieces are of")
        if not 1 <= len(self._choices) <= self.n or sorted(self._choices) != list(range(len(self._choices))):
            raise Unusable(f"it has {len(self._choices)} samples for n={self.n}")
        return [self._sample(choice, seeds[index]) for index, choice in sorted(self._choices.items())]

    def _sample(self, choice: _Choice, seed: int | None) -> Sample:
        # A refusal is what the model answers: it counts as its text.
        text, reasoning = "".join(choice.texts) or "".join(choice.refusals), "".join(choice.thoughts)
        if reasoning and not text and _CLASSES.get((choice.finish or "").lower()) == "stop":
            # The model answered at once, and its server took the answer for thoughts because no mark ended them.
            text, reasoning = reasoning, ""
            self.odd.add("reasoning")
        entries, drawn = choice.entries, self._ids(choice)
        cut = _CLASSES.get((choice.finish or "").lower()) == "length"
        ends = _ends(text, [_bytes(entry) for entry in entries], not cut)
        tokens = self._tokens(len(drawn) or len(ends))
        finish = self._finish(choice, tokens)
        # A model may end its turn at once; then one token tells of it. One that was cut may not have got beyond its
        # thoughts, which some servers keep to themselves. Otherwise the text was lost on its way.
        if not (text or reasoning) and finish in ("stop", "repetition") and max(len(entries), len(choice.ids)) != 1:
            raise Unusable("a sample has no text")
        try:
            (text + reasoning).encode()
        except UnicodeEncodeError:
            raise Unusable("a sample's text is no Unicode") from None
        if len(drawn) == len(entries) and ends:
            ids, tokens = drawn[: len(ends)], None
        else:
            ids, ends = [], []
        return Sample(
            text=text,
            token_ids=ids,
            token_ends=ends,
            finish=finish,
            mean_logprob=self._mean([entry.get("logprob") for entry in entries]),
            prompt_tokens=self._count("prompt_tokens"),
            error=f"the server ended a sample with {choice.finish}" if finish == "error" else None,
            reasoning=reasoning or None,
            tokens=tokens,
            seed=seed,
        )

    def _finish(self, choice: _Choice, tokens: int | None) -> str:
        said = (choice.finish or "").lower()
        if not said and (self._whole or self._over or self._documents.done):
            # It came to an orderly end, of which nothing is said.
            return "length" if tokens is not None and tokens >= self._max_tokens else "stop"
        kind = _CLASSES.get(said, "error")
        if not said or kind == "broken":
            raise Unusable("it broke off" if not said else f"a sample ended with {choice.finish}")
        if kind == "filter":
            # A refusal is the model's own answer; what a filter took away is not.
            return "stop" if any(choice.refusals) else "error"
        return kind

    def _tokens(self, seen: int) -> int | None:
        """Tokens of a sample, `seen` ones or as the server counts; null where it counts several samples together."""
        if seen:
            return seen
        return self._count("completion_tokens") if len(self._choices) == 1 else None

    def _count(self, name: str) -> int | None:
        """A count that the server tells; null for none, for 0 (servers that do not count) and for what is no count."""
        value = self._usage.get(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value) if abs(value) <= _MAX_COUNT else -1
        if value is None or value == 0:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _MAX_COUNT:
            self.odd.add(name)
            return None
        return value

    def _ids(self, choice: _Choice) -> list[int]:
        right = all(isinstance(each, int) and 0 <= each <= _MAX_COUNT for each in choice.ids)
        if not right:
            self.odd.add("token_ids")
        return choice.ids if right else []

    def _mean(self, values: Sequence[Any]) -> float | None:
        """Mean of log-probabilities; null where one is missing or is none."""
        known = [float(each) for each in values if isinstance(each, float) or _is_small(each)]
        if len(known) < len(values) or not all(math.isfinite(each) and each <= _MAX_LOGPROB for each in known):
            if any(each is not None for each in values):
                self.odd.add("logprobs")
            return None
        mean = sum(known) / len(known) if known else None
        return mean if mean is not None and math.isfinite(mean) else None


def _check_error(tree: dict[str, Any]) -> None:
    """Refused when a document is an error in place of an answer."""
    error = tree.get("error")
    if not error and tree.get("object") != "error" and ("choices" in tree or not {"detail", "message"} & tree.keys()):
        return
    if tree.get("type") == "ping":
        return
    places = [error if isinstance(error, dict) else {}, tree]
    kinds = " ".join(str(place.get(name, "")) for place in places for name in ("code", "type")).lower()
    codes = [place.get(name) for place in places for name in ("code", "status", "status_code", "http_code")]
    status = next((int(str(code)) for code in codes if str(code) in _STATUSES), 0)
    if not status and ("invalid_request" in kinds or "badrequest" in kinds):
        status = 400
    raise AnswerRefused(tree, status)


def _is(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Unusable(f"it has {type(value).__name__} in place of {what}")
    return value


def _is_small(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _MAX_COUNT


def _content(content: Any) -> tuple[str, str]:
    """(text, thoughts) of a content: a text, or a list of parts."""
    if content is None or isinstance(content, str):
        return content or "", ""
    text = thought = ""
    for part in [content] if isinstance(content, dict) else _is(content, list, "a text"):
        if isinstance(part, str):
            text += part
            continue
        kind = str(_is(part, dict, "a part of a content").get("type", "text"))
        if "text" in kind and "reasoning" not in kind:
            text += _is(part.get("text") or "", str, "a text")
        elif kind == "refusal":
            text += _is(part.get("refusal") or "", str, "a refusal")
        elif "thinking" in kind or "reasoning" in kind:
            thought += _thought(part)
        elif kind not in _SILENT_PARTS:
            raise Unusable(f"its content has a part of type {kind[:40]}")
    return text, thought


def _thought(value: Any) -> str:
    """What a reasoning field says: a text, an object that holds one, or a list of those; "" for anything else."""
    if isinstance(value, list):
        return "".join(map(_thought, value))
    if isinstance(value, dict):
        names = ("text", "thinking", "reasoning", "content", "summary")
        return next((found for name in names if (found := _thought(value.get(name)))), "")
    return value if isinstance(value, str) else ""


def _bytes(entry: dict[str, Any]) -> bytes:
    try:
        return bytes(_is(entry.get("bytes") or [], list, "a token's bytes"))
    except (TypeError, ValueError):
        raise Unusable("a token's bytes are none") from None


def _ends(text: str, pieces: Sequence[bytes], ended: bool) -> list[int]:
    """Where each token ends in `text`, the end-of-turn token left out; [] when the pieces do not spell the text."""
    # Servers that list the end-of-turn token give it no bytes, or those of its name.
    for count in (len(pieces) - 1, len(pieces)) if ended else (len(pieces),):
        if count >= 0:
            spelled, ends = join_bytes(pieces[:count])
            if spelled == text:
                return ends
    return []
