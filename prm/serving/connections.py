"""Connections of `prm serve`: none is held by a client that sends or reads too slowly, or sends nothing at all."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

# In which the head of a request must have come, counted from the connection or from the answer before it.
HEAD_SECONDS = 10.0
# An answer of which a client reads nothing for so long is given up.
READ_SECONDS = 20.0
CONNECTIONS = 1000


class Patient(H11Protocol):  # type: ignore[misc]
    """uvicorn's HTTP/1.1 with limits of time for what uvicorn waits for without end, and of the number of connections.

    When there is no room for one more connection, the one that has waited longest for a request makes room.
    """

    _looking: asyncio.TimerHandle | None = None
    _waiting_since = 0.0
    _unread = 0
    _unread_since = 0.0

    def connection_made(self, transport: Any) -> None:
        if len(self.connections) >= CONNECTIONS:
            idle = [one for one in self.connections if one.waits_for_a_request()]
            if not idle:
                transport.abort()
                return
            min(idle, key=lambda one: one._waiting_since).transport.abort()
        super().connection_made(transport)
        self._waiting_since = self.loop.time()
        self._look_again()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.transport is None:
            # It was refused before it began.
            return
        if self._looking is not None:
            self._looking.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._waiting_since = self.loop.time()
        super().on_response_complete()

    def waits_for_a_request(self) -> bool:
        """Whether no whole head of a request is there; the time of a body is the application's to keep."""
        return self.cycle is None or bool(self.cycle.response_complete)

    def _look_again(self) -> None:
        self._looking = self.loop.call_later(min(1.0, HEAD_SECONDS / 4), self._look)

    def _look(self) -> None:
        """Close a connection whose client is too slow."""
        now, unread = self.loop.time(), self.transport.get_write_buffer_size()
        if unread != self._unread or not unread:
            self._unread, self._unread_since = unread, now
        elif now - self._unread_since > READ_SECONDS:
            self.transport.abort()
            return
        if self.waits_for_a_request() and not unread and now - self._waiting_since > HEAD_SECONDS:
            if self.cycle is None and not self.transport.is_closing():
                self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            self.transport.close()
        self._look_again()
