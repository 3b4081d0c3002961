"""Cutting chains into steps: exact pieces, by the text alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate import steps

FIVE = "Step 1: a\nStep 2: b\nStep 3: c\nStep 4: d\nStep 5: e\nFinal answer: 7"


@given(st.text(alphabet=st.sampled_from("Step 12:.)\n#*ab é")), st.integers(1, 12))
def test_steps_joined_are_the_text(text, most):
    pieces = steps.split(text, most)
    assert "".join(pieces) == (text if text.strip() else "")
    assert len(pieces) <= most
    assert all(piece.strip() for piece in pieces)


def test_five_steps_and_the_answer_belongs_to_the_last():
    assert steps.split(FIVE) == [
        "Step 1: a\n",
        "Step 2: b\n",
        "Step 3: c\n",
        "Step 4: d\n",
        "Step 5: e\nFinal answer: 7",
    ]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("**Step 1:** x\n\n**Step 2:** y\n", 2),
        ("### Step 1 - x\ntext\n### Step 2 - y", 2),
        ("STEP 1. x\nstep 2. y\nStep 3. z", 3),
        ("Sure!\nStep 1: x\nStep 2: y", 2),
        ("1. x\n2. y\n3. z", 3),
        ("1) x\n2) y", 2),
        ("# One\nx\n# Two\ny", 2),
        ("first\n\nsecond\n\nthird", 3),
        ("only one line", 1),
        ("", 0),
        ("  \n ", 0),
        # A number in the question, quoted in a step, does not cut.
        ("Step 1: it says\nStep 12: of the manual\nStep 2: y", 2),
        # Step 10 is not step 1.
        ("\n".join(f"Step {k}: x" for k in range(1, 12)), 11),
        # A decimal at the start of a line is no list item.
        ("Step 1: take\n3.5 times\nStep 2: y", 2),
    ],
)
def test_real_spellings(text, count):
    assert len(steps.split(text, 20)) == count


def test_steps_past_the_limit_are_merged_into_the_last():
    text = "\n".join(f"Step {k}: x" for k in range(1, 8))
    pieces = steps.split(text, 3)
    assert len(pieces) == 3
    assert pieces[2].count("Step") == 5


def test_cuts_lie_between_tokens_and_cover_the_step():
    pieces = ["ab\n", "cd"]
    # Tokens: "a", "b\nc", "d": the newline is inside a token, so the first cut moves behind it.
    assert steps.token_cuts(pieces, [1, 4, 5]) == [2, 3]
    assert steps.token_cuts(pieces, [1, 2, 3, 4, 5]) == [3, 5]


@given(st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=12), st.data())
def test_cuts_are_monotone_and_end_with_the_last_token(tokens, data):
    text = "".join(tokens)
    ends = [len("".join(tokens[: i + 1])) for i in range(len(tokens))]
    at = sorted(data.draw(st.sets(st.integers(1, len(text)), max_size=3)) | {len(text)})
    pieces = [text[a:b] for a, b in zip([0, *at], at, strict=False)]
    cuts = steps.token_cuts(pieces, ends)
    assert cuts == sorted(cuts)
    assert cuts[-1] == len(tokens)
    for cut, end in zip(cuts, at, strict=True):
        assert ends[cut - 1] >= end
        assert cut == 1 or ends[cut - 2] < end
