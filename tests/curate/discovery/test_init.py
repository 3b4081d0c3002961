"""`curate init` on data of many shapes: the recipe that it writes brings the rows in as they are meant."""

import base64
import csv
import io
import json
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from curate.cli.app import app
from curate.errors import UserError
from curate.seeds import content_hash
from curate.tables.schema import IMAGES, PROBLEMS, ROLLOUTS, STEP_LABELS
from curate.tables.store import Store

ROWS = 24
STEPS = ["I look.", "I see one.", "It is red."]
COLOURS = ("red", "green", "blue", "black")


def image(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (10, 10), (number * 7, 40, 200 - number)).save(buffer, "PNG")
    return buffer.getvalue()


def asked(number: int) -> str:
    return f"Which colour is the boat with number {number}?"


def lines(path, records) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def table(path, records, delimiter=",") -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(records)


def letters(folder):
    (folder / "pictures" / "boats").mkdir(parents=True)
    for number in range(ROWS):
        (folder / "pictures" / "boats" / f"{number}.png").write_bytes(image(number))
    lines(folder / "train.jsonl", [
        {"uid": f"b{n}", "query": asked(n), "options": COLOURS, "picture": f"boats/{n}.png", "correct": "ABCD"[n % 4]}
        for n in range(ROWS)
    ])  # fmt: skip
    columns = {"id": "uid", "question": "query", "choices": "options", "image": "picture", "answer": "correct"}
    return {"columns": columns, "role": "train"}


def indices(folder):
    records = [{"problem": asked(n), "choices": list(COLOURS), "label": n % 4} for n in range(ROWS)]
    (folder / "test.json").write_text(json.dumps(records))
    return {
        "columns": {"question": "problem", "choices": "choices", "answer": "label"},
        "answer_form": "index",
        "role": "test",
    }


def keyed_options(folder):
    options = dict(zip("ABCD", COLOURS, strict=True))
    lines(
        folder / "dev.jsonl",
        [{"question": asked(n), "options": options, "answer": COLOURS[n % 4]} for n in range(ROWS)],
    )
    return {"columns": {"question": "question", "choices": "options", "answer": "answer"}, "role": "meta"}


def option_columns(folder):
    table(folder / "boats.tsv", [
        {"index": n + 100, "question": asked(n), **dict(zip("ABCD", COLOURS, strict=True)), "answer": "ABCD"[n % 4],
         "category": ("sail", "steam")[n % 2]}
        for n in range(ROWS)
    ], "\t")  # fmt: skip
    return {
        "columns": {
            "id": "index",
            "question": "question",
            "choices": list("ABCD"),
            "answer": "answer",
            "domain": "category",
        }
    }


def structs(folder):
    columns = {
        "question": [asked(n) for n in range(ROWS)],
        "image": [{"bytes": image(n), "path": None} for n in range(ROWS)],
        "answers": [[COLOURS[n % 4], COLOURS[n % 4].upper()] for n in range(ROWS)],
    }
    pq.write_table(pa.table(columns), folder / "validation-00000-of-00001.parquet")
    return {
        "columns": {"question": "question", "image": "image", "answer": "answers"},
        "answer_form": "accepted",
        "role": "meta",
    }


def zipped(folder):
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for number in range(ROWS):
            archive.writestr(f"images/boat_{number}.png", image(number))
    table(
        folder / "vqa.csv",
        [{"image": f"boat_{n}.png", "question": asked(n), "answer": COLOURS[n % 4]} for n in range(ROWS)],
    )
    return {"columns": {"image": "image", "question": "question", "answer": "answer"}}


def named_by_id(folder):
    (folder / "scans").mkdir()
    for number in range(ROWS):
        (folder / "scans" / f"{number + 500}.png").write_bytes(image(number))
    lines(
        folder / "train.jsonl", [{"id": n + 500, "question": asked(n), "answer": COLOURS[n % 4]} for n in range(ROWS)]
    )
    return {"columns": {"id": "id", "question": "question", "answer": "answer", "image": "scans/{id}.png"}}


def nested(folder):
    choices = [{"label": letter, "text": text} for letter, text in zip("ABCD", COLOURS, strict=True)]
    lines(folder / "train.jsonl", [
        {"key": f"k{n}", "question": {"stem": asked(n), "choices": choices}, "answerKey": "ABCD"[n % 4]}
        for n in range(ROWS)
    ])  # fmt: skip
    return {
        "columns": {"id": "key", "question": "question.stem", "choices": "question.choices.text", "answer": "answerKey"}
    }


def turns(folder):
    (folder / "0.png").write_bytes(image(0))
    records = [
        {"id": f"c{n}", "image": "0.png", "conversations": [
            {"from": "human", "value": f"<image>\n{asked(n)}"}, {"from": "gpt", "value": COLOURS[n % 4]}]}
        for n in range(ROWS)
    ]  # fmt: skip
    (folder / "chat.json").write_text(json.dumps(records))
    return {"columns": {"id": "id", "image": "image", "conversation": "conversations"}}


def first_errors(folder):
    lines(folder / "steps.jsonl", [
        {"id": f"p{n}", "generator": "m", "problem": asked(n), "steps": STEPS[: 2 + n % 2], "label": (-1, 0, 1)[n % 3],
         "final_answer_correct": n % 3 == 0}
        for n in range(ROWS)
    ])  # fmt: skip
    return {"columns": {"id": "id", "question": "problem", "answer": None}, "chain": {
        "steps": "steps", "labels": "label", "labels_form": "first-error", "outcome": "final_answer_correct",
        "policy": "generator"}}  # fmt: skip


def step_values(folder):
    lines(folder / "train.jsonl", [
        {"prompt": asked(n), "completions": STEPS, "labels": [True, n % 2 == 0, n % 3 == 0]}
        for n in range(ROWS)
    ])  # fmt: skip
    return {"columns": {"question": "prompt", "answer": None}, "chain": {"steps": "completions", "labels": "labels"}}


def solutions(folder):
    lines(folder / "train.jsonl", [
        {"question": asked(n), "answer": f"I see it.\nIt has {n} sails, so I look once more.\n#### {COLOURS[n % 4]}"}
        for n in range(ROWS)
    ])  # fmt: skip
    return {"columns": {"question": "question", "answer": "answer"}, "answer_behind": "####"}


def concluded(folder):
    said = "I look at the boat, and then at its sail and its flag.\nI look once more. The final answer is"
    lines(folder / "train.jsonl", [{"problem": asked(n), "solution": f"{said} {COLOURS[n % 4]}."} for n in range(ROWS)])
    return {"columns": {"question": "problem", "answer": "solution"}, "answer_form": "solution"}


def keyed(folder):
    (folder / "scans").mkdir()
    for number in range(ROWS):
        (folder / "scans" / f"{number + 70}.png").write_bytes(image(number))
    records = {str(n + 70): {"question": asked(n), "choices": COLOURS, "answer": COLOURS[n % 4]} for n in range(ROWS)}
    (folder / "problems_train.json").write_text(json.dumps(records))
    return {"columns": {"id": "key", "question": "question", "choices": "choices", "answer": "answer",
                        "image": "scans/{key}.png"}}  # fmt: skip


def base64_cells(folder):
    table(folder / "test.tsv", [
        {"index": n, "image": base64.b64encode(image(n)).decode(), "question": asked(n), "answer": COLOURS[n % 4]}
        for n in range(ROWS)
    ], "\t")  # fmt: skip
    return {"columns": {"id": "index", "image": "image", "question": "question", "answer": "answer"}, "role": "test"}


def numbered_from_one(folder):
    printed = "[" + " ".join(f"'{colour}'" for colour in COLOURS) + "]"
    table(folder / "train.csv", [{"question": asked(n), "options": printed, "answer": n % 4 + 1} for n in range(ROWS)])
    return {"columns": {"question": "question", "choices": "options", "answer": "answer"}, "answer_form": "index",
            "answer_from": 1}  # fmt: skip


def messages(folder):
    lines(folder / "train.jsonl", [
        {"messages": [{"role": "system", "content": "You see."},
                      {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": asked(n)}]},
                      {"role": "assistant", "content": [{"type": "text", "text": COLOURS[n % 4]}]}]}
        for n in range(ROWS)
    ])  # fmt: skip
    return {"columns": {"conversation": "messages"}}


def wrong_steps(folder):
    lines(folder / "train.jsonl", [
        {"question": asked(n), "modified_process": STEPS, "error_steps": [[], [2, 3], [3]][n % 3]} for n in range(ROWS)
    ])  # fmt: skip
    return {
        "chain": {"steps": "modified_process", "labels": "error_steps", "labels_form": "wrong-steps", "labels_from": 1}
    }


SHAPES = [
    solutions,
    concluded,
    keyed,
    base64_cells,
    numbered_from_one,
    messages,
    wrong_steps,
    letters,
    indices,
    keyed_options,
    option_columns,
    structs,
    zipped,
    named_by_id,
    nested,
    turns,
    first_errors,
    step_values,
]


def init(*words):
    result = CliRunner().invoke(app, ["init", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, UserError | SystemExit):
        raise result.exception
    return result


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "boats").mkdir()
    return tmp_path / "boats"


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_the_written_recipe_brings_every_row_in(shape, place):
    wanted = shape(place)
    result = init("boats", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["ready"] and told["left_out"] == []
    (source,) = yaml.safe_load((place.parent / "boats.yaml").read_text())["ingest"]["sources"]
    for key, value in wanted.items():
        assert source[key] == value
    assert CliRunner().invoke(app, ["ingest", "boats.yaml", "--dry-run"]).exit_code == 0
    ingested = CliRunner().invoke(app, ["ingest", "boats.yaml", "-w", "w", "--json"])
    assert json.loads(ingested.stdout)["ingest"]["out"] == ROWS, ingested.output
    workspace = Store.open(place.parent / "w")
    problems = {row["question"].removeprefix("<image>\n"): row for row in workspace.read(PROBLEMS).to_pylist()}
    assert set(problems) == {asked(number) for number in range(ROWS)}
    if "answer" in source["columns"] and source["columns"]["answer"]:
        for number in range(ROWS):
            row = problems[asked(number)]
            right = (COLOURS[number % 4], "ABCD"[number % 4]) if row["choices"] else (COLOURS[number % 4],)
            assert row["answer"] in right and list(row["choices"]) in ([], list(COLOURS))
    if "image" in source["columns"] and shape is not turns:
        shown = {key for row in problems.values() for key in row["image_hashes"]}
        assert shown == {content_hash(image(number)) for number in range(ROWS)}
        assert len(workspace.read(IMAGES)) == ROWS
    if "chain" in source:
        assert len(workspace.read(ROLLOUTS)) == ROWS
        assert {row["value"] for row in workspace.read(STEP_LABELS).to_pylist()} >= {0.0, 1.0}


def test_roles_come_from_names_and_what_the_data_is_not_stays_out(place):
    for name in ("train", "val", "boats_testmini"):
        lines(place / f"{name}.jsonl", [{"question": f"{name} {asked(n)}", "answer": COLOURS[n % 4]} for n in range(5)])
    (place / "splits.json").write_text(json.dumps([{"train": [1, 2]}]))
    (place / "note.txt").write_text("nothing")
    told = json.loads(init("boats", "--json").stdout)
    assert [(each["data"], each["role"]) for each in told["sources"]] == [
        ("boats_testmini.jsonl", "test"), ("val.jsonl", "meta"), ("train.jsonl", "train")]  # fmt: skip
    assert [each["data"] for each in told["left_out"]] == ["splits.json"]
    sources = yaml.safe_load((place.parent / "boats.yaml").read_text())["ingest"]["sources"]
    assert {each["domain"] for each in sources} == {"boats"}
    assert len({each["name"] for each in sources}) == 3


def test_a_recipe_is_not_written_over(place):
    letters(place)
    assert init("boats").exit_code == 0
    before = (place.parent / "boats.yaml").read_text()
    again = init("boats")
    assert isinstance(again.exception, UserError) and "--force" in str(again.exception)
    assert init("boats", "--force").exit_code == 0
    assert (place.parent / "boats.yaml").read_text() == before


def test_what_is_missing_is_named_with_its_key(place):
    lines(place / "train.jsonl", [{"image": f"far/{n}.jpg", "question": asked(n), "answer": "red"} for n in range(5)])
    result = init("boats")
    assert isinstance(result.exception, UserError)
    assert "ingest.sources.0.root" in str(result.exception) and "far/0.jpg" in str(result.exception)
    assert "SET THIS: root" in (place.parent / "boats.yaml").read_text()


def test_without_a_gold_answer_there_is_no_recipe(place):
    lines(place / "train.jsonl", [{"question": asked(n), "colour": {"a": n}} for n in range(5)])
    result = init("boats")
    assert isinstance(result.exception, UserError) and "columns.answer" in str(result.exception)
    assert not (place.parent / "boats.yaml").exists()


def test_doubts_are_said_with_what_else_there_is(place):
    rows = [
        {"question": asked(n), "answer": COLOURS[n % 4], "subject": f"s{n % 3}", "topic": f"t{n % 2}"}
        for n in range(ROWS)
    ]
    table(place / "train.csv", rows)
    shown = init("boats").stdout
    assert "NOT SURE: columns.domain: subject" in shown and "topic" in shown
    recipe = (place.parent / "boats.yaml").read_text()
    assert "# NOT SURE: 3 values" in recipe


def test_any_names_and_texts_make_a_recipe_that_can_be_read(place):
    odd = 'ques: "tion"\n# \u2028\x07'
    lines(place / "train.jsonl", [{odd: asked(n), "answer": base64.b64encode(bytes([n])).decode()} for n in range(5)])
    assert init("boats").exit_code == 0
    (source,) = yaml.safe_load((place.parent / "boats.yaml").read_text())["ingest"]["sources"]
    assert source["columns"]["question"] == odd
