"""Who is told how a stage is doing."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Who is told how a stage is doing."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """A stage begins with `total` units of work."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more units are finished."""

    def note(self, text: str) -> None:
        """One sentence for the user."""

    def finish(self) -> None:
        """The stage's bar is over."""

    def done(self, stage: str, account: str) -> None:
        """A stage is over; its account in one line goes to standard output."""

    def show(self, result: object) -> None:
        """A result for people: a text or a rich renderable; goes to standard output."""


class Silent:
    """Tells nobody."""

    def start(self, stage: str, total: int, unit: str) -> None: ...
    def advance(self, count: int = 1, note: str = "") -> None: ...
    def note(self, text: str) -> None: ...
    def finish(self) -> None: ...
    def done(self, stage: str, account: str) -> None: ...
    def show(self, result: object) -> None: ...
