"""Cutting chains into steps: exact pieces, by the text alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.text import steps

FIVE = "Step 1: a\nStep 2: b\nStep 3: c\nStep 4: d\nStep 5: e\nFinal answer: 7"


@given(st.text(alphabet=st.sampled_from("Step 12:.)\n#*ab é")), st.integers(1, 12))
def test_steps_joined_are_the_text(text, maximum):
    pieces = steps.split(text, maximum)
    assert "".join(pieces) == (text if text.strip() else "")
    assert len(pieces) <= maximum
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
        ("Step 1 - x\nStep 2 \u2013 y", 2),
        ("(Step 1) x\n(Step 2) y", 2),
        ("[Step 1] x\n[Step 2] y", 2),
        ("Step 1/3: x\nStep 2/3: y\nStep 3/3: z", 3),
        ("Step 1 of 2: x\nStep 2 of 2: y", 2),
        ("**Step one:** x\n**Step two:** y", 2),
        ("#### **Step 1**\nx\n\ny\n#### **Step 2**\nz", 2),
        ("- Step 1: x\n- Step 2: y", 2),
        ("Step #1: x\nStep #2: y", 2),
        ("Step 1 Find it\nStep 2 Add it", 2),
        ("Step 1.1: x\nStep 1.2: y\nStep 2.1: z", 2),
        ("Step 1: It is 3. Step 2: It is 4. Step 3: So 7.", 3),
        # Solved again from the start.
        ("Step 1: x\nStep 2: y\nWait, no.\nStep 1: z\nStep 2: w", 4),
        # A step that is spoken of.
        ("Step 1: x\nStep 1 says 3.\nStep 2: as in Step 1, y.\nStep 3 of the plan is z.", 2),
        ("The sign says Step 12 is wet.\n\nStep 3 of the stairs is dry.", 2),
        ("Sure! I use Step 1 and 2.\n\nStep 1: x\n\nStep 2: y\n\nz", 2),
        ("a long\n\nway\n\nStep 1: x\nStep 2: y", 4),
        # A list inside a paragraph, and what comes after it.
        ("It has these:\n\n1. x\n2. y\n   1. y one\n   2. y two\n3. z\n\nSo 3.", 4),
        ("1. **Look**\n   - x\n\n   y\n\n2. **Add**\n   - z", 2),
        ("# Solution\n\nx\n\n## Then\ny", 2),
        ("**Look:**\n\nx\n\n**Add**\n\ny", 2),
        # Equations and stated answers belong to what they follow.
        ("We have\n\n$$a = 1$$\n\n= 1\n\nwhere a is b.\n\nNow:\n\na = 2", 2),
        ("It is 60.\n\nThe answer is 60.\n\n\\boxed{60}", 1),
        ("It is 60.\n\n$$\\boxed{60}$$", 1),
        ("It is 60.\nIt has 3.\nA: 20", 2),
        ("It is 60.\n\n#### 60", 1),
        ("It is 60.\n\n### Final Answer\n60", 1),
        ("It is 60.\n\nAnswer (A) has 7 faces.", 2),
        # Lines that are sentences, where there are no paragraphs.
        ("The sum is 7.\nThe opposite of 8 is 5.\nThe answer is 2.", 2),
        ("90 - 80 = 10\n80 - 70 = 10\n", 1),
        ("One.\nTwo.\n\nThree.\nFour.", 3),
        ("```\nx = 1\n\nprint(x)\n```\n\ny", 2),
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


MARKERS = [
    "Step 1: ",
    "Step 2: ",
    "**Step 3** ",
    "(Step 1) ",
    "Step 1: a. Step 2: ",
    "1. ",
    "2. ",
    "## ",
    "**A**",
    "```",
]
OTHERS = ["$$x$$", "\\boxed{7}", "The answer is ", "It is ", "and ", "12", ".", ":", " ", "\n", "\n", "\n\n", "é"]
# No marker is longer: a cut further than this from a prefix's end is a cut of the whole chain, too.
LONGEST_MARKER = 100
MARKUP = st.sampled_from([*MARKERS, *OTHERS])


@given(st.lists(MARKUP, max_size=40).map("".join), st.integers(0, 200), st.integers(1, 6), st.integers(1, 12))
def test_a_prefix_is_cut_as_the_chain_is(text, end, least, maximum):
    """A cut depends on what was read, and on the marker that begins there."""
    whole, part = steps.cuts(text, maximum, least), steps.cuts(text[:end], maximum, least)
    far = end - LONGEST_MARKER
    assert [cut for cut in whole if cut < far] == [cut for cut in part if cut < far]
    # Near the end, too: cutting off between two pieces of the text changes nothing before.
    for cut in whole[1:]:
        assert steps.cuts(text[:cut], maximum, least) == [start for start in whole if start < cut]


@given(st.lists(MARKUP, max_size=40).map("".join), st.integers(1, 30))
def test_no_step_but_the_last_is_short(text, least):
    for piece in steps.split(text, 12, least)[:-1]:
        assert sum(map(str.isalnum, piece)) >= least


def test_short_steps_go_on_by_a_rule_that_looks_back():
    text = "Step 1: So.\nStep 2: We add 3 and 4.\nStep 3: It is 7.\nStep 4: Yes."
    assert len(steps.split(text)) == 4
    assert steps.split(text, min_characters=10) == [
        "Step 1: So.\nStep 2: We add 3 and 4.\n",
        "Step 3: It is 7.\nStep 4: Yes.",
    ]


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


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("\\begin{aligned}", "\\end{aligned}"),
        ("\\[", "\\]"),
        ("\\(", "\\)"),
        ("$$", "$$"),
        ("```python", "```"),
    ],
)
def test_no_cut_inside_a_formula_or_code(opening, closing):
    inner = "a = 3.\n\nb = 4.\n1. c\n2. d\nStep 2: e.\n\\\\[2pt]\n\n"
    text = f"The sum is this.\n{opening}\n{inner}{closing}\n\nSo it is done.\n\nThen more."
    pieces = steps.split(text)
    assert "".join(pieces) == text
    assert any(opening in piece and closing in piece.split(opening, 1)[1] for piece in pieces)
    assert len(pieces) >= 2


def test_a_formula_that_never_closes_does_not_swallow_the_chain():
    text = "We have \\[ x.\n\n" + "".join(f"Line {number} is here.\n" for number in range(120)) + "\nOne.\n\nTwo."
    assert len(steps.split(text)) > 1
