"""The guesses of `curate init`, each by itself: roles, places of images, steps and labels, forms of answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.discovery import answers, stepped
from curate.discovery.findings import tree
from curate.discovery.guess import guess
from curate.discovery.images import Place
from curate.discovery.places import role_of
from curate.discovery.table import columns_of, image_kind


def settings(records, places=()):
    return tree(guess(records, places))


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("train", "train"), ("TRAIN_v2", "train"), ("train-00000-of-00003", "train"), ("FTtrain", "train"),
        ("testmini", "test"), ("my_test_1k", "test"), ("boatsTest", "test"), ("FTtest", "test"),
        ("validation", "meta"), ("valid", "meta"), ("val", "meta"), ("problems_dev1k", "meta"), ("dev-set", "meta"),
        ("latest", None), ("contest", None), ("training_tips", "train"), ("values", None), ("device", None),
    ],
)  # fmt: skip
def test_a_role_is_a_word_of_the_name(name, role):
    assert role_of(name)[0] == role


def test_a_folder_says_the_role_where_the_name_does_not():
    assert role_of("part0", ("set", "test", "english"))[0] == "test"
    assert role_of("train_part0", ("test",))[0] == "train"


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b"\x89PNG", "bytes"), ({"bytes": b"x", "path": "a.png"}, "bytes"), ({"bytes": None, "path": "a.png"}, "path"),
        ("a/b.PNG", "path"), (["a.jpg", "b.jpg"], "path"), ("iVBORw0KGgo" + "A" * 80, "bytes"),
        ("data:image/png;base64," + "A" * 80, "bytes"), ("see a.png for\nmore", None), ("BMW has 4 wheels", None),
        ({"bytes": b"x", "size": 3}, None), (7, None), (["a.png", 7], None),
    ],
)  # fmt: skip
def test_what_a_cell_holds(value, kind):
    assert image_kind(value) == kind


STEMS = [f"p{n}" for n in range(9)]
PATHS = [f"{stem}.png" for stem in STEMS]


@pytest.mark.parametrize(
    ("cells", "files", "root", "column"),
    [
        (PATHS, [f"img/{p}" for p in PATHS], "at/img", "picture"),
        ([f"img/{p}" for p in PATHS], [f"img/{p}" for p in PATHS], "at", "picture"),
        ([f"./img/{p}" for p in PATHS], [f"old/img/{p}" for p in PATHS], "at/old", "picture"),
        (STEMS, [f"img/{p}" for p in PATHS], "at", "img/{picture}.png"),
        (STEMS, [f"{stem}/full.jpg" for stem in STEMS], "at", "{picture}/full.jpg"),
    ],
)  # fmt: skip
def test_where_images_lie(cells, files, root, column):
    records = [{"question": f"What is in {n}?", "picture": cell, "answer": "x"} for n, cell in enumerate(cells)]
    found = settings(records, [Place("at", files)])
    assert (found["root"], found["columns"]["image"]) == (root, column)


def test_an_archive_is_named_whole_and_its_single_top_folder_needs_no_name():
    records = [{"question": f"What is in {p}?", "image": p, "answer": "x"} for p in PATHS]
    assert settings(records, [Place("a.zip", [f"top/{p}" for p in PATHS], archive=True)])["root"] == "a.zip"
    deep = [Place("a.zip", [f"top/in/{p}" for p in PATHS], archive=True)]
    assert settings(records, deep)["root"] is None


def test_an_answer_is_not_taken_for_the_name_of_an_image():
    records = [{"uid": n + 10, "question": f"How many are in {n}?", "answer": n % 9} for n in range(20)]
    files = [f"{n}.png" for n in range(40)]
    assert settings(records, [Place("at", files)])["columns"]["image"] == "{uid}.png"


def test_images_in_the_rows_go_before_paths_and_numbered_columns_together():
    shown = {"bytes": b"x", "path": None}
    rows = [{"question": f"What is in {n}?", "image": f"i/{n}.png", "shown": shown, "answer": "a"} for n in range(5)]
    assert settings(rows)["columns"]["image"] == "shown"
    rows = [
        {"question": f"What is in {n}?", "image_1": b"x", "image_2": b"y" if n else None, "answer": "a"}
        for n in range(5)
    ]
    assert settings(rows)["columns"]["image"] == ["image_1", "image_2"]


STEPS = [["one", "two", "three"], ["one", "two"], ["one", "two", "three", "four"]]


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        ([[1, 1, 0], [True, False], [0.5, 1, 1, 0]], {"labels": "marks"}),
        ([[1, -1, -1], [1, 0], [1, 1, 1, 1]], {"labels": "marks", "labels_form": "sign"}),
        ([{"right": [4, 3, 0], "all": [4] * 3}, {"right": [1, 0], "all": [4] * 2},
          {"right": [1, 2, 3, 4], "all": [4] * 4}],
         {"right": "marks.right", "graded": "marks.all"}),
    ],
)  # fmt: skip
def test_labels_of_steps(labels, wanted):
    records = [
        {"problem": f"What is {n}?", "steps": s, "marks": m} for n, (s, m) in enumerate(zip(STEPS, labels, strict=True))
    ]
    assert settings(records)["chain"] == {"steps": "steps", **wanted}


def test_choices_and_texts_of_other_rows_are_no_steps():
    records = [{"question": f"What is {n}?", "options": ["one", "two", "three"], "answer": "B"} for n in range(5)]
    assert stepped.guess(columns_of(records)) == []


def test_known_forms_of_chains():
    rated = [{"question": {"problem": "What?"}, "label": {"steps": [{"completions": [{"text": "a", "rating": 1}]}]}}]
    found = settings(rated)
    assert (
        found["chain"] == {"form": "rated", "steps": "label.steps"}
        and found["columns"]["question"] == "question.problem"
    )
    tagged = [{"input": "What? Step 1: a ки\nStep 2: b ки", "label": "What? Step 1: a +\nStep 2: b -"}]
    assert settings(tagged)["chain"] == {"form": "tagged", "steps": "input", "labels": "label"}
    turns = [{"conversations": [{"from": "human", "value": "### Question: x ### Solution Process: y"},
                                {"from": "gpt", "value": "+"}]}]  # fmt: skip
    assert settings(turns)["chain"] == {"form": "conversation", "steps": "conversations"}


def test_the_column_that_fits_the_choices_is_the_answer():
    told = {"choices": ["a b", "c d"], "solution": "because it is so", "answer": "a text that explains it"}
    records = [{"question": f"Which is {n}?", "target": n % 2, **told} for n in range(6)]
    found = settings(records)
    assert (found["columns"]["answer"], found["answer_form"]) == ("target", "index")


def test_forms_of_known_scripts():
    asked = "Hint: Please answer with a letter.\nQuestion: Which?\nChoices:\n(A) one\n(B) two"
    assert answers.form([(asked, "The answer is B.")] * 5)[0].value == "mathv360k"
    assert answers.form([("Which one?\nA. one\nB. two\nAnswer with the letter.", "A")] * 5)[0].value == "instructed"
    assert answers.form([("Which one?", "A")] * 5) == []


@pytest.mark.parametrize("head", ["A:", "Ans:", "#### ", "Correct answer =", "答案："])
def test_what_announces_an_answer(head):
    texts = [f"I look at {n}: there are more.\nI count them.\n{head} {n}" for n in range(10)]
    assert answers.announced(texts) is not None
    assert answers.announced([f"I look.\nThey are {n} of them" for n in range(10)]) is None


CELLS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["question", "answer", "options", "image", "steps", "label", "A", "B", "id", "conversations"]
) | st.text(max_size=5)


@given(st.lists(st.dictionaries(NAMES, CELLS, max_size=6), max_size=6))
def test_any_records_get_guesses(records):
    for found in guess(records):
        assert found.key and found.why
