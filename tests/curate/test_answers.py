"""Extraction and grading: three-valued, with the rule that decided; a hanging parse never stops a run."""

import asyncio
import os
import signal
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.answers import extract, grade, infer_type
from curate.answers.pool import Pool


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Step 5: The answer is 7.\nFinal answer: 8", "8"),
        ("**Final Answer:** \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("so \\boxed{12} and \\boxed{\\text{B}}", "B"),
        ("nested \\boxed{a_{1}+b^{2}} end", "a_{1}+b^{2}"),
        ("never closed \\boxed{12", None),
        ("The answer is 60.\n", "60"),
        ("The answer is 3.5 cm.", "3.5 cm"),
        ("Answer: (C)", "(C)"),
        ("the correct option is B", "B"),
        ("I do not know", None),
        ("", None),
        ("Final answer:\n", None),
    ],
)
def test_extract(text, answer):
    assert extract(text) == answer


@pytest.mark.parametrize(
    ("response", "gold", "outcome"),
    [
        ("7", "7", True),
        ("7.0", "7", True),
        ("8", "7", False),
        ("1,234", "1234", True),
        ("\u22125", "-5", True),
        ("1/2", "0.5", True),
        ("\\frac{1}{3}", "1/3", True),
        ("1e3", "1000", True),
        ("45°", "45", True),
        ("12 cm", "12", True),
        ("$12$", "12", True),
        ("x = 5", "5", True),
        ("between 3 and 5", "5", False),
        ("50%", "50%", True),
        ("50%", "0.5", True),
        ("0.30000001", "0.3", True),
        ("0.31", "0.3", False),
        ("0.0000001", "0", True),
        ("seven", "7", False),
        ("1e99999999", "5", False),
        (None, "5", False),
    ],
)
def test_numbers(response, gold, outcome):
    assert grade(response, gold, "number", []).outcome is outcome


@given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12))
def test_integers_are_compared_exactly(a, b):
    assert grade(f"{a:,}", str(b), "number", []).outcome == (a == b)


CHOICES = ["a dog", "Cat", "A", "none of these"]


@pytest.mark.parametrize(
    ("response", "gold", "outcome"),
    [
        ("B", "B", True),
        ("b", "B", True),
        ("(B)", "B", True),
        ("B.", "Cat", True),
        ("B) Cat", "B", True),
        ("cat", "B", True),
        ("option D", "D", True),
        ("(A) or (B)", "B", None),
        ("A dog is there", "A", False),
        ("E", "B", False),
        ("I am not sure", "B", False),
        # The text of a choice goes before the letter that it happens to be.
        ("A", "C", True),
    ],
)
def test_choices(response, gold, outcome):
    assert grade(response, gold, "choice", CHOICES).outcome is outcome


def test_a_gold_that_is_no_choice_is_undecided_not_wrong():
    assert grade("B", "E", "choice", CHOICES).outcome is None


@pytest.mark.parametrize(
    ("response", "gold", "outcome"),
    [("Yes, it is", "yes", True), ("no", "Yes", False), ("yes or no", "yes", None), ("perhaps", "no", False)],
)
def test_yes_no(response, gold, outcome):
    assert grade(response, gold, "yes-no", []).outcome is outcome


@pytest.mark.parametrize(
    ("response", "gold", "outcome"),
    [
        ("2\\sqrt{2}", "\\sqrt{8}", True),
        ("x^2+2x+1", "(x+1)^2", True),
        ("(3,-4)", "(3,-4)", True),
        ("(3,4)", "(3,-4)", False),
        ("\\frac{90}{23}", "$\\frac{90}{23}$", True),
    ],
)
def test_expressions(response, gold, outcome):
    assert grade(response, gold, "expression", []).outcome is outcome


@pytest.mark.parametrize(
    ("answer", "choices", "kind"),
    [
        ("B", ["x", "y"], "choice"),
        ("Yes", [], "yes-no"),
        ("12.5 cm", [], "number"),
        ("(3,-4)", [], "expression"),
        ("\\sqrt{34}", [], "expression"),
        ("Lake Geneva", [], "text"),
    ],
)
def test_infer_type(answer, choices, kind):
    assert infer_type(answer, choices) == kind
    if not choices:
        assert grade(answer, answer, kind, choices).outcome is True


@pytest.fixture(scope="module")
def pool():
    made = Pool(seconds=20)
    yield made
    made.close()


def test_a_hanging_parse_is_killed_and_undecided(pool):
    assert pool.verify("1", "1").outcome is True
    # The worker is stopped from outside, as a parse that never comes back would be.
    os.kill(pool._process.pid, signal.SIGSTOP)
    pool._seconds = 0.3
    verdict = pool.verify("\\sqrt{4}", "2")
    assert (verdict.outcome, verdict.rule) == (None, "expression-timeout")
    pool._seconds = 20
    assert pool.verify("\\sqrt{4}", "2").outcome is True


def test_a_dead_worker_is_replaced(pool):
    pool.verify("1", "1")
    os.kill(pool._process.pid, signal.SIGKILL)
    pool._process.join()
    assert pool.verify("1", "1").rule == "expression-worker-died"
    assert pool.verify("2+2", "4").outcome is True


def test_it_works_from_threads_and_asyncio(pool):
    found = []
    threads = [threading.Thread(target=lambda n=n: found.append(pool.verify(f"{n}+1", str(n + 1)))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [verdict.outcome for verdict in found] == [True] * 4

    async def ask():
        return await asyncio.gather(*(asyncio.to_thread(pool.verify, f"{n}*2", str(2 * n)) for n in range(4)))

    assert [verdict.outcome for verdict in asyncio.run(ask())] == [True] * 4
