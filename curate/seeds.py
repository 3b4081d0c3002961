"""Stable identifiers and seeds: SHA-256 of the parts, never `hash()`, never a global random state."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Hashable
from typing import Any


def digest(*parts: Any, length: int = 32) -> str:
    """Hexadecimal SHA-256 of JSON-able parts, `length` characters; the order of dictionary keys does not matter."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def content_hash(data: bytes) -> str:
    """Identity of stored bytes: the first 32 hexadecimal characters of their SHA-256."""
    return hashlib.sha256(data).hexdigest()[:32]


def seed(*parts: Any) -> int:
    """A 62-bit seed for these parts, a multiple of 256.

    An engine that draws n samples from one request uses seed, seed + 1, ...; the spacing keeps the streams of different
    requests apart for n up to 256. Engines take signed 64-bit seeds.
    """
    return int(digest(*parts, length=16), 16) >> 2 & ~0xFF


def rng(*parts: Any) -> random.Random:
    """A private random generator for these parts."""
    return random.Random(seed(*parts))


def shard_of(problem_id: str, shards: int) -> int:
    """The shard of a problem and of all that is made from it."""
    return int(hashlib.sha256(problem_id.encode()).hexdigest()[:8], 16) % shards


class FirstByHash:
    """The first `limit` names of each group in the order of their hashes: a larger limit adds to a smaller one.

    Holds at most 2 `limit` + 1000 names a group, however many are added.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._groups: dict[Hashable, list[tuple[str, str]]] = {}

    def add(self, group: Hashable, name: str) -> None:
        """Another name of a group."""
        names = self._groups.setdefault(group, [])
        names.append((digest("limit", name), name))
        if len(names) > 2 * self._limit + 1000:
            names[:] = sorted(names)[: self._limit]

    def names(self) -> frozenset[str]:
        """Those within the limit, of all groups."""
        return frozenset(name for names in self._groups.values() for _, name in sorted(names)[: self._limit])
