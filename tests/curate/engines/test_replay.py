"""Replay: the same recipe from an earlier workspace's samples gives equal tables; what is not there is refused."""

import asyncio
import json
from dataclasses import replace

import pyarrow.compute as pc
import pytest

from curate import pipeline
from curate.engines import build
from curate.engines.base import Image, Request, RequestRejected, Sampling
from curate.engines.replay import _token_ends
from curate.errors import UserError
from curate.recipe.sections import EngineConfig
from curate.runtime.reporter import Silent
from curate.tables.lineage import read
from curate.tables.rows import RolloutRow
from curate.tables.schema import COMPLETIONS, PROBLEMS, REJECTS, ROLLOUTS, STEP_LABELS
from curate.tables.store import Store
from curate.text import prompts, steps
from tests.beds.rows import made

ROWS = 8


def recipe(tmp_path, engine, samples=3, completions=4, seed=3, **rollout):
    source = {"kind": "synthetic", "name": "bars", "task": "bars_read", "rows": ROWS}
    tree = {
        "name": "replay",
        "seed": seed,
        "ingest": {"sources": [source]},
        "rollout": {"engine": engine, "samples": samples, "error_budget": 1.0, "sampling": {"max_tokens": 600}}
        | rollout,
        "label": {"mode": "exact", "completions": completions, "error_budget": 1.0},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(tree))
    return pipeline.load(path)


def simulated(**faults):
    return {"kind": "simulated", "model": "world", "args": faults}


def replayed(name="first"):
    return {"kind": "replay", "model": name}


def go(tmp_path, name, loaded, only=()):
    workspace = Store.open(tmp_path / name)
    return workspace, pipeline.run(loaded, workspace, Silent(), only)


def tables(workspace):
    return {table.name: workspace.read(table).sort_by([(c, "ascending") for c in table.key]).to_pylist()
            for table in (ROLLOUTS, COMPLETIONS, STEP_LABELS)}  # fmt: skip


@pytest.fixture
def first(tmp_path):
    workspace, _ = go(tmp_path, "first", recipe(tmp_path, simulated(truncation_rate=0.1)))
    return workspace


def test_the_same_recipe_gives_equal_tables_of_the_same_policy(tmp_path, first):
    again, ledgers = go(tmp_path, "second", recipe(tmp_path, replayed()))
    assert tables(again) == tables(first)
    assert not ledgers["rollout"].failed and not ledgers["label"].failed
    record = read(again.partition(ROLLOUTS))
    assert record["config"] == read(first.partition(ROLLOUTS))["config"]
    assert record["versions"]["replay"].endswith("first") and record["versions"]["model"] == "world@main"


def test_a_copy_can_be_replayed_and_fewer_samples_are_the_first_ones(tmp_path, first):
    go(tmp_path, "second", recipe(tmp_path, replayed()))
    third, _ = go(tmp_path, "third", recipe(tmp_path, replayed("second"), samples=2, completions=2))
    texts = {row["rollout_id"]: row["text"] for row in tables(first)["rollouts"] if row["sample_index"] < 2}
    assert {row["rollout_id"]: row["text"] for row in tables(third)["rollouts"]} == texts


def test_only_the_samples_that_are_not_there_are_refused(tmp_path, first):
    go(tmp_path, "second", recipe(tmp_path, replayed()))
    second, ledgers = go(tmp_path, "second", recipe(tmp_path, replayed(), samples=5))
    assert ledgers["rollout"].out == ROWS * 3
    assert ledgers["rollout"].failed == {"request-rejected": ROWS * 2}
    rows = second.read(REJECTS).to_pylist()
    assert len(rows) == ROWS and all("has no sample" in row["detail"] for row in rows)
    assert tables(second) == tables(first)


def test_a_workspace_that_grew_is_replayed_at_once(tmp_path, first):
    first, _ = go(tmp_path, "first", recipe(tmp_path, simulated(truncation_rate=0.1), samples=5, completions=6))
    second, ledgers = go(tmp_path, "second", recipe(tmp_path, replayed(), samples=5, completions=6))
    assert not ledgers["rollout"].failed and not ledgers["label"].failed
    for name, old in tables(first).items():
        new = tables(second)[name]
        # The later samples were drawn with seeds of their own.
        assert [row | {"seed": 0} for row in new] == [row | {"seed": 0} for row in old]


def test_what_was_asked_for_otherwise_is_a_user_error_that_names_it(tmp_path, first):
    with pytest.raises(UserError, match=r"sampling\.temperature: 1\.0 -> 0\.5"):
        go(tmp_path, "second", recipe(tmp_path, replayed(), sampling={"max_tokens": 600, "temperature": 0.5}))
    with pytest.raises(UserError, match="prompt: structured-five/1 -> short-five/1"):
        go(tmp_path, "second", recipe(tmp_path, replayed(), prompt="short-five"))


def test_a_prompt_of_ones_own_is_known_by_its_text(tmp_path, first):
    (tmp_path / "mine.j2").write_text("Think about this. {{ problem }}")
    one, _ = go(tmp_path, "one", recipe(tmp_path, simulated(), prompt="mine.j2"))
    two, _ = go(tmp_path, "two", recipe(tmp_path, replayed("one"), prompt="mine.j2"))
    assert tables(two) == tables(one)
    (tmp_path / "mine.j2").write_text("Think harder. {{ problem }}")
    with pytest.raises(UserError, match=r"prompt: mine\.j2/"):
        go(tmp_path, "three", recipe(tmp_path, replayed("one"), prompt="mine.j2"))


def test_a_request_for_something_else_is_refused(tmp_path, first):
    """The engine by itself: every field of a request counts."""
    row = tables(first)["rollouts"][0]
    problem = first.read(PROBLEMS, where=pc.field("problem_id") == row["problem_id"]).to_pylist()[0]
    images = [Image(key, b"") for key in problem["image_hashes"]]
    prompt = prompts.render("structured-five", problem["question"], problem["choices"])
    good = Request(row["rollout_id"], prompt, images, (), 1, 0, Sampling(1.0, 1.0, 0, 600))
    bad = [
        replace(good, prompt="Why?"), replace(good, images=[]), replace(good, prefix_ids=[1]),
        replace(good, prefix_text="Step 1"), replace(good, sampling=Sampling(0.5, 1.0, 0, 600)),
        replace(good, sampling=Sampling(1.0, 1.0, 0, 601)), replace(good, n=4), replace(good, request_id="nobody"),
    ]  # fmt: skip

    async def run():
        async with build(EngineConfig(kind="replay", model=str(tmp_path / "first"))) as engine:
            return await asyncio.gather(*(engine.generate(each) for each in [good, *bad]), return_exceptions=True)

    answer, *refused = asyncio.run(run())
    assert answer[0].text == row["text"]
    assert {type(each) for each in refused} == {RequestRejected}


def test_steps_that_are_joined_can_be_replayed_and_finer_ones_cannot(tmp_path, first):
    second, ledgers = go(tmp_path, "second", recipe(tmp_path, replayed(), max_steps=3), ["ingest", "rollout"])
    assert ledgers["rollout"].out == ROWS * 3
    for row in tables(second)["rollouts"]:
        assert len(row["steps"]) <= 3
        # A token of the simulated engine is a byte.
        assert [len("".join(row["steps"][: place + 1])) for place in range(len(row["steps"]))] == row["step_ends"]
    assert go(tmp_path, "third", recipe(tmp_path, replayed(), max_steps=20))[1]["rollout"].out == ROWS * 3
    fourth, ledgers = go(tmp_path, "fourth", recipe(tmp_path, replayed("second")), ["ingest", "rollout"])
    assert ledgers["rollout"].failed.keys() == {"cut-not-stored"}
    assert all(len(row["steps"]) <= 3 for row in tables(fourth)["rollouts"])


def test_a_workspace_that_is_none_or_empty_or_the_same_is_a_user_error(tmp_path, first):
    with pytest.raises(UserError, match=r"no workspace at .*nowhere"):
        go(tmp_path, "second", recipe(tmp_path, replayed("nowhere")))
    with pytest.raises(UserError, match="no rollouts to replay"):
        go(tmp_path, "third", recipe(tmp_path, replayed("second")))
    with pytest.raises(UserError, match="cannot replay itself"):
        pipeline.run(recipe(tmp_path, replayed()), first, Silent(), ["rollout"], frozenset(["rollout"]))
    assert len(tables(first)["rollouts"]) == ROWS * 3
    with pytest.raises(UserError, match='no argument "latency"'):
        go(tmp_path, "third", recipe(tmp_path, replayed() | {"args": {"latency": 1}}))


@pytest.mark.parametrize(
    ("texts", "cuts", "count"),
    [(["ab", "c", "def"], [2, 3, 6], 6), (["ab", "c", "def"], [1, 1, 4], 4), (["ab"], [3], 3), (["a", "b"], [2, 5], 9)],
)
def test_stored_cuts_come_back(texts, cuts, count):
    ends = _token_ends(made(RolloutRow, steps=texts, step_ends=cuts, token_ids=[0] * count))
    assert len(ends) == count and ends == sorted(ends)
    assert steps.token_cuts(texts, ends) == cuts


def graded_by(tmp_path, name, golds, engine, only=(), replace=(), completions=2):
    """Run a recipe on problems with these gold answers in the workspace `name`."""
    lines = ({"question": f"Problem {number}?", "answer": gold} for number, gold in enumerate(golds))
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tree = {
        "ingest": {"sources": [{"kind": "files", "name": "p", "path": "p.jsonl", "answer_type": "number"}]},
        "rollout": {"engine": engine, "samples": 3, "sampling": {"max_tokens": 600}},
        "label": {"mode": "exact", "completions": completions},
        "shard": {},
    }
    (tmp_path / "graded.yaml").write_text(json.dumps(tree))
    workspace = Store.open(tmp_path / name)
    pipeline.run(pipeline.load(tmp_path / "graded.yaml"), workspace, Silent(), only, frozenset(replace))
    return workspace


def test_gold_answers_that_changed_stop_every_stage_that_builds_on_grades_until_they_are_made_anew(tmp_path):
    golds, corrected = ["1", "2", "3", "4"], ["1", "2", "3", "5"]
    graded_by(tmp_path, "old", golds, simulated())
    old = graded_by(tmp_path, "old", corrected, simulated(), ["ingest"], ["p"])
    changed = next(row for row in old.read(PROBLEMS).to_pylist() if row["answer"] == "5")["problem_id"]
    before = tables(old)
    for stage in ("rollout", "label", "shard"):
        with pytest.raises(UserError, match=rf"gold answers of 1 problems.*{changed}.*replay"):
            graded_by(tmp_path, "old", corrected, simulated(), [stage])
    assert tables(old) == before
    # The cure that the sentence names: the same chains under the new answers.
    new = graded_by(tmp_path, "new", corrected, replayed("old"))
    texts = [{(row["rollout_id"], row["text"]) for row in tables(place)["rollouts"]} for place in (old, new)]
    assert texts[0] == texts[1]
    fresh = graded_by(tmp_path, "fresh", corrected, simulated())
    graded = [[(row["rollout_id"], row["outcome"], row["gold"]) for row in tables(place)["rollouts"]]
              for place in (new, fresh)]  # fmt: skip
    assert graded[0] == graded[1] != [(row["rollout_id"], row["outcome"], row["gold"]) for row in before["rollouts"]]
    # Or all over again; completions of the old answers are noticed by themselves.
    graded_by(tmp_path, "old", corrected, simulated(), ["rollout"], ["rollout"])
    with pytest.raises(UserError, match="gold answers of 1 problems"):
        graded_by(tmp_path, "old", corrected, simulated(), ["label"])
    graded_by(tmp_path, "old", corrected, simulated(), ["label", "shard"], ["label"])
    assert tables(old) == tables(fresh)


def test_a_source_that_is_ingested_again_with_the_same_gold_answers_changes_nothing(tmp_path):
    graded_by(tmp_path, "old", ["1", "2"], simulated())
    graded_by(tmp_path, "old", ["1", "2", "3"], simulated(), ["ingest"], ["p"])
    # A problem more, and one that is gone: neither is a change of a gold answer.
    old = graded_by(tmp_path, "old", ["1", "2", "3"], simulated())
    assert old.read(ROLLOUTS).num_rows == 9
    graded_by(tmp_path, "old", ["1", "2"], simulated(), ["ingest"], ["p"])
    graded_by(tmp_path, "old", ["1", "2"], simulated(), ["shard"])
