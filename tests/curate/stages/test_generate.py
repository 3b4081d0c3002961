"""Rollout, label and shard on the simulated engine: what is pending, what failed and why, and accounts that add up."""

import asyncio
import json
import time
from collections import Counter

import pytest

from curate import graders, pipeline
from curate.engines.base import Sample
from curate.engines.simulated import SimulatedEngine
from curate.errors import BudgetError, UserError
from curate.graders import Grade
from curate.recipe.parsing import validate
from curate.recipe.sections import RolloutConfig
from curate.runtime.reporter import Silent
from curate.stages import rollout, shard
from curate.stages.base import Unit
from curate.tables.rows import ProblemRow
from curate.tables.schema import COMPLETIONS, EXAMPLES, REJECTS, ROLLOUTS, STEP_LABELS
from curate.tables.store import Store

ROWS = 12


def recipe(faults=None, samples=3, **sections):
    engine = {"kind": "simulated", "model": "world", "in_flight": 8, "args": faults or {}}
    source = {"kind": "synthetic", "name": "bars", "task": "bars_read", "rows": ROWS}
    rollouts = {"engine": engine, "samples": samples, "error_budget": 1.0, "sampling": {"max_tokens": 600}}
    return {
        "name": "t",
        "seed": 3,
        "ingest": {"sources": [source]},
        "rollout": rollouts | sections.pop("rollout", {}),
        "label": {"mode": "exact", "completions": 4, "error_budget": 1.0} | sections.pop("label", {}),
        "shard": sections.pop("shard", {}),
    }


@pytest.fixture
def run(tmp_path):
    workspace = Store.open(tmp_path / "w")

    def go(tree, only=(), replace=()):
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps(tree))
        return workspace, pipeline.run(pipeline.load(path), workspace, Silent(), only, frozenset(replace))

    return go


def rejects(workspace, stage):
    return [row for row in workspace.read(REJECTS).to_pylist() if row["stage"] == stage]


def test_every_rollout_and_prefix_is_there_once_and_labels_are_their_counts(run):
    workspace, ledgers = run(recipe())
    rollouts = {row["rollout_id"]: row for row in workspace.read(ROLLOUTS).to_pylist()}
    assert len(rollouts) == ledgers["rollout"].out == ROWS * 3
    counts = Counter(
        (row["rollout_id"], row["step_index"], row["outcome"]) for row in workspace.read(COMPLETIONS).to_pylist()
    )
    labels = workspace.read(STEP_LABELS).to_pylist()
    assert len(labels) == sum(len(row["steps"]) for row in rollouts.values())
    for label in labels:
        name, step = label["rollout_id"], label["step_index"]
        if step == len(rollouts[name]["steps"]) - 1:
            assert (label["m"], label["value"]) == (0, float(rollouts[name]["outcome"]))
        else:
            assert (label["k"], label["m"]) == (counts[name, step, True], 4)
            assert label["value"] == label["k"] / 4
    assert workspace.read(EXAMPLES).num_rows == ROWS * 3
    assert not workspace.read(REJECTS).num_rows


def test_again_generates_nothing_and_more_samples_add_only_the_missing_ones(run):
    workspace, _ = run(recipe())
    before = {row["rollout_id"]: row["text"] for row in workspace.read(ROLLOUTS).to_pylist()}
    _, ledgers = run(recipe())
    assert (ledgers["rollout"].skipped, ledgers["label"].skipped) == (ROWS * 3, ledgers["label"].taken)
    _, ledgers = run(recipe(samples=5), ["rollout"])
    after = {row["rollout_id"]: row["text"] for row in workspace.read(ROLLOUTS).to_pylist()}
    assert (ledgers["rollout"].out, ledgers["rollout"].skipped) == (ROWS * 5, ROWS * 3)
    assert before.items() <= after.items()


@pytest.mark.parametrize(("fault", "reason"), [("reject_rate", "request-rejected"), ("error_rate", "engine-error")])
def test_a_failed_request_is_a_reject_and_owed_again_never_a_wrong_answer(run, fault, reason):
    workspace, ledgers = run(recipe({fault: 0.4}))
    failed = rejects(workspace, "rollout")
    assert 0 < len(failed) < ROWS
    assert {row["reason"] for row in failed} == {reason}
    assert ledgers["rollout"].failed == {reason: 3 * len(failed)}
    assert all(row["outcome"] is not None for row in workspace.read(COMPLETIONS).to_pylist())
    missing = rejects(workspace, "label")
    assert missing
    # Their rollouts have no labels yet, so they are no examples either, and are listed.
    unlabelled = {f"{row['problem_id']}/{row['source_row'].split('/')[1]}" for row in missing}
    assert len(rejects(workspace, "shard")) == len(unlabelled)
    _, ledgers = run(recipe())
    assert ledgers["rollout"].out == ledgers["shard"].out == ROWS * 3
    assert not workspace.read(REJECTS).num_rows


def test_more_failures_than_the_budget_allows_keep_what_is_done_and_say_so(run, tmp_path):
    with pytest.raises(BudgetError, match="above the error budget of 2%"):
        run(recipe({"reject_rate": 0.4}, rollout={"error_budget": 0.02}), ["ingest", "rollout"])
    workspace = Store.open(tmp_path / "w")
    assert 0 < workspace.read(ROLLOUTS).num_rows < ROWS * 3
    assert rejects(workspace, "rollout")


def test_a_dying_engine_is_restarted_and_loses_nothing(run):
    workspace, ledgers = run(recipe({"dies_after": 10}), ["ingest", "rollout"])
    assert ledgers["rollout"].out == ROWS * 3
    undisturbed = {row["rollout_id"]: row["text"] for row in workspace.read(ROLLOUTS).to_pylist()}
    workspace, _ = run(recipe(), ["rollout"], ["rollout"])
    assert undisturbed == {row["rollout_id"]: row["text"] for row in workspace.read(ROLLOUTS).to_pylist()}


def test_stages_share_one_engine_and_what_does_not_generate_has_the_machine_to_itself(run, monkeypatch):
    seen, start, stop, shard_run = [], SimulatedEngine.__aenter__, SimulatedEngine.__aexit__, shard.run

    def told(what, do):
        return lambda *args, **more: (seen.append(what), do(*args, **more))[1]

    monkeypatch.setattr(SimulatedEngine, "__aenter__", told("start", start))
    monkeypatch.setattr(SimulatedEngine, "__aexit__", told("stop", stop))
    monkeypatch.setattr(shard, "run", told("shard", shard_run))
    _, ledgers = run(recipe())
    assert ledgers["label"].out > 0
    assert seen == ["start", "stop", "shard"]
    # With nothing pending, nothing is started.
    run(recipe())
    assert seen == ["start", "stop", "shard", "shard"]


def test_every_stage_has_all_restarts_though_they_share_an_engine(run):
    # One request at a time, four a life: rollout's twelve cost two restarts, label's first twelve the three it has.
    engine = {"kind": "simulated", "model": "world", "in_flight": 1, "args": {"dies_after": 4}}
    _, ledgers = run(recipe(rollout={"engine": engine}))
    assert ledgers["rollout"].out == ROWS * 3
    assert ledgers["label"].out == 12
    assert set(ledgers["label"].failed) == {"engine-dead"}


def test_rollouts_left_unlabelled_on_purpose_are_told_from_undefined_ones(run):
    workspace, ledgers = run(recipe(label={"rollouts": 1}))
    assert ledgers["shard"].rejected == {"not-labelled": ROWS * 2}
    assert {row["source_row"].split("/")[1] for row in rejects(workspace, "shard")} == {"1", "2"}
    # A label that needs more completions than there are is undefined; the last step's is known.
    _, ledgers = run(recipe(label={"rollouts": 1}, shard={"min_graded": 5}), ["shard"])
    values = [row["values"] for row in workspace.read(EXAMPLES).to_pylist()]
    assert len(values) == ROWS
    assert all(value is None for steps in values for value in steps[:-1])
    assert all(steps[-1] is not None for steps in values)


def test_a_truncated_chain_counts_as_wrong_under_its_own_rule(run):
    workspace, _ = run(recipe({"truncation_rate": 0.5}), ["ingest", "rollout"])
    cut = [row for row in workspace.read(ROLLOUTS).to_pylist() if row["finish"] == "length"]
    assert cut
    assert {(row["outcome"], row["outcome_rule"], row["answer"]) for row in cut} == {(False, "finish-length", None)}


def test_completions_of_another_policy_are_refused(run):
    run(recipe(), ["ingest", "rollout"])
    other = recipe(rollout={"sampling": {"max_tokens": 500}})
    with pytest.raises(UserError, match="not be on-policy"):
        run(other, ["label"])
    with pytest.raises(UserError, match=r"sampling\.max_tokens: 600 -> 500"):
        run(other, ["rollout"])


def test_slow_grading_does_not_hold_up_other_requests(run, monkeypatch):
    """A hard expression takes seconds to judge; the loop that serves the engine must go on meanwhile."""
    workspace, _ = run(recipe(), ["ingest"])
    problem = next(workspace.rows(ProblemRow))

    def slow(response, gold):
        time.sleep(0.3)
        return Grade(True, "slow")

    monkeypatch.setitem(graders.GRADERS.own, problem.answer_type, graders.Grader(slow))

    class Engine:
        async def generate(self, request):
            return [Sample("Final answer: 1", (), (), "stop", None, 1)]

    async def work():
        config = validate(RolloutConfig, recipe()["rollout"], "rollout")
        made = rollout.RolloutGeneration(config, workspace, 1)
        unit = Unit(0, rollout.ProblemSamples(problem, [0]))
        task = asyncio.ensure_future(made.rows(unit, Engine()))
        turns = 0
        while not task.done():
            await asyncio.sleep(0.01)
            turns += 1
        return turns, task.result()

    turns, rows = asyncio.run(work())
    assert rows[0].outcome_rule == "announced/slow"
    assert turns >= 5


def test_a_prompt_of_ones_own_is_used_and_belongs_to_the_policy(run, tmp_path):
    (tmp_path / "mine.j2").write_text("{{ problem }}\nBe brief.")
    tree = recipe(rollout={"prompt": "mine.j2"})
    workspace, ledgers = run(tree)
    assert ledgers["shard"].out == ROWS * 3
    policies = {row["policy"] for row in workspace.read(ROLLOUTS).to_pylist()}
    (tmp_path / "mine.j2").write_text("{{ problem }}\nBe very brief.")
    with pytest.raises(UserError, match=r"other settings \(prompt: mine\.j2/\w+ -> mine\.j2/\w+\)"):
        run(tree)
    run(tree, only=["rollout"], replace=["rollout"])
    assert not policies & {row["policy"] for row in workspace.read(ROLLOUTS).to_pylist()}


def test_a_prompt_file_that_is_not_there_or_not_sound_is_found_before_anything_runs(run, tmp_path):
    with pytest.raises(UserError, match=r"no prompt file mine\.j2"):
        run(recipe(rollout={"prompt": "mine.j2"}))
    (tmp_path / "mine.j2").write_text("{{ problem }}\n{{ nothing }}")
    with pytest.raises(UserError, match=r"mine\.j2, line 2"):
        run(recipe(rollout={"prompt": "mine.j2"}))
    assert not (tmp_path / "w" / "tables" / "problems").exists()


def test_short_steps_are_a_setting_of_the_rows(run):
    run(recipe())
    with pytest.raises(UserError, match="min_step_characters: 1 -> 30"):
        run(recipe(rollout={"min_step_characters": 30}))
    workspace, _ = run(recipe(rollout={"min_step_characters": 30}), only=["rollout"], replace=["rollout"])
    for row in workspace.read(ROLLOUTS).to_pylist():
        assert all(sum(map(str.isalnum, step)) >= 30 for step in row["steps"][:-1])
