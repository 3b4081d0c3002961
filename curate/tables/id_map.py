"""What was seen before, in memory that hardly grows: a map from texts to small numbers in 20 bytes an entry.

A dictionary takes hundreds of bytes for each identifier. Here the entries lie in a few sorted arrays, each more than
twice as long as the next, so that adding costs about what sorting does. Looking up one key in them is slow, and many at
once is fast: `bring_near` looks up the keys of a whole chunk, and `get` answers for those.

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


class IdMap:
    """Texts to numbers from 0 to 2^31 - 1."""

    def __init__(self) -> None:
        self._levels: list[tuple[NDArray[np.bytes_], NDArray[np.int32]]] = []
        self._near: dict[str, int] = {}
        self._new: dict[str, int] = {}
        self._asked: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return sum(len(keys) for keys, _ in self._levels) + len(self._new)

    def bring_near(self, keys: Collection[str]) -> None:
        """From now on `get` and `setdefault` answer for these keys, and no others."""
        self._settle()
        self._asked = frozenset(keys)
        self._near = {}
        wanted = list(self._asked)
        prints = _prints(wanted)
        for known, values in self._levels:
            places = np.minimum(np.searchsorted(known, prints), len(known) - 1)
            for hit in np.flatnonzero(known[places] == prints):
                self._near[wanted[hit]] = int(values[places[hit]])

    def get(self, key: str) -> int | None:
        """The key's number, or None; KeyError for a key that was not brought near."""
        if key not in self._asked:
            raise KeyError(key)
        return self._near.get(key)

    def setdefault(self, key: str, value: int) -> int:
        """The key's number; `value` when it has none yet."""
        found = self.get(key)
        if found is None:
            self._near[key] = self._new[key] = found = value
        return found

    def add(self, keys: Collection[str], value: int = 0) -> None:
        """All of these, with this number where they have none yet."""
        self.bring_near(keys)
        for key in keys:
            self.setdefault(key, value)

    def _settle(self) -> None:
        """Put what is new into the arrays."""
        if not self._new:
            return
        keys, values = _prints(self._new), np.fromiter(self._new.values(), np.int32, len(self._new))
        self._new = {}
        while self._levels and len(self._levels[-1][0]) <= 2 * len(keys):
            older = self._levels.pop()
            keys, values = np.concatenate([older[0], keys]), np.concatenate([older[1], values])
        order = np.argsort(keys, kind="stable")
        self._levels.append((keys[order], values[order]))
