"""What a look at the data finds: guesses for the keys of a source, each with its reason. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Guess:
    """A value for a key of a source, such as `columns.question`; `others` are what else it could be.

    What is not `sure` is for the user to look at. A null value says that nothing was found.
    """

    key: str
    value: Any
    why: str
    sure: bool = True
    others: Sequence[Any] = ()


def tree(guesses: Iterable[Guess]) -> dict[str, Any]:
    """The guesses as a source's settings: `columns.question` becomes {columns: {question: ...}}."""
    found: dict[str, Any] = {}
    for guess in guesses:
        *above, key = guess.key.split(".")
        place = found
        for part in above:
            place = place.setdefault(part, {})
        place[key] = guess.value
    return found
