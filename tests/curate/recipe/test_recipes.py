"""Every recipe of a public dataset on a copy in the dataset's own shape, read through `datasets`, row by row."""

import json

import pytest
import yaml
from published_copy import IMAGE_FILES, Copy, check, image, publish, want
from typer.testing import CliRunner

from curate import pipeline
from curate.cli.app import app
from curate.errors import UserError
from curate.recipe import shipped
from curate.runtime.reporter import Silent
from curate.tables.schema import PROBLEMS
from curate.tables.store import Store


def cauldron(config: str, *turns: list[tuple[str, str]], expected: list) -> Copy:
    rows = [
        {"images": [image(i)], "texts": [{"user": u, "assistant": a, "source": config} for u, a in each]}
        for i, each in enumerate(turns)
    ]
    return Copy(rows, expected, images=(), lists=("images",), config=config)


def llava(config: str, *pairs: tuple[str, str], expected: list) -> Copy:
    rows = [
        {
            "id": f"r{i}",
            "image": image(i),
            "conversations": [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}],
            "data_source": config,
        }
        for i, (human, gpt) in enumerate(pairs)
    ]
    return Copy(rows, expected, config=config)


def letters(*texts: str) -> str:
    return "\n".join(f"{chr(65 + place)}. {text}" for place, text in enumerate(texts))


def mcq(question: str, *texts: str) -> str:
    return f"Question: {question}\nChoices:\n{letters(*texts)}\nAnswer with the letter."


def seven(row: dict, *images: int) -> dict:
    return row | {f"image_{k + 1}": image(images[k]) if k < len(images) else None for k in range(7)}


SEVEN = tuple(f"image_{k}" for k in range(1, 8))
HINT = (
    "<image>\nHint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end.\n"
)
GEO = (
    "<image>\nFirst perform reasoning, then finally select the question from the choices in the following format: "
    "Answer: xxx.\nQuestion:{}\nChoices:\n{}"
)

COPIES = {
    "ai2d": cauldron(
        "ai2d",
        [(mcq("What eats grass?", "cow", "lion"), "Answer: A"), (mcq("What is A?", "x", "y"), "Answer: C")],
        [("Describe it.", "A cow.")],
        expected=[
            want("What eats grass?", "A", "choice", ("cow", "lion")),
            "answer-not-in-choices",
            # Not a choice: the recipe says what the answers are, so this one cannot pass.
            "answer-not-in-choices",
        ],
    ),
    "ai2d-test": Copy(
        [
            {"question": "Which?", "options": ["a", "b", "c", "d"], "answer": "2", "image": image(0)},
            {"question": "Which one?", "options": ["a", "b"], "answer": "2", "image": image(1)},
        ],
        [want("Which?", "C", "choice", ("a", "b", "c", "d")), "answer-not-in-choices"],
        split="test",
    ),
    "scienceqa": Copy(
        [
            {"question": "Warmer?", "hint": "Look.", "choices": ["x", "y"], "answer": 0, "image": image(0)},
            {"question": "Colder?", "hint": "", "choices": ["x", "y", "z"], "answer": 2, "image": image(1)},
            {"question": "No image?", "hint": "", "choices": ["x", "y"], "answer": 1, "image": None},
        ],
        [
            want("Context: Look.\nWarmer?", "A", "choice", ("x", "y")),
            want("Colder?", "C", "choice", ("x", "y", "z")),
            "no-image",
        ],
    ),
    "m3cot": Copy(
        [
            {"id": "m-1", "context": "", "question": "Q1", "choices": ["a", "b"], "answer": "B", "image": image(0)},
            {"id": "m-2", "context": "C.", "question": "Q2", "choices": ["a", "b"], "answer": "A", "image": image(1)},
            {"id": "m-3", "context": "", "question": "Q3", "choices": ["a", "b"], "answer": "A", "image": None},
        ],
        [want("Q1", "B", "choice", ("a", "b")), want("C.\nQ2", "A", "choice", ("a", "b")), "no-image"],
    ),
    "chartqa": Copy(
        [
            {"image": image(0), "query": "How many?", "label": ["14"], "human_or_machine": 0},
            {"image": image(1), "query": "Which year?", "label": ["2013"], "human_or_machine": 1},
            {"image": image(2), "query": "Which colour?", "label": ["Dark blue"], "human_or_machine": 1},
            {"image": image(3), "query": "None?", "label": [], "human_or_machine": 1},
        ],
        [
            want("How many?", "14", "relaxed"),
            want("Which year?", "2013", "relaxed"),
            want("Which colour?", "Dark blue", "relaxed"),
            "null-answer",
        ],
    ),
    "dvqa": cauldron(
        "dvqa",
        [("How many bars?\nBe succinct.", "3."), ("Is it?\nKeep it brief.", "No."), ("Third?\nKeep it brief.", "Yes.")],
        [("What is the label of the first bar?\nGive a very brief answer.", "Depth.")],
        expected=[
            want("How many bars?", "3", "number"),
            want("Is it?", "No", "yes-no"),
            want("What is the label of the first bar?", "Depth", "text"),
        ],
    ),
    "mapqa": cauldron(
        "mapqa",
        [("Which states are blue?\nShort answer required.", "Ohio, Utah, Texas."), ("Is it?\nBe succinct.", "Yes.")],
        expected=[want("Which states are blue?", "Ohio, Utah, Texas", "set"), want("Is it?", "Yes", "set")],
    ),
    "figureqa": cauldron(
        "figureqa",
        [("Is red the minimum?\nAnswer yes or no.", "Yes."), ("What is the ratio?\nAnswer briefly.", "1.3.")],
        expected=[want("Is red the minimum?", "Yes", "yes-no"), "gold-fails-own-grader"],
    ),
    "geo170k": llava(
        "geo170k(qa)",
        (GEO.format("Find AC ()", "A: 4.0\nB: 5\nC: 6\nD: 4.0"), "As AB = 5. Answer:B"),
        ("<image>\nRender a clear description.", "A triangle."),
        expected=[want("Find AC ()", "B", "choice", ("4.0", "5", "6", "4.0")), "unknown-form"],
    ),
    "geometry3k": Copy(
        [
            {
                "images": [image(0)],
                "problem": "<image>Find x.",
                "answer": "6\\sqrt{2}",
                "id": 5,
                "choices": ["6", "6\\sqrt{2}", "12"],
                "ground_truth": "B",
            },
            {
                "images": [image(1)],
                "problem": "<image>Find y.",
                "answer": "7",
                "id": 6,
                "choices": ["6", "8"],
                "ground_truth": "B",
            },
        ],
        [
            want("<image>Find x.", "6\\sqrt{2}", "choice", ("6", "6\\sqrt{2}", "12")),
            "answer-not-in-choices",
        ],
        images=(),
        lists=("images",),
    ),
    "unigeo": llava(
        "UniGeo(MathV360K)",
        (HINT + "Question: Find x.\nChoices:\n(A) 3\n(B) 4", "The answer is A"),
        (HINT + "Question: Find z.", "The answer is 4.50."),
        ("<image>\nFind y.", "4"),
        expected=[want("Find x.", "A", "choice", ("3", "4")), want("Find z.", "4.50", "number"), "unknown-form"],
    ),
    "geomverse": cauldron(
        "geomverse",
        [("Compute the area.", "The side is 5, so 25 / 2 = 12.5. Therefore the final answer is 12.5.")],
        [("Compute it.", "It cannot be done.")],
        expected=[want("Compute the area.", "12.5", "number", tolerance=0.01), "unknown-form"],
    ),
    "geos": llava(
        "GEOS(MathV360K)",
        (HINT + "Question: Find x.\nChoices:\n(A) 3\n(B) 4\n(C) 5", "The answer is C"),
        (HINT + "Question: How long?", "The answer is 12"),
        expected=[want("Find x.", "C", "choice", ("3", "4", "5")), want("How long?", "12", "relaxed")],
    ),
    "iconqa": cauldron(
        "iconqa",
        [(mcq("Which is it?", "a", "b"), "Answer: B"), ("Fill in the blank. There are (_) ducks.", "8")],
        expected=[
            want("Which is it?", "B", "choice", ("a", "b")),
            want("Fill in the blank. There are (_) ducks.", "8", "number"),
        ],
    ),
    "infographicsvqa": cauldron(
        "infographic_vqa",
        [("Who?\nYour answer should be compact.", "World health organization."), ("?\nBe succinct.", "")],
        expected=[want("Who?", "World health organization", "anls"), "empty-answer"],
    ),
    "infographicsvqa-val": Copy(
        [
            {"questionId": "1", "question": "Who?", "answers": ["WHO", "World Health Organization"], "image": image(0)},
            {"questionId": "2", "question": "Hidden?", "answers": [], "image": image(1)},
        ],
        [want("Who?", "WHO", "anls", accepted=("World Health Organization",)), "null-answer"],
        split="validation",
        config="InfographicVQA",
    ),
    "clevr-math": cauldron(
        "clevr_math",
        [("How many are left?\nConcise answer only.", "7."), ("How many now?\nBe succinct.", "None.")],
        expected=[want("How many are left?", "7", "number"), "gold-fails-own-grader"],
    ),
    "mmmu": Copy(
        [
            seven({"id": "validation_Art_1", "question": "<image 1> or <image 2>?", "options": "['a', \"b's\"]",
                   "answer": "B"}, 0, 1),
            seven({"id": "validation_Art_2", "question": "How much?", "options": "[]", "answer": "['$6', '6']"}, 2),
            seven({"id": "validation_Art_3", "question": "Long?", "options": str(list("pqrstuvwx")), "answer": "I"}),
            seven({"id": "test_Art_4", "question": "Hidden?", "options": "['a', 'b']", "answer": "?"}, 3),
        ],
        [
            want("<image 1> or <image 2>?", "B", "choice", ("a", "b's"), images=2),
            want("How much?", "$6", "number", accepted=("6",)),
            want("Long?", "I", "choice", tuple("pqrstuvwx"), images=0),
            "answer-not-in-choices",
        ],
        images=SEVEN,
        split="validation",
    ),
    "mmmu-pro": Copy(
        [seven({"id": "test_Art_1", "question": "Q?", "options": str(list("abcdefghij")), "answer": "J"}, 0)],
        [want("Q?", "J", "choice", tuple("abcdefghij"))],
        images=SEVEN,
        split="test",
        config="standard (10 options)",
    ),
    "we-math": Copy(
        [
            {"ID": "7", "key": "2steps_1", "question": "Area?", "option": "A. 3; B. 4; C. 5; D. No correct answer",
             "answer": "D", "image_path": image(0), "knowledge concept": "Area"},
            {"ID": "7", "key": "2steps_2", "question": "Side?", "option": "unknown", "answer": "A",
             "image_path": image(1), "knowledge concept": "Area"},
        ],
        [want("Area?", "D", "choice", ("3", "4", "5", "No correct answer")), "unusable-choices"],
        images=("image_path",),
        split="testmini",
    ),
    "mathvista": Copy(
        [
            {"pid": "1", "question": "How far?", "unit": "m", "precision": 1.0, "choices": None, "answer": "1.2",
             "answer_type": "float", "image": "images/1.jpg", "decoded_image": image(0)},
            {"pid": "2", "question": "Which?", "unit": None, "precision": None, "choices": ["red", "blue"],
             "answer": "blue", "answer_type": "text", "image": "images/2.jpg", "decoded_image": image(1)},
            {"pid": "3", "question": "How many?", "unit": None, "precision": float("nan"), "choices": None,
             "answer": "7", "answer_type": "integer", "image": "images/3.jpg", "decoded_image": image(2)},
            {"pid": "4", "question": "Which two?", "unit": None, "precision": None, "choices": None,
             "answer": "[1, 4]", "answer_type": "list", "image": "images/4.jpg", "decoded_image": image(3)},
            {"pid": "5", "question": "Withheld?", "unit": None, "precision": None, "choices": None,
             "answer": "", "answer_type": "text", "image": "images/5.jpg", "decoded_image": image(4)},
        ],
        [
            want("How far?\n(Unit: m)", "1.2", "number", tolerance=0.05 / 1.2),
            want("Which?", "blue", "choice", ("red", "blue")),
            want("How many?", "7", "number"),
            want("Which two?", "[1, 4]", "expression"),
            "empty-answer",
        ],
        images=("decoded_image",),
        split="testmini",
    ),
    "mathvision": Copy(
        [
            {"id": "1", "question": "Which? <image1>", "options": ["A", "B", "C"], "answer": "C",
             "image": "images/1.jpg", "decoded_image": image(0)},
            {"id": "2", "question": "Value? <image1>", "options": [], "answer": "\\frac{\\sqrt{3}}{2}",
             "image": "images/2.jpg", "decoded_image": image(1)},
        ],
        [
            want("Which? <image1>", "C", "choice", ("A", "B", "C")),
            want("Value? <image1>", "\\frac{\\sqrt{3}}{2}", "expression"),
        ],
        images=("decoded_image",),
        split="test",
    ),
    "mm-vet": Copy(
        [{"question_id": "v1_0", "image": image(0), "question": "What is x?", "answer": "x=1<AND>x=2"}],
        [want("What is x?", "x=1<AND>x=2", "text")],
        split="test",
    ),
    "mmstar": Copy(
        [
            {"index": 0, "question": "Where?\nOptions: A: in a house, B: at sea, C: up, D: none", "image": image(0),
             "answer": "B", "category": "c"},
            {"index": 1, "question": "Without options?", "image": image(1), "answer": "B", "category": "c"},
        ],
        [want("Where?", "B", "choice", ("in a house", "at sea", "up", "none")), "unknown-form"],
        split="val",
    ),
}  # fmt: skip


def source_of(name: str):
    return pipeline.load(shipped.find(shipped.folder() / f"{name}.yaml")).section("ingest").sources[0]


# Sources that bring chains have their copies in test_given.py, DreamPRM's in test_handing_back.py.
CHAINS = (
    "dreamprm",
    "math-shepherd",
    "prm800k",
    "processbench",
    "visualprm400k",
    "visualprm400k-raw",
    "visualprocessbench",
)


def test_every_recipe_has_a_copy_here():
    assert sorted([*COPIES, "mmpr", *CHAINS]) == shipped.names()


@pytest.mark.parametrize("name", sorted(COPIES))
def test_a_published_copy_goes_in_row_by_row(tmp_path, name):
    check(COPIES[name], shipped.folder() / f"{name}.yaml", tmp_path)


MMPR_ROW = {
    "image": "ai2d/0.jpg",
    "question": "<image>\nWhich?\nA. up\nB. down\nAnswer with the option's letter from the given choices directly.",
    "answer": "B",
}
MMPR_ODD = {
    "mmpr-geo170k": {"image": ["ai2d/0.jpg", "ai2d/1.jpg"]},
    "mmpr-dvqa": {"question": "<image>\nHow many?\nAnswer the question using a single word or phrase.", "answer": "4"},
    "mmpr-chartqa": {"question": "Which year? (text only)", "answer": "2013", "image": None},
    "mmpr-iconqa": {"image": "ai2d/gone.jpg"},
}


def test_mmpr_covers_fifteen_domains_with_one_format(tmp_path):
    (tmp_path / "correctness_prompts").mkdir()
    (tmp_path / "correctness_images" / "ai2d").mkdir(parents=True)
    for number in (0, 1):
        (tmp_path / "correctness_images" / "ai2d" / f"{number}.jpg").write_bytes(IMAGE_FILES[number])
    recipe = pipeline.load(shipped.folder() / "mmpr.yaml", (), tmp_path)
    sources = recipe.section("ingest").sources
    for source in sources:
        kind = {"relaxed": "7", "number": "7", "set": "a, b", "yes-no": "Yes", "anls": "cat"}.get(source.answer_type)
        plain = MMPR_ROW if kind is None else {**MMPR_ROW, "question": "Q?", "answer": kind}
        line = {**plain, "question": plain["question"].replace("Which", source.domain)} | MMPR_ODD.get(source.name, {})
        lines = [{k: v for k, v in line.items() if v is not None}]
        # A row of text only has no image at all, among others that have.
        lines += [{**plain, "question": "Another?"}] if "image" not in lines[0] else []
        (tmp_path / source.path).write_text("".join(json.dumps(one) + "\n" for one in lines))
    workspace = Store.open(tmp_path / "w")
    ledger = pipeline.run(recipe, workspace, Silent())["ingest"]
    assert (ledger.taken, ledger.out, ledger.rejected) == (16, 15, {"image-missing": 1})
    rows = workspace.read(PROBLEMS).to_pylist()
    found = {row["domain"]: row for row in rows if row["question"] != "Another?"}
    assert found.keys() | {"iconqa"} == {name for name in COPIES if source_of(name).role == "train"}
    assert (found["ai2d"]["question"], found["ai2d"]["choices"]) == ("ai2d?", ["up", "down"])
    assert (found["dvqa"]["question"], found["dvqa"]["answer_type"]) == ("How many?", "number")
    assert len(found["geo170k"]["image_hashes"]) == 2
    assert found["chartqa"]["image_hashes"] == []


def test_ids_that_moved_are_found_under_their_old_name(tmp_path):
    source = source_of("mmmu")
    publish(tmp_path / source.fallbacks[0], COPIES["mmmu"])
    recipe = pipeline.load(shipped.find(shipped.folder() / "mmmu.yaml"), (), tmp_path)
    assert pipeline.run(recipe, Store.open(tmp_path / "w"), Silent())["ingest"].out == 3


def curate(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_commands_take_recipes_by_name_and_several_at_once(tmp_path):
    for name in ("ai2d", "chartqa"):
        publish(tmp_path / "data" / source_of(name).dataset, COPIES[name])
    done = curate(
        "ingest", "ai2d", "chartqa", "--data", tmp_path / "data", "-w", tmp_path / "w", "--limit", 1, "--json"
    )
    assert done.exit_code == 0, done.output
    assert [ledger["ingest"]["out"] for ledger in json.loads(done.stdout)] == [1, 1]
    words = ("ingest", "ai2d", "chartqa", "--data", tmp_path / "data", "-w", tmp_path / "w")
    again = json.loads(curate(*words, "--limit", 1, "--replace", "chartqa", "--json").stdout)
    assert [ledger["ingest"]["skipped"] for ledger in again] == [1, 0]
    refused = curate(*words, "--replace", "chart")
    assert "no such source" in str(refused.exception)
    one = curate("ingest", "chartqa", "--data", tmp_path / "data", "-w", tmp_path / "v", "--sample-id", "3")
    assert "1 rows in = 1 out" in one.output
    assert Store.open(tmp_path / "v").read(PROBLEMS)["question"].to_pylist() == ["Which colour?"]


def test_a_dry_run_shows_the_first_row_and_its_prompt_and_writes_nothing(tmp_path):
    publish(tmp_path / "data" / source_of("mmstar").dataset, COPIES["mmstar"])
    shown = curate("ingest", "mmstar", "--data", tmp_path / "data", "-w", tmp_path / "w", "--dry-run").output
    assert "question: Where?" in shown
    assert "images: JPEG 40 x 30" in shown
    assert "prompt:" in shown
    assert "(B) at sea" in shown or "B. at sea" in shown
    assert not (tmp_path / "w").exists()
    copy = Copy(COPIES["mmstar"].rows[::-1], [], split="val")
    publish(tmp_path / "other" / source_of("mmstar").dataset, copy)
    shown = curate("ingest", "mmstar", "--data", tmp_path / "other", "--dry-run").output
    assert 'row 1 would be rejected: unknown-form (no "Options:"' in shown
    assert "question: Where?" in shown


def test_what_is_wrong_with_a_command_is_one_sentence(tmp_path):
    recipe = tmp_path / "own.yaml"
    tree = {"ingest": {"sources": [{"kind": "synthetic", "name": "s", "task": "dial_read", "rows": 2}]}}
    recipe.write_text(yaml.safe_dump(tree))
    for words, message in (
        (["ai2dd"], 'did you mean "ai2d"'),
        ([recipe, "--split", "test"], "is of kind synthetic, which has no --split"),
        (["ai2d", "--data", tmp_path / "gone"], "no folder"),
        (["ai2d", "--seed", 3], "no effect without shuffle"),
    ):
        failed = curate("ingest", *words, "-w", tmp_path / "w")
        assert message in str(failed.exception) + failed.output, failed.output


def test_recipes_are_listed_and_shown():
    listed = json.loads(curate("recipes", "--json").stdout)
    assert {row["recipe"] for row in listed} == {*COPIES, *CHAINS, "mmpr"}
    assert all(row["licence"] and row["about"].endswith(".") for row in listed)
    shown = curate("recipes", "show", "chartqa").stdout
    assert yaml.safe_load(shown)["ingest"]["sources"][0]["dataset"] == "HuggingFaceM4/ChartQA"
    assert "chartqa" in curate("recipes").stdout


@pytest.mark.parametrize("name", ["chartqaa", "gone.yaml", "../runs/demo.yaml", "/etc/hostname"])
def test_showing_what_is_no_recipe_is_one_sentence(name):
    failed = curate("recipes", "show", name)
    assert isinstance(failed.exception, UserError)
    assert "There is no recipe" in str(failed.exception)
