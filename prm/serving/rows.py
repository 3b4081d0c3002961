"""A request's body to rows: JSON that was checked, and images that were decoded once. Pure.

Images come as data only: nothing is fetched from an address or read from a path.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from curate.errors import RowError, did_you_mean
from curate.images import inspect
from curate.seeds import content_hash

_KEYS = ("question", "choices", "images", "steps")
# Marks of lists, objects and values that a body may have in any case: some 100 MB of memory.
_VALUES = 1_000_000
_ADDRESSES = ("http:", "https:", "ftp:", "file:")


class RequestRefused(Exception):
    """A request that is answered by this HTTP status and sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


@dataclass(frozen=True)
class Limits:
    """Limits of a request: bytes of its body, rows, pixels of all its images together; and of a row: steps, characters,
    images; of an image: pixels.
    """

    body_bytes: int = 64 * 2**20
    rows: int = 64
    steps: int = 256
    characters: int = 200_000
    images: int = 8
    pixels: int = 32_000_000
    request_pixels: int = 128_000_000


@dataclass(frozen=True)
class ServedRollout:
    """A chain to score; `images` are (hash, original bytes), with so many `pixels` together."""

    question: str
    choices: tuple[str, ...]
    images: tuple[tuple[str, bytes], ...]
    steps: tuple[str, ...]
    pixels: int = 0


class _RequestImages:
    """The images of a request: each is decoded once, however many rows show it."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._left = limits, limits.request_pixels
        self._known: dict[str, tuple[tuple[str, bytes], int] | RowError] = {}

    def get(self, text: str) -> tuple[tuple[str, bytes], int]:
        """((hash, bytes), pixels); RowError when it is no image, Refused when the request has too many pixels."""
        found = self._known.get(text)
        if found is None:
            try:
                found = self._decode(text)
            except RowError as error:
                found = error
            self._known[text] = found
        if isinstance(found, RowError):
            raise found
        return found

    def _decode(self, text: str) -> tuple[tuple[str, bytes], int]:
        data = _bytes(text)
        size = pixels_of(data)
        # What is too large by itself is the row's fault, and is not decoded.
        if size <= self._limits.pixels:
            self._left -= size
            if self._left < 0:
                raise RequestRefused(
                    413,
                    f"The images of the request have more than {self._limits.request_pixels:,} pixels together; send "
                    "several requests.",
                )
        # The body's limit holds for the bytes, too.
        inspect(data, self._limits.pixels, len(data))
        return (content_hash(data), data), size


def read(body: bytes, limits: Limits) -> tuple[list[ServedRollout | RowError], bool]:
    """The rows of a body, and whether they came as a list; a RowError in place of a row whose image is no good.

    Refused (400) when the body is not what it must be, (413) when it holds too much.
    """
    if sum(map(body.count, (b"[", b"{", b","))) > max(_VALUES, limits.rows * limits.characters // 4):
        # Empty lists by the million would take a hundred times their bytes in memory.
        raise RequestRefused(413, "The body has more lists, objects and values than its rows may have; send fewer.")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestRefused(
            400, "The body is no JSON; send an object with question and steps, or a list of them."
        ) from None
    many = isinstance(content, list)
    rows = content if many else [content]
    if not rows:
        raise RequestRefused(400, "The list has no row.")
    if len(rows) > limits.rows:
        raise RequestRefused(
            413, f"{len(rows)} rows are in the request, the limit is {limits.rows}; send several requests."
        )
    shown = _RequestImages(limits)
    return [_row(row, f"rows[{place}]." if many else "", limits, shown) for place, row in enumerate(rows)], many


def _row(content: Any, where: str, limits: Limits, decoded: _RequestImages) -> ServedRollout | RowError:
    if not isinstance(content, dict):
        raise RequestRefused(400, f"{where.rstrip('.') or 'The body'} must be an object with question and steps.")
    for key in content:
        if key not in _KEYS:
            raise RequestRefused(400, f'There is no field "{_shown(key)}"{did_you_mean(key, _KEYS)}')
    question = content.get("question")
    if not isinstance(question, str):
        raise RequestRefused(400, f"{where}question must be a text.")
    choices, steps, images = (_texts(content, key, where) for key in ("choices", "steps", "images"))
    if not steps:
        raise RequestRefused(400, f"{where}steps must have at least one text.")
    _check(question, choices, steps, images, where, limits)
    try:
        shown = [decoded.get(text) for text in images]
        return ServedRollout(
            question, choices, tuple(image for image, _ in shown), steps, sum(size for _, size in shown)
        )
    except RowError as error:
        return error


def _check(
    question: str, choices: Sequence[str], steps: Sequence[str], images: Sequence[str], where: str, limits: Limits
) -> None:
    for name, count, maximum in (("steps", len(steps), limits.steps), ("images", len(images), limits.images)):
        if count > maximum:
            raise RequestRefused(413, f"{where}{name} has {count} entries, the limit is {maximum}.")
    texts = (question, *choices, *steps)
    length = sum(map(len, texts))
    if length > limits.characters:
        raise RequestRefused(413, f"{where.rstrip('.') or 'The row'} has {length:,} characters of text, the limit is "
                           f"{limits.characters:,}.")  # fmt: skip
    # JSON can spell half of a surrogate pair, which no tokenizer takes.
    if any(not _encodes(text) for text in texts):
        raise RequestRefused(400, f"{where.rstrip('.') or 'The row'} has text that is no valid Unicode.")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(text: str) -> str:
    """A client's word for a sentence."""
    return text[:40].encode("ascii", "replace").decode()


def _texts(content: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    found = content.get(key, [])
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise RequestRefused(400, f"{where}{key} must be a list of texts.")
    return tuple(found)


def _bytes(text: str) -> bytes:
    """What an image's text stands for; RowError when it is no data."""
    if text[:6].lower().startswith(_ADDRESSES):
        raise RowError("image", "images must be data (base64, or a data: URL), not addresses")
    encoded = text
    if text[:5].lower() == "data:":
        head, comma, encoded = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise RowError("image", "a data: URL must be base64, as in data:image/png;base64,...")
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise RowError("image", "an image is neither base64 nor a data: URL") from None


def pixels_of(data: bytes) -> int:
    """Pixels that an image's head promises; 0 where it has none, which `inspect` says in its own words."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.width * image.height
    except Exception:
        # Pillow's readers raise anything on damaged files.
        return 0
