"""Which images of a workspace are the same to the eye: copies that were saved or scaled in another way.

Three looks, each at what the one before it left: at most `distance` of the 64 bits of their perceptual hashes differ;
their miniatures in colour are near; and the images themselves, at the size of the smaller one, differ nowhere more
than a copy does. One other digit on a chart, or another colour, makes another image.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter
from scipy.ndimage import maximum_filter, uniform_filter
from scipy.spatial import cKDTree

from curate.pixels import decode, fitted
from curate.stages.overlap.rows import stream
from curate.tables.schema import IMAGES
from curate.tables.store import Store

BITS = 64
# Larger blocks of images whose hashes share a band are all looked at instead of compared with one another.
_BLOCK = 1_000_000
# Miniatures: RGB of so many points a side, blurred, so that a copy of another size has nearly the same.
_MINI, _FINE, _BLUR = 16, 64, 2.0
# Copies of 40 real tables (JPEG of quality 50, half to twice the size) differ by at most 4.0 of 255, root mean square.
_NEAR = 4.5
# In so many directions, along which the miniatures at hand differ most, the nearest are searched; and so many of them
# are compared as they are. A copy is among the nearest, and no image costs more where thousands are alike.
_DIRECTIONS, _SAMPLE, _NEAREST = 12, 2000, 4
_PIXELS = 1_000_000
_READ_AT_ONCE, _HASHES_AT_ONCE = 20, 10_000
# Encoded and decoded images that are held meanwhile, in bytes.
_ENCODED, _DECODED = 16 * 2**20, 16 * 2**20

Key = tuple[str, str]


class Gallery:
    """The images of a workspace: which are near to which."""

    def __init__(self, workspace: Store, distance: int) -> None:
        self._workspace, self._distance = workspace, distance
        self._hashes: dict[str, int] = {}
        for path in workspace.files(IMAGES):
            for batch in stream(path, ["image_hash", "perceptual_hash"], _HASHES_AT_ONCE):
                self._hashes |= {key.as_py(): int(value.as_py(), 16) for key, value in zip(*batch.columns, strict=True)}

    def near(self, ours: Iterable[str], theirs: Iterable[str] | None = None) -> dict[Key, int]:
        """(one, other) -> bits, of different images that are the same to the eye, both ways round.

        Without `theirs` among `ours`, else between the two.
        """
        left = sorted(set(ours) & self._hashes.keys())
        right = left if theirs is None else sorted(set(theirs) & self._hashes.keys())
        one, other = (np.array([self._hashes[key] for key in side], np.uint64) for side in (left, right))
        chosen, facing = has_near(one, other, self._distance, theirs is None)
        left = [left[place] for place in np.flatnonzero(chosen)]
        right = [right[place] for place in np.flatnonzero(facing)]
        originals = _Originals(self._workspace)
        found: dict[Key, int] = {}
        for one_, other_ in originals.same(list(self._nearest(left, right, originals)) if left and right else []):
            found[one_, other_] = found[other_, one_] = self.bits(one_, other_)
        return found

    def _nearest(self, left: Sequence[str], right: Sequence[str], originals: _Originals) -> Iterator[Key]:
        """Pairs whose miniatures are near, each once; of each image of `left` with so many of the nearest."""
        keys = sorted({*left, *right})
        place = {key: at for at, key in enumerate(keys)}
        minis = originals.minis(place)
        reach = _NEAR * np.sqrt(minis.shape[1])
        directions = _directions(minis[:: len(keys) // _SAMPLE + 1])
        ours, theirs = (minis[[place[key] for key in side]] @ directions for side in (left, right))
        count = min(_NEAREST + 1, len(right))
        # Projections are no farther apart than the miniatures themselves.
        _, facing = cKDTree(theirs).query(ours, k=list(range(1, count + 1)), distance_upper_bound=reach)
        met = set[Key]()
        for one, found in zip(left, facing, strict=True):
            for other in (right[each] for each in found if each < len(right)):
                pair = (min(one, other), max(one, other))
                apart = np.linalg.norm(minis[place[one]].astype(np.float32) - minis[place[other]])
                if one != other and pair not in met and apart <= reach and self.bits(*pair) <= self._distance:
                    met.add(pair)
                    yield pair

    def bits(self, one: str, other: str) -> int:
        """In how many of their 64 bits the perceptual hashes of two images differ."""
        return (self._hashes[one] ^ self._hashes[other]).bit_count()


class _Originals:
    """The images themselves, read a few at a time."""

    def __init__(self, workspace: Store) -> None:
        self._files = workspace.files(IMAGES)
        self._where: dict[str, tuple[int, int]] = {}
        self._decoded: OrderedDict[str, Image.Image] = OrderedDict()
        self._held = 0

    def _read(self, keys: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Encoded bytes by content hash; where each lies is remembered."""
        known = all(key in self._where for key in keys)
        for number in sorted({self._where[key][0] for key in keys}) if known else range(len(self._files)):
            for batch in stream(self._files[number], ["image_hash", "bytes"], _READ_AT_ONCE):
                for row, key in enumerate(batch["image_hash"].to_pylist()):
                    if key in keys:
                        data: bytes = batch["bytes"][row].as_py()
                        self._where[key] = number, len(data)
                        yield key, data

    def minis(self, place: Mapping[str, int]) -> NDArray[np.uint8]:
        """Miniatures [images, points], each in its place."""
        made = np.zeros((len(place), _MINI * _MINI * 3), np.uint8)
        for key, data in self._read(place.keys()):
            made[place[key]] = miniature(decode(data))
        return made

    def same(self, pairs: Sequence[Key]) -> Iterator[Key]:
        """Those of the pairs that are the same image. All were decoded for their miniatures before."""
        at = 0
        while at < len(pairs):
            keys, held, begun = set[str](), 0, at
            # As many pairs as fit in memory, one at least.
            while at < len(pairs) and (at == begun or held <= _ENCODED):
                new = set(pairs[at]) - keys
                held, at = held + sum(self._where[key][1] for key in new), at + 1
                keys |= new
            data = dict(self._read(keys))
            for one, other in pairs[begun:at]:
                if same_image(self._decode(one, data), self._decode(other, data)):
                    yield one, other

    def _decode(self, key: str, data: Mapping[str, bytes]) -> Image.Image:
        """At the size that images are compared at, the last used ones kept."""
        if key not in self._decoded:
            image = decode(data[key], _PIXELS)
            self._decoded[key] = image
            self._held += image.width * image.height * 3
            while self._held > _DECODED and len(self._decoded) > 1:
                _, gone = self._decoded.popitem(last=False)
                self._held -= gone.width * gone.height * 3
        self._decoded.move_to_end(key)
        return self._decoded[key]


def has_near(
    left: NDArray[np.uint64], right: NDArray[np.uint64], distance: int, within: bool
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which 64-bit hashes of either side have one on the other side that differs in at most `distance` bits.

    `within`: both sides are the same list, and a hash is not near itself. None is missed, because of `distance` + 1
    bands of bits at least one is equal; of very large groups that share a band all count as near.
    """
    chosen, facing = np.zeros(len(left), np.bool_), np.zeros(len(right), np.bool_)
    width = BITS // (distance + 1)
    mask = np.uint64((1 << width) - 1 if width < BITS else 2**64 - 1)
    for band in range(distance + 1):
        theirs = _buckets((right >> np.uint64(band * width)) & mask)
        for key, mine in _buckets((left >> np.uint64(band * width)) & mask).items():
            others = theirs.get(key)
            if others is None:
                continue
            if len(mine) * len(others) > _BLOCK:
                chosen[mine], facing[others] = True, True
                continue
            near = np.bitwise_count(left[mine][:, None] ^ right[others][None]) <= distance
            if within:
                near &= mine[:, None] != others[None]
            chosen[mine] |= near.any(1)
            facing[others] |= near.any(0)
    return chosen, facing


def _buckets(keys: NDArray[np.uint64]) -> dict[int, NDArray[np.int64]]:
    order = np.argsort(keys, kind="stable")
    cuts = np.flatnonzero(np.diff(keys[order])) + 1
    return {int(keys[part[0]]): part for part in np.split(order, cuts) if len(part)}


def _directions(minis: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Orthonormal directions [points, at most `_DIRECTIONS`] along which these miniatures differ most."""
    centred = minis.astype(np.float32) - minis.mean(0, dtype=np.float32)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    found: NDArray[np.float32] = vectors[:, -_DIRECTIONS:]
    return found


def miniature(image: Image.Image) -> NDArray[np.uint8]:
    """An image in `_MINI` x `_MINI` points of RGB, flat."""
    fine = image.resize((_FINE, _FINE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return np.asarray(fine.filter(ImageFilter.GaussianBlur(_BLUR)).reduce(_FINE // _MINI), np.uint8).ravel()


# Mean difference of 4 x 4 points in any channel, of 255: what a flat area of a copy may have, and besides it a share of
# the contrast of 8 x 8 points around, where JPEG and scaling leave their traces. By this count copies of real tables
# and of charts are at most at 17, another digit is at 45 or more; where nothing is above the first bound, or something
# above the last, that alone decides.
_POINTS, _AROUND, _FLAT, _SHARE, _APART = 4, 8, 24.0, 0.5, 60
_SOFT = ImageFilter.GaussianBlur(1.0)


def same_image(one: Image.Image, other: Image.Image) -> bool:
    """Whether two RGB images show the same, saved or scaled in another way."""
    small, large = sorted((fitted(one, _PIXELS), fitted(other, _PIXELS)), key=lambda each: each.width * each.height)
    if (
        abs(small.width * large.height - small.height * large.width)
        > max(large.size) + 0.01 * small.width * large.height
    ):
        return False
    if large.size != small.size:
        large = large.resize(small.size, Image.Resampling.BICUBIC)
    small, large = small.filter(_SOFT), large.filter(_SOFT)
    apart = ImageChops.difference(small, large)
    around = apart.filter(ImageFilter.BoxBlur((_POINTS - 1) / 2))
    worst = int(np.asarray(around).max())
    if worst <= _FLAT or worst > _APART:
        return worst <= _FLAT
    return bool((_mean(np.asarray(apart), _POINTS) - _SHARE * _contrast(np.asarray(small))).max() <= _FLAT)


def _mean(values: NDArray[Any], side: int) -> NDArray[Any]:
    """Over so many points a side around each one, [height, width, channels]."""
    found: NDArray[Any] = uniform_filter(values.astype(np.float32), (side, side, 1))
    return found


def _contrast(values: NDArray[Any]) -> NDArray[Any]:
    """Standard deviation of the points around, the most of all channels and of the neighbours, [height, width, 1]."""
    real = values.astype(np.float32)
    spread = np.sqrt(np.maximum(_mean(real * real, _AROUND) - _mean(real, _AROUND) ** 2, 0)).max(2, keepdims=True)
    found: NDArray[Any] = maximum_filter(spread, (_AROUND + 1, _AROUND + 1, 1))
    return found
