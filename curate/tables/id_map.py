"""What was seen before, in memory that hardly grows: a map from texts to small numbers in 20 bytes an entry.

A dictionary takes hundreds of bytes for each identifier. Here the entries lie in a few sorted arrays, each more than
twice as long as the next, so that adding costs about what sorting does. Looking up one key in them is slow, and many at
once is fast: `near` looks up the keys of a whole chunk at once.

A key counts as its BLAKE2b of 128 bits: two of a billion keys share one with a chance of about 1e-21.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

_BYTES = 16


def _prints(keys: Iterable[str]) -> NDArray[np.bytes_]:
    return np.frombuffer(b"".join(blake2b(key.encode(), digest_size=_BYTES).digest() for key in keys), f"S{_BYTES}")


class NearKeys:
    """The numbers of the keys of one chunk; see `IdMap.near`."""

    def __init__(self, found: dict[str, int | None], new: dict[str, int]) -> None:
        """`found` holds every key that may be asked for; what is added goes into `new`, too."""
        self._found, self._new = found, new

    def get(self, key: str) -> int | None:
        """The key's number, or None; KeyError for a key of another chunk."""
        return self._found[key]

    def setdefault(self, key: str, value: int) -> int:
        """The key's number; `value` when it has none yet."""
        found = self._found[key]
        if found is None:
            self._found[key] = self._new[key] = found = value
        return found


class IdMap:
    """Texts to numbers from 0 to 2^31 - 1."""

    def __init__(self) -> None:
        self._levels: list[tuple[NDArray[np.bytes_], NDArray[np.int32]]] = []
        self._new: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(len(keys) for keys, _ in self._levels) + len(self._new)

    def near(self, keys: Collection[str]) -> NearKeys:
        """The numbers of these keys, to look up and to add to; one chunk at a time is looked at."""
        self._settle()
        wanted = list(frozenset(keys))
        found: dict[str, int | None] = dict.fromkeys(wanted)
        prints = _prints(wanted)
        for known, values in self._levels:
            places = np.minimum(np.searchsorted(known, prints), len(known) - 1)
            for hit in np.flatnonzero(known[places] == prints):
                found[wanted[hit]] = int(values[places[hit]])
        return NearKeys(found, self._new)

    def add(self, keys: Collection[str], value: int = 0) -> None:
        """All of these, with this number where they have none yet."""
        near = self.near(keys)
        for key in keys:
            near.setdefault(key, value)

    def _settle(self) -> None:
        """Put what is new into the arrays."""
        if not self._new:
            return
        keys, values = _prints(self._new), np.fromiter(self._new.values(), np.int32, len(self._new))
        self._new.clear()
        while self._levels and len(self._levels[-1][0]) <= 2 * len(keys):
            older = self._levels.pop()
            keys, values = np.concatenate([older[0], keys]), np.concatenate([older[1], values])
        order = np.argsort(keys, kind="stable")
        self._levels.append((keys[order], values[order]))
