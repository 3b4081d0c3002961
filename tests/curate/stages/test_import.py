"""Responses that were generated elsewhere: every known form of file, odd rows, accounts, and grades like our own."""

import csv
import json
from dataclasses import asdict

import pytest
import yaml
from typer.testing import CliRunner

from curate import pipeline
from curate.cli.app import app
from curate.engines.base import Sample
from curate.errors import UserError
from curate.runtime.reporter import Silent
from curate.stages import generation
from curate.stages.ingest import imports
from curate.stages.ingest.imports import ImportConfig
from curate.tables.rows import ProblemRow
from curate.tables.schema import EXAMPLES, REJECTS, ROLLOUTS
from curate.tables.store import Store

PROBLEM_ROWS = [
    {"n": "a", "question": "1 + 1?", "answer": "2"},
    {"n": "b", "question": "Which?", "answer": "B", "choices": ["cat", "dog"]},
    {"n": "c", "question": "Half of 1?", "answer": "\\frac{1}{2}"},
    {"n": "d", "question": "Is it?", "answer": "yes"},
]
RIGHT = "I add.\n\nThat is 2.\n\nFinal answer: 2"
WRONG = "I add.\n\nFinal answer: 3"


@pytest.fixture
def workspace(tmp_path):
    """Four problems, whose rows are named by a column or counted."""
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROBLEM_ROWS))
    columns = {"choices": "choices"}
    sources = [
        {"kind": "files", "name": "named", "path": "p.jsonl", "columns": columns | {"id": "n"}},
        {"kind": "files", "name": "counted", "path": "p.jsonl", "columns": columns, "role": "train"},
    ]
    for source in sources:
        recipe = tmp_path / f"{source['name']}.yaml"
        recipe.write_text(yaml.safe_dump({"ingest": {"sources": [source]}, "shard": {}}))
    place = Store.open(tmp_path / "w")
    pipeline.run(pipeline.load(tmp_path / "named.yaml"), place, Silent(), ["ingest"])
    return place


def lines(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def rejected(workspace):
    return {row["source_row"]: row["reason"] for row in workspace.read(REJECTS).to_pylist()}


def test_any_columns_with_lists_of_texts_and_odd_rows(tmp_path, workspace):
    file = lines(
        tmp_path / "mine.jsonl",
        {"q": "a", "texts": [RIGHT, WRONG, RIGHT]},
        {"q": "b", "texts": "Step 1: I look.\nStep 2: It barks.\nThe answer is (B)."},
        {"q": "zzz", "texts": ["x", "y"]},
        {"q": "a", "texts": []},
        {"q": "a", "texts": [None, " ", "Nothing said.", {"a": 1}]},
        {"q": None, "texts": "x"},
        {"texts": "x"},
        {"q": "a", "texts": "\ud800"},
        "{broken",
        "[1]",
        {"q": "a", "texts": "Failed to obtain answer via API. "},
    )  # fmt: skip
    config = ImportConfig(file=file, id="q", response="texts", policy="gemini")
    ledger = imports.run(config, workspace)
    assert ledger.adds_up()
    assert (ledger.taken, ledger.out, ledger.duplicate, ledger.skipped) == (17, 5, 0, 0)
    assert ledger.rejected == {
        "unknown-problem": 2, "no-response": 4, "no-id": 2, "not-utf-8": 1,
        "malformed-line": 2, "failed-response": 1,
    }  # fmt: skip
    rows = workspace.read(ROLLOUTS).to_pylist()
    assert {(row["role"], row["policy"], row["finish"], row["tokens"], row["seed"]) for row in rows} == {
        ("train", "given:mine:gemini", None, None, None)
    }
    found = {row["text"]: row for row in rows}
    # The policy said it twice: two samples, or the share of right answers would be another one.
    assert [row["outcome"] for row in rows if row["text"] == RIGHT] == [True, True]
    assert len({row["rollout_id"] for row in rows}) == 5
    again = imports.run(config, workspace)
    assert (again.out, again.skipped, workspace.read(ROLLOUTS).num_rows) == (5, 5, 5)
    assert [found[text]["outcome"] for text in (RIGHT, WRONG, "Nothing said.")] == [True, False, False]
    assert sorted(row["sample_index"] for row in rows if row["domain"] == "named") == [0, 0, 1, 2, 3]
    assert found[RIGHT]["steps"] == ["I add.\n\n", "That is 2.\n\nFinal answer: 2"]
    left = rejected(workspace)
    assert len(left) == sum(ledger.rejected.values())
    assert (left["zzz#3/1"], left["?#9/0"]) == ("unknown-problem", "malformed-line")
    status = CliRunner().invoke(app, ["status", "-w", str(workspace.root), "--json"]).output
    (book,) = [row for row in json.loads(status) if row["stage"] == "import"]
    assert (book["partition"], book["taken"], book["out"], book["complete"]) == ("mine", 17, 5, True)


def lmms(doc_id, target, **responses):
    """A line of `<date>_samples_<task>.jsonl`, as lmms-eval's tracker writes it."""
    head = {"doc_id": doc_id, "target": target, "doc_hash": "x", "prompt_hash": "y", "target_hash": "z"}
    return head | responses | {"input": "1 + 1?", "exact_match": 1.0}


def test_sample_logs_of_lmms_eval(tmp_path):
    file = lines(
        tmp_path / "20250706_231251_samples_sums.jsonl",
        # `resps` is left out where it equals `filtered_resps`.
        lmms(0, "2", filtered_resps=[RIGHT]),
        lmms(1, "B", resps=[["It barks.\n\nThe answer is B.", "It mews.\n\nThe answer is A."]], filtered_resps=["B"]),
        # Rows that were counted in another way: the gold answers do not fit.
        lmms(2, "yes", filtered_resps=["The answer is yes."]),
        lmms(3, "yes", resps=[[[-0.5, True]]], filtered_resps=[[-0.5, True]]),
        lmms(9, "yes", filtered_resps=["The answer is yes."]),
    )  # fmt: skip
    source = {"kind": "files", "name": "sums", "path": "p.jsonl", "columns": {"choices": "choices"}}
    lines(tmp_path / "p.jsonl", *PROBLEM_ROWS)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"ingest": {"sources": [source]}}))
    workspace, recipe = Store.open(tmp_path / "w"), pipeline.load(tmp_path / "r.yaml")
    pipeline.run(recipe, workspace, Silent())
    ledger = imports.run(ImportConfig(file=file), workspace, recipe.section("ingest"))
    assert (ledger.taken, ledger.out) == (7, 3)
    assert ledger.rejected == {"other-answer": 1, "no-response": 2, "unknown-problem": 1}
    rows = workspace.read(ROLLOUTS).to_pylist()
    assert {row["policy"] for row in rows} == {"given:20250706_231251_samples_sums"}
    assert sorted((row["answer"], row["outcome"]) for row in rows) == [("2", True), ("A", False), ("B", True)]


def test_a_log_that_counts_rows_is_refused_where_rows_have_names(tmp_path, workspace):
    file = lines(tmp_path / "x_samples_y.jsonl", lmms(0, "2", filtered_resps=[RIGHT]))
    ingest = pipeline.load(tmp_path / "named.yaml").section("ingest")
    with pytest.raises(UserError, match=r"numbers its rows \(doc_id\).* give --id"):
        imports.run(ImportConfig(file=file), workspace, ingest)


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_results_of_vlmevalkit(tmp_path, workspace, suffix):
    path = tmp_path / f"Qwen2-VL_Sums.{suffix}"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="," if suffix == "csv" else "\t")
        writer.writerow(["index", "question", "A", "B", "answer", "prediction"])
        writer.writerow(["a", "1 + 1?", "", "", "2", RIGHT])
        writer.writerow(["b", "Which?", "cat", "dog", "B", "It barks, so\n\nthe answer is B."])
        writer.writerow(["d", "Is it?", "", "", "yes", "Failed to obtain answer via API."])
        writer.writerow(["c", "Half of 1?", "", "", "0.5", "Final answer: 1/2"])
    ledger = imports.run(ImportConfig(file=path, policy="Qwen2-VL"), workspace)
    assert (ledger.taken, ledger.out, ledger.rejected) == (4, 3, {"failed-response": 1})
    assert {row["outcome"] for row in workspace.read(ROLLOUTS).to_pylist()} == {True}


def test_grades_and_steps_are_those_of_our_own_rollouts(tmp_path, workspace):
    texts = [
        RIGHT,
        WRONG,
        "So \\boxed{2}",
        "no answer",
        "The answer is B.",
        "Final answer: 0.5",
        "Answer: yes",
        "A or B",
    ]
    file = lines(tmp_path / "all.jsonl", *({"q": row["n"], "t": texts} for row in PROBLEM_ROWS))
    imports.run(ImportConfig(file=file, id="q", response="t", max_steps=2), workspace)
    problems = {row.problem_id: row for row in workspace.rows(ProblemRow)}
    rows = workspace.read(ROLLOUTS).to_pylist()
    assert len(rows) == len(texts) * len(problems)
    for row in rows:
        sample = Sample(row["text"], (), (), "stop", None, 0)
        ours = generation.graded(sample, sample.text, problems[row["problem_id"]])
        assert {key: row[key] for key in asdict(ours)} == asdict(ours)
        assert "".join(row["steps"]) == row["text"]


def many(tmp_path, count=30):
    return lines(tmp_path / "many.jsonl", *({"q": "abcd"[n % 4], "t": f"Final answer: {n}"} for n in range(count)))


def test_a_killed_import_goes_on_and_again_adds_nothing(tmp_path, workspace, monkeypatch):
    monkeypatch.setattr(imports, "CHUNK", 7)
    config = ImportConfig(file=many(tmp_path), id="q", response="t")
    honest, calls = imports._Import.take, 0

    def dies(self, chunk, ledger):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return honest(self, chunk, ledger)

    monkeypatch.setattr(imports._Import, "take", dies)
    with pytest.raises(KeyboardInterrupt):
        imports.run(config, workspace)
    assert workspace.read(ROLLOUTS).num_rows == 14
    ledger = imports.run(config, workspace)
    assert (ledger.taken, ledger.out, ledger.skipped) == (30, 30, 14)
    rows = workspace.read(ROLLOUTS).to_pylist()
    assert len({row["rollout_id"] for row in rows}) == len(rows) == 30
    assert sorted(row["sample_index"] for row in rows) == sorted(n // 4 for n in range(30))
    again = imports.run(config, workspace)
    assert (again.out, again.skipped) == (30, 30)
    assert workspace.read(ROLLOUTS).to_pylist() == rows


def test_another_file_or_cut_is_refused_until_replaced(tmp_path, workspace):
    config = ImportConfig(file=many(tmp_path), id="q", response="t")
    imports.run(config, workspace)
    with pytest.raises(UserError, match=r"max_steps: 12 -> 3.*import-rollouts --replace"):
        imports.run(config.model_copy(update={"max_steps": 3}), workspace)
    many(tmp_path, 8)
    with pytest.raises(UserError, match="content: "):
        imports.run(config, workspace)
    assert imports.run(config, workspace, replace=True).skipped == 0
    assert workspace.read(ROLLOUTS).num_rows == 8
    # The same texts under another name are there already.
    other = imports.run(config.model_copy(update={"name": "other"}), workspace)
    assert (other.out, other.duplicate) == (0, 8)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id": "qq"}, 'no column "qq" (--id); did you mean "q"'),
        ({"response": "tt"}, 'no column "tt" (--response); did you mean "t"'),
        ({"answer": "gold"}, 'no column "gold" (--answer)'),
        ({"id": None}, "give --id and --response, two of its columns: q, t"),
        ({"source": "namd"}, 'no such source; did you mean "named"'),
        ({"name": "named"}, "give the import another --name"),
        ({"name": "main"}, "give the import another --name"),
        ({"name": "a/b"}, "cannot be a name"),
        ({"file": "x.xlsx"}, "save it as .csv"),
        ({"file": "x.txt"}, "is not one of .jsonl"),
        ({"file": "gone.jsonl"}, "There is no file"),
    ],
)
def test_what_the_user_can_mend_is_one_sentence(tmp_path, workspace, changes, said):
    many(tmp_path)
    for name in ("x.xlsx", "x.txt"):
        (tmp_path / name).write_text("x")
    fields = {"file": "many.jsonl", "id": "q", "response": "t"} | changes
    with pytest.raises(UserError) as caught:
        imports.run(ImportConfig(**fields | {"file": tmp_path / fields["file"]}), workspace)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not workspace.files(ROLLOUTS)


def test_a_source_may_not_take_the_name_of_an_import(tmp_path, workspace):
    imports.run(ImportConfig(file=many(tmp_path), id="q", response="t", name="counted"), workspace)
    with pytest.raises(UserError, match='"counted" is the name of imported rollouts'):
        pipeline.run(pipeline.load(tmp_path / "counted.yaml"), workspace, Silent(), ["ingest"], frozenset({"counted"}))
    assert workspace.read(ROLLOUTS).num_rows == 30


def ingested(tmp_path, workspace, name, rows, **columns):
    """A source more, of rows that are counted, or named by `id`."""
    lines(tmp_path / f"{name}.jsonl", *rows)
    source = {"kind": "files", "name": name, "path": f"{name}.jsonl", "columns": columns}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"ingest": {"sources": [source]}}))
    pipeline.run(pipeline.load(tmp_path / "more.yaml"), workspace, Silent(), ["ingest"])


MORE = [{"m": "x", "question": "2 + 2?", "answer": "4"}, {"m": "y", "question": "3 + 3?", "answer": "6"}]


def test_ids_are_looked_for_in_all_sources_where_they_say_which(tmp_path, workspace):
    ingested(tmp_path, workspace, "others", MORE, id="m")
    file = lines(tmp_path / "r.jsonl", {"q": "a", "t": "= 2"}, {"q": "y", "t": "= 6"}, {"q": "z", "t": "= 8"})
    ledger = imports.run(ImportConfig(file=file, id="q", response="t"), workspace)
    assert (ledger.out, ledger.rejected) == (2, {"unknown-problem": 1})
    assert {row["domain"] for row in workspace.read(ROLLOUTS).to_pylist()} == {"named", "others"}
    one = imports.run(ImportConfig(file=file, id="q", response="t", name="one", source="others", policy="p"), workspace)
    assert (one.out, one.rejected) == (1, {"unknown-problem": 2})


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{**row, "m": name} for row, name in zip(MORE, ("a", "y"), strict=True)], 'have a name in common, "a"'),
        ([{**row, "m": str(100 + number)} for number, row in enumerate(MORE)], None),
    ],
)
def test_where_ids_do_not_say_which_source_is_meant_one_is_to_be_named(tmp_path, workspace, rows, said):
    ingested(tmp_path, workspace, "others", rows, id="m")
    file = lines(tmp_path / "r.jsonl", {"q": "a", "t": "= 2", "s": "named"}, {"q": "a", "t": "= 4", "s": "others"})
    config = ImportConfig(file=file, id="q", response="t")
    if said is None:
        ingested(tmp_path, workspace, "counted", [{"question": "5 + 5?", "answer": "10"}])
        said = "are numbers in both"
    with pytest.raises(UserError, match=said) as caught:
        imports.run(config, workspace)
    assert "--source-column" in str(caught.value)
    assert not workspace.files(ROLLOUTS)
    by_row = imports.run(config.model_copy(update={"source_column": "s"}), workspace)
    assert by_row.taken == 2
    assert by_row.out == (2 if "in common" in said else 1)
    with pytest.raises(UserError, match="give only one of them"):
        imports.run(config.model_copy(update={"source_column": "s", "source": "named"}), workspace)


def test_the_command_reads_the_recipe_and_later_stages_take_the_rows(tmp_path, workspace):
    recipe = {"rollout": {"engine": {"kind": "simulated", "model": "s"}, "max_steps": 1}, "shard": {}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    file = lines(tmp_path / "mine.jsonl", {"q": "a", "t": RIGHT}, {"q": "x", "t": "x"})
    words = ["import-rollouts", str(file), "--id", "q", "--response", "t", "-w", str(workspace.root)]
    found = CliRunner().invoke(app, [*words, "--recipe", str(tmp_path / "r.yaml")])
    assert "import: 2 responses in = 1 out + 0 duplicate + 1 rejected unknown-problem" in found.output
    assert [len(row["steps"]) for row in workspace.read(ROLLOUTS).to_pylist()] == [1]
    as_json = CliRunner().invoke(app, [*words, "--recipe", str(tmp_path / "r.yaml"), "--json"]).output
    assert json.loads(as_json)["import"]["skipped"] == 1
    with pytest.raises(UserError, match="--set has no effect without --recipe"):
        CliRunner().invoke(app, [*words, "--set", "a=1"], catch_exceptions=False)
    ledger = pipeline.run(pipeline.load(tmp_path / "r.yaml"), workspace, Silent(), ["shard"])["shard"]
    assert (ledger.taken, ledger.rejected) == (1, {"not-labelled": 1})
    assert workspace.read(EXAMPLES).num_rows == 0


def test_responses_without_an_answer_are_said_aloud(tmp_path, workspace):
    said = list[str]()

    class Listener(Silent):
        def note(self, text):
            said.append(text)

    file = lines(
        tmp_path / "mine.jsonl",
        {"q": "a", "t": RIGHT},
        {"q": "b", "t": "I have looked at both of them for long. There is nothing more that I could say about it now."},
    )
    imports.run(ImportConfig(file=file, id="q", response="t"), workspace, reporter=Listener())
    found = [each for each in said if "no answer" in each]
    assert len(found) == 1
    assert found[0].startswith("1 of 2 responses have no answer that a rule reads; this one ends: ")
    assert "nothing more that I could say about it now." in found[0]


def test_words_of_the_recipe_announce_answers(tmp_path, workspace):
    text = "Meh. " * 40 + "\nVastuse tulem: 2"
    file = lines(tmp_path / "mine.jsonl", {"q": "a", "t": text})
    imports.run(ImportConfig(file=file, id="q", response="t", name="without"), workspace)
    words = {"answer": ["tulem"]}
    imports.run(ImportConfig(file=file, id="q", response="t", name="with", policy="m", answer_words=words), workspace)
    rows = {row["policy"]: row for row in workspace.read(ROLLOUTS).to_pylist()}
    assert rows["given:without"]["outcome_rule"] == "no-answer"
    assert rows["given:with:m"]["outcome"] is True
