"""Which pictures of a workspace are the same to the eye: copies that were saved or scaled in another way.

Three looks, each at what the one before it left: at most `distance` of the 64 bits of their perceptual hashes differ;
their miniatures in colour are near; and the pictures themselves, at the size of the smaller one, differ nowhere more
than a copy does. One other digit on a chart, or another colour, makes another picture.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter
from scipy.ndimage import uniform_filter
from scipy.spatial import cKDTree

from curate.pictures import Pictures
from curate.schema import IMAGES
from curate.seen import decode, fitted
from curate.store import Workspace, among

BITS = 64
# Larger blocks of pictures whose hashes share a band are all looked at instead of compared with one another.
_BLOCK = 4_000_000
# Miniatures: RGB of so many points a side, blurred, so that a copy of another size has nearly the same.
_MINI, _FINE, _BLUR = 16, 64, 2.0
# Copies of 40 real tables (JPEG of quality 50, half to twice the size) differ by at most 4.0 of 255, root mean square.
_NEAR = 4.5
# In so many directions, along which the miniatures at hand differ most, the nearest are searched; and so many of them
# are compared as they are. A copy is among the nearest, and no picture costs more where thousands are alike.
_DIRECTIONS, _SAMPLE, _NEAREST = 12, 2000, 4
_PIXELS = 1_000_000
_READ_AT_ONCE = 20
# Encoded and decoded pictures that are held meanwhile, in bytes.
_ENCODED, _DECODED = 32 * 2**20, 48 * 2**20

Key = tuple[str, str]


class Gallery:
    """The pictures of a workspace: which are near to which."""

    def __init__(self, workspace: Workspace, distance: int) -> None:
        self._workspace, self._distance = workspace, distance
        table = workspace.read(IMAGES, ["image_hash", "perceptual_hash"])
        columns = (table["image_hash"].to_pylist(), table["perceptual_hash"].to_pylist())
        self._hashes = {key: int(value, 16) for key, value in zip(*columns, strict=True)}

    def near(self, ours: Iterable[str], theirs: Iterable[str] | None = None) -> dict[Key, int]:
        """(one, other) -> bits, of different pictures that are the same to the eye, both ways round.

        Without `theirs` among `ours`, else between the two.
        """
        left = sorted(set(ours) & self._hashes.keys())
        right = left if theirs is None else sorted(set(theirs) & self._hashes.keys())
        one, other = (np.array([self._hashes[key] for key in side], np.uint64) for side in (left, right))
        chosen, facing = has_near(one, other, self._distance, theirs is None)
        left, right = (
            [side[place] for place in np.flatnonzero(mask)] for side, mask in ((left, chosen), (right, facing))
        )
        return self._verified(self._nearest(left, right))

    def _nearest(self, left: Sequence[str], right: Sequence[str]) -> Iterator[Key]:
        """Pairs whose miniatures are near; of each picture of `left` with so many of the nearest of `right`."""
        if not left or not right:
            return
        minis = self._minis(sorted({*left, *right}))
        reach = _NEAR * np.sqrt(_MINI * _MINI * 3)
        directions = _directions(np.stack([minis[key] for key in sorted(minis)[:: len(minis) // _SAMPLE + 1]]))
        ours, theirs = (
            np.stack([minis[key] for key in side]).astype(np.float32) @ directions for side in (left, right)
        )
        count = min(_NEAREST + 1, len(right))
        # Projections are no farther apart than the miniatures themselves.
        _, places = cKDTree(theirs).query(ours, k=list(range(1, count + 1)), distance_upper_bound=reach)
        for place, found in enumerate(places):
            one = left[place]
            for other in (right[each] for each in found if each < len(right)):
                apart = np.linalg.norm(minis[one].astype(np.float32) - minis[other])
                if one != other and apart <= reach and self._bits(one, other) <= self._distance:
                    yield one, other

    def _bits(self, one: str, other: str) -> int:
        return (self._hashes[one] ^ self._hashes[other]).bit_count()

    def _minis(self, keys: Sequence[str]) -> dict[str, NDArray[np.uint8]]:
        found = {}
        for start in range(0, len(keys), 5000):
            where = among("image_hash", keys[start : start + 5000])
            columns = ["image_hash", "bytes"]
            for batch in self._workspace.batches(IMAGES, columns, where=where, size=_READ_AT_ONCE):
                for key, data in zip(*(batch[name].to_pylist() for name in columns), strict=True):
                    found[key] = miniature(decode(data))
        return found

    def _verified(self, pairs: Iterator[Key]) -> dict[Key, int]:
        found: dict[Key, int] = {}
        looked = set[Key]()
        look = _Decoded(self._workspace)
        for one, other in pairs:
            pair = (min(one, other), max(one, other))
            if pair not in looked and same_picture(look(one), look(other)):
                found[one, other] = found[other, one] = self._bits(one, other)
            looked.add(pair)
        return found


class _Decoded:
    """Pictures of a workspace at a size that they are compared at, the last used ones kept."""

    def __init__(self, workspace: Workspace) -> None:
        self._pictures = Pictures(workspace, _ENCODED)
        self._kept: OrderedDict[str, Image.Image] = OrderedDict()
        self._held = 0

    def __call__(self, key: str) -> Image.Image:
        if key not in self._kept:
            (image,) = self._pictures.of({"image_hashes": [key]})
            picture = decode(image.data, _PIXELS)
            self._kept[key] = picture
            self._held += picture.width * picture.height * 3
            while self._held > _DECODED and len(self._kept) > 1:
                _, gone = self._kept.popitem(last=False)
                self._held -= gone.width * gone.height * 3
        self._kept.move_to_end(key)
        return self._kept[key]


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


def miniature(picture: Image.Image) -> NDArray[np.uint8]:
    """A picture in `_MINI` x `_MINI` points of RGB, flat."""
    fine = picture.resize((_FINE, _FINE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return np.asarray(fine.filter(ImageFilter.GaussianBlur(_BLUR)).reduce(_FINE // _MINI), np.uint8).ravel()


# Mean difference of 8 x 8 points in any channel, of 255: what a flat area of a copy may have, and besides it a share of
# the contrast there, where JPEG and scaling leave their traces. On tables copies stay below 9 by this count, and the
# least other digit is at 20; where nothing is above the first bound, or something above the last, that is enough.
_POINTS, _FLAT, _SHARE, _APART = 8, 10.0, 0.65, 90
_SOFT = ImageFilter.GaussianBlur(1.0)


def same_picture(one: Image.Image, other: Image.Image) -> bool:
    """Whether two RGB pictures show the same, saved or scaled in another way."""
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
    worst = max(high for _, high in around.getextrema())
    if worst <= _FLAT or worst > _APART:
        return worst <= _FLAT
    return bool((_mean(np.asarray(apart)) - _SHARE * _contrast(np.asarray(small))).max() <= _FLAT)


def _mean(values: NDArray[np.generic]) -> NDArray[np.float32]:
    """Over the points around each one, [height, width, channels]."""
    found: NDArray[np.float32] = uniform_filter(values.astype(np.float32), (_POINTS, _POINTS, 1))
    return found


def _contrast(values: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Standard deviation of the points around each one, of the channel that has the most, [height, width, 1]."""
    real = values.astype(np.float32)
    spread: NDArray[np.float32] = np.sqrt(np.maximum(_mean(real * real) - _mean(real) ** 2, 0))
    return spread.max(2, keepdims=True)
