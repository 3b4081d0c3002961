"""What a file of responses may say besides a text: outcomes, extracted answers, thoughts, chats, filters, and how it is
laid out."""

import json
import zipfile

import pytest
from import_testbed import imported, ingested, lines, reasons, rollouts
from typer.testing import CliRunner

from curate.cli.app import app
from curate.errors import UserError
from curate.graders import grade
from curate.tables.schema import REJECTS

RIGHT = "I count on my fingers.\n\nThe answer is 9."
WRONG = "I guess.\n\nThe answer is 8."


@pytest.fixture
def workspace(tmp_path):
    return ingested(tmp_path)


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        (True, True), (False, False), (1, True), (0, False), (1.0, True), ("TRUE", True), ("false", False),
        ("correct", True), ("Incorrect", False), (" right. ", True), ("wrong", False), ("1", True), ("0.0", False),
        ([True], True), (None, None), ("", None), (float("nan"), None),
    ],
)  # fmt: skip
def test_a_stated_outcome_is_taken_and_our_own_grade_stays_to_compare(tmp_path, workspace, value, outcome):
    file = lines(tmp_path / "r.jsonl", {"q": "u", "t": RIGHT, "ok": value})
    ledger, said = imported(workspace, file, outcome="ok")
    (row,) = rollouts(workspace).values()
    assert (row["outcome"], row["gold"], ledger.out) == (outcome, None, 1)
    assert row["outcome_rule"].startswith("given, own right: ")
    assert row["outcome_rule"].endswith(grade("9", "9", "number").rule)
    wrong, open_ = int(outcome is False), int(outcome is None)
    assert f"0 right there and not here; {wrong} wrong there and right here; {open_} not decided there" in said[-1]


def test_an_outcome_that_cannot_be_read_is_a_reject(tmp_path, workspace):
    rows = [{"q": "u", "t": RIGHT, "ok": value} for value in (0.5, "maybe", 2, {"a": 1}, ["yes", "no"])]
    ledger, _ = imported(workspace, lines(tmp_path / "r.jsonl", *rows), outcome="ok")
    assert (ledger.taken, ledger.rejected) == (5, {"unusable-outcome": 5})
    assert not rollouts(workspace)


def test_what_a_list_says_beside_several_responses_belongs_to_each(tmp_path, workspace):
    rows = [
        {"q": "u", "t": [RIGHT, WRONG, "Hm."], "ok": [False, True, None], "x": ["8", "9", None], "r": ["a", None, "c"]},
        {"q": "w", "t": ["11", "12"], "ok": [True], "x": ["11", "12"], "r": None},
        {"q": "w", "t": ["13", "14"], "ok": True, "x": ["11", "12"], "r": ["d", "e"]},
    ]
    file = lines(tmp_path / "r.jsonl", *rows)
    ledger, _ = imported(workspace, file, outcome="ok", extracted="x", reasoning="r")
    found = [rollouts(workspace)["u", index] for index in range(3)]
    assert [(row["outcome"], row["answer"], row["reasoning"]) for row in found] == [
        (False, "8", "a"), (True, "9", None), (None, None, "c"),
    ]  # fmt: skip
    assert [row["outcome_rule"].split(":")[0].split()[-1] for row in found] == ["wrong", "right", "wrong"]
    assert (ledger.out, ledger.rejected) == (3, {"unpaired": 4})


def test_an_answer_that_somebody_extracted_is_what_is_graded(tmp_path, workspace):
    file = lines(
        tmp_path / "r.jsonl",
        {"q": "u", "t": "It is 8, no, 9, or was it 10", "got": {"answer": 9}},
        {"q": "u", "t": RIGHT, "got": {"answer": "7"}},
        {"q": "u", "t": RIGHT, "got": {"answer": ""}},
        {"q": "v", "t": "Fish do not.", "got": {"answer": "bird"}},
    )
    ledger, _ = imported(workspace, file, extracted="got.answer")
    found = rollouts(workspace)
    assert [found["u", index]["outcome"] for index in range(3)] == [True, False, False]
    assert [found["u", index]["answer"] for index in range(3)] == ["9", "7", None]
    assert (found["v", 0]["outcome"], ledger.out) == (True, 4)
    assert all(row["gold"] is not None for row in found.values())
    assert {row["outcome_rule"].split("/")[0] for row in found.values()} == {"extracted", "no-answer"}


def test_a_response_ends_before_its_first_stop_text(tmp_path, workspace):
    file = lines(
        tmp_path / "r.jsonl",
        {"q": "u", "t": "The answer is 9.\n\nQuestion: 2 + 2?\nThe answer is 4.</s>"},
        {"q": "u", "t": "The answer is 9.</s>The answer is 1.\n\nQuestion: "},
        {"q": "u", "t": "</s>The answer is 9."},
        {"q": "u", "t": "<think>\n</s> ends it.\n</think>\n\nThe answer is 9.</s>"},
    )
    ledger, said = imported(workspace, file, stop=("\n\nQuestion:", "</s>", "###"))
    found = rollouts(workspace)
    assert {row["text"] for row in found.values()} == {"The answer is 9."}
    assert {row["outcome"] for row in found.values()} == {True}
    assert (found["u", 2]["reasoning"], ledger.rejected) == ("</s> ends it.", {"no-response": 1})
    assert said == ["--stop has no effect: no response holds '###'."]


ASSISTANT = [{"role": "system", "content": "Add."}, {"role": "user", "content": "4 + 5?"}]


@pytest.mark.parametrize(
    ("value", "reasoning"),
    [
        ([*ASSISTANT, {"role": "assistant", "content": RIGHT}], None),
        ([*ASSISTANT, {"role": "assistant", "content": "8?"}, {"role": "user", "content": "No."},
          {"role": "Assistant", "content": RIGHT, "reasoning_content": "Oh."}], "Oh."),
        ([*ASSISTANT, {"role": "assistant", "content": RIGHT}, {"role": "user", "content": "Thanks, 1."}], None),
        ([{"from": "human", "value": "4 + 5?"}, {"from": "gpt", "value": RIGHT}], None),
        ([{"role": "user", "parts": [{"text": "4 + 5?"}]}, {"role": "model", "parts": [{"text": RIGHT}]}], None),
        ([{"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": RIGHT},
           {"type": "image_url", "image_url": {"url": "x"}}]}], "Hm."),
        ({"role": "assistant", "content": RIGHT}, None),
        ([{"index": 0, "message": {"role": "assistant", "content": RIGHT, "reasoning": "Ah."}}], "Ah."),
        (json.dumps([*ASSISTANT, {"role": "assistant", "content": RIGHT}]), None),
        (["4 + 5?", "8", "No.", RIGHT], None),
    ],
)  # fmt: skip
def test_the_last_turn_of_the_model_is_the_response_of_a_chat(tmp_path, workspace, value, reasoning):
    file = lines(tmp_path / "r.jsonl", {"q": "u", "messages": value})
    ledger, _ = imported(workspace, file, response="messages")
    (row,) = rollouts(workspace).values()
    assert (row["text"], row["reasoning"], row["outcome"], ledger.taken) == (RIGHT, reasoning, True, 1)


def test_samples_that_are_chats_are_several_rollouts(tmp_path, workspace):
    chats = [[*ASSISTANT, {"role": "assistant", "content": text}] for text in (RIGHT, WRONG)]
    choices = [{"message": {"role": "assistant", "content": text}} for text in (RIGHT, WRONG, RIGHT)]
    file = lines(tmp_path / "r.jsonl", {"q": "u", "t": chats}, {"q": "u", "t": choices}, {"q": "u", "t": [ASSISTANT]})
    ledger, _ = imported(workspace, file)
    assert [rollouts(workspace)["u", index]["outcome"] for index in range(5)] == [True, False, True, False, True]
    assert ledger.rejected == {"no-response": 1}
    (left,) = workspace.read(REJECTS).to_pylist()
    assert left["detail"] == "the chat has no turn of an assistant, only of: system, user"


def test_a_list_of_texts_is_what_its_column_is_called_or_the_option_says(tmp_path, workspace):
    file = lines(tmp_path / "r.jsonl", {"q": "u", "turns": [WRONG, RIGHT], "t": [WRONG, RIGHT]})
    ledger, said = imported(workspace, file, response="turns", name="one")
    assert (ledger.taken, len(said)) == (1, 1)
    assert "--lists samples" in said[0]
    for name, options in {"two": {"response": "turns", "lists": "samples"}, "three": {}}.items():
        ledger, said = imported(workspace, file, name=name, policy=name, **options)
        assert (ledger.taken, said) == (2, [])
    assert imported(workspace, file, name="four", lists="turns", policy="four")[0].taken == 1


def log(doc, filter_, got, **more):
    row = {"doc_id": doc, "filter": filter_, "target": "9", "resps": [[RIGHT, WRONG]], "filtered_resps": got}
    return row | more


def test_lines_of_one_response_under_several_filters_are_one_response(tmp_path):
    workspace = ingested(tmp_path, rows=[{"question": "4 + 5?", "answer": "9"}], columns={})
    rows = [log(0, "strict", [["9", "8"]], em=[1.0, 0.0]), log(0, "loose", [["8", "9"]], em=[0.0, 1.0])]
    file = lines(tmp_path / "x_samples_y.jsonl", *rows, log(1, "strict", ["1"], resps=[["It is 1."]], em=[0.0]))
    options = {"id": None, "response": (), "outcome": "em", "extracted": "filtered_resps"}
    ledger, said = imported(workspace, file, **options)
    assert (ledger.taken, ledger.out, ledger.duplicate, ledger.rejected) == (4, 2, 1, {"unknown-problem": 1})
    assert [rollouts(workspace)["1", index]["outcome"] for index in range(2)] == [True, False]
    assert any("another filter count as duplicates: loose 1" in each for each in said)
    ledger, _ = imported(workspace, file, name="loose", filter="loose", policy="b", **options)
    assert (ledger.out, ledger.duplicate) == (2, 2)
    assert [rollouts(workspace)["1", index]["answer"] for index in (2, 3)] == ["8", "9"]
    with pytest.raises(UserError, match='no line has the filter "strikt"; did you mean "strict"'):
        imported(workspace, file, name="strikt", filter="strikt", **options)
    with pytest.raises(UserError, match="not a log with one line per filter"):
        imported(workspace, lines(tmp_path / "r.jsonl", {"q": "1", "t": "9"}), filter="strict")


@pytest.mark.parametrize("target", [["9", "nine"], ["nine", "9"], "['nine', '9']", '["9"]', [9], "", None, []])
def test_a_target_may_be_a_list_of_answers(tmp_path, workspace, target):
    file = lines(tmp_path / "r.jsonl", {"q": "u", "t": RIGHT, "target": target})
    assert imported(workspace, file, answer="target")[0].out == 1


def test_a_list_without_the_gold_answer_is_another_problem_and_says_the_cure(tmp_path, workspace):
    file = lines(tmp_path / "r.jsonl", {"q": "u", "t": RIGHT, "target": ["7", "5"]})
    assert imported(workspace, file, answer="target")[0].rejected == {"other-answer": 1}
    (left,) = workspace.read(REJECTS).to_pylist()
    assert "--answer -" in left["detail"]


def test_records_may_lie_under_their_ids_below_a_key(tmp_path, workspace):
    records = {
        "u": {"steps": "4 and 5.", "out": "The answer is 9."},
        "w": {"steps": None, "out": "11"},
        "x": {"out": "1"},
    }
    (tmp_path / "run.json").write_text(json.dumps({"acc": 50, "args": {"model": "m"}, "run": {"all": records}}))
    options = {"id": "key", "response": ("steps", "out"), "records": "run.all"}
    ledger, said = imported(workspace, tmp_path / "run.json", **options)
    assert (ledger.out, ledger.rejected) == (2, {"unknown-problem": 1})
    assert rollouts(workspace)["u", 0]["text"] == "4 and 5.\n\nThe answer is 9."
    assert "1 of 3 responses belong to 1 rows that the workspace has no problem of" in said[0]
    (tmp_path / "top.json").write_text(json.dumps({"v": {"t": "bird", "key": "u"}, "w": {"t": "The answer is 11."}}))
    assert imported(workspace, tmp_path / "top.json", id="key", policy="p")[0].out == 2
    (tmp_path / "texts.json").write_text(json.dumps({"texts": {"w": "It is 11.", "u": "It is 9."}}))
    plain = {"id": "key", "response": "value", "records": "texts"}
    assert imported(workspace, tmp_path / "texts.json", **plain)[0].out == 2
    (tmp_path / "one.json").write_text(json.dumps({"q": "w", "t": "It is 11 again."}))
    assert imported(workspace, tmp_path / "one.json")[0].out == 1
    for options, message in (
        ({"records": "runs"}, 'nothing at "runs"'),
        ({}, r"give --records, the key that holds them, such as args, run\."),
        ({"records": "acc"}, "no list or object of records"),
    ):
        with pytest.raises(UserError, match=message):
            imported(workspace, tmp_path / "run.json", name="again", **options)


def test_rows_may_be_named_by_their_numbers(tmp_path):
    workspace = ingested(tmp_path, columns={"choices": "choices"})
    file = lines(tmp_path / "r.jsonl", {"t": RIGHT}, {"t": "bird"}, {"t": "11"}, {"t": "12"})
    ledger, _ = imported(workspace, file, id="#")
    assert (ledger.out, ledger.rejected) == (3, {"unknown-problem": 1})
    assert set(rollouts(workspace)) == {("1", 0), ("2", 0), ("3", 0)}


def cell(place, value):
    letter = chr(ord("A") + place % 26)
    if value is None:
        return ""
    if isinstance(value, bool):
        return f'<c r="{letter}1" t="b"><v>{int(value)}</v></c>'
    if isinstance(value, int | float):
        return f'<c r="{letter}1"><v>{value}</v></c>'
    return f'<c r="{letter}1" t="inlineStr"><is><t xml:space="preserve">{value}</t></is></c>'


def workbook(path, *rows, shared=()):
    """As Excel's format has it; `shared` are texts that cells name by number, of the form ("s", number)."""
    name = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    body = "".join(
        "<row>" + "".join(
            f'<c r="{chr(65 + place)}1" t="s"><v>{value[1]}</v></c>' if isinstance(value, tuple) else cell(place, value)
            for place, value in enumerate(row)
        ) + "</row>"
        for row in rows
    )  # fmt: skip
    texts = "".join(f"<si><r><t>{text[:3]}</t></r><r><t>{text[3:]}</t></r></si>" for text in shared)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/worksheets/sheet2.xml", "<other/>")
        archive.writestr(
            "xl/worksheets/sheet1.xml", f'<worksheet xmlns="{name}"><sheetData>{body}</sheetData></worksheet>'
        )
        if shared:
            archive.writestr("xl/sharedStrings.xml", f'<sst xmlns="{name}">{texts}</sst>')
    return path


def test_results_of_vlmevalkit_as_workbooks(tmp_path, workspace):
    file = workbook(
        tmp_path / "Model_Sums.xlsx",
        ["index", "question", "answer", "prediction", "hit"],
        ["u", None, 9, ("s", 0), True],
        ["v", "Which one flies?", "A", "A &amp; no more.", 1],
        ["w", "Seven and four?", 11.0, "The answer is 11._x000D_\n", 0],
        ["w", "Seven and four?", 11.0, None, 0],
        shared=["We add.\nThe answer is 9."],
    )
    ledger, _ = imported(workspace, file, id=None, response=(), outcome="hit", policy="Model")
    found = rollouts(workspace)
    assert (ledger.out, ledger.rejected) == (3, {"no-response": 1})
    assert found["u", 0]["text"] == "We add.\nThe answer is 9."
    assert [found[name, 0]["outcome"] for name in "uvw"] == [True, True, False]
    assert found["w", 0]["text"] == "The answer is 11.\r\n"


def test_a_workbook_that_is_none_or_more_than_one_is_one_sentence(tmp_path, workspace):
    (tmp_path / "a.xlsx").write_bytes(b"PK\x03\x04 no more")
    with zipfile.ZipFile(tmp_path / "b.xlsx", "w") as archive:
        archive.writestr("xl/worksheets/sheet1.xml", '<!DOCTYPE a [<!ENTITY b "c">]><worksheet/>')
    with zipfile.ZipFile(tmp_path / "c.xlsx", "w") as archive:
        archive.writestr("word/document.xml", "<a/>")
    workbook(tmp_path / "d.xlsx", ["q", "t", "t"], ["u", "9", "8"])
    workbook(tmp_path / "e.xlsx", ["q", "t"], ["u", ("s", 7)])
    said = [
        "not a readable workbook",
        "document type",
        "not a workbook with a sheet",
        'two columns "t"',
        "not a readable workbook",
    ]
    for name, message in zip("abcde", said, strict=True):
        with pytest.raises(UserError, match=message) as caught:
            imported(workspace, tmp_path / f"{name}.xlsx")
        assert "\n" not in str(caught.value)


def test_a_file_of_rows_that_ingest_left_out_says_why(tmp_path):
    rows = [{"n": "u", "question": "4 + 5?", "answer": "9"}, {"n": "u2", "question": "4 + 5?", "answer": "9"}]
    workspace = ingested(tmp_path, rows=[*rows, {"n": "z", "question": "", "answer": "1"}])
    file = lines(tmp_path / "r.jsonl", *({"q": name, "t": "It is 9."} for name in ("u", "u2", "z", "u2")))
    ledger, said = imported(workspace, file)
    assert (ledger.out, ledger.rejected) == (1, {"problem-left-out": 3})
    assert said == ["3 of 4 responses belong to rows that ingest left out: duplicate 2, empty-question 1."]


def test_the_command_takes_them_all(tmp_path, workspace):
    row = {"q": "u", "t": "The answer is 9.\nQ: 1 + 1", "r": "Hm.", "ok": "yes", "x": "9", "s": "sums", "m": "small"}
    file = lines(tmp_path / "r.jsonl", row, row | {"m": None}, row | {"s": "suns"})
    words = ["import-rollouts", str(file), "-w", str(workspace.root), "--id", "q", "--response", "t", "--json"]
    words += ["--outcome", "ok", "--extracted", "x", "--reasoning", "r", "--source-column", "s", "--policy-column", "m"]
    done = CliRunner().invoke(app, [*words, "--stop", r"\nQ:", "--stop", r"\\n"])
    assert done.exit_code == 0, done.output
    book = json.loads(done.output)["import"]
    assert (book["out"], book["rejected"]) == (1, {"no-policy": 1, "unknown-source": 1})
    (found,) = rollouts(workspace).values()
    assert (found["text"], found["reasoning"], found["policy"]) == ("The answer is 9.", "Hm.", "given:r:small")
    assert reasons(workspace) == ["no-policy", "unknown-source"]
    with pytest.raises(UserError, match="--stop takes a text that is not empty"):
        CliRunner().invoke(app, [*words, "--stop", ""], catch_exceptions=False)
    with pytest.raises(UserError, match="give only one of them"):
        CliRunner().invoke(app, [*words, "--policy", "x"], catch_exceptions=False)
    with pytest.raises(UserError, match=r'no column "mm" \(--policy-column\)'):
        CliRunner().invoke(app, [*words, "--policy-column", "mm"], catch_exceptions=False)
