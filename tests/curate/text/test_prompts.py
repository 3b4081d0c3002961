"""Prompt templates: the problem goes in whole, marks of images do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import UserError
from curate.text import prompts


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


def test_a_template_of_ones_own_gets_question_choices_and_problem():
    text = "{{ question }}|{% for i in range(choices | length) %}{{ i }}={{ choices[i] }};{% endfor %}|{{ problem }}\n"
    mine = prompts.from_file("mine.j2", text)
    assert prompts.render(mine, "Two & two?", ["4", "5"]) == "Two & two?|0=4;1=5;|Two & two?\n(A) 4\n(B) 5"
    assert prompts.render(mine, "Two?", []) == "Two?||Two?"
    assert mine.version != prompts.from_file("mine.j2", text + "!").version


@given(st.text(), st.lists(st.text(), max_size=3))
def test_what_a_problem_says_is_never_read_as_a_template(question, choices):
    mine = prompts.from_file("mine.j2", "Q: {{ question }}")
    assert prompts.render(mine, question, choices) == f"Q: {question}"
    assert prompts.render(mine, "{{ 7 * 7 }}", choices) == "Q: {{ 7 * 7 }}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\n{% if %}{{ question }}", r"mine\.j2 is not valid Jinja2, line 2"),
        ("{{ question | nofilter }}", r"mine\.j2 is not valid Jinja2, line 1: No filter"),
        ("a\n\n{{ questoin }}", r'mine\.j2, line 3, .*"questoin"; did you mean "question"'),
        ("{{ problem }}{{ choices | random }}", r"line 1: No filter named 'random'"),
        ("Think!", r"mine\.j2 does not show the problem"),
    ],
)
def test_an_unsound_template_is_one_sentence_with_its_line(text, said):
    with pytest.raises(UserError, match=said):
        prompts.from_file("mine.j2", text)


@pytest.mark.parametrize(
    "use", ["{{ choices[0] }}", "{{ choices.nothing }}", "{{ 1 // 0 }}", "{{ ''.__class__.__mro__ }}"]
)
def test_what_fails_on_a_problem_is_one_sentence_with_its_line(use):
    mine = prompts.from_file("mine.j2", "{{ question }}\n" + use)
    with pytest.raises(UserError, match=r"mine\.j2 fails in line 2 .* with 0 choices"):
        prompts.render(mine, "How many?", [])
