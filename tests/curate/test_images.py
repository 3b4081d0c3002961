"""Facts of images: what is read, what is refused, and that nothing is changed."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from curate.errors import RowError
from curate.images import decode, inspect, kind_of
from curate.pixels import fitted, to_send

LIMITS = {"max_pixels": 10_000, "max_bytes": 1_000_000}


def encoded(image, kind="PNG", **how) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def blobs(size=(64, 48)):
    """Soft blobs, the same every time: a smooth ramp would leave a hash of signs undecided."""
    rng = random.Random(3)
    small = Image.frombytes("RGB", (8, 6), bytes(rng.randrange(256) for _ in range(8 * 6 * 3)))
    return small.resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_formats(kind):
    facts = inspect(encoded(blobs(), kind), **LIMITS)
    assert (facts.width, facts.height) == (64, 48)
    assert facts.format == kind
    assert facts.note is None
    assert len(facts.perceptual_hash) == 16


def test_a_resized_copy_has_almost_the_same_perceptual_hash_and_another_image_has_not():
    def bits(data):
        return int(inspect(data, **LIMITS).perceptual_hash, 16)

    one = bits(encoded(blobs()))
    copy = bits(encoded(blobs().resize((96, 72)), "JPEG", quality=80))
    other = bits(encoded(blobs().rotate(90, expand=True)))
    assert (one ^ copy).bit_count() <= 6
    assert (one ^ other).bit_count() >= 16


def test_orientation_is_recorded_and_seen_upright():
    turned = blobs().transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    facts = inspect(encoded(turned, "JPEG", exif=exif, quality=95), **LIMITS)
    assert facts.orientation == 6
    assert (facts.width, facts.height) == (48, 64)
    plain = inspect(encoded(blobs()), **LIMITS)
    assert (int(facts.perceptual_hash, 16) ^ int(plain.perceptual_hash, 16)).bit_count() <= 6


def test_alpha_and_animation_are_noted():
    glass = Image.new("RGBA", (8, 8), (255, 0, 0, 128))
    assert inspect(encoded(glass), **LIMITS).has_alpha
    assert not inspect(encoded(blobs()), **LIMITS).has_alpha
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert "first is used" in inspect(moving, **LIMITS).note


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded(blobs((200, 200))), "image-too-large"),
        (encoded(blobs())[:-40], "image-truncated"),
        (encoded(blobs(), "JPEG")[:300], "image-truncated"),
        (b"", "image-unreadable"),
        (b"GIF89a", "image-unreadable"),
        (b"<svg/>", "image-unreadable"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_reason(data, reason):
    with pytest.raises(RowError) as error:
        inspect(data, **LIMITS)
    assert error.value.reason == reason


def test_the_limit_on_bytes_comes_before_decoding():
    with pytest.raises(RowError, match="limit is 10"):
        inspect(encoded(blobs()), max_pixels=10**6, max_bytes=10)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "ICO", "AVIF"])
def test_damaged_files_are_refused_or_read_and_never_more(kind):
    rng = random.Random(kind)
    whole = encoded(blobs(), kind)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 2, 5])):
            data[rng.randrange(rng.choice([min(64, len(data)), len(data)]))] = rng.randrange(256)
        if rng.random() < 0.4:
            del data[rng.randrange(len(data)) :]
        try:
            facts = inspect(bytes(data), **LIMITS)
        except RowError as error:
            assert error.reason in ("image-unreadable", "image-truncated", "image-too-large")
        else:
            assert facts.width * facts.height <= LIMITS["max_pixels"]


def test_a_program_that_draws_is_never_run():
    with pytest.raises(RowError, match="EPS is a program"):
        inspect(encoded(blobs(), "EPS"), **LIMITS)


def test_a_decoder_that_trips_over_damage_is_no_bug_of_the_run():
    """Found by fuzzing: such a header makes Pillow's Spider reader ask for an attribute that it never set."""
    buffer = io.BytesIO()
    Image.new("F", (33, 21), 1).save(buffer, "SPIDER")
    data = bytearray(buffer.getvalue())
    order = ">" if struct.unpack_from(">f", data, 0)[0] == 1 else "<"
    struct.pack_into(f"{order}f", data, 26 * 4, 1.0)
    with pytest.raises(RowError) as error:
        inspect(bytes(data), 1_000_000, 1_000_000)
    assert error.value.reason == "image-unreadable"


RAMP = np.linspace(0, 1, 64 * 48).reshape(48, 64)


def raw(values, kind="TIFF", **how):
    return encoded(Image.fromarray(values), kind, **how)


def rgb16():
    """A PNG of 16 bits a channel, which Pillow does not write."""
    line = (RAMP * 65535).astype(">u2").repeat(3, 1).reshape(48, -1)
    body = zlib.compress(b"".join(b"\0" + each.tobytes() for each in line))
    head = struct.pack(">IIBBBBB", 64, 48, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def chunk(name, body, spoilt=0):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body) ^ spoilt)


@pytest.mark.parametrize(
    ("data", "highest"),
    [
        (raw((RAMP * 65535).astype(np.uint16), "PNG"), "65,535"),
        (raw((RAMP * 65535).astype(np.uint16)), "65,535"),
        (b"P5 64 48 65535\n" + (RAMP * 65535).astype(">u2").tobytes(), "65,535"),
        (raw((RAMP * 4095).astype(np.uint16), "PNG"), "4,095"),
        (raw((RAMP * 1023).astype(np.uint16)), "1,023"),
        (raw((RAMP * (2**31 - 1)).astype(np.int32)), "2,147,483,647"),
        (raw(RAMP.astype(np.float32)), "1"),
        (raw((RAMP * 255).astype(np.float32)), "255"),
        (raw((RAMP * 300 - 150).astype(np.float32)), "150"),
        (rgb16(), "65,535"),
    ],
)
def test_more_than_eight_bits_are_scaled_and_noted(data, highest):
    seen = np.asarray(decode(data)).astype(int)
    assert np.abs(seen[..., 0] - RAMP * 255).max() <= 1
    note = inspect(data, **LIMITS).note
    assert note == f"more than 8 bits a channel, values up to {highest} are scaled to 255"


def test_white_is_zero_and_what_is_no_number_do_no_harm():
    values = RAMP.astype(np.float32)
    values[0, 0], values[0, 1] = np.nan, np.inf
    assert np.asarray(decode(raw(values)))[47, 63].tolist() == [255] * 3
    ramp = Image.fromarray((RAMP * 65535).astype(np.uint16))
    inverted = np.asarray(decode(encoded(ramp, "TIFF", tiffinfo={262: 0}))).astype(int)
    assert np.abs(inverted[..., 0] - (1 - RAMP) * 255).max() <= 1
    clear = np.asarray(decode(encoded(ramp, "PNG", transparency=0)))
    assert (clear[0, 0].tolist(), clear[0, 1].tolist()) == ([255] * 3, [0] * 3)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"x\0\0" + zlib.compress(b"a" * 3_000_000)),
        chunk(b"iTXt", b"x\0\1\0\0\0" + zlib.compress(b"a" * 3_000_000)),
        chunk(b"tEXt", b"x\0y", spoilt=1),
        chunk(b"iCCP", b"x\0\0" + zlib.compress(b"a" * 3_000_000)),
        chunk(b"eXIf", b"no metadata"),
    ],
    ids=["text", "international text", "checksum", "profile", "metadata"],
)
def test_extras_of_a_png_do_no_harm(extra, late):
    whole = encoded(blobs())
    at = whole.index(b"IEND" if late else b"IDAT") - 4
    data = whole[:at] + extra + whole[at:]
    assert inspect(data, **LIMITS) == inspect(whole, **LIMITS)
    assert (np.asarray(decode(data)) == np.asarray(blobs())).all()
    if not (late or b"eXIf" in extra):
        assert kind_of(data) == "PNG"


def test_a_image_that_is_too_large_stays_so_with_extras():
    whole = encoded(blobs((200, 200)))
    at = whole.index(b"IDAT") - 4
    with pytest.raises(RowError) as error:
        inspect(whole[:at] + chunk(b"tEXt", b"x\0y", spoilt=1) + whole[at:], **LIMITS)
    assert error.value.reason == "image-too-large"
    damaged = bytearray(whole)
    damaged[whole.index(b"IDAT") + 30] ^= 255
    with pytest.raises(RowError):
        decode(bytes(damaged))


def turned(orientation, kind="JPEG", mode="RGB"):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(blobs().convert(mode), kind, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_seen_upright(orientation):
    with Image.open(io.BytesIO(turned(orientation))) as image:
        assert (np.asarray(decode(turned(orientation))) == np.asarray(ImageOps.exif_transpose(image))).all()


FRAMES = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
ODD = {
    **{f"turned {orientation}": turned(orientation) for orientation in range(1, 9)},
    "turned grey": turned(6, "PNG", "L"),
    "turned webp": turned(5, "WEBP"),
    "palette": encoded(blobs().quantize(), transparency=bytes(range(256))),
    "grey and alpha": encoded(blobs().convert("LA")),
    "alpha": encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 128))),
    "clear colour": encoded(blobs(), transparency=(255, 0, 0)),
    "one bit": encoded(blobs().convert("1")),
    "print": encoded(blobs().convert("CMYK"), "JPEG"),
    "progressive": encoded(blobs(), "JPEG", progressive=True),
    "moving gif": encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
    "moving webp": encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]),
    "deep": raw((RAMP * 65535).astype(np.uint16), "PNG"),
    "deep colours": rgb16(),
    "bmp": encoded(blobs(), "BMP"),
    "thin": encoded(blobs((1, 90))),
    "point": encoded(blobs((1, 1))),
}


@pytest.mark.parametrize("name", ODD)
def test_a_server_gets_the_pixels_of_a_model_in_process(name):
    data, media = to_send(ODD[name])
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == media.partition("/")[2].upper()
        assert (np.asarray(image.convert("RGB")) == np.asarray(decode(ODD[name]))).all()
        assert not image.has_transparency_data and getattr(image, "n_frames", 1) == 1
        assert image.getexif().get(0x0112, 1) == 1


def test_plain_images_are_sent_as_they_came_and_large_ones_smaller():
    jpeg = encoded(blobs(), "JPEG")
    assert to_send(jpeg) == (jpeg, "image/jpeg")
    data, media = to_send(jpeg, max_pixels=1000)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.size, media) == ((37, 27), "image/png")
        assert (np.asarray(image) == np.asarray(decode(jpeg, max_pixels=1000))).all()


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 10_000))
def test_a_image_is_fitted_in_proportion(width, height, maximum):
    made = fitted(Image.new("1", (width, height)), maximum)
    assert made.width * made.height <= max(maximum, 1)
    assert made.width <= width and made.height <= height
    if width * height <= maximum:
        assert made.size == (width, height)
