"""Where a response states its answer: one order of rules, the same in many spellings and languages."""

import pytest

from curate.graders import AnswerWanted, assess, extract, grade, runs_on, words
from curate.tables.rows import ProblemRow
from tests.beds.rows import made

COLOURS = ("amber", "violet", "teal", "grey")


def problem(gold, kind, choices=(), accepted=(), tolerance=None):
    return made(
        ProblemRow,
        answer=gold,
        answer_type=kind,
        choices=list(choices),
        accepted=list(accepted),
        tolerance=tolerance,
    )


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        # A whole text that is an answer, and a letter with its text or a reason.
        ("C", "bare"),
        ("(C)", "bare"),
        ("c) teal", "bare"),
        ("C. Teal is what the legend shows for the tallest bar of them all, as one can see.", "first-line"),
        ("The bars are 3 and 9 high.\nThe third one wins.\n(C) teal", "last-line"),
        ("teal", "bare"),
        # Announcements.
        ("We look.\nThe correct choice would be C.", "sentence"),
        ("We look. So the best option must be (C), because it is taller.", "sentence"),
        ("It is taller. Option C is correct.", "letter-first"),
        ("It is taller, so I would pick C.", "chosen"),
        ("It is taller.\nMy final answer: teal", "announced"),
        ("It is taller.\n\n**Final Answer**\n\nC", "heading"),
        ("It is taller.\n\n## Answer:\n\n> **(C)**", "announced"),
        ("It is taller.\n<answer>C</answer>", "tag"),
        ("It is taller.\n<|begin_of_box|>C<|end_of_box|>", "box-token"),
        ('```json\n{"reason": "taller", "answer": "C"}\n```', "json"),
        ("It is taller.\n$\\fbox{C}$", "boxed"),
        ("It is taller.\n\\boxed { \\text{C} }", "boxed"),
        ("It is taller. 答案为 C。", "sentence"),
        ("它更高，故选C。", "chosen"),
        ("Er ist höher. Die Antwort lautet C.", "sentence"),
        ("Es más alta.\nRespuesta: C", "announced"),
        ("背が高い。答えはCです。", "sentence"),
        # End-of-text tokens and what follows them.
        ("The answer is C.<|im_end|>\nThe answer is A.", "sentence"),
        ("<think>The answer is A.</think>\nThe answer is C.", "sentence"),
        # A later statement beats an earlier one; a mention in prose is none.
        ("The answer is A. No, wait. The answer is C.", "sentence"),
        ("\\boxed{A} is what I thought first.\n\nFinal answer: C", "announced"),
        ("\\boxed{C}. I compared my final answer with the table.", "boxed"),
        ("To find the final answer we need the legend.\n\nSo the answer is C.", "sentence"),
        # A chain that runs on into another question.
        ("The answer is C.\n\nQuestion: Which one is lower?\nThe answer is A.", "sentence"),
    ],
)
def test_a_choice_is_read(text, rule):
    found = assess(text, problem("C", "choice", COLOURS))
    assert (found.outcome, found.rule.partition("/")[0]) == (True, rule)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot see the chart.",
        "Options:\n(A) amber\n(B) violet\n(C) teal\n(D) grey",
        "Both amber and teal could be meant here.",
        "<think>The answer is C.",
        "The answer is in the legend of the chart.",
    ],
)
def test_what_states_no_choice_is_not_right(text):
    assert not assess(text, problem("C", "choice", COLOURS)).outcome


@pytest.mark.parametrize(
    "text",
    [
        "14",
        "14.",
        "14 marbles",
        "They had 20 and lost 6.\n#### 14",
        "They had 20 and lost 6.\nA: 14",
        "They had 20 and lost 6.\nAns. = 14",
        "The answer is:\n\n$$\n14\n$$\n",
        "The answer is:\n\\[\n14\n\\]",
        "Final answer:\n```\n14\n```",
        "**Answer:** 14 (rounded)",
        "The answer is approx. 14 marbles. They lost the rest.",
        "There are 14 marbles in 3 boxes.",
        "So in all, Tom has 20 - 6 = 14 marbles.",
        "The number of marbles is fourteen.",
        "最终答案：14个",
        "Ответ: 14",
        "Câu trả lời là 14.",
        "14</s>",
        "#### 14\n\nQ: How many dogs are there?\n#### 3",
    ],
)
def test_a_number_is_read(text):
    assert assess(text, problem("14", "number")).outcome is True


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("Final answer: $14\\sqrt{2}$", "14"),
        ("Final answer: $14\\pi$ cm", "14"),
        ("Final answer: 14y", "14"),
        ("Final answer: y < 14", "14"),
        ("Final answer: more than 14", "14"),
        ("Final answer: it is not 14", "14"),
        ("Final answer: $\\pm 14$", "14"),
        ("Final answer: 3!", "3"),
        ("Final answer: 14 or 15", "14"),
        ("Final answer: x = 3, y = 14", "14"),
        ("Final answer: 14 million", "14"),
        ("Final answer: between 13 and 15", "14"),
        ("Final answer: 13-15", "14"),
        ("Final answer: 3:14", "14"),
        ("I do not know; there is no number for n = 14.", "14"),
    ],
)
def test_a_formula_or_a_denial_is_no_number(text, gold):
    assert assess(text, problem(gold, "number")).outcome is False


@pytest.mark.parametrize(
    ("said", "gold"),
    [
        ("$\\sqrt{49}$", "7"),
        ("$2^{5}$", "32"),
        ("sqrt(49) + 1", "8"),
        ("$\\frac{2.5}{5}$", "0.5"),
        ("${3 \\over 4}$", "0.75"),
        ("$\\cfrac{9}{2}$", "4.5"),
        ("6 thousand", "6000"),
        ("7.2k", "7200"),
        ("3 dozen eggs", "36"),
        ("negative 8", "-8"),
        ("minus eight", "-8"),
        ("6.1 x 10^-3", "0.0061"),
        ("4*10**3", "4000"),
        ("9.81 m/s^2", "9.81"),
        ("3 J/(kg K)", "3"),
        ("£12", "12"),
    ],
)
def test_a_quantity_in_its_spellings(said, gold):
    assert assess(f"Final answer: {said}", problem(gold, "number")).outcome is True


@pytest.mark.parametrize(
    ("gold", "said", "outcome"),
    [
        ("\\frac{1}{3^{80}}", "\\frac{1}{3^{79}}", False),
        ("\\frac{1}{3^{80}}", "3^{-80}", True),
        ("\\frac{1}{900!}", "\\frac{1}{899!}", False),
        ("2\\sqrt{3}", "2*sqrt(3)", True),
        ("2\\sqrt{3}", "2√3", True),
        ("\\frac{\\pi}{4}", "pi/4", True),
        ("x^2-1", "(x-1)(x+1)", True),
        ("x^2-1", "x**2 - 1", True),
        ("4, 9", "9 and 4", True),
        ("4, 9", "x = 4 or x = 9", True),
        ("4, 9", "4", False),
        ("4, 9", "4, 8", False),
        ("(4, 9)", "(9, 4)", False),
    ],
)
def test_expressions_in_plain_text_and_tex(gold, said, outcome):
    assert assess(f"Final answer: ${said}$", problem(gold, "expression")).outcome is outcome


def test_boxes_side_by_side_are_one_list_where_a_list_is_wanted():
    text = "So $\\boxed{4}$ and $\\boxed{9}$."
    assert assess(text, problem("4, 9", "expression")).outcome is True
    assert assess(text, problem("{9, 4}", "set")).outcome is True
    assert assess(text, problem("9", "number")).answer == "9"


@pytest.mark.parametrize(
    ("choices", "said", "letter"),
    [
        (("20^\\circ", "70^\\circ"), "70 degrees", "B"),
        (("1/8", "1/5"), "0.2", "B"),
        (("7 kg", "9 kg"), "9", "B"),
        (("2000", "20000"), "20,000", "B"),
        (("\\sqrt{3}", "2\\sqrt{3}"), "\\sqrt{12}", "B"),
        (("Yes", "No"), "No, it does not", "B"),
        (("x", "y", "z", "Both A and C"), "A and C", "D"),
        (("x", "y", "z", "Both A and C"), "(D) Both A and C", "D"),
        (("E", "D", "C"), "(B)", "B"),
        (("rise", "fall", "stay the same"), "The price would fall", "B"),
        (("3", "4"), "If AB = 3, the length of CD is 4", "B"),
    ],
)
def test_a_choice_by_text_value_or_mention(choices, said, letter):
    assert grade(said, letter, "choice", choices).outcome is True


@pytest.mark.parametrize("said", ["A or B", "(A) and (B)", "B) amber", "either A or B"])
def test_several_letters_are_undecided(said):
    assert grade(said, "B", "choice", COLOURS).outcome is None


@pytest.mark.parametrize(
    ("said", "gold"), [("Ja", "yes"), ("否", "no"), ("Non, pas ici", "no"), ("It is not true", "no")]
)
def test_yes_and_no_in_languages(said, gold):
    assert grade(said, gold, "yes-no").outcome is True


@pytest.mark.parametrize(
    "said",
    ['"Mount Fuji"', "**Mount Fuji**", "the Mount Fuji", "Mount Fuji (Japan)", "<b>Mount Fuji</b>", "Mount Fuji."],
)
def test_decoration_of_a_text_is_set_aside(said):
    assert grade(said, "Mount Fuji", "text").outcome is True


def test_an_abbreviation_does_not_end_an_answer():
    assert extract("The answer is St. Gallen. It lies in the east.", AnswerWanted("text")).answer == "St. Gallen"


def test_words_of_a_recipe_are_added():
    text = "Tha i nas àirde. " * 6 + "\nFreagairt: C"
    assert assess(text, problem("C", "choice", COLOURS)).outcome is not True
    assert assess(text, problem("C", "choice", COLOURS), words(answer=("freagairt",))).outcome is True
    assert grade("tha", "yes", "yes-no", words=words(yes=("tha",))).outcome is True


def test_a_text_that_runs_on_is_told():
    wanted = AnswerWanted("number")
    assert runs_on("#### 14\n\nQuestion: And now?\n", wanted)
    assert not runs_on("Question: How many?\nWe add 7 and 7", wanted)
    assert not runs_on("We add 7 and 7.\n#### 14", wanted)
