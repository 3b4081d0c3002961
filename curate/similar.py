"""Which problems are alike: pictures by perceptual hash, texts by shingles. Pure: values in, values out.

Two pictures are near when at most `distance` of the 64 bits of their perceptual hashes differ. Such a hash sees the
coarse layout only, so two charts that differ in one label can share it: `same_picture` looks at candidates again.
Two texts are near when the Jaccard similarity of their shingles is at least a threshold and their numbers agree:
"AB = 4" and "AB = 5" make two problems.
"""

from __future__ import annotations

import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from curate.answers.base import folded
from curate.images import as_seen

SHINGLE = 5
BITS = 64
_NUMBERS = re.compile(r"\d+(?:[.,]\d+)*")
_PLACEHOLDER = re.compile(r"<image\s*\d*>")
# Pictures are compared on a blurred grid of so many points a side, block by block.
_GRID, _BLUR, _BLOCK = 256, 1.5, 8
# Mean difference of the worst block, of 255. On 60 real drawings a copy differs by at most 4.3 (JPEG of quality 50),
# 3.7 (twice the size) or 9.2 (three quarters of it, 4.5 in 95 % of them); another word on a chart by 3 to 29, one other
# digit by 0.7 to 4.7. They overlap, so whoever compares problems asks for equal answers, too (docs/log.md).
_SAME = 10.0


def normal(text: str) -> str:
    """A question as it is compared: folded, without image placeholders."""
    return folded(_PLACEHOLDER.sub(" ", text))


def shingles(text: str) -> frozenset[str]:
    """Runs of `SHINGLE` characters of the normal text; the whole of a shorter one."""
    plain = normal(text)
    return frozenset(plain[at : at + SHINGLE] for at in range(max(1, len(plain) - SHINGLE + 1)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Share of the shingles of both that they have in common, in [0, 1]."""
    return len(one & other) / len(one | other) if one or other else 1.0


def numbers(text: str) -> tuple[str, ...]:
    """The numbers in a text, in order."""
    return tuple(_NUMBERS.findall(text))


def near_hashes(left: Sequence[int], right: Sequence[int] | None, distance: int) -> Iterator[tuple[int, int, int]]:
    """(place in left, place in right, bits) of all pairs of 64-bit hashes that differ in at most `distance` bits.

    Without `right`, pairs within `left`, each once with the first place lower. Exact: of `distance` + 1 bands of bits
    at least one is equal, so only pairs that share a band are compared.
    """
    ours = np.asarray(left, np.uint64)
    theirs = ours if right is None else np.asarray(right, np.uint64)
    width, seen = BITS // (distance + 1), set[tuple[int, int]]()
    for band in range(distance + 1):
        shift, mask = np.uint64(band * width), np.uint64((1 << width) - 1 if width < BITS else 2**64 - 1)
        buckets = _buckets((theirs >> shift) & mask)
        for key, mine in _buckets((ours >> shift) & mask).items():
            others = buckets.get(key)
            if others is None:
                continue
            for place in mine:
                bits = np.bitwise_count(ours[place] ^ theirs[others])
                for other, count in zip(others[bits <= distance], bits[bits <= distance], strict=True):
                    pair = (int(place), int(other))
                    if (right is None and pair[0] >= pair[1]) or pair in seen:
                        continue
                    seen.add(pair)
                    yield (*pair, int(count))


def _buckets(keys: NDArray[np.uint64]) -> dict[int, NDArray[np.int64]]:
    order = np.argsort(keys, kind="stable")
    cuts = np.flatnonzero(np.diff(keys[order])) + 1
    return {int(keys[part[0]]): part for part in np.split(order, cuts) if len(part)}


def near_texts(
    left: Mapping[str, frozenset[str]], right: Mapping[str, frozenset[str]] | None, threshold: float
) -> Iterator[tuple[str, str]]:
    """(name in left, name in right) of sets that may be similar: all pairs of at least `threshold`, and some more.

    Without `right`, pairs within `left`, each once with the first name lower. Exact by the prefix filter: two sets of
    Jaccard t share one of the first (1 - t) |set| + 1 shingles of each, in any order that both use; rare shingles come
    first, so that few pairs are met.
    """
    count = Counter(shingle for side in (left, right or {}) for each in side.values() for shingle in each)

    def holders(side: Mapping[str, frozenset[str]]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for name in sorted(side):
            ordered = sorted(side[name], key=lambda shingle: (count[shingle], shingle))
            for shingle in ordered[: int((1 - threshold) * len(ordered) + 1e-9) + 1]:
                found[shingle].append(name)
        return found

    ours = holders(left)
    theirs = None if right is None else holders(right)
    met = set[tuple[str, str]]()
    for shingle, names in ours.items():
        pairs = combinations(names, 2) if theirs is None else product(names, theirs.get(shingle, ()))
        for pair in pairs:
            if pair not in met:
                met.add(pair)
                yield pair


@dataclass(frozen=True)
class Sketch:
    """A picture as `same_picture` compares it: blurred luminance [256, 256] of 0 to 255, and its own shorter side."""

    grey: NDArray[np.uint8]
    side: int


def sketch(data: bytes) -> Sketch:
    """Of encoded bytes; OSError or ValueError when they cannot be decoded."""
    with Image.open(io.BytesIO(data)) as picture:
        whole = as_seen(picture).convert("L")
    grey = whole.resize((_GRID, _GRID), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(_BLUR))
    return Sketch(np.asarray(grey, np.uint8), min(whole.size))


def same_picture(one: Sketch, other: Sketch) -> bool:
    """Whether two sketches show the same picture, saved or scaled in another way: no block of them differs much.

    A block is `_BLOCK` points of the grid a side, or of the smaller picture where that has fewer: in an icon a single
    stray point would fill a block.
    """
    block, smaller = _BLOCK, min(one.side, other.side)
    while block < _GRID // 4 and smaller < _GRID * _BLOCK // block:
        block *= 2
    count = _GRID // block
    apart = np.abs(one.grey.astype(np.int16) - other.grey)
    return float(apart.reshape(count, block, count, block).mean((1, 3)).max()) <= _SAME
