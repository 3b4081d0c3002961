"""What an image looks like: any file becomes upright RGB of 8 bits a channel on white, which every model is shown.

The policy, the judge and the PRM see these pixels, in process and on a server. Pure: bytes in, pixels out.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from curate.errors import RowError

T = TypeVar("T")

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# One channel of more than 8 bits. What has more channels Pillow cuts to 8 bits itself, by the higher byte.
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
# Highest values of the scales that files use, also within wider numbers: 12-bit cameras write 16-bit files.
_TOPS = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16, 24, 31, 32))
_REAL_TOPS = (1.0, 255.0, 65535.0)
# Points that are scaled at once: as real numbers they take eight times the memory.
_POINTS = 2**20
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT, _WHITE_IS_ZERO = 258, 262, 339, 0

_PNG = b"\x89PNG\r\n\x1a\n"
# What a PNG needs besides its critical chunks, whose names begin with a capital letter.
_PNG_KEPT = (b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT")
# Formats that every server decodes to the pixels that Pillow gives.
_PLAIN = {"PNG": "png", "JPEG": "jpeg", "WEBP": "webp"}


def opened(data: bytes, use: Callable[[Image.Image], T]) -> T:
    """What `use` makes of the image; whatever Pillow raises where it cannot be read.

    A PNG whose texts, colour profile or other extras are damaged or too large is read without them; the limit of
    pixels holds for both readings.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return use(image)
    except (RowError, Image.DecompressionBombError):
        raise
    except Exception:
        bare = _without_extras(data)
        if bare is None:
            raise
    with Image.open(io.BytesIO(bare)) as image:
        return use(image)


def _without_extras(data: bytes) -> bytes | None:
    """A PNG without the chunks that its pixels do not need; None where nothing is left out. Decompresses nothing."""
    if not data.startswith(_PNG):
        return None
    kept = [chunk for chunk in _chunks(data) if _needed(chunk)]
    bare = b"".join([_PNG, *kept])
    return None if len(bare) == len(data) else bare


def _chunks(data: bytes) -> Iterator[bytes]:
    """The chunks of a PNG with their lengths, names and checksums; the last one may be cut short."""
    at = len(_PNG)
    while at + 8 <= len(data):
        end = at + 12 + int(struct.unpack_from(">I", data, at)[0])
        yield data[at:end]
        at = end


def _needed(chunk: bytes) -> bool:
    name = chunk[4:8]
    if name[:1].isupper():
        return True
    return name in _PNG_KEPT and zlib.crc32(chunk[4:-4]) == struct.unpack(">I", chunk[-4:])[0]


def decode(data: bytes, max_pixels: int | None = None) -> Image.Image:
    """`as_seen` of encoded bytes, scaled down where it has more than `max_pixels`; RowError `image-unreadable`."""
    try:
        return fitted(opened(data, as_seen), max_pixels)
    except RowError:
        raise
    except Exception as error:
        # Pillow's decoders raise anything on damaged files.
        raise RowError("image-unreadable", str(error) or repr(error)) from None


def as_seen(image: Image.Image) -> Image.Image:
    """The image as a person sees it, RGB of 8 bits: upright by its EXIF orientation, transparency on white paper.

    One channel of more bits is scaled by the smallest usual range that holds its values (see `top`).
    """
    # Some formats know how they are turned only when they are read whole, and TIFF is turned by then.
    image.load()
    turn = _TURNS.get(orientation(image) or 1)
    shown = _on_white(image) if image.has_transparency_data else _rgb(_shallow(image))
    return shown if turn is None else shown.transpose(turn)


def orientation(image: Image.Image) -> int | None:
    """The EXIF orientation, 1 to 8; None where the image has none that can be read."""
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:  # Damaged metadata is read by hand-written parsers, which raise anything.
        return None
    return value if value in range(1, 9) else None


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    key = image.info.get("transparency")
    if image.mode in _DEEP:
        layer = _shallow(image).convert("RGBA")
        # Before scaling: neighbours of the transparent grey would become transparent with it.
        layer.putalpha(Image.fromarray(np.where(np.asarray(image) == key, 0, 255).astype(np.uint8)))
    else:
        layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _shallow(image: Image.Image) -> Image.Image:
    """An image of more than 8 bits a channel as one of 8; others as they are."""
    scale = _scale(image)
    if scale is None:
        return image
    low, high, inverted = scale
    values = _values(image)
    made = np.empty(values.shape, np.uint8)
    rows = max(1, _POINTS // max(1, values.shape[1]))
    for at in range(0, len(values), rows):
        part = np.nan_to_num(values[at : at + rows].astype(np.float64), posinf=high, neginf=low)
        made[at : at + rows] = np.rint((part - low).clip(0, high - low) * (255 / (high - low)))
    return Image.fromarray(255 - made if inverted else made)


def top(image: Image.Image) -> float | None:
    """Which value becomes 255 when the image is shown; None where it has 8 bits a channel.

    The declared depth where it is no whole number of bytes, else the least of 8, 10, 12, 14, 16, 24 and 32 bits that
    holds every value; for real numbers 1, 255 or 65,535, else the highest value.
    """
    scale = _scale(image)
    return None if scale is None else scale[1]


def _values(image: Image.Image) -> NDArray[np.generic]:
    values: NDArray[np.generic] = np.asarray(image)
    # Pillow has no unsigned numbers of 32 bits, and gives them as signed ones.
    unsigned = image.mode == "I" and _tag(image, _SAMPLE_FORMAT) == 1 and _tag(image, _BITS_PER_SAMPLE) == 32
    return values.view(np.uint32) if unsigned else values


def _scale(image: Image.Image) -> tuple[float, float, bool] | None:
    """(value shown as black, value shown as white, whether the two are swapped) of an image that is scaled."""
    if image.mode not in _DEEP:
        return None
    values = _values(image)
    finite = values[np.isfinite(values)] if image.mode == "F" else values
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    inverted = _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO
    if low < 0:
        # Signed values, such as heights: there is no scale to go by but their own.
        return low, max(high, low + 1), inverted
    bits = _tag(image, _BITS_PER_SAMPLE) or 0
    if image.mode != "F" and bits % 8:
        return 0.0, float(2**bits - 1), inverted
    tops = _REAL_TOPS if image.mode == "F" else _TOPS
    # A little above 1 is 1 with the overshoot of a filter: 255 would make it black.
    fitting = () if image.mode == "F" and 1 < high < 2 else tops
    return 0.0, float(next((each for each in fitting if high <= each), high)), inverted


def _tag(image: Image.Image, number: int) -> int | None:
    """The first value of a TIFF tag; None where there is none."""
    found = getattr(image, "tag_v2", {}).get(number)
    return int(found[0] if isinstance(found, tuple) else found) if found else (None if found is None else 0)


def fitted(image: Image.Image, max_pixels: int | None) -> Image.Image:
    """The image, scaled down in proportion where it has more than `max_pixels`."""
    width, height = image.size
    if max_pixels is None or width * height <= max_pixels:
        return image
    share = math.sqrt(max_pixels / (width * height))
    short = max(1, round(min(width, height) * share))
    long = max(1, min(round(max(width, height) * share), max_pixels // short))
    size = (long, short) if width >= height else (short, long)
    return image.resize(size, Image.Resampling.BICUBIC)


def to_send(data: bytes, max_pixels: int | None = None) -> tuple[bytes, str]:
    """(bytes, media type) that any program decodes to what `decode` gives; RowError `image-unreadable`.

    The bytes as they came where they hold nothing that programs treat in different ways, else a PNG.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind = _plain(image, max_pixels)
            if kind is not None:
                image.load()
                if orientation(image) in (None, 1):
                    return data, f"image/{kind}"
    except Exception:  # noqa: S110 - `decode` has another way to read it, or says what is wrong
        pass
    buffer = io.BytesIO()
    # The least compression: it is sent once, and images wait for it.
    decode(data, max_pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), "image/png"


def _plain(image: Image.Image, max_pixels: int | None) -> str | None:
    """The media subtype of an image of 8 bits, RGB or grey, that stands still; None of any other."""
    if image.mode not in ("RGB", "L") or image.has_transparency_data or deep(image):
        return None
    if getattr(image, "n_frames", 1) > 1 or (max_pixels is not None and image.width * image.height > max_pixels):
        return None
    return _PLAIN.get(image.format or "")


def deep(image: Image.Image) -> bool:
    """Whether an image that is not read yet has 16 bits a channel, of which Pillow keeps the higher 8."""
    if image.mode in _DEEP:
        return False
    tiles = getattr(image, "tile", ())
    modes = [args[0] if isinstance(args, tuple) and args else args for args in (tile.args for tile in tiles)]
    return any(isinstance(mode, str) and mode.partition(";")[2].startswith("16") for mode in modes)
