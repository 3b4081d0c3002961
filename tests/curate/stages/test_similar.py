"""What counts as alike: candidate search, copies of images, numbers and the order of words in texts."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from curate.pixels import decode
from curate.stages.overlap import images, texts
from curate.stages.overlap.problems import Problem

hashes = st.lists(st.integers(0, 2**64 - 1), max_size=30)


@settings(deadline=None)
@given(hashes, st.integers(0, 8), st.booleans(), st.data())
def test_no_hash_within_the_distance_is_missed(values, distance, within, data):
    flips = data.draw(st.lists(st.tuples(st.integers(0, 29), st.sets(st.integers(0, 63), max_size=9)), max_size=10))
    values += [values[place % len(values)] ^ sum(1 << bit for bit in bits) for place, bits in flips if values]
    left, right = (values, values) if within else (values[::2], values[1::2])
    chosen, facing = images.has_near(np.array(left, np.uint64), np.array(right, np.uint64), distance, within)

    def near(i: int, j: int) -> bool:
        return (left[i] ^ right[j]).bit_count() <= distance and not (within and i == j)

    assert chosen.tolist() == [any(near(i, j) for j in range(len(right))) for i in range(len(left))]
    assert facing.tolist() == [any(near(i, j) for i in range(len(left))) for j in range(len(right))]


@settings(deadline=None)
@given(st.lists(st.text("ab ", min_size=6, max_size=30), max_size=12), st.floats(0.3, 1.0))
def test_near_texts_miss_no_pair(every, threshold):
    index = texts.Near[int](threshold, every)
    for place, text in enumerate(every):
        found = dict(index.find(text))
        for other in range(place):
            similarity = texts.jaccard(texts.shingles(text), texts.shingles(every[other]))
            wanted = similarity >= threshold and not texts.reordered(text, every[other])
            assert (other in found) == wanted
        index.add(place, text)


@pytest.mark.parametrize("text", ["", "      ", "<image>", "<image 1> ?"])
def test_texts_without_words_are_the_same_text(text):
    index = texts.Near[str](0.9, [text, "<image>", "How many bars?"])
    index.add("words", "How many bars?")
    assert index.find(text) == []
    index.add("none", "<image>")
    assert index.find(text) == [("none", 1.0)]


def test_texts_are_compared_folded_and_without_placeholders():
    assert texts.jaccard(texts.shingles("<image 1> How MANY  bars?"), texts.shingles("how many bars?<image>")) == 1
    assert texts.numbers("AB = 4.5, CD = 1,000") == ("4.5", "1,000")
    assert texts.jaccard(texts.shingles(""), texts.shingles("")) == 1


@pytest.mark.parametrize(
    ("one", "other", "moved"),
    [
        ("Nora has three more shells than Piet.", "Piet has three more shells than Nora.", True),
        ("Only the tall boy sang.", "The tall boy only sang.", True),
        ("小明比小红高,谁矮?", "小红比小明高,谁矮?", True),
        ("How far does it get?", "How long does it take?", False),
        ("Find the area of the big circle.", "Find area of the big circle in the plane.", False),
        ("How many dots?", "how  many dots", False),
    ],
)
def test_words_that_changed_places(one, other, moved):
    assert texts.reordered(one, other) is moved
    assert texts.reordered(other, one) is moved


def problem(answer, choices=(), kind="number", **rest):
    given = {"question": "Q?", "accepted": (), "tolerance": None, "image_hashes": ()} | rest
    return Problem(problem_id="p", domain="d", role="train", choices=choices, answer=answer, answer_type=kind, **given)


def test_the_right_answer_is_a_text_not_a_letter():
    first = problem("B", ("a seal", "an otter", "a crab"), "choice")
    assert first.right == "an otter"
    assert first.agrees(problem("A", ("an otter", "a crab", "a seal"), "choice")) is True
    assert first.agrees(problem("B", ("an otter", "a crab", "a seal"), "choice")) is False
    assert problem("1,200").agrees(problem("1200.0")) is True
    assert problem("0.25").agrees(problem("1/4")) is True
    assert problem("3").agrees(problem("4")) is False
    assert problem(None, kind=None).agrees(problem("4")) is None


def chart(label: str, size=(640, 480), blue=200) -> Image.Image:
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for bar in range(5):
        draw.rectangle((60 + 110 * bar, 400 - 60 * (bar + 1), 130 + 110 * bar, 400), fill=(40 * bar, 80, blue))
    draw.text((70, 410), label, fill="black", font_size=24)
    return image


def encoded(image: Image.Image, kind="PNG", **how) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (encoded(chart("alpha 38"), "JPEG", quality=50), True),
        (encoded(chart("alpha 38"), "WEBP", quality=60), True),
        (encoded(chart("alpha 38").resize((1280, 960))), True),
        (encoded(chart("alpha 38").resize((480, 360))), True),
        (encoded(chart("alpha 38").convert("L")), False),
        (encoded(chart("alpha 38", blue=60)), False),
        (encoded(chart("alpha 33")), False),
        (encoded(chart("omega 38")), False),
        (encoded(chart("alpha 38").transpose(Image.Transpose.FLIP_LEFT_RIGHT)), False),
        (encoded(chart("alpha 38").resize((640, 300))), False),
    ],
    ids=(
        "jpeg", "webp", "larger", "smaller", "grey", "another hue", "another digit", "another word", "mirrored",
        "squeezed",
    ),
)  # fmt: skip
def test_a_copy_is_the_same_image_and_another_digit_or_colour_is_not(other, same):
    assert images.same_image(decode(encoded(chart("alpha 38"))), decode(other)) is same
    assert images.same_image(decode(other), decode(encoded(chart("alpha 38")))) is same


def test_a_stray_point_in_a_small_image_is_no_other_image():
    small = chart("alpha").resize((96, 96))
    stray = small.copy()
    stray.putpixel((90, 3), (200, 200, 200))
    assert images.same_image(small, stray)
