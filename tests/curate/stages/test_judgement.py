"""A judge's answer is read strictly: what it does not say is null with a reason, never "none is wrong"."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.stages.judge import judgement
from curate.stages.judge.judgement import JudgeReading, read

STEPS = 5
spelled = st.sampled_from(
    [
        "\\boxed{{{}}}",
        "$\\boxed{{{}}}$.",
        "\\boxed {{ {} }}",
        "**\\boxed{{\\text{{{}}}}}**",
        "\\boxed{{{{{}}}}}",
        "\\boxed{{paragraph_{}}}",
        "\\[\\boxed{{\\mathrm{{Paragraph {}}}}}\\]",
        "\\boxed{{{}}}\nDone.",
        "so \\boxed{{3}}, no: \\boxed{{{}}}",
        "{}",
        "**{}**.",
        "`{}`",
        "First error: {}",
        "Index = {}",
        "The first error is in paragraph {}.",
    ]
)


@given(spelled, st.integers(-1, STEPS - 1), st.text(alphabet="ab .\n"))
def test_a_verdict_is_read_in_its_many_spellings(form, number, before):
    assert read(f"{before}\n{form.format(number)}", STEPS) == JudgeReading(number)


@pytest.mark.parametrize("word", ["None", "none", "No error", "no errors.", "\u22121", "\u20131", "All correct"])
def test_none_is_wrong_in_its_many_spellings(word):
    assert read(f"Fine.\n\\boxed{{{word}}}", STEPS) == read(f"Fine.\n{word}", STEPS) == JudgeReading(-1)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no-verdict"),
        ("All is well.", "no-verdict"),
        ("I see no paragraph that is wrong, but I am not sure.", "no-verdict"),
        ("Paragraph 2 looks odd.", "no-verdict"),
        # The answer to the problem, perhaps.
        ("The answer is 2", "no-verdict"),
        ("The final answer is: 2", "no-verdict"),
        (".5", "no-verdict"),
        ("1\n2 or 3", "no-verdict"),
        # A step's own number begins at 1, ours at 0.
        ("\\boxed{Step 2}", "not-a-number"),
        ("\\boxed{}", "not-a-number"),
        ("\\boxed{2 and 3}", "not-a-number"),
        ("\\boxed{1.5}", "not-a-number"),
        ("\\boxed{\u0663}", "not-a-number"),
        ("\\boxed{5}", "out-of-range"),
        ("\\boxed{-2}", "out-of-range"),
        # The last box counts, also where the one before could be read.
        ("\\boxed{1}, hence \\boxed{x}", "not-a-number"),
        ("<think>It is \\boxed{1}", "no-verdict"),
        ("<think>It is \\boxed{1}</think> I cannot tell.", "no-verdict"),
    ],
)
def test_what_cannot_be_read_is_null_with_its_reason(text, why):
    assert read(text, STEPS) == JudgeReading(None, why)


def test_a_thought_is_no_answer_and_an_answer_that_was_cut_is_none():
    assert read("<think>\\boxed{1}</think>\\boxed{2}", STEPS) == JudgeReading(2)
    assert read("\\boxed{2}", STEPS, "length") == JudgeReading(None, "finish-length")
    assert read("\\boxed{2}", STEPS, "repetition") == JudgeReading(None, "finish-repetition")


@given(st.text() | st.from_regex(r"(\\boxed\{[^a-c]{0,6}\}|none|-?[0-9]{1,3}|the |is |\n){0,9}"), st.integers(1, 12))
def test_any_text_is_a_place_in_the_chain_or_null_with_a_reason(text, steps):
    found = read(text, steps)
    assert (found.first_error is None) == (found.unread is not None)
    assert found.first_error is None or -1 <= found.first_error < steps


def test_verdicts_are_about_prefixes():
    assert judgement.verdicts(-1, 3) == [True, True, True]
    assert judgement.verdicts(0, 3) == [False, False, False]
    assert judgement.verdicts(2, 3) == [True, True, False]


votes = st.lists(st.none() | st.integers(-1, STEPS - 1), max_size=9)


@given(votes, st.randoms())
def test_a_majority_is_a_chain_that_breaks_once_whatever_the_order_of_votes(given_votes, rng):
    said = judgement.majority(given_votes, STEPS)
    rank = [{True: 2, None: 1, False: 0}[each] for each in said]
    assert rank == sorted(rank, reverse=True)
    shuffled = rng.sample(given_votes, len(given_votes))
    assert judgement.majority(shuffled, STEPS) == said
    readable = [vote for vote in given_votes if vote is not None]
    assert judgement.majority(readable, STEPS) == said
    # An odd number of votes always decides, and says what its median vote says.
    if len(readable) % 2:
        places = sorted(STEPS if vote == -1 else vote for vote in readable)
        median = places[len(places) // 2]
        assert said == judgement.verdicts(-1 if median == STEPS else median, STEPS)
    if not readable:
        assert said == [None] * STEPS


def test_votes_that_tie_say_nothing_there():
    assert judgement.majority([1, -1], 3) == [True, None, None]
    assert judgement.majority([0, 2], 3) == [None, None, False]
