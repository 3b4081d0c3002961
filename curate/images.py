"""What a picture is: format, size, orientation, perceptual hash. Pure: bytes in, facts out, nothing re-encoded."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import imagehash
from PIL import Image, ImageOps, UnidentifiedImageError

from curate.errors import RowError

_ORIENTATION = 0x0112
# Our own limit of pixels stands, and damaged metadata is no reason to bother anybody. Once and for all: a filter for
# the time of one call would be every thread's.
warnings.filterwarnings("ignore", module=r"PIL\.")
# The perceptual hash looks at 32 x 32 points of grey.
_HASHED = 64
# Modes whose points can be averaged as they are.
_REDUCED = ("L", "RGB", "CMYK", "YCbCr")
# Programs, not pictures: Pillow would start an interpreter for them.
_PROGRAMS = ("EPS", "WMF")


@dataclass(frozen=True)
class ImageFacts:
    """Facts of one picture. `perceptual_hash` is 16 hexadecimal digits of a 64-bit DCT hash, upright and on white.

    `orientation` is the EXIF value 1 to 8, null where the file has none.
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
        with Image.open(io.BytesIO(data)) as picture:
            return _decode(picture, max_pixels)
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


def as_seen(picture: Image.Image) -> Image.Image:
    """The picture as a person sees it, in RGB: upright by its EXIF orientation, transparency on white paper.

    What every model here is shown, the policy and the PRM alike.
    """
    upright = ImageOps.exif_transpose(picture)
    if not upright.has_transparency_data:
        return upright if upright.mode == "RGB" else upright.convert("RGB")
    layer = upright.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def decode(data: bytes) -> Image.Image:
    """`as_seen` of encoded bytes; OSError or ValueError when they cannot be decoded."""
    with Image.open(io.BytesIO(data)) as picture:
        return as_seen(picture)


def _seen(picture: Image.Image) -> Image.Image:
    """`as_seen`, but grey where it is grey."""
    grey = picture.mode == "L" and not picture.has_transparency_data
    return ImageOps.exif_transpose(picture) if grey else as_seen(picture)


def _small(picture: Image.Image) -> Image.Image:
    """Shrunk by a whole number, not below `_HASHED` a side: the hash needs no more, and its own filter is slow."""
    factor = min(picture.size) // _HASHED
    return picture.reduce(factor) if factor > 1 and picture.mode in _REDUCED else picture


def _decode(picture: Image.Image, max_pixels: int) -> ImageFacts:
    width, height = picture.size
    if width * height > max_pixels:
        raise RowError("image-too-large", f"{width} x {height} pixels, the limit is {max_pixels:,}")
    kind = picture.format or "unknown"
    if kind in _PROGRAMS:
        raise RowError("image-unreadable", f"{kind} is a program that draws, not a picture; convert it first")
    frames = getattr(picture, "n_frames", 1)
    # A JPEG can be decoded at an eighth of its size and more, and in grey: every bit of it is read, so damage shows, in
    # less time.
    picture.draft("L", (_HASHED, _HASHED))
    picture.load()
    orientation = picture.getexif().get(_ORIENTATION)
    has_alpha = picture.has_transparency_data
    return ImageFacts(
        format=kind,
        width=width,
        height=height,
        perceptual_hash=str(imagehash.phash(_seen(_small(picture)))),
        orientation=orientation if orientation in range(1, 9) else None,
        has_alpha=has_alpha,
        note=f"animated, {frames} frames, the first is used" if frames > 1 else None,
    )
