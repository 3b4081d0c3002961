"""Chats as evaluation programs and servers log them: which turn is the response, and what the model thought. Pure.

A chat is a list of turns, each with a role and a content: `{role, content}` (OpenAI and most others), `{from, value}`
(ShareGPT) or `{role, parts}` (Gemini). A content is a text, or a list of parts of which the texts count. A choice of a
server's answer (`{message: {...}}`) counts as its message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.errors import RowError
from curate.sources.values import text_of

# Where a list of plain texts is a chat's turns, and not several samples.
NAMES = frozenset({"messages", "conversation", "conversations", "chat", "dialog", "dialogue", "turns"})
_ROLES = ("role", "from")
_CONTENTS = ("content", "value", "parts", "text")
_MODEL = frozenset({"assistant", "model", "gpt", "bot", "chatbot", "ai"})
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_OF_THOUGHTS = frozenset({"thinking", "reasoning", "reasoning_text"})


@dataclass(frozen=True)
class ChatTurn:
    """What a model said, and what it thought before, where the log tells it apart."""

    text: str | None
    reasoning: str | None = None


def is_chat(value: Any) -> bool:
    """Whether this is a list of turns with roles."""
    return isinstance(value, list) and bool(value) and all(map(is_turn, value))


def is_turn(value: Any) -> bool:
    """Whether this is a turn with a role, or a choice that holds one."""
    return isinstance(value, Mapping) and (_role(value) is not None or is_turn(value.get("message")))


def parsed(value: Any) -> Any:
    """A text that spells a chat or a turn in JSON (as cells of a table do) as that; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return value
        if is_chat(found) or is_turn(found):
            return found
    return value


def last(turns: Sequence[Mapping[str, Any]]) -> ChatTurn:
    """The model's last turn; RowError where it has none."""
    for turn in reversed(turns):
        turn = turn if _role(turn) is not None else turn["message"]
        if str(_role(turn)).strip().lower() in _MODEL:
            return _turn(turn)
    roles = ", ".join(sorted({str(_role(turn)) for turn in turns}))
    raise RowError("no-response", f"the chat has no turn of an assistant, only of: {roles[:80]}")


def _role(turn: Mapping[str, Any]) -> str | None:
    if not any(name in turn for name in _CONTENTS):
        return None
    return next((turn[name] for name in _ROLES if isinstance(turn.get(name), str)), None)


def _turn(turn: Mapping[str, Any]) -> ChatTurn:
    content = next((turn[name] for name in _CONTENTS if turn.get(name) is not None), None)
    thought = next((text for name in _THOUGHTS if (text := text_of(turn.get(name)))), None)
    if not isinstance(content, list):
        return ChatTurn(text_of(content), thought)
    texts, thoughts = list[str](), [thought] if thought else []
    for part in content:
        of_thoughts = isinstance(part, Mapping) and part.get("type") in _OF_THOUGHTS
        text = _part(part)
        if text is not None:
            (thoughts if of_thoughts else texts).append(text)
    return ChatTurn("".join(texts), "\n\n".join(thoughts) or None)


def _part(part: Any) -> str | None:
    """The text of one part; none where it is an image or a call."""
    if isinstance(part, Mapping):
        part = next((part[name] for name in ("text", "thinking", "reasoning", "content") if part.get(name)), None)
    return part if isinstance(part, str) else None
