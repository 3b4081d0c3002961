"""Images out of a record's cells: bytes, however a file writes them, or a path to look up. Nothing is downloaded."""

from __future__ import annotations

import ast
import base64
import binascii
import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from curate.errors import RowError
from curate.sources.fields import lists
from curate.sources.roots import Root

# Keys of a struct that hold an image, the surest first.
_KEYS = ("bytes", "base64", "b64_json", "data", "image", "image_url", "url", "path", "file_name", "filename", "src")
# A struct whose keys are marks of images, in the order of their numbers.
_LABELLED = re.compile(r"<?\s*(?:image|img|picture|figure|pic)?[\s_-]*(\d+)\s*>?", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]+={0,2}\s*")
# How images begin: PNG, JPEG, GIF, RIFF (WebP), BMP, TIFF, JPEG 2000. HEIF and AVIF have four bytes before the name.
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*", b"\x00\x00\x00\x0cjP")
_SHORTEST = 40
# Nothing that is longer is a path.
_PATH = 4096


def of_cell(value: Any, root: Root | None) -> Iterator[bytes]:
    """Original bytes of each image that a cell holds; RowError when one is not there.

    An image is a path under `root`, bytes, bytes as base64, a data URI or a list of byte values, or a struct with one
    of those, as Hugging Face and chat messages write it; several are a list, also as a text.
    """
    if value is None or value != value:
        return
    if isinstance(value, bytes | bytearray | memoryview):
        yield bytes(value)
    elif isinstance(value, list | tuple):
        if _is_bytes(value):
            yield bytes(map(int, value))
            return
        for item in value:
            yield from of_cell(item, root)
    elif isinstance(value, Mapping):
        yield from _struct(value, root)
    elif isinstance(value, str):
        yield from _text(value, root)
    else:
        raise RowError("image-unreadable", f"an image cannot be a {type(value).__name__}")


def _is_bytes(value: Sequence[Any]) -> bool:
    """Whether a list holds the values of bytes, and enough of them for an image's beginning."""
    return len(value) >= _SHORTEST and all(
        isinstance(each, int | float) and not isinstance(each, bool) and 0 <= each <= 255 and each == int(each)
        for each in value
    )


def _struct(value: Mapping[str, Any], root: Root | None) -> Iterator[bytes]:
    found = next((value[key] for key in _KEYS if value.get(key) not in (None, "", b"")), None)
    if found is not None:
        yield from of_cell(found, root)
        return
    labels = {key: match for key in value if (match := _LABELLED.fullmatch(str(key))) is not None}
    if not labels or len(labels) < len(value):
        raise RowError("image-missing", "an image without bytes and without path")
    for key in sorted(labels, key=lambda key: int(labels[key][1])):
        yield from of_cell(value[key], root)


def _text(text: str, root: Root | None) -> Iterator[bytes]:
    plain = text.strip()
    if plain[:5].lower() == "data:":
        yield _data_uri(plain)
    elif re.match(r"(?i)https?://", plain):
        raise RowError("image-missing", f"{plain[:200]} is an address, and nothing is downloaded; get the file first")
    elif (data := _base64(plain)) is not None:
        yield data
    elif plain[:2] in ("b'", 'b"') or plain[:1] in ("[", "{"):
        held = _literal(plain)
        if held is not None:
            yield from of_cell(held, root)
        elif len(plain) <= _PATH:
            yield _file(text, root)
        else:
            raise RowError("image-unreadable", f"neither a list nor a path: {text[:80]}")
    elif len(plain) > _PATH:
        raise RowError(
            "image-unreadable",
            f"a text of {len(plain):,} characters is no path, and no image in base64: {plain[:40]}",
        )
    else:
        yield _file(text, root)


def _data_uri(text: str) -> bytes:
    """What the address itself holds."""
    head, comma, data = text.partition(",")
    if comma and head.lower().endswith(";base64"):
        try:
            return base64.b64decode(_standard(urllib.parse.unquote(data)), validate=True)
        except (binascii.Error, ValueError):
            pass
    elif comma:
        return urllib.parse.unquote_to_bytes(data)
    raise RowError("image-unreadable", f"a data URI without sound data: {text[:80]}")


def _standard(text: str) -> str:
    """Base64 in its usual letters, without blanks, with the padding that some leave out."""
    plain = re.sub(r"\s+", "", text).replace("-", "+").replace("_", "/").rstrip("=")
    return plain + "=" * (-len(plain) % 4)


def _base64(text: str) -> bytes | None:
    """The image that a text is in base64; None for a path, which may have the same letters."""
    if len(text) < _SHORTEST or not _BASE64.fullmatch(text):
        return None
    try:
        data = base64.b64decode(_standard(text), validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if data.startswith(_MAGIC) or data[4:8] == b"ftyp" else None


def _literal(text: str) -> Any:
    """Bytes, a list or a struct that was printed into a cell; None where the text is none of them."""
    try:
        return ast.literal_eval(text) if text.startswith("b") else lists.parse(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def _file(name: str, root: Root | None) -> bytes:
    if root is None:
        raise RowError("image-missing", f"{name}: the source has no folder that image paths are relative to")
    if not name.strip():
        raise RowError("image-missing", "an empty path")
    try:
        return root.read(name)
    except RowError as error:
        if error.reason != "image-missing" or "\\" not in name:
            raise
    # As Windows writes it.
    return root.read(name.replace("\\", "/"))
