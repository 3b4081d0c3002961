"""Extraction and grading: three-valued, with the rule that decided; a hanging parse never stops a run."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.graders import AnswerWanted, extract, grade, infer_type
from curate.graders.worker_pool import Pool


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
    found = extract(text)
    assert (None if found is None else found.answer) == answer


@pytest.mark.parametrize(
    "text",
    [
        "Final answer: x" + " " * 50_000 + "y",
        "\n" * 50_000,
        "the answer is" + "\n" * 50_000,
        "answer" + " " * 50_000,
        "final answer " * 10_000,
        "\\boxed{" * 20_000,
    ],
)
def test_a_text_that_repeats_itself_costs_no_time(text):
    begin = time.monotonic()
    extract(text)
    assert time.monotonic() - begin < 2


@settings(deadline=None)
@given(st.text(max_size=300), st.sampled_from(["7", "B", "yes", "Paris"]))
def test_no_text_of_a_model_ends_a_run(text, gold):
    kind = infer_type(gold, ["x", "y"] if gold == "B" else [])
    for said in (text, f"Final answer: {text}"):
        found = extract(said, AnswerWanted(kind, ("x", "y")))
        verdict = grade(None if found is None else found.answer, gold, kind, ["x", "y"])
        assert verdict.outcome in (True, False, None)
        assert verdict.rule


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
        ("seven", "7", True),
        ("twenty-one", "21", True),
        ("1e99999999", "5", False),
        ("3 \\times 10^5", "300000", True),
        ("3 × 10⁵", "300000", True),
        ("10²", "102", False),
        ("1½", "1.5", True),
        ("2\\frac{1}{2}", "2.5", True),
        ("\\frac12", "0.5", True),
        ("x = \\frac{1}{2}", "0.5", True),
        ("r ≈ 5cm", "5", True),
        ("50 cm²", "50", True),
        ("1 000", "1000", True),
        ("1{,}000", "1000", True),
        ("1/0", "1", False),
        ("7" * 10_000, "7", False),
        ("\\frac{" + "7" * 10_000 + "}{7}", "7", False),
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
        ("answer a dog", "A", False),
        ("B, because it meows", "B", True),
        ("B or C", "B", None),
        ("I take (b)", "B", True),
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
        # A letter behind a number is no unit in a formula.
        ("2y", "2x", False),
        ("2", "2x", False),
        ("90", "90^\\circ", True),
        ("9" * 5000, "\\sqrt{8}", False),
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
        ("5 apples", [], "number"),
        ("2x", [], "expression"),
        ("3 sin x", [], "expression"),
        ("(3,-4)", [], "expression"),
        ("\\sqrt{34}", [], "expression"),
        ("Lake Geneva", [], "text"),
        ("2021-03-04T00:00:00", [], "text"),
        ("7:45 pm", [], "text"),
        ("12/03/2020", [], "text"),
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
    assert pool.verify("\\sqrt{9}", "3").outcome is True


def test_an_expression_that_asks_for_the_moon_costs_only_itself():
    small = Pool(seconds=1)
    assert small.verify("9^{9^{9^{9}}}", "2").outcome is None
    assert small.verify("2+2", "4").outcome is True
    small.close()


def test_a_worker_that_was_killed_is_replaced_without_losing_the_question(pool):
    pool.verify("1", "1")
    killed = pool._process
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert pool.verify("3+2", "5").outcome is True
    assert pool._process.pid != killed.pid


def test_a_question_is_asked_once(pool):
    first = pool.verify("x^2-1", "(x-1)(x+1)")
    done = pool._done
    assert pool.verify("x^2-1", "(x-1)(x+1)") == first
    assert pool._done == done


def test_a_script_without_a_main_guard_gets_its_grades(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from curate.graders import grade\n"
        "import sys\n"
        "verdict = grade('2\\\\sqrt{2}', '\\\\sqrt{8}', 'expression', [])\n"
        "assert verdict.outcome is True, verdict\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_equal_texts_and_numbers_start_no_worker():
    code = (
        "import sys\n"
        "from curate.graders import grade\n"
        "assert grade('(3,-4)', '$(3,-4)$', 'expression', []).outcome\n"
        "assert grade('0.5', '\\\\frac{1}{2}', 'expression', []).outcome\n"
        "assert 'curate.graders.worker_pool' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


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


@pytest.mark.parametrize(
    ("response", "gold", "tolerance", "outcome"),
    [
        ("104", "100", None, True),
        ("106", "100", None, False),
        ("106", "100", 0.1, True),
        ("-4.9", "-5", None, True),
        ("2012", "2013", None, False),
        ("2013", "2013", None, True),
        ("1,950 people", "2,013 people", None, True),
        ("12", "12%", None, True),
        ("0.12", "12%", None, False),
        ("12%", "0.12", None, True),
        ("12%", "12", None, True),
        ("0", "0", None, True),
        ("0.01", "0", None, False),
        ("Blue", "blue.", None, True),
        ("bleu", "blue", None, False),
        ("many", "7", None, False),
    ],
)
def test_relaxed(response, gold, tolerance, outcome):
    assert grade(response, gold, "relaxed", tolerance=tolerance).outcome is outcome


@pytest.mark.parametrize(
    ("response", "gold", "outcome"),
    [
        ("United States of America", "united states  of America.", True),
        ("United State of America", "United States of America", True),
        ("United Kingdom", "United States of America", False),
        ("2012", "2013", False),
        ("1,234,567,891", "1,234,567,890", False),
        ("1234567890", "1,234,567,890", True),
        ("cat", "bat", False),
    ],
)
def test_anls(response, gold, outcome):
    assert grade(response, gold, "anls").outcome is outcome


@pytest.mark.parametrize(
    ("response", "gold", "outcome"),
    [
        ("Ohio, Texas and Utah", "Utah, Ohio, Texas.", True),
        ("Ohio, Texas, and Utah", "Utah; Ohio; Texas", True),
        ("Ohio, Texas", "Utah, Ohio, Texas", False),
        ("[1.0, 2]", "2, 1", True),
        ("New York and Ohio", "Ohio, New York", True),
        ("Maryland", "Maryland", True),
        ("Ohio", " , ", None),
    ],
)
def test_sets(response, gold, outcome):
    assert grade(response, gold, "set").outcome is outcome


@pytest.mark.parametrize(
    ("response", "gold", "tolerance", "outcome"),
    [
        ("12.40", "12.34", 0.01, True),
        ("12.50", "12.34", 0.01, False),
        ("12.4", "12.34", None, False),
        ("101", "100", 0.01, True),
        ("0.004", "0", 0.005, True),
        ("0.006", "0", 0.005, False),
    ],
)
def test_numbers_with_a_tolerance(response, gold, tolerance, outcome):
    assert grade(response, gold, "number", tolerance=tolerance).outcome is outcome


def test_any_accepted_answer_will_do():
    assert grade("NYC", "New York City", "anls", accepted=["NYC", "New York"]).outcome is True
    assert grade("Rome", "New York City", "anls", accepted=["NYC"]).outcome is False
    # One of them cannot judge: not wrong, undecided.
    assert grade("7", "8", "number", accepted=["a few"]).outcome is None
    assert grade("8", "eight", "number", accepted=["8"]).outcome is True


@given(st.text(max_size=80), st.text(min_size=1, max_size=40), st.sampled_from(["relaxed", "anls", "set"]))
def test_new_graders_never_raise(response, gold, kind):
    verdict = grade(response, gold, kind)
    assert verdict.outcome in (True, False, None)
    assert verdict.rule
