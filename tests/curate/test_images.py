"""Facts of pictures: what is read, what is refused, and that nothing is changed."""

import io
import random
import struct

import pytest
from PIL import Image

from curate.errors import RowError
from curate.images import inspect

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


def test_a_resized_copy_has_almost_the_same_perceptual_hash_and_another_picture_has_not():
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
