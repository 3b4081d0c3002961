"""Marks of images and of choices: places go, references stay in words, letters are not said twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.text import image_marks as marks
from curate.text.prompts import problem_text


@pytest.mark.parametrize(
    ("question", "images", "seen"),
    [
        ("Is <image 1> like <image 2>?", 2, "Is image 1 like image 2?"),
        ("Is <image_1> like <IMAGE-2>?", 2, "Is image 1 like image 2?"),
        ("<image 2> is the twin of <image 1>.", 2, "image 2 is the twin of image 1."),
        ("Which comes after <image 3>", 3, "Which comes after image 3"),
        ("Fold\n<image 1>\nonto\n<image 2>", 2, "Fold\nimage 1\nonto\nimage 2"),
        ("See (<image 1>), then answer.", 1, "See (image 1), then answer."),
        ("In the figure <image 1>, find x.", 1, "In the figure (image 1), find x."),
        ("A. <image 1>\nB. <image 2>", 2, "A. image 1\nB. image 2"),
        ("<image 1> <image 2>\nWhich is it?", 2, "Which is it?"),
        ("<image 1>Which is it?", 1, "Which is it?"),
        ("Which is it?<image 1>", 1, "Which is it?"),
        ("Which is it? <image 1> Give a letter.", 1, "Which is it? Give a letter."),
        ("<image>\nhow many?", 1, "how many?"),
        ("How many are in <image>?", 1, "How many are in the image?"),
        ("<image>, as you see, is blue.", 1, "The image, as you see, is blue."),
        ("Is the <image> blue?", 1, "Is the image blue?"),
        ("Is <image> like <image>?", 2, "Is image 1 like image 2?"),
        ("What is <image> in SVG?", 0, "What is <image> in SVG?"),
        ("What is <image> in SVG?", None, "What is <image> in SVG?"),
        ("Is <image 1> red?", 0, "Is image 1 red?"),
        ("Is <img> or <picture> a tag?", 1, "Is <img> or <picture> a tag?"),
    ],
)
def test_places_go_and_references_stay(question, images, seen):
    assert problem_text(question, (), images) == seen


def test_choices_that_are_images_are_referred_to():
    assert problem_text("Which?\n<image 1>", ["<image 2>", "<image 3>"], 3) == "Which?\n(A) image 2\n(B) image 3"
    assert problem_text("<image>\nWhich?", ["<image>", "<image>"], 3) == "Which?\n(A) image 2\n(B) image 3"


def test_both_ends_lose_their_places_and_nothing_else():
    assert marks.bare("<image>\n<image>\nIs <image 1> red?\n<image 2>") == "Is <image 1> red?"
    assert marks.bare("Is it like <image 1> or <image 2>") == "Is it like <image 1> or <image 2>"


@given(st.text("ab .?\n", max_size=20), st.text("ab .?\n", max_size=20), st.integers(1, 9))
def test_no_word_of_a_question_is_lost(before, after, number):
    text = problem_text(f"{before}<image {number}>{after}", (), None)
    assert "<" not in text
    words = text.replace(f"(image {number})", "").replace(f"image {number}", "")
    assert "".join(words.split()) == "".join((before + after).split())


@given(st.text(st.characters(exclude_characters="<"), max_size=40), st.sampled_from([None, 0, 2]))
def test_a_text_without_marks_stays(text, images):
    assert problem_text(text, (), images) == text.strip()


def test_marks_take_the_numbers_of_the_images_that_are_there():
    assert (
        marks.renumbered("Is <image 4> like <image 2> or <image>?", {2: 1, 4: 2})
        == "Is <image 2> like <image 1> or <image>?"
    )


@pytest.mark.parametrize("shape", ["({})", "{}.", "{})", "[{}]", "{}:", "{}、"])
def test_choices_lose_the_letters_that_they_bring(shape):
    brought = [f"{shape.format(letter)} {text}" for letter, text in zip("ABC", ("3", "x. y", "(B) z"), strict=True)]
    assert marks.unlabelled(brought) == ("3", "x. y", "(B) z")
    assert problem_text("Which?", brought) == "Which?\n(A) 3\n(B) x. y\n(C) (B) z"
    assert problem_text("Which?", [shape.format(letter) for letter in "ABCD"]) == "Which?"


@given(st.lists(st.text("abAB(). ", max_size=5), max_size=4))
def test_letters_go_from_all_choices_or_from_none(choices):
    found = marks.unlabelled(choices)
    assert len(found) == len(choices)
    assert list(found) == choices or all(choice.strip(" ([").upper().startswith(letter)
                                         for letter, choice in zip("ABCD", choices, strict=False))  # fmt: skip


@pytest.mark.parametrize("choices", [["A", "B"], ["a", "b"], ["A cat", "B cat"], ["(A) 3", "4"], ["(B) 3", "(A) 4"]])
def test_choices_without_letters_of_their_own_stay(choices):
    assert marks.unlabelled(choices) == tuple(choices)
