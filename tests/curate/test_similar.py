"""What counts as alike: exact candidate search, copies of pictures, numbers in texts."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from curate import similar

words = st.integers(0, 2**64 - 1)


@settings(deadline=None)
@given(st.lists(words, max_size=30), st.integers(0, 8), st.data())
def test_near_hashes_are_all_pairs_within_the_distance(hashes, distance, data):
    flips = data.draw(st.lists(st.tuples(st.integers(0, 29), st.sets(st.integers(0, 63), max_size=9)), max_size=10))
    hashes += [hashes[place % len(hashes)] ^ sum(1 << bit for bit in bits) for place, bits in flips if hashes]
    wanted = {
        (i, j, (hashes[i] ^ hashes[j]).bit_count())
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if (hashes[i] ^ hashes[j]).bit_count() <= distance
    }
    found = list(similar.near_hashes(hashes, None, distance))
    assert set(found) == wanted
    assert len(found) == len(wanted)
    half = len(hashes) // 2
    crossed = {(i, j - half, bits) for i, j, bits in wanted if i < half <= j}
    assert set(similar.near_hashes(hashes[:half], hashes[half:], distance)) == crossed


texts = st.dictionaries(st.text("nm", min_size=1, max_size=4), st.text("ab ", min_size=6, max_size=30), max_size=12)


@settings(deadline=None)
@given(texts, st.floats(0.3, 1.0))
def test_near_texts_miss_no_pair(named, threshold):
    sets = {name: similar.shingles(text) for name, text in named.items()}
    left = {name: each for name, each in sets.items() if len(name) % 2}
    right = {name: each for name, each in sets.items() if name not in left}
    found = list(similar.near_texts(sets, None, threshold))
    crossed = list(similar.near_texts(left, right, threshold))
    assert len(found) == len(set(found))
    assert len(crossed) == len(set(crossed))
    assert all(one in left and other in right for one, other in crossed)
    for one in sets:
        for other in sets:
            if one < other and similar.jaccard(sets[one], sets[other]) >= threshold:
                assert (one, other) in found
                if (one in left) != (other in left):
                    assert (one, other) in crossed or (other, one) in crossed


def test_texts_are_compared_folded_and_without_placeholders():
    assert similar.shingles("<image 1> How MANY  bars?") == similar.shingles("how many bars?<image>")
    assert similar.numbers("AB = 4.5, CD = 1,000") == ("4.5", "1,000")
    assert similar.shingles("") == {""}


def chart(label: str, size=(640, 480)) -> Image.Image:
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for bar in range(5):
        draw.rectangle((60 + 110 * bar, 400 - 60 * (bar + 1), 130 + 110 * bar, 400), fill=(40 * bar, 80, 200))
    draw.text((70, 410), label, fill="black", font_size=24)
    return image


def encoded(image: Image.Image, kind="PNG", **how) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (encoded(chart("alpha"), "JPEG", quality=50), True),
        (encoded(chart("alpha").resize((1280, 960))), True),
        (encoded(chart("alpha").resize((480, 360))), True),
        (encoded(chart("alpha").convert("L")), True),
        (encoded(chart("omega")), False),
        (encoded(chart("alpha").transpose(Image.Transpose.FLIP_LEFT_RIGHT)), False),
    ],
)
def test_a_copy_is_the_same_picture_and_another_word_on_it_is_not(other, same):
    assert similar.same_picture(similar.sketch(encoded(chart("alpha"))), similar.sketch(other)) is same


def test_a_stray_point_in_a_small_picture_is_no_other_picture():
    small = chart("alpha").resize((96, 96))
    stray = small.copy()
    stray.putpixel((90, 3), (90, 90, 90))
    assert similar.same_picture(similar.sketch(encoded(small)), similar.sketch(encoded(stray)))
