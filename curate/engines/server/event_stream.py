"""The JSON documents in the bytes of an answer, as they come: of an event stream, of JSON lines, or one whole document.

What an answer is shows in its bytes: servers name the content type wrongly, or not at all. Bytes are split here, at
line feeds and carriage returns alone: the separators of Unicode may stand inside a JSON text. They are always UTF-8,
whatever a header says.
"""

from __future__ import annotations

import json
from typing import Any

_DECODER = json.JSONDecoder()
_FIELDS = ("event", "id", "retry")
# A document that spans more data lines is none.
_MAX_LINES = 1000


class Unusable(Exception):
    """An answer that is none: another shape, cut off, or empty."""


class Documents:
    """`feed` bytes, then `close`; both give the documents that are whole by then. Unusable for what is no JSON."""

    def __init__(self, max_bytes: int) -> None:
        """More than `max_bytes` are no answer: a server that never ends would fill the memory."""
        self._left, self._max = max_bytes, max_bytes
        self._parts: list[bytes] = []
        self._open: list[str] = []
        """Lines of a document that is not whole yet."""
        self._loose: list[str] = []
        """Lines that belong to no event."""
        self.streamed = False
        """Whether events came."""
        self.done = False
        """Whether the server said that the stream is over."""

    def feed(self, data: bytes) -> list[Any]:
        """More bytes."""
        self._left -= len(data)
        if self._left < 0:
            raise Unusable(f"it has more than {self._max:,} bytes")
        self._parts.append(data)
        if b"\n" not in data and b"\r" not in data:
            return []
        lines = b"".join(self._parts).splitlines(keepends=True)
        # A carriage return at the end may be half of a line's end.
        self._parts = [] if lines[-1].endswith(b"\n") else [lines.pop()]
        return [document for line in lines for document in self._line(line)]

    def close(self) -> list[Any]:
        """The end of the bytes."""
        found = [document for line in b"".join(self._parts).splitlines() for document in self._line(line)]
        self._parts = []
        if self._open:
            raise Unusable("it is not valid JSON")
        text = "\n".join(self._loose).strip()
        if self.streamed and not text.startswith(("{", "[")):
            return found
        documents, rest = _decoded(text)
        if rest:
            raise Unusable("it is not valid JSON")
        return found + documents

    def _line(self, data: bytes) -> list[Any]:
        try:
            line = data.decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError:
            raise Unusable("it is not valid UTF-8") from None
        name, _, value = line.partition(":")
        if name == "data":
            self.streamed = True
            return self._data(value.strip())
        if not line.strip():
            if self._open:
                raise Unusable("it is not valid JSON")
        elif name and name not in _FIELDS:
            return self._outside(line)
        return []

    def _data(self, value: str) -> list[Any]:
        """A data line: a document or several, a part of one, or a sign of life."""
        if value == "[DONE]":
            self.done = True
            return []
        if not self._open and not value.startswith(("{", "[")):
            return []
        self._open.append(value)
        if len(self._open) > _MAX_LINES:
            raise Unusable("it is not valid JSON")
        found, rest = _decoded("\n".join(self._open))
        self._open = [rest] if rest else []
        return found

    def _outside(self, line: str) -> list[Any]:
        """A line of no event: one of JSON lines, or a part of a whole document."""
        if not self._loose and line.startswith("{"):
            found, rest = _decoded(line)
            if not rest:
                return found
        self._loose.append(line)
        return []


def _decoded(text: str) -> tuple[list[Any], str]:
    """(the documents at the beginning of a text, what is left behind them)."""
    found, text = [], text.strip()
    while text:
        try:
            document, end = _DECODER.raw_decode(text)
        except (ValueError, RecursionError):
            break
        # A bare array of documents is as good as the documents.
        found += document if isinstance(document, list) else [document]
        text = text[end:].lstrip()
    return found, text
