"""What an image is: format, size, orientation, perceptual hash. Pure: bytes in, facts out, nothing re-encoded."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import imagehash
from PIL import Image, UnidentifiedImageError

from curate.errors import RowError
from curate.pixels import as_seen, decode, deep, opened, orientation, top

__all__ = ["ImageFacts", "as_seen", "decode", "inspect", "kind_of"]

# Our own limit of pixels stands, and damaged metadata is no reason to bother anybody. Once and for all: a filter for
# the time of one call would be every thread's.
warnings.filterwarnings("ignore", module=r"PIL\.")
# The perceptual hash looks at 32 x 32 points of grey.
_HASHED = 64
# Modes whose points can be averaged as they are.
_REDUCED = ("L", "RGB", "CMYK", "YCbCr")
# Programs, not images: Pillow would start an interpreter for them.
_PROGRAMS = ("EPS", "WMF")


@dataclass(frozen=True)
class ImageFacts:
    """Facts of one image. `perceptual_hash` is 16 hexadecimal digits of a 64-bit DCT hash, upright and on white.

    `orientation` is the EXIF value 1 to 8, null where the file has none. `note` says what the pixels alone do not: more
    frames than are used, more than 8 bits a channel.
    """

    format: str
    width: int
    height: int
    perceptual_hash: str
    orientation: int | None
    has_alpha: bool
    note: str | None


def inspect(data: bytes, max_pixels: int, max_bytes: int) -> ImageFacts:
    """Decode once, fully. RowError `image-too-large` before decoding, `image-truncated`, `image-unreadable`."""
    if len(data) > max_bytes:
        raise RowError("image-too-large", f"{len(data):,} bytes, the limit is {max_bytes:,}")
    if not data:
        raise RowError("image-unreadable", "no bytes")
    try:
        return opened(data, lambda image: _decode(image, max_pixels))
    except Image.DecompressionBombError as error:
        raise RowError("image-too-large", str(error)) from None
    except UnidentifiedImageError:
        raise RowError("image-unreadable", f"no known image format in {len(data):,} bytes") from None
    except RowError:
        raise
    except Exception as error:
        # Pillow's decoders raise anything on damaged files, assertions and missing attributes too (`make fuzz`).
        truncated = "truncated" in str(error).lower() or isinstance(error, EOFError)
        raise RowError("image-truncated" if truncated else "image-unreadable", str(error) or repr(error)) from None


def _small(image: Image.Image) -> Image.Image:
    """Shrunk by a whole number, not below `_HASHED` a side: the hash needs no more, and its own filter is slow."""
    factor = min(image.size) // _HASHED
    return image.reduce(factor) if factor > 1 and image.mode in _REDUCED else image


def _decode(image: Image.Image, max_pixels: int) -> ImageFacts:
    width, height = image.size
    if width * height > max_pixels:
        raise RowError("image-too-large", f"{width} x {height} pixels, the limit is {max_pixels:,}")
    kind = image.format or "unknown"
    if kind in _PROGRAMS:
        raise RowError("image-unreadable", f"{kind} is a program that draws, not an image; convert it first")
    frames, cut = getattr(image, "n_frames", 1), deep(image)
    # A JPEG can be decoded at an eighth of its size and more, and in grey: every bit of it is read, so damage shows, in
    # less time.
    image.draft("L", (_HASHED, _HASHED))
    image.load()
    has_alpha = image.has_transparency_data
    return ImageFacts(
        format=kind,
        width=width,
        height=height,
        perceptual_hash=str(imagehash.phash(as_seen(_small(image)))),
        orientation=orientation(image),
        has_alpha=has_alpha,
        note=_note(frames, 65535.0 if cut else top(image)),
    )


def _note(frames: int, scaled_from: float | None) -> str | None:
    said = []
    if frames > 1:
        said.append(f"animated, {frames} frames, the first is used")
    if scaled_from is not None:
        said.append(f"more than 8 bits a channel, values up to {_number(scaled_from)} are scaled to 255")
    return "; ".join(said) or None


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.6g}"


def kind_of(data: bytes) -> str | None:
    """What Pillow calls the format; None where it has no name. Whatever Pillow raises where it cannot be read."""
    return opened(data, lambda image: image.format)
