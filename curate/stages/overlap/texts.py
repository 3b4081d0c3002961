"""Which texts are alike: shingles, numbers and the order of words. Pure: values in, values out.

Two texts are near when the Jaccard similarity of their shingles is at least a threshold, their numbers agree in order,
and no words changed places: "AB = 4" and "AB = 5" make two problems, and so do "A has more than B" and "B has more
than A".
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from curate.graders.base import folded

SHINGLE = 5
_NUMBERS = re.compile(r"\d+(?:[.,]\d+)*")
_PLACEHOLDER = re.compile(r"<image\s*\d*>")
# Not the mark of exclamation: after a number it is a factorial.
_STOPS = re.compile(r"\s*[?.,;:]+(?=\s|$)")
# Chinese, Japanese and Korean have no spaces between words; there each character counts as one.
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORDS = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")
_PRIME = np.uint64(0x100000001B3)
_COUNTERS, _EACH = 2**20, 128
# A text is held against so many of those that share its rarest shingles: where thousands are alike, the nearest are
# among them, and the cost stays in proportion to the number of texts.
_MET, _COMPARED = 400, 40

Shingles = NDArray[np.uint64]
Name = TypeVar("Name", bound=Hashable)


@lru_cache(4096)
def normal(text: str) -> str:
    """A question as it is compared: folded, without image placeholders and stops at the ends of words."""
    return " ".join(_STOPS.sub(" ", folded(_PLACEHOLDER.sub(" ", text))).split())


def shingles(text: str) -> Shingles:
    """Runs of `SHINGLE` characters of the normal text, as sorted hashes without repeats; the whole of a shorter one.

    A text with nothing in it, such as an image placeholder alone, has one of its own: such texts are the same.
    """
    codes = np.frombuffer(normal(text).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    width = min(SHINGLE, len(codes))
    if not width:
        return np.zeros(1, np.uint64)
    hashes = np.zeros(len(codes) - width + 1, np.uint64)
    for offset in range(width):
        hashes = (hashes ^ codes[offset : offset + len(hashes)]) * _PRIME
    return np.unique(hashes)


def jaccard(one: Shingles, other: Shingles) -> float:
    """Share of the shingles of both that they have in common, in [0, 1]."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


def numbers(text: str) -> tuple[str, ...]:
    """The numbers in a text, in order."""
    return tuple(_NUMBERS.findall(normal(text)))


def reordered(one: str, other: str) -> bool:
    """Whether words changed places between two texts, beyond what is left out or put in.

    Two or more words that are missing here and new there have moved; a single one has when nothing else differs.
    """
    if normal(one) == normal(other):
        return False
    left, right = _WORDS.findall(normal(one)), _WORDS.findall(normal(other))
    gone, come = Counter[str](), Counter[str]()
    for kind, a, b, c, d in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if kind != "equal":
            gone.update(left[a:b])
            come.update(right[c:d])
    moved = gone & come
    return len(moved) > 1 or (bool(moved) and gone == come)


class Near(Generic[Name]):
    """Texts by name, to find one that is near another text. `every` are all texts that may come: rarity is theirs."""

    def __init__(self, threshold: float, every: Collection[str]) -> None:
        self._threshold = threshold
        # Counts in a table of bounded size: of two shingles that share a place both count as less rare, no more.
        self._count = np.zeros(min(_COUNTERS, _EACH * (len(every) + 1)), np.int64)
        for text in every:
            self._count[self._places(shingles(text))] += 1
        self._texts: dict[Name, tuple[str, Shingles]] = {}
        self._holders: dict[int, list[Name]] = defaultdict(list)

    def _places(self, own: Shingles) -> Shingles:
        return own % np.uint64(len(self._count))

    def add(self, name: Name, text: str) -> None:
        """From now on this text can be found."""
        own = shingles(text)
        self._texts[name] = (text, own)
        for shingle in self._rarest(own):
            self._holders[shingle].append(name)

    def _rarest(self, own: Shingles) -> Sequence[int]:
        """Two sets of Jaccard t share one of the first (1 - t) |set| + 1 of each, in any order that both use."""
        order = np.lexsort((own, self._count[self._places(own)]))
        found: list[int] = own[order[: int((1 - self._threshold) * len(own) + 1e-9) + 1]].tolist()
        return found

    def find(self, text: str) -> list[tuple[Name, float]]:
        """(name, similarity) of the near ones, the nearest first."""
        own = shingles(text)
        met = Counter[Name]()
        left = _MET
        for shingle in self._rarest(own):
            holders = self._holders.get(shingle, ())[:left]
            met.update(holders)
            left -= len(holders)
            if left <= 0:
                break
        found = []
        for name, _ in met.most_common(_COMPARED):
            other, theirs = self._texts[name]
            similarity = jaccard(own, theirs)
            if similarity >= self._threshold and numbers(text) == numbers(other) and not reordered(text, other):
                found.append((name, similarity))
        return sorted(found, key=lambda each: -each[1])
