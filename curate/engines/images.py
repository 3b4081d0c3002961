"""Images as engines hand them to a model: the same pixels in process and on a server, the last used ones kept."""

from __future__ import annotations

import binascii
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

import PIL.Image

from curate.engines.base import Image, RequestRejected
from curate.errors import RowError
from curate.pixels import decode, to_send

T = TypeVar("T")

# This many bytes are kept at hand: of raw pixels, or of encoded images.
_DECODED_BYTES = 512 * 2**20
_ENCODED_BYTES = 128 * 2**20


class _Recent(Generic[T]):
    """What is made of images, by content hash, the most recently used ones kept."""

    def __init__(self, make: Callable[[bytes], T], size: Callable[[T], int], limit: int) -> None:
        self._make, self._size, self._limit, self._held = make, size, limit, 0
        self._kept: OrderedDict[str, T] = OrderedDict()

    def __call__(self, image: Image) -> T:
        """RequestRejected when the image cannot be read."""
        if image.image_hash in self._kept:
            self._kept.move_to_end(image.image_hash)
            return self._kept[image.image_hash]
        try:
            made = self._make(image.data)
        except RowError as error:
            raise RequestRejected(f"image {image.image_hash} cannot be decoded: {error.detail}") from None
        self._kept[image.image_hash] = made
        self._held += self._size(made)
        while self._held > self._limit and len(self._kept) > 1:
            self._held -= self._size(self._kept.popitem(last=False)[1])
        return made


class DecodedImages(_Recent[PIL.Image.Image]):
    """Decoded images as `seen.decode` shows them, for a model in this process."""

    def __init__(self, max_pixels: int | None = None, limit: int = _DECODED_BYTES) -> None:
        super().__init__(lambda data: decode(data, max_pixels), lambda each: each.width * each.height * 3, limit)


class Sent(_Recent[str]):
    """Images as data URIs that a server decodes to the pixels of `DecodedImages`."""

    def __init__(self, max_pixels: int | None = None, limit: int = _ENCODED_BYTES) -> None:
        super().__init__(lambda data: _data_uri(*to_send(data, max_pixels)), len, limit)


def _data_uri(data: bytes, media: str) -> str:
    return f"data:{media};base64,{binascii.b2a_base64(data, newline=False).decode()}"
