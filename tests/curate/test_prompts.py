"""Prompt templates: the problem goes in whole, marks of images do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate import prompts
from curate.errors import UserError


@given(st.sampled_from(sorted(prompts.TEMPLATES)), st.text(alphabet=st.characters(exclude_characters="<"), min_size=1))
def test_every_template_holds_the_question_once(name, question):
    text = prompts.render(name, question, [])
    assert question.strip() in text
    assert "{problem}" not in text.replace(question, "")


def test_image_marks_go_and_choices_are_lettered():
    text = prompts.problem_text("How many?\n<image1>", ["two", "three"])
    assert text == "How many?\n(A) two\n(B) three"


def test_choices_that_are_their_own_letters_are_not_listed():
    assert prompts.problem_text("Which?", ["A", "B", "C"]) == "Which?"
    assert "(B) A" in prompts.problem_text("Which?", ["B", "A"])


def test_an_unknown_template_is_one_sentence():
    with pytest.raises(UserError, match='did you mean "short-five"'):
        prompts.render("short-fiv", "Q?", [])
