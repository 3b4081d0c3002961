"""What a cell of a table can hold besides a text: lists in the ways that programs print them, and images."""

import base64
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from curate.errors import RowError
from curate.sources.fields import lists
from curate.sources.fields.images import of_cell
from curate.sources.roots import Folder

words = st.lists(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp", "Cf")), min_size=1,
                         max_size=12), min_size=1, max_size=6)  # fmt: skip
# A backslash before a letter is read as TeX's where no escape can be meant.
plain = words.filter(lambda texts: not any("\\" in text for text in texts))


@given(plain)
def test_a_list_comes_back_however_it_was_printed(texts):
    assert lists.parse(json.dumps(texts)) == texts
    assert lists.parse(repr(texts)) == texts
    with np.printoptions(threshold=100, linewidth=40):
        assert lists.parse(str(np.array(texts, dtype=object))) == texts
        assert lists.parse(repr(np.array(texts, dtype=object))) == texts


@given(st.lists(st.integers(-99, 99), min_size=1, max_size=30))
def test_numbers_that_numpy_printed_come_back(numbers):
    assert lists.parse(str(np.array(numbers))) == numbers
    assert lists.parse(str(np.array(numbers) / 4)) == [number / 4 for number in numbers]


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_a_value_error(text):
    try:
        lists.parse("[" + text)
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (r'["\tfrac{3}{4}", "\beta", "\nabla f"]', [r"\tfrac{3}{4}", r"\beta", r"\nabla f"]),
        (r"['\rho', '2\theta']", [r"\rho", r"2\theta"]),
        (r'["\\rho", "a\nb", "é\u00e9"]', [r"\rho", "a\nb", "éé"]),
        (r'["so \"it\" is", "\sin x"]', ['so "it" is', r"\sin x"]),
        ("['up'\n 'down' \"left's\"]", ["up", "down", "left's"]),
        ("array(['u', 'v'], dtype='<U1')", ["u", "v"]),
        ("['u' None 'v']", ["u", None, "v"]),
        ("('u', 'v')", ("u", "v")),
    ],
)
def test_lists_as_they_stand_in_cells(text, seen):
    assert lists.parse(text) == seen


@pytest.mark.parametrize("text", ["['u', 'v' 'w']", "['u' 'v' ... 'z']", '["u", "v"', "[u, v]", "u; v", "['u' 'v'"])
def test_a_list_that_is_broken_is_none(text):
    with pytest.raises(ValueError, match=r"no list|parted"):
        lists.parse(text)


def image(kind="PNG", colour="teal"):
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), colour).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_bytes_are_the_same_in_all_their_spellings(kind):
    data = image(kind)
    text = base64.b64encode(data).decode()
    spellings = [
        data,
        text,
        "\n".join(text[start : start + 76] for start in range(0, len(text), 76)),
        text.rstrip("="),
        base64.urlsafe_b64encode(data).decode(),
        f"data:image/{kind.lower()};base64,{text}",
        list(data),
        [float(each) for each in data],
        {"bytes": text, "path": None},
        {"bytes": list(data), "path": "a.png"},
        {"type": "image_url", "image_url": {"url": f"data:image/x;base64,{text}"}},
        repr(data),
        repr({"bytes": data, "path": None}),
        json.dumps([text]),
    ]
    for spelling in spellings:
        assert list(of_cell(spelling, None)) == [data], str(spelling)[:60]


def test_several_images_of_a_cell_in_their_order(tmp_path):
    for name in ("a.png", "b.png", "[c].png"):
        (tmp_path / name).write_bytes(image(colour="red" if name == "a.png" else "blue"))
    a, b = image(colour="red"), image(colour="blue")
    root = Folder(tmp_path)
    for value in (
        ["a.png", "b.png"],
        "['a.png', 'b.png']",
        "['a.png' 'b.png']",
        {"image_1": "a.png", "image_2": "b.png"},
        {"<image 2>": "b.png", "<image 1>": "a.png"},
        [{"path": "a.png"}, b],
    ):
        assert list(of_cell(value, root)) == [a, b]
    assert list(of_cell("[c].png", root)) == [b]
    labels = {f"image_{number}": image(colour=(number, 0, 0)) for number in (10, 9, 1)}
    assert list(of_cell(labels, None)) == [labels["image_1"], labels["image_9"], labels["image_10"]]


def test_a_path_as_windows_writes_it(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(image())
    assert list(of_cell("in\\a.png", Folder(tmp_path))) == [image()]
    with pytest.raises(RowError, match="image-outside-root"):
        list(of_cell("..\\a.png", Folder(tmp_path / "in")))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("https://example.org/a.png", "image-missing"),
        ("data:image/png;base64,@@@", "image-unreadable"),
        ("A" * 6000, "image-unreadable"),
        ({"width": 3}, "image-missing"),
        ([1, 2, 3], "image-unreadable"),
        (7, "image-unreadable"),
        ("[" * 9000, "image-unreadable"),
    ],
)
def test_what_is_no_image_is_a_reject(tmp_path, value, reason):
    with pytest.raises(RowError) as error:
        list(of_cell(value, Folder(tmp_path)))
    assert error.value.reason == reason
