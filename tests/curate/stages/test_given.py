"""Sources that bring chains with step labels: into rollouts and step labels, past rollout and label, into examples."""

import io
import json
import zipfile

import datasets
import pytest
import yaml
from PIL import Image as Pillow
from typer.testing import CliRunner

from curate import pipeline
from curate.cli.app import app
from curate.errors import RowError, UserError
from curate.inspect import show
from curate.recipe import shipped
from curate.recipe.chain_sections import AnyChainMap
from curate.recipe.parsing import validate
from curate.recipe.sections import EngineConfig, RolloutConfig
from curate.runtime.reporter import Silent
from curate.sources.fields.rollouts import chains
from curate.stages.rollout import RolloutWork
from curate.tables.rows import ProblemRow
from curate.tables.schema import EXAMPLES, PROBLEMS, REJECTS, ROLLOUTS, STEP_LABELS
from curate.tables.store import Store


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Pillow.new("RGB", (30, 20), (shade, 90, 10)).save(buffer, "PNG")
    return buffer.getvalue()


def taken(record, **columns):
    """What a record's chains are, or the reason why it has none."""
    try:
        found = list(chains(record, validate(AnyChainMap, columns, "chain")))
    except RowError as error:
        return error.reason
    return [(question, [step.strip() for step in one.steps], list(one.values)) for question, one in found]


def scored(*steps):
    """VisualPRM raw: (text, right, graded, score) of each step."""
    return [{"step": s, "score": score, "num_mc_correct": k, "num_mc_total": m} for s, k, m, score in steps]


RAW = {
    "steps": "steps_with_score.step",
    "labels": "steps_with_score.score",
    "right": "steps_with_score.num_mc_correct",
    "graded": "steps_with_score.num_mc_total",
}
SHEPHERD = "Tom has 2 apples. How many? Step 1: He has 2. ки\nStep 2: The answer is: 3 ки"
MARKED = "Tom has 2 apples. How many? Step 1: He has 2. +\nStep 2: The answer is: 3 -"
RATED = [
    {"completions": [{"text": "a", "rating": 1}, {"text": "b", "rating": -1}], "chosen_completion": 0},
    {"completions": [{"text": "c", "rating": 0}], "chosen_completion": None, "human_completion": {"text": "h"}},
    {"completions": [{"text": "d", "rating": 1}, {"text": "e", "rating": None}], "chosen_completion": 0},
    {"completions": [{"text": "f", "rating": -1}], "chosen_completion": None, "human_completion": None},
]


def said(*turns):
    return {"t": [{"from": who, "value": what} for who, what in turns]}


FIRST = {"steps": "s", "labels": "l", "labels_form": "first-error"}
ASKED = "### Question:\n<image>\nHow many?\n\n### Solution Process:\nFirst."


@pytest.mark.parametrize(
    ("record", "columns", "expected"),
    [
        # A step that nobody completed has no label, whatever stands there.
        (
            {"steps_with_score": scored(("a", 8, 16, 0.5), ("b", 0, 16, 0.0), ("c", 0, 0, 0.0))},
            RAW,
            [(None, ["a", "b", "c"], [0.5, 0.0, None])],
        ),
        ({"steps_with_score": scored(("a", 17, 16, 1.0))}, RAW, "unusable-label"),
        ({"steps_with_score": []}, RAW, "no-steps"),
        ({"steps_with_score": None}, RAW, "no-steps"),
        ({"s": ["a", " "]}, {"steps": "s"}, "no-steps"),
        ({"s": ["a", None]}, {"steps": "s"}, "no-steps"),
        ({"s": "a"}, {"steps": "s"}, "no-steps"),
        ({"s": ["a", "b"], "l": [True, False]}, {"steps": "s", "labels": "l"}, [(None, ["a", "b"], [1.0, 0.0])]),
        ({"s": ["a", "b"], "l": [True]}, {"steps": "s", "labels": "l"}, "unusable-label"),
        ({"s": ["a"], "l": [1.5]}, {"steps": "s", "labels": "l"}, "unusable-label"),
        ({"s": ["a"], "l": ["+"]}, {"steps": "s", "labels": "l"}, "unusable-label"),
        ({"s": ["a"], "l": [float("nan")]}, {"steps": "s", "labels": "l"}, [(None, ["a"], [None])]),
        (
            {"s": ["a", "b", "c"], "l": [1, 0, -1]},
            {"steps": "s", "labels": "l", "labels_form": "sign"},
            [(None, ["a", "b", "c"], [1.0, None, 0.0])],
        ),
        ({"s": ["a"], "l": [2]}, {"steps": "s", "labels": "l", "labels_form": "sign"}, "unusable-label"),
        (
            {"s": ["a", "b", "c"], "l": 1},
            {"steps": "s", "labels": "l", "labels_form": "first-error"},
            [(None, ["a", "b", "c"], [1.0, 0.0, None])],
        ),
        (
            {"s": ["a", "b"], "l": -1},
            {"steps": "s", "labels": "l", "labels_form": "first-error"},
            [(None, ["a", "b"], [1.0, 1.0])],
        ),
        ({"s": ["a"], "l": 1}, {"steps": "s", "labels": "l", "labels_form": "first-error"}, "unusable-label"),
        *(
            ({"s": ["a", "b", "c"], "l": label}, FIRST | more, [(None, ["a", "b", "c"], values)])
            for more, label, values in (
                ({}, None, [1.0, 1.0, 1.0]),
                ({}, float("nan"), [1.0, 1.0, 1.0]),
                ({}, 1.0, [1.0, 0.0, None]),
                ({}, "2", [1.0, 1.0, 0.0]),
                ({}, [2, 1], [1.0, 0.0, None]),
                ({}, "[]", [1.0, 1.0, 1.0]),
                ({"labels_from": 1}, 1, [0.0, None, None]),
                ({"labels_from": 1}, 3, [1.0, 1.0, 0.0]),
                ({"labels_from": 1}, 0, [1.0, 1.0, 1.0]),
                ({"labels_from": 1}, -1, [1.0, 1.0, 1.0]),
                ({"labels_from": 1}, None, [1.0, 1.0, 1.0]),
                ({"labels_form": "wrong-steps"}, [0, 2], [0.0, 1.0, 0.0]),
                ({"labels_form": "wrong-steps", "labels_from": 1}, [3], [1.0, 1.0, 0.0]),
                ({"labels_form": "wrong-steps"}, None, [1.0, 1.0, 1.0]),
            )
        ),
        *(
            ({"s": ["a", "b"], "l": label}, FIRST | more, "unusable-label")
            for more, label in (
                ({}, 2), ({}, True), ({}, "b"), ({}, 0.5), ({}, [0, 2]), ({}, -2), ({"labels_from": 1}, 3),
            )
        ),
        # As a cell of CSV has them.
        ({"s": "['a', 'b']", "l": "[1, 0]"}, {"steps": "s", "labels": "l"}, [(None, ["a", "b"], [1.0, 0.0])]),
        (
            {"i": SHEPHERD, "l": MARKED},
            {"form": "tagged", "steps": "i", "labels": "l"},
            [("Tom has 2 apples. How many?", ["Step 1: He has 2.", "Step 2: The answer is: 3"], [1.0, 0.0])],
        ),
        # A dozen rows have a tag inside the question: its mark labels nothing.
        (
            {"i": "How ки many? Step 1: x ки", "l": "How - many? Step 1: x +"},
            {"form": "tagged", "steps": "i", "labels": "l"},
            [("How ки many?", ["Step 1: x"], [1.0])],
        ),
        ({"i": SHEPHERD, "l": SHEPHERD}, {"form": "tagged", "steps": "i", "labels": "l"}, "unknown-form"),
        ({"i": "Q? ки", "l": "Q? +"}, {"form": "tagged", "steps": "i", "labels": "l"}, "unknown-form"),
        ({"i": SHEPHERD + " more", "l": MARKED}, {"form": "tagged", "steps": "i", "labels": "l"}, "unknown-form"),
        ({"i": None, "l": None}, {"form": "tagged", "steps": "i", "labels": "l"}, "unknown-form"),
        (
            said(("system", "You are"), ("human", ASKED), ("gpt", "+"), ("human", "Second."), ("gpt", "-")),
            {"form": "conversation", "steps": "t"},
            [("<image>\nHow many?", ["First.", "Second."], [1.0, 0.0])],
        ),
        (said(("human", ASKED), ("gpt", "yes")), {"form": "conversation", "steps": "t"}, "unknown-form"),
        (said(("human", "Q"), ("gpt", "+")), {"form": "conversation", "steps": "t"}, "unknown-form"),
        (said(("human", ASKED)), {"form": "conversation", "steps": "t"}, "unknown-form"),
        ({"t": []}, {"form": "conversation", "steps": "t"}, "unknown-form"),
        # The chosen steps, one of them written by hand; then each rated alternative, whose beginning is known already.
        (
            {"label": {"steps": RATED}},
            {"form": "rated", "steps": "label.steps"},
            [
                (None, ["a", "h", "d"], [1.0, None, 1.0]),
                (None, ["b"], [0.0]),
                (None, ["a", "c"], [None, None]),
                (None, ["a", "h", "d", "f"], [None, None, None, 0.0]),
            ],
        ),
        # Found by fuzzing.
        ({"label": {"steps": [{"completions": [{"text": "a"}], "chosen_completion": [0]}]}},
         {"form": "rated", "steps": "label.steps"}, "unknown-form"),
        ({"label": {"steps": [{"completions": ["a"], "chosen_completion": 0}]}},
         {"form": "rated", "steps": "label.steps"}, "unknown-form"),
        (said((["human"], ASKED), ("gpt", "+")), {"form": "conversation", "steps": "t"}, "unknown-form"),
        ({"s": ["a"], "k": ["3"], "m": [4]}, {"steps": "s", "right": "k", "graded": "m"}, "unusable-label"),
        ({"label": {"steps": [{"completions": [], "chosen_completion": None}]}},
         {"form": "rated", "steps": "label.steps"}, "no-steps"),
        ({"label": {"steps": [{"completions": [{"text": "a", "rating": 1}], "chosen_completion": 3}]}},
         {"form": "rated", "steps": "label.steps"}, "unknown-form"),
    ],
)  # fmt: skip
def test_forms_of_chains_and_their_odd_rows(record, columns, expected):
    assert taken(record, **columns) == expected


def test_settings_of_chains_that_have_no_effect_are_errors():
    for columns in (
        {"steps": "s", "right": "k"},
        {"steps": "s", "labels_form": "sign"},
        {"form": "tagged", "steps": "s"},
        {"form": "rated", "steps": "s", "labels": "l"},
    ):
        with pytest.raises(UserError, match=r'effect|together|"chain.labels" in the recipe: Field required'):
            validate(AnyChainMap, columns, "chain")


PARQUET = {
    "prm800k": (
        [
            {"prompt": "1+1?", "completions": ["One.", "So 2."], "labels": [True, True]},
            {"prompt": "1+1?", "completions": ["One.", "So 3."], "labels": [True, False]},
            {"prompt": "1+1?", "completions": ["One.", "So 3."], "labels": [True, False]},
            {"prompt": "2+2?", "completions": [], "labels": []},
        ],
        "train",
        {("1+1?", None, None, (1.0, 1.0)), ("1+1?", None, None, (1.0, 0.0))},
        {"duplicate": 1, "no-steps": 1},
        2,
    ),
    "math-shepherd": (
        [
            {"input": SHEPHERD, "label": MARKED, "task": "GSM8K"},
            {"input": "Q", "label": "Q", "task": "MATH"},
        ],
        "train",
        {("Tom has 2 apples. How many?", None, "3", (1.0, 0.0))},
        {"unknown-form": 1},
        1,
    ),
}


def publish(folder, rows, split):
    folder.mkdir(parents=True)
    datasets.Dataset.from_list(rows).to_parquet(folder / "data" / f"{split}-0.parquet")
    one = {"config_name": "default", "data_files": [{"split": split, "path": "data/*.parquet"}]}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': [one]})}---\n")


def found(workspace):
    """(question, outcome, answer, labels) of every chain."""
    problems = {row["problem_id"]: row for row in workspace.read(PROBLEMS).to_pylist()}
    labels = {(row["rollout_id"], row["step_index"]): row for row in workspace.read(STEP_LABELS).to_pylist()}
    return {
        (
            problems[row["problem_id"]]["question"],
            row["outcome"],
            row["answer"],
            tuple(labels[row["rollout_id"], step]["value"] for step in range(len(row["steps"]))),
        )
        for row in workspace.read(ROLLOUTS).to_pylist()
    }


@pytest.mark.parametrize("name", sorted(PARQUET))
def test_text_sets_go_in_through_datasets(tmp_path, name):
    rows, split, expected, left, unique = PARQUET[name]
    recipe = pipeline.load(shipped.folder() / f"{name}.yaml", (), tmp_path)
    publish(tmp_path / recipe.section("ingest").sources[0].dataset, rows, split)
    workspace = Store.open(tmp_path / "w")
    ledger = pipeline.run(recipe, workspace, Silent())["ingest"]
    assert found(workspace) == expected
    assert (ledger.taken, ledger.out) == (len(rows), unique)
    reasons = [row["reason"] for row in workspace.read(REJECTS).to_pylist()]
    assert {reason: reasons.count(reason) for reason in reasons} == left
    problems = workspace.read(PROBLEMS).to_pylist()
    assert {(row["answer"], row["answer_type"], row["role"]) for row in problems} == {(None, None, "train")}
    rollout = workspace.read(ROLLOUTS).to_pylist()[0]
    assert rollout["text"] == "".join(rollout["steps"])
    assert (rollout["finish"], rollout["tokens"], rollout["seed"]) == (None, None, None)
    assert rollout["policy"] == f"given:{name}"
    assert {label["mode"] for label in workspace.read(STEP_LABELS).to_pylist()} == {"given"}
    assert {(label["k"], label["m"]) for label in workspace.read(STEP_LABELS).to_pylist()} == {(None, None)}
    assert pipeline.run(recipe, workspace, Silent())["ingest"].skipped == unique


def test_processbench_goes_in_from_its_four_json_files(tmp_path):
    recipe = pipeline.load(shipped.folder() / "processbench.yaml", (), tmp_path)
    folder = tmp_path / "Qwen" / "ProcessBench"
    folder.mkdir(parents=True)
    names = ("gsm8k", "math", "olympiadbench", "omnimath")
    for place, name in enumerate(names):
        rows = [
            {"id": f"{name}-0", "generator": "m", "problem": f"{name}: 1+1?", "steps": ["One.", "\\boxed{3}", "Done."],
             "final_answer_correct": False, "label": 1},
            {"id": f"{name}-1", "generator": "n", "problem": f"{name}: 1+1?", "steps": ["\\boxed{2}"],
             "final_answer_correct": True, "label": -1 if place else 5},
        ]  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(rows))
    files = [{"split": name, "path": f"{name}.json"} for name in names]
    (folder / "README.md").write_text(
        f"---\n{yaml.safe_dump({'configs': [{'config_name': 'default', 'data_files': files}]})}---\n"
    )
    workspace = Store.open(tmp_path / "w")
    ledger = pipeline.run(recipe, workspace, Silent())["ingest"]
    assert (ledger.taken, ledger.out, ledger.rejected) == (8, 7, {"unusable-label": 1})
    wrong = {(f"{name}: 1+1?", False, "3", (1.0, 0.0, None)) for name in names}
    assert found(workspace) == wrong | {(f"{name}: 1+1?", True, "2", (1.0,)) for name in names[1:]}
    rollouts = workspace.read(ROLLOUTS).to_pylist()
    assert {row["role"] for row in rollouts} == {"test"}
    assert {row["policy"] for row in rollouts if row["outcome"]} == {f"given:processbench-{n}:n" for n in names[1:]}


def test_visualprocessbench_goes_in_from_its_file_and_images(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(png(1))
    base = {"image": ["images/1.png"], "question": "How many?", "answer": "7", "policy_model": "GPT-4o"}
    rows = [
        base | {"response": {"steps": ["I see.", "Well.", "Final answer: 7"], "process_correctness": [1, 0, 1]},
                "data_source": "MathVision"},
        base | {"response": {"steps": ["I guess.", "Final answer: 8"], "process_correctness": [-1, -1]},
                "data_source": "MathVision"},
        base | {"response": {"steps": ["Bad."], "process_correctness": [1, 1]}, "data_source": "MMMU"},
    ]  # fmt: skip
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    workspace = Store.open(tmp_path / "w")
    ledger = pipeline.run(
        pipeline.load(shipped.folder() / "visualprocessbench.yaml", (), tmp_path), workspace, Silent()
    )
    assert ledger["ingest"].rejected == {"unusable-label": 1}
    assert found(workspace) == {
        ("How many?", True, "7", (1.0, None, 1.0)),
        ("How many?", False, "8", (0.0, 0.0)),
    }
    problems = workspace.read(PROBLEMS).to_pylist()
    assert [(row["domain"], row["answer"], row["role"]) for row in problems] == [("MathVision", "7", "test")]
    assert len(problems[0]["image_hashes"]) == 1


def conversation_row(domain, number):
    said = ASKED.replace("How many?", f"How many in {domain}?\nAnswer with the option's letter.")
    turns = [("human", said), ("gpt", "+"), ("human", "Final answer: 7"), ("gpt", "-")]
    return {"id": number, "image": "x/1.png", "conversations": [{"from": w, "value": v} for w, v in turns]}


def raw_row(domain, kind):
    answer = {"yes-no": "Yes", "anls": "cat", "set": "a, b"}.get(kind, "7")
    steps = scored(("I see.", 12, 16, 0.75), (f"Final answer: {answer}", 0, 16, 0.0), ("Done.", 0, 0, 0.0))
    question = f"<image>\nHow many in {domain}?\nAnswer the question using a single word or phrase."
    return {"image": "x/1.png", "question": question, "answer": answer, "response": "", "steps_with_score": steps}


@pytest.mark.parametrize("name", ["visualprm400k", "visualprm400k-raw"])
def test_visualprm_covers_fifteen_domains_with_one_format(tmp_path, name):
    recipe = pipeline.load(shipped.folder() / f"{name}.yaml", (), tmp_path)
    raw = name.endswith("raw")
    if raw:
        with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
            archive.writestr("x/1.png", png(1))
    else:
        (tmp_path / "images" / "x").mkdir(parents=True)
        (tmp_path / "images" / "x" / "1.png").write_bytes(png(1))
    (tmp_path / "annotations").mkdir()
    sources = recipe.section("ingest").sources
    for source in sources:
        row = raw_row(source.domain, source.answer_type) if raw else conversation_row(source.domain, 5)
        # Shards have columns that others lack; here the second row is text only.
        lines = [row, {key: value for key, value in (row | {"tikz": "x"}).items() if key != "image"}]
        (tmp_path / source.path).write_text("".join(json.dumps(line) + "\n" for line in lines))
    workspace = Store.open(tmp_path / "w")
    ledger = pipeline.run(recipe, workspace, Silent())["ingest"]
    assert (ledger.taken, ledger.out) == (30, 30)
    rollouts = workspace.read(ROLLOUTS).to_pylist()
    assert len({row["domain"] for row in rollouts}) == 15
    labels = {(row["domain"], row["step_index"]): row for row in workspace.read(STEP_LABELS).to_pylist()}
    if raw:
        assert {row["outcome"] for row in rollouts} == {True}
        assert [labels["ai2d", step]["value"] for step in range(3)] == [0.75, 0.0, None]
        assert [(labels["ai2d", step]["k"], labels["ai2d", step]["m"]) for step in range(3)] == [
            (12, 16), (0, 16), (None, None),
        ]  # fmt: skip
        assert labels["ai2d", 0]["standard_error"] == pytest.approx(0.1, abs=0.02)
    else:
        assert {row["outcome_rule"] for row in rollouts} == {"no-gold"}
        assert [labels["ai2d", step]["value"] for step in range(2)] == [1.0, 0.0]
    questions = {row["question"] for row in workspace.read(PROBLEMS).to_pylist()}
    assert "How many in ai2d?" in questions


def recipe_of(tmp_path, *, chains_too=True, **sections):
    """A source that brings chains, and an ordinary one of the same domain and another."""
    lines = [
        {"q": f"How much is {n} + 1?", "a": str(n + 1), "s": ["Add.", f"Final answer: {n + 1 + wrong}"],
         "l": [1, 1 - wrong]}
        for n in range(6)
        for wrong in (0, 1)
    ]  # fmt: skip
    (tmp_path / "given.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = {
        "kind": "files", "name": "given", "domain": "sums", "path": "given.jsonl",
        "columns": {"question": "q", "answer": "a"}, "chain": {"steps": "s", "labels": "l"},
    }  # fmt: skip
    plain = {"kind": "synthetic", "name": "dials", "task": "dial_read", "rows": 4}
    tree = {"ingest": {"sources": [*([given] if chains_too else []), plain]}, **sections}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return pipeline.load(path)


SECTIONS = {
    "rollout": {
        "engine": {"kind": "simulated", "model": "simulated"},
        "samples": 2,
        "prompt": "free",
    },
    "label": {"mode": "exact", "completions": 2},
    "shard": {},
}


def test_chains_pass_by_rollout_and_label_into_examples(tmp_path):
    recipe, workspace = recipe_of(tmp_path, **SECTIONS), Store.open(tmp_path / "w")
    ledgers = pipeline.run(recipe, workspace, Silent())
    assert (ledgers["ingest"].out, ledgers["rollout"].out) == (16, 8)
    assert ledgers["shard"].taken == 8 + 12
    examples = workspace.read(EXAMPLES).to_pylist()
    sums = [row for row in examples if row["domain"] == "sums"]
    assert len(sums) == 12
    assert {(row["outcome"], tuple(row["values"])) for row in sums} == {(True, (1.0, 1.0)), (False, (1.0, 0.0))}
    assert {label["mode"] for label in workspace.read(STEP_LABELS).to_pylist()} == {"given", "exact"}
    again = pipeline.run(recipe, workspace, Silent())
    assert [again[name].skipped for name in ("ingest", "rollout")] == [16, 8]
    shown = show.find(workspace, sums[0]["rollout_id"])
    assert [label.value for label in shown.rollouts[0].labels] == sums[0]["values"]


def test_only_chains_is_one_sentence_for_rollout(tmp_path):
    recipe, workspace = recipe_of(tmp_path, **SECTIONS), Store.open(tmp_path / "w")
    sources = recipe.section("ingest").sources
    only = recipe.section("ingest").model_copy(update={"sources": sources[:1]})
    recipe.sections["ingest"] = only
    with pytest.raises(UserError, match="came with chains of thought"):
        pipeline.run(recipe, workspace, Silent())


def test_a_chain_of_a_problem_that_is_there_joins_it(tmp_path):
    recipe, workspace = recipe_of(tmp_path), Store.open(tmp_path / "w")
    (tmp_path / "plain.jsonl").write_text(json.dumps({"question": "How much is 0 + 1?", "answer": "1"}) + "\n")
    plain = {"kind": "files", "name": "plain", "domain": "sums", "path": "plain.jsonl"}
    (tmp_path / "first.yaml").write_text(yaml.safe_dump({"ingest": {"sources": [plain]}}))
    pipeline.run(pipeline.load(tmp_path / "first.yaml"), workspace, Silent())
    assert pipeline.run(recipe, workspace, Silent())["ingest"].out == 16
    problems = workspace.read(PROBLEMS).to_pylist()
    assert len(problems) == len({row["problem_id"] for row in problems}) == 1 + 5 + 4
    # Its source is the ordinary one, so it is rolled out, too.
    config = RolloutConfig(engine=EngineConfig(kind="simulated", model="world"))
    to_roll_out = {row.question for row in RolloutWork(config, workspace).rows(ProblemRow) if row.domain == "sums"}
    assert to_roll_out == {"How much is 0 + 1?"}


def test_replaced_sources_take_their_chains_along_and_resume_adds_nothing_twice(tmp_path, monkeypatch):
    from curate.stages.ingest import ingest

    monkeypatch.setattr(ingest, "CHUNK", 5)
    recipe, workspace = recipe_of(tmp_path), Store.open(tmp_path / "w")
    calls = 0
    honest = ingest._Sink.take

    def dies(self, chunk, ledger):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        honest(self, chunk, ledger)

    monkeypatch.setattr(ingest._Sink, "take", dies)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(recipe, workspace, Silent())
    assert workspace.read(ROLLOUTS).num_rows == 10
    pipeline.run(recipe, workspace, Silent())
    rows = workspace.read(ROLLOUTS).to_pylist()
    assert len(rows) == len({row["rollout_id"] for row in rows}) == 12
    assert workspace.read(STEP_LABELS).num_rows == 24
    assert sorted(row["sample_index"] for row in rows) == [0] * 6 + [1] * 6
    before = {row["rollout_id"] for row in rows}
    pipeline.run(recipe, workspace, Silent(), replace=frozenset({"given"}))
    assert {row["rollout_id"] for row in workspace.read(ROLLOUTS).to_pylist()} == before
    assert workspace.read(STEP_LABELS).num_rows == 24


def test_a_dry_run_shows_the_chain(tmp_path):
    recipe_of(tmp_path)
    shown = CliRunner().invoke(app, ["ingest", str(tmp_path / "recipe.yaml"), "--dry-run"]).output
    assert "chain of an unnamed model" in shown
    assert "  1  Final answer: 1" in shown


def test_a_source_may_not_have_the_name_of_a_stage(tmp_path):
    with pytest.raises(UserError, match="which the workspace uses itself"):
        (tmp_path / "r.yaml").write_text(
            yaml.safe_dump(
                {"ingest": {"sources": [{"kind": "synthetic", "name": "main", "task": "dial_read", "rows": 1}]}}
            )
        )
        pipeline.load(tmp_path / "r.yaml")
