"""Thoughts are taken off a text before anything reads an answer or steps in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.text import thinking
from curate.text.steps import split, token_cuts


@pytest.mark.parametrize(
    ("whole", "reasoning", "text"),
    [
        ("<think>\nMaybe 4? No.\n</think>\n\nIt is 5.", "Maybe 4? No.", "It is 5."),
        # The chat template wrote the opening mark.
        ("Maybe 4? No.\n</think>\n\nIt is 5.", "Maybe 4? No.", "It is 5."),
        ("<think></think>It is 5.", "", "It is 5."),
        ("<thinking>\\boxed{4}</thinking>\nIt is 5.", "\\boxed{4}", "It is 5."),
        ("◁think▷4?◁/think▷It is 5.", "4?", "It is 5."),
        ("[THINK]4?[/THINK]It is 5.", "4?", "It is 5."),
        (
            "<|channel|>analysis<|message|>4?<|end|><|start|>assistant<|channel|>final<|message|>It is 5.<|return|>",
            "4?",
            "It is 5.",
        ),
        ("<think>a</think>x\n<think>b</think>It is 5.", "a\n\nx\nb", "It is 5."),
        # Cut while it thought.
        ("<think>\nMaybe 4, the answer is 4", "Maybe 4, the answer is 4", ""),
        ("It is 5.\n<think>or 6", "or 6", "It is 5.\n"),
        # Spoken of, not meant.
        ("The tag <think> opens it. It is 5.", None, "The tag <think> opens it. It is 5."),
        ("Close it with `</think>`. It is 5.", None, "Close it with `</think>`. It is 5."),
        ("x < think > y", None, "x < think > y"),
        ("", None, ""),
    ],
)
def test_thoughts_and_text(whole, reasoning, text):
    parts = thinking.apart(whole)
    assert (parts.reasoning, parts.text) == (reasoning, text)
    assert whole[parts.start :].startswith(text)


@given(st.text(st.sampled_from("<>/think \n`x"), max_size=60))
def test_nothing_is_read_twice_and_a_text_without_thoughts_is_as_it_was(text):
    parts = thinking.apart(text)
    assert parts.text in text
    if parts.reasoning is None:
        assert parts.text == text and parts.start == 0


@given(st.text(st.sampled_from("ab1. \n"), min_size=1), st.text(st.sampled_from("ab1. \n")))
def test_what_is_put_before_a_text_comes_off_again(text, reasoning):
    parts = thinking.apart(thinking.before(reasoning or None) + text)
    assert parts.text == (text if not reasoning else text.lstrip() if text.strip() else "")
    assert parts.reasoning == (reasoning.strip() if reasoning else None)


def test_marks_without_end_cost_no_time():
    for text in ("<think>" * 100_000, " <think>" * 100_000, "</think>" * 100_000, "\n<think>x" * 50_000):
        thinking.apart(text)


def test_tokens_of_the_thoughts_belong_to_the_first_step():
    whole = "<think>hm</think>\n\nStep 1: a\nStep 2: b"
    parts = thinking.apart(whole)
    ends = list(range(1, len(whole) + 1))
    pieces = split(parts.text)
    assert token_cuts(pieces, ends, parts.start) == [whole.index("Step 2"), len(whole)]


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [("user: x\nassistant:\n<think>\n", True), ("<think>\n\n</think>\n\n", False), ("what does <think> do?\n", False)],
)
def test_a_template_that_opens_a_thought(prompt, opened):
    assert thinking.opens(prompt) is opened
