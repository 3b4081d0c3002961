"""Texts of known shape: the published shapes, the odd rows that are known of them, and any text at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import RowError
from curate.text.forms import FORMS, Parsed, lettered

CAULDRON_CHOICE = "Question: Which is it?\nChoices:\nA. red\nB. dark blue\nAnswer with the letter."
GEO = (
    "<image>\nFirst perform reasoning, then finally select the question from the choices in the following format: "
    "Answer: xxx.\nQuestion:As shown, AB = 4. Find AC ()\nChoices:\nA: 4.0\nB: 2\u221a3\nC: 6\nD: 4.0"
)


@pytest.mark.parametrize(
    ("form", "question", "answer", "parsed"),
    [
        ("plain", "<image>q", "a.", Parsed("<image>q", "a.")),
        ("cauldron", CAULDRON_CHOICE, "Answer: B", Parsed("Which is it?", "B", ("red", "dark blue"))),
        (
            "cauldron",
            "Lecture: Long\ntext.\n" + CAULDRON_CHOICE.replace("\nChoices", "\nHint: Look.\nChoices"),
            "Answer: A",
            Parsed("Long\ntext.\nLook.\nWhich is it?", "A", ("red", "dark blue")),
        ),
        ("cauldron", "How many bars?\nGive a very brief answer.", "3.", Parsed("How many bars?", "3")),
        ("cauldron", "Is it red?\nAnswer yes or no.", "Yes.", Parsed("Is it red?", "Yes")),
        # Fill in the blank has neither choices nor a line that asks for brevity, nor a full stop.
        (
            "cauldron",
            "Fill in the blank. There are (_) ducks.",
            "8",
            Parsed("Fill in the blank. There are (_) ducks.", "8"),
        ),
        ("cauldron", "Which states?\nBe succinct.", "Ohio, Utah.", Parsed("Which states?", "Ohio, Utah")),
        ("cauldron", "Which?\nKeep it brief.", ".", Parsed("Which?", ".")),
        (
            "geomverse",
            "Compute the area. Round computations to 2 decimal places.",
            "The side is 5. So 5 * 5 = 25.1. Therefore the final answer is 1,025.12.",
            Parsed("Compute the area. Round computations to 2 decimal places.", "1025.12"),
        ),
        ("geomverse", "Compute.", "5 * 5 = 25", Parsed("Compute.", "25")),
        (
            "mathv360k",
            "<image>\nHint: Please answer the question.\nQuestion: Find x.\nChoices:\n(A) 3 (B) 4\n(C) 5",
            "The answer is B",
            Parsed("Find x.", "B", ("3", "4", "5")),
        ),
        ("mathv360k", "Hint: h\nQuestion: How many?\nReally?", "The answer is 4.", Parsed("How many?\nReally?", "4")),
        (
            "geo170k",
            GEO,
            "Because. Answer:A\nNo: Answer:B",
            Parsed("As shown, AB = 4. Find AC ()", "B", ("4.0", "2\u221a3", "6", "4.0")),
        ),
        (
            "inline-options",
            "What is it?\nOptions: A: a cat, B: a dog, a big one, C: fish, D: none",
            "B",
            Parsed("What is it?", "B", ("a cat", "a dog, a big one", "fish", "none")),
        ),
        (
            "inline-options",
            "Which shape has three corners?\nAnswer choices: (A) a square (B) a triangle (C) a line",
            "B",
            Parsed("Which shape has three corners?", "B", ("a square", "a triangle", "a line")),
        ),
        (
            "instructed",
            "<image>\nWhich?\nA. up\nB. down\nAnswer with the option's letter from the given choices directly.",
            "B",
            Parsed("Which?", "B", ("up", "down")),
        ),
        (
            "instructed",
            "<image>\nHow many?\nAnswer the question using a single word or phrase.",
            "4",
            Parsed("How many?", "4"),
        ),
    ],
)
def test_published_shapes(form, question, answer, parsed):
    assert FORMS[form](question, answer) == parsed


@pytest.mark.parametrize(
    ("form", "question", "answer"),
    [
        ("cauldron", CAULDRON_CHOICE, "It is B."),
        ("cauldron", CAULDRON_CHOICE.replace("A. red\nB.", "A. red"), "Answer: A"),
        ("geomverse", "Compute.", "It cannot be computed."),
        ("mathv360k", "What?", "The answer is 4"),
        ("mathv360k", "Hint: h\nQuestion: What?", "4"),
        ("geo170k", GEO, "I do not know."),
        ("geo170k", "Describe the figure.", "Answer: A"),
        ("inline-options", "What is it?", "B"),
        ("inline-options", "What is it? Options: one, two", "B"),
    ],
)
def test_a_text_of_another_shape_is_a_reject(form, question, answer):
    with pytest.raises(RowError) as error:
        FORMS[form](question, answer)
    assert error.value.reason == "unknown-form"


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("A. 3; B. 4", ("3", "4")),
        ("(A) 3 (B) 4 (C) 5", ("3", "4", "5")),
        ("A: x\nB: y, z\nC: w", ("x", "y, z", "w")),
        ("A) one\n\nB) two", ("one", "two")),
        ("B. 3; A. 4", ()),
        ("three", ()),
        ("", ()),
    ],
)
def test_lettered(text, choices):
    assert lettered(text) == choices


words = st.lists(
    st.text("abcxyz0123456789 .-", min_size=1, max_size=12).map(str.strip).filter(bool), min_size=2, max_size=10
)


@given(words, st.sampled_from(["{}. {}", "({}) {}", "{}: {}"]))
def test_lettered_lines_come_back_as_they_were(texts, shape):
    lines = [shape.format(chr(65 + place), text) for place, text in enumerate(texts)]
    assert lettered("\n".join(lines)) == tuple(texts)


@given(st.sampled_from(sorted(FORMS)), st.text(max_size=200), st.text(max_size=100))
def test_any_text_is_parsed_or_a_reject(form, question, answer):
    try:
        parsed = FORMS[form](question, answer)
    except RowError as error:
        assert error.detail
    else:
        assert isinstance(parsed.question, str)
        assert isinstance(parsed.answer, str)
