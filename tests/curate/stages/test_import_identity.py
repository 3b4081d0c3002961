"""Which sample is which: indices over imports, generated and given rollouts; policies; imports that go away again."""

import contextlib
import itertools
import json
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from import_testbed import PROBLEM_ROWS, imported, ingested, lines, rollouts
from typer.testing import CliRunner

from curate import pipeline
from curate.cli.app import app
from curate.errors import UserError
from curate.runtime.reporter import Silent
from curate.stages.ingest import imports, removal
from curate.stages.ingest.imports import ImportConfig
from curate.tables import lineage
from curate.tables.sample_indices import lowest_free
from curate.tables.schema import COMPLETIONS, EXAMPLES, JUDGEMENTS, REJECTS, ROLLOUTS, STEP_LABELS, STEP_SCORES, TABLES
from curate.tables.store import Partition, Store
from prm.scoring import select
from prm.sections import SelectConfig
from tests.beds.rows import commit

TEXTS = [
    "I add them.\n\nThe answer is 9.",
    "I guess.\n\nThe answer is 8.",
    "Four, five.\n\nSo nine.\n\nThe answer is 9.",
]


@given(st.sets(st.integers(0, 12)), st.integers(-2, 6))
def test_the_lowest_free_indices(taken, wanted):
    found = lowest_free(taken, wanted)
    assert len(found) == max(wanted, 0)
    assert found == [index for index in range(100) if index not in taken][: len(found)]


def test_two_imports_of_a_problem_go_through_shard_and_select_with_their_own_outcomes(tmp_path):
    workspace = ingested(tmp_path, role="test")
    for name, text in zip("abc", TEXTS, strict=True):
        imported(workspace, lines(tmp_path / f"{name}.jsonl", {"q": "u", "t": text}), policy=f"model-{name}")
    found = rollouts(workspace)
    assert [found["u", index]["outcome"] for index in range(3)] == [True, False, True]
    (tmp_path / "s.yaml").write_text("shard: {}\n")
    ledger = pipeline.run(pipeline.load(tmp_path / "s.yaml"), workspace, Silent())["shard"]
    assert (ledger.taken, ledger.out) == (3, 3)
    assert sorted(workspace.read(EXAMPLES)["sample_index"].to_pylist()) == [0, 1, 2]
    scores = [
        {"run": "r", "rollout_id": row["rollout_id"], "problem_id": row["problem_id"], "step_index": step, "score": 0.5}
        for row in found.values()
        for step in range(len(row["steps"]))
    ]
    commit(workspace.partition(STEP_SCORES, "r"), scores)
    selection = select.run(workspace, SelectConfig(sizes=(2,)))
    by_id = {row["rollout_id"]: row for row in found.values()}
    assert len(selection.picks) == 3
    for pick in selection.picks:
        row = by_id[pick.rollout_id]
        assert (pick.sample_index, pick.outcome, pick.answer) == (row["sample_index"], row["outcome"], row["answer"])


def test_the_text_of_two_models_is_two_rollouts_and_of_one_model_one(tmp_path):
    workspace = ingested(tmp_path)
    file = lines(tmp_path / "r.jsonl", {"q": "u", "t": TEXTS[0], "m": "a"}, {"q": "u", "t": TEXTS[0], "m": "b"})
    assert imported(workspace, file, policy_column="m")[0].out == 2
    assert imported(workspace, file, name="again", policy="c")[0].out == 2
    ledger, _ = imported(workspace, file, name="once-more", policy="c")
    assert (ledger.out, ledger.duplicate) == (0, 2)
    unnamed = [imported(workspace, file, name=name)[0] for name in ("no-policy", "nor-here")]
    assert [(ledger.out, ledger.duplicate) for ledger in unnamed] == [(2, 0), (0, 2)]
    details = [row["detail"] for row in workspace.partition(REJECTS, "nor-here").read().to_pylist()]
    assert all("give --policy where another model wrote it" in detail for detail in details)
    assert sorted(index for _, index in rollouts(workspace)) == list(range(6))
    thoughts = lines(tmp_path / "t.jsonl", {"q": "u", "t": TEXTS[0], "r": "x"}, {"q": "u", "t": TEXTS[0], "r": "y"})
    assert imported(workspace, thoughts, reasoning="r", policy="a")[0].out == 2


STEPS = {"u": ["I know.", "9."], "v": ["Birds do.", "A."]}


def world(tmp_path, samples=4, **label):
    """A recipe with a source of questions, and rollouts of them by a simulated model."""
    source = {"kind": "synthetic", "name": "dials", "task": "dial_read", "rows": 6, "seed": 4}
    tree = {
        "seed": 2,
        "ingest": {"sources": [source]},
        "rollout": {"engine": {"kind": "simulated", "model": "world"}, "samples": samples},
        "label": {"mode": "exact", "completions": 2} | label,
        "shard": {},
    }
    path = tmp_path / f"world-{samples}.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def responses(path, rows, texts):
    return lines(path, *({"q": row, "t": text} for row in rows for text in texts))


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """Row of the dials -> texts of the simulated model, which can go on from any step of them; no two alike first."""
    folder = tmp_path_factory.mktemp("bank")
    workspace, tree = Store.open(folder / "w"), yaml.safe_load(world(folder, 24).read_text())
    recipe = folder / "bank.yaml"
    recipe.write_text(yaml.safe_dump(tree | {"seed": 77}))
    pipeline.run(pipeline.load(recipe), workspace, Silent(), ["ingest", "rollout"])
    texts = {}
    for (row, _), found in sorted(rollouts(workspace).items()):
        if len(found["steps"]) > 1 and found["finish"] == "stop":
            texts.setdefault(row, []).append(found["text"])
    return {row: [*dict.fromkeys(found), *found][:5] for row, found in texts.items()}


def some(bank, path, rows, start, stop):
    return lines(path, *({"q": row, "t": text} for row in rows for text in bank[row][start:stop]))


def test_generated_imported_and_given_rollouts_share_one_row_of_indices(tmp_path):
    workspace, recipe = Store.open(tmp_path / "w"), pipeline.load(world(tmp_path))
    pipeline.run(recipe, workspace, Silent(), ["ingest"])
    alone = Store.open(tmp_path / "alone")
    pipeline.run(recipe, alone, Silent(), ["ingest", "rollout"])
    names = sorted({row["source_row"] for row in workspace.read(TABLES["problems"]).to_pylist()})
    imported(workspace, responses(tmp_path / "a.jsonl", names[:4], TEXTS), policy="a")
    notes = imported(workspace, responses(tmp_path / "b.jsonl", names[:1], TEXTS), policy="b")[1]
    assert notes == []
    ledger = pipeline.run(recipe, workspace, Silent(), ["rollout"])["rollout"]
    # Of four samples a problem, one has all, three lack one, and two have none.
    assert (ledger.taken, ledger.out, ledger.skipped) == (3 + 8, 11, 0)
    found = rollouts(workspace)
    counts = {name: sorted(index for row, index in found if row == name) for name in names}
    assert [counts[name] for name in names] == [list(range(6)), *[list(range(4))] * 5]
    # What is generated at an index is what would be generated there without imports.
    ours = {row["rollout_id"]: row for row in alone.read(ROLLOUTS).to_pylist()}
    made = workspace.partition(ROLLOUTS).read().to_pylist()
    assert len(made) == 11
    assert all(row == ours[row["rollout_id"]] for row in made)
    again = pipeline.run(recipe, workspace, Silent(), ["rollout"])["rollout"]
    assert (again.taken, again.skipped) == (11, 11)
    more = pipeline.run(pipeline.load(world(tmp_path, samples=7)), workspace, Silent(), ["rollout"])["rollout"]
    assert more.out == 11 + 1 + 5 * 3
    imported(workspace, responses(tmp_path / "c.jsonl", names[1:2], TEXTS), policy="c")
    assert sorted(index for row, index in rollouts(workspace) if row == names[1]) == list(range(10))
    removal.remove(workspace, "a")
    filled = pipeline.run(pipeline.load(world(tmp_path, samples=7)), workspace, Silent(), ["rollout"])["rollout"]
    assert filled.failed == {}
    found = rollouts(workspace)
    assert all(len([index for row, index in found if row == name]) >= 7 for name in names)
    made = workspace.partition(ROLLOUTS).read().to_pylist()
    assert len({row["seed"] for row in made}) == len(made), "two samples were drawn alike"


def test_chains_of_two_sources_and_an_import_share_one_row_of_indices(tmp_path):
    chains = [{"question": row["question"], "answer": row["answer"], "steps": [*STEPS["u"], str(n)]}
              for row in PROBLEM_ROWS for n in range(2)]  # fmt: skip
    workspace = None
    for name, part in (("one", chains[::2]), ("two", chains)):
        lines(tmp_path / f"{name}.jsonl", *part)
        source = {"kind": "files", "name": name, "path": f"{name}.jsonl", "chain": {"steps": "steps"}, "domain": "d"}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"ingest": {"sources": [source]}}))
        workspace = workspace or Store.open(tmp_path / "w")
        pipeline.run(pipeline.load(tmp_path / f"{name}.yaml"), workspace, Silent())
    file = lines(tmp_path / "r.jsonl", {"q": "1", "t": TEXTS[0]}, {"q": "1", "t": TEXTS[1]})
    imported(workspace, file, source="one")
    places = [(row["problem_id"], row["sample_index"]) for row in workspace.read(ROLLOUTS).to_pylist()]
    assert len(places) == len(set(places)) == 6 + 2
    assert {index for _, index in places} == {0, 1, 2, 3}


@pytest.mark.parametrize(("chunk", "kill"), [(3, 1), (3, 4), (20, 2), (1, 7)])
def test_an_import_that_was_killed_anywhere_gives_the_same_indices(tmp_path, monkeypatch, chunk, kill):
    file = lines(tmp_path / "r.jsonl", *({"q": "uvw"[n % 3], "t": f"The answer is {n // 2}."} for n in range(12)))
    calm = ingested(tmp_path)
    imported(calm, lines(tmp_path / "o.jsonl", {"q": "u", "t": "8?"}, {"q": "w", "t": "11!"}))
    killed = copied(calm, tmp_path / "killed")
    imported(calm, file)
    monkeypatch.setattr(imports, "CHUNK", chunk)
    honest, commits = imports.Writer.commit, itertools.count()

    def commit(self, shard, rows):
        if self.partition.table is ROLLOUTS and next(commits) == kill:
            raise Killed
        return honest(self, shard, rows)

    monkeypatch.setattr(imports.Writer, "commit", commit)
    with pytest.raises(Killed):
        imported(killed, file)
    monkeypatch.setattr(imports.Writer, "commit", honest)
    assert 2 < killed.read(ROLLOUTS).num_rows < 14
    imported(killed, file)
    found = [{key: row["rollout_id"] for key, row in rollouts(place).items()} for place in (calm, killed)]
    assert found[0] == found[1]
    assert len(found[0]) == 14


class Killed(BaseException):
    pass


@pytest.fixture
def whole(tmp_path, made_whole):
    """A copy of `made_whole`, with its recipe."""
    shutil.copy(made_whole.root.parent / "world-4.yaml", tmp_path)
    return copied(made_whole, tmp_path / "w")


def copied(workspace, place):
    return Store.open(Path(shutil.copytree(workspace.root, place)))


@pytest.fixture(scope="module")
def made_whole(tmp_path_factory, bank):
    """A workspace where two imports and generated rollouts went through every stage, scores and judgements too."""
    folder = tmp_path_factory.mktemp("whole")
    workspace, path = Store.open(folder / "w"), world(folder)
    tree = yaml.safe_load(path.read_text())
    judge = {"engine": {"kind": "simulated", "model": "judge"}, "sampling": {"temperature": 1.0}, "samples": 1}
    path.write_text(yaml.safe_dump(tree | {"judge": judge, "shard": {"harvest": 0.5}}))
    pipeline.run(pipeline.load(path), workspace, Silent(), ["ingest"])
    names = sorted(bank)
    imported(workspace, some(bank, folder / "a.jsonl", names[:4], 0, 2), policy="a")
    imported(workspace, some(bank, folder / "b.jsonl", names[3:], 1, 3), policy="b")
    pipeline.run(pipeline.load(path), workspace, Silent(), ["rollout", "label", "judge", "shard"])
    scores = [
        {"run": "r", "rollout_id": row["rollout_id"], "problem_id": row["problem_id"], "step_index": 0, "score": 0.5}
        for row in workspace.read(ROLLOUTS).to_pylist()
    ]
    commit(workspace.partition(STEP_SCORES, "r"), scores)
    rejected = [row for row in workspace.read(ROLLOUTS).to_pylist() if row["steps"]]
    problem = {row["problem_id"]: row for row in workspace.read(TABLES["problems"]).to_pylist()}
    left = [
        {"stage": "score", "source": "dials", "problem_id": row["problem_id"], "domain": "dials", "reason": "x",
         "source_row": f"{problem[row['problem_id']]['source_row']}/{row['sample_index']}", "detail": row["policy"],
         "rollout_id": row["rollout_id"], "step_index": None}
        for row in rejected
    ]  # fmt: skip
    commit(workspace.partition(REJECTS, "score-r"), left)
    return workspace


HANGING = (STEP_SCORES, EXAMPLES, JUDGEMENTS, STEP_LABELS, COMPLETIONS, ROLLOUTS, REJECTS)


def contents(workspace):
    return {
        table.name: sorted(json.dumps(row, sort_keys=True) for row in workspace.read(table).to_pylist())
        for table in HANGING
    }


def owners(workspace, table):
    return {name.partition(".")[0] for name in workspace.read(table, ["rollout_id"])["rollout_id"].to_pylist()}


def test_what_hangs_on_an_import_goes_with_it_and_nothing_else(whole):
    before = contents(whole)
    own = {row["rollout_id"] for row in whole.partition(ROLLOUTS, "a").read().to_pylist()}
    kept = {table.name: owners(whole, table) - own for table in HANGING[:-1]}
    assert all(owners(whole, table) & own for table in HANGING[:-1])
    shown = CliRunner().invoke(app, ["remove-import", "a", "-w", str(whole.root), "--json"])
    gone = json.loads(shown.output)["removed"]
    assert gone["rollouts"] == len(own) == 8
    for table in HANGING[:-1]:
        assert owners(whole, table) == kept[table.name]
        rows = contents(whole)[table.name]
        assert set(rows) <= set(before[table.name])
        assert len(before[table.name]) - len(rows) == gone[table.name]
    rejects = whole.read(REJECTS).to_pylist()
    assert not [row for row in rejects if row["detail"] == "given:a:a"]
    assert [row for row in rejects if row["detail"] == "given:b:b"]
    status = json.loads(CliRunner().invoke(app, ["status", "-w", str(whole.root), "--json"]).output)
    origins = {row["partition"]: row["origin"] for row in status if row["origin"]}
    assert origins == {"b": "b.jsonl by b, of dials"}
    # Accounts of rows that are not all there are marked; those of others are not.
    complete = {(row["table_name"], row["partition"]): row["complete"] for row in status}
    assert not complete["step_labels", "main"]
    assert not complete["examples", "train"]
    assert complete["rollouts", "b"]
    for name, message in (("a", 'no import "a"; did you|no import "a"; known: b'), ("dials", "no import")):
        with pytest.raises(UserError, match=message):
            removal.remove(whole, name)


def test_after_a_removal_the_stages_give_what_they_give_without_the_import(whole, tmp_path):
    removal.remove(whole, "b")
    pipeline.run(pipeline.load(tmp_path / "world-4.yaml"), whole, Silent(), ["rollout", "label", "judge", "shard"])
    assert whole.read(STEP_LABELS).num_rows
    labelled, there = owners(whole, STEP_LABELS), owners(whole, ROLLOUTS)
    assert labelled <= there
    assert owners(whole, EXAMPLES) <= there
    assert all(lineage.read(part)["complete"] for part in whole.partitions(EXAMPLES))
    assert lineage.read(whole.partition(STEP_LABELS))["complete"]
    rollouts(whole)


def test_a_removal_that_is_killed_at_any_file_is_finished_by_the_next(tmp_path, made_whole):
    calm = copied(made_whole, tmp_path / "calm")
    removal.remove(calm, "a")
    wanted, kills = contents(calm), 0
    for last in (0, 1, 2, 8, 44, 10_000):
        copy, calls = copied(made_whole, tmp_path / str(last)), itertools.count()
        with pytest.MonkeyPatch.context() as patch:
            for name in ("rename", "replace", "unlink"):
                honest = getattr(Path, name)

                def dies(self, *rest, honest=honest, calls=calls, last=last, **more):
                    if next(calls) == last:
                        raise Killed
                    return honest(self, *rest, **more)

                patch.setattr(Path, name, dies)
            try:
                removal.remove(copy, "a")
            except Killed:
                kills += 1
            else:
                break
        there = {}
        with contextlib.suppress(UserError):
            # Between the two renames of a file it is not what its marker says, and nobody takes it for sound.
            there = contents(copy)
        for name, rows in there.items():
            assert set(wanted[name]) <= set(rows)
            assert len(set(rows)) == len(rows)
        removal.remove(copy, "a")
        assert contents(copy) == wanted
        assert not list(copy.root.glob("tables/*/*/.anew"))
        shutil.rmtree(copy.root)
    assert kills == 5


def test_an_import_that_starts_over_keeps_what_its_old_rollouts_have(whole, tmp_path, monkeypatch, bank):
    names = sorted(bank)
    old = {row["rollout_id"] for row in whole.partition(ROLLOUTS, "a").read().to_pylist()}
    rows = [{"q": row, "t": text} for row in names[:2] for text in (bank[row][0], bank[row][3])]
    file = lines(tmp_path / "a.jsonl", *rows)
    honest = Partition.clear

    def dies(self):
        honest(self)
        raise Killed

    monkeypatch.setattr(Partition, "clear", dies)
    config = ImportConfig(file=file, id="q", response="t", policy="a")
    with pytest.raises(Killed):
        imports.run(config, whole, replace=True)
    monkeypatch.setattr(Partition, "clear", honest)
    imports.run(config, whole)
    new = {row["rollout_id"] for row in whole.partition(ROLLOUTS, "a").read().to_pylist()}
    assert old & new
    assert old - new
    for table in HANGING[:-2]:
        assert old & new <= owners(whole, table)
        assert not (old - new) & owners(whole, table)
    rollouts(whole)
    assert not list(whole.root.glob("tables/.staging/replaced-*"))


def test_settings_of_an_import_that_brought_nothing_bind_nobody(tmp_path):
    workspace = ingested(tmp_path)
    file = lines(tmp_path / "r.jsonl", {"q": "none", "k": "u", "t": TEXTS[0]})
    assert imported(workspace, file)[0].out == 0
    assert imported(workspace, file, id="k")[0].out == 1
    with pytest.raises(UserError, match=r"columns.id: k -> q.*--replace"):
        imported(workspace, file)


def plan(folder, recipe, *words):
    done = CliRunner().invoke(app, ["plan", str(recipe), "-w", str(folder / "w"), *words])
    assert done.exit_code == 0, done.output + str(done.exception)
    return done.output


def test_a_plan_knows_what_was_imported(tmp_path, bank):
    workspace, recipe = Store.open(tmp_path / "w"), world(tmp_path, samples=3)
    pipeline.run(pipeline.load(recipe), workspace, Silent(), ["ingest"])
    imported(workspace, some(bank, tmp_path / "a.jsonl", sorted(bank), 0, 3), policy="a")
    prefixes = sum(len(row["steps"]) - 1 for row in rollouts(workspace).values())
    (line,) = json.loads(plan(tmp_path, recipe, "--json"))["lines"]
    # Each problem has its three samples.
    assert (line["requests"], line["samples"], line["rollout_tokens"]) == (0, 0, 0)
    assert (line["prefixes"], line["completions"], line["label_tokens"]) == (prefixes, prefixes * 2, None)
    assert "use --pilot" in plan(tmp_path, recipe)
    made = json.loads(plan(tmp_path, recipe, "--json", "--pilot", "2"))
    assert made["lines"][0]["label_tokens"] > 0
    assert made["hours"] > 0
    assert "tokens, measured on completions; " in plan(tmp_path, recipe, "--pilot", "2")
    ledger = pipeline.run(pipeline.load(recipe), workspace, Silent(), ["rollout", "label"])
    assert (ledger["rollout"].taken, ledger["label"].taken) == (0, prefixes)
    assert workspace.read(COMPLETIONS).num_rows == prefixes * 2
    assert plan(tmp_path, recipe).endswith("Nothing is left to generate.\n")
