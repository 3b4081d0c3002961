"""A request's body to rows: JSON that was checked, and pictures that were decoded once. Pure.

Pictures come as data only: nothing is fetched from an address or read from a path.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.config import did_you_mean
from curate.errors import RowError
from curate.images import inspect
from curate.seeds import content_hash

_KEYS = ("question", "choices", "images", "steps")
_ADDRESSES = ("http:", "https:", "ftp:", "file:")


class Refused(Exception):
    """A request that is answered by this HTTP status and sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


@dataclass(frozen=True)
class Limits:
    """Of a request: bytes of its body, rows; of a row: steps, characters, images; of an image: pixels."""

    body_bytes: int = 64 * 2**20
    rows: int = 64
    steps: int = 256
    characters: int = 200_000
    images: int = 8
    pixels: int = 32_000_000


@dataclass(frozen=True)
class Row:
    """A chain to score; `images` are (hash, original bytes)."""

    question: str
    choices: tuple[str, ...]
    images: tuple[tuple[str, bytes], ...]
    steps: tuple[str, ...]


def read(body: bytes, limits: Limits) -> tuple[list[Row | RowError], bool]:
    """The rows of a body, and whether they came as a list; a RowError in place of a row whose picture is no good.

    Refused (400) when the body is not what it must be, (413) when it holds too much.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "The body is no JSON; send an object with question and steps, or a list of them.") from None
    many = isinstance(content, list)
    rows = content if many else [content]
    if not rows:
        raise Refused(400, "The list has no row.")
    if len(rows) > limits.rows:
        raise Refused(413, f"{len(rows)} rows are in the request, the limit is {limits.rows}; send several requests.")
    return [_row(row, f"rows[{place}]." if many else "", limits) for place, row in enumerate(rows)], many


def _row(content: Any, where: str, limits: Limits) -> Row | RowError:
    if not isinstance(content, dict):
        raise Refused(400, f"{where.rstrip('.') or 'The body'} must be an object with question and steps.")
    for key in content:
        if key not in _KEYS:
            raise Refused(400, f'There is no field "{_shown(key)}"{did_you_mean(key, _KEYS)}')
    question = content.get("question")
    if not isinstance(question, str):
        raise Refused(400, f"{where}question must be a text.")
    choices, steps, images = (_texts(content, key, where) for key in ("choices", "steps", "images"))
    if not steps:
        raise Refused(400, f"{where}steps must have at least one text.")
    _check(question, choices, steps, images, where, limits)
    try:
        return Row(question, choices, tuple(_image(text, limits.pixels) for text in images), steps)
    except RowError as error:
        return error


def _check(
    question: str, choices: Sequence[str], steps: Sequence[str], images: Sequence[str], where: str, limits: Limits
) -> None:
    for name, count, most in (("steps", len(steps), limits.steps), ("images", len(images), limits.images)):
        if count > most:
            raise Refused(413, f"{where}{name} has {count} entries, the limit is {most}.")
    texts = (question, *choices, *steps)
    length = sum(map(len, texts))
    if length > limits.characters:
        raise Refused(413, f"{where.rstrip('.') or 'The row'} has {length:,} characters of text, the limit is "
                           f"{limits.characters:,}.")  # fmt: skip
    # JSON can spell half of a surrogate pair, which no tokenizer takes.
    if any(not _encodes(text) for text in texts):
        raise Refused(400, f"{where.rstrip('.') or 'The row'} has text that is no valid Unicode.")


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
        raise Refused(400, f"{where}{key} must be a list of texts.")
    return tuple(found)


def _image(text: str, pixels: int) -> tuple[str, bytes]:
    """(hash, bytes) of a picture that can be decoded; RowError when it cannot."""
    if text[:6].lower().startswith(_ADDRESSES):
        raise RowError("image", "images are data (base64, or a data: URL), and no addresses")
    encoded = text
    if text[:5].lower() == "data:":
        head, comma, encoded = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise RowError("image", "a data: URL must be base64, as in data:image/png;base64,...")
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise RowError("image", "an image is neither base64 nor a data: URL") from None
    # The body's limit holds for the bytes, too.
    inspect(data, pixels, len(data))
    return content_hash(data), data
