"""Label modes through the stage, on the simulated engine: unbiased, cheap, never mixed, and made again for nothing."""

import json
from collections import defaultdict
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from curate import pipeline
from curate.cli.app import app
from curate.engines import worlds
from curate.errors import UserError
from curate.runtime.reporter import Silent
from curate.stages.label import label, labels, rules
from curate.stages.label.families import Families
from curate.tables.schema import COMPLETIONS, EXAMPLES, PROBLEMS, ROLLOUTS, STEP_LABELS
from curate.tables.store import Store

# The simulated engine's worlds go by the prompt.
PROMPT = "{question}"


def recipe(tmp_path, world="states", problems=16, samples=4, faults=None, **sections):
    lines = [{"question": f"Problem {n} [gold={n}]", "answer": str(n)} for n in range(problems)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    engine = {
        "kind": "simulated",
        "model": "world",
        "in_flight": 32,
        "args": {"world": world, "steps": None} | (faults or {}),
    }
    tree = {
        "name": "t",
        "seed": 3,
        "ingest": {"sources": [{"kind": "files", "name": "rows", "path": "rows.jsonl"}]},
        "rollout": {"engine": engine, "samples": samples, "prompt": "free", "sampling": {"max_tokens": 2000}}
        | sections.pop("rollout", {}),
        "label": {"error_budget": 1.0} | sections.pop("label", {}),
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(tree))
    return path


def run(path, workspace, only=()):
    return pipeline.run(pipeline.load(path), workspace, Silent(), only)


@pytest.fixture
def workspace(tmp_path):
    return Store.open(tmp_path / "w")


def truth(workspace, world):
    """(rollout, step) -> exact value of the prefix; of the last steps, too."""
    from curate.text import prompts

    problems = {row["problem_id"]: row for row in workspace.read(PROBLEMS).to_pylist()}
    found = {}
    for row in workspace.read(ROLLOUTS).to_pylist():
        problem = problems[row["problem_id"]]
        law = worlds.world(prompts.render("free", problem["question"], problem["choices"]), world, None)
        for step in range(len(row["steps"]) - 1):
            found[row["rollout_id"], step] = law.value_of("".join(row["steps"][: step + 1]))
    return found


@pytest.mark.parametrize("world", sorted(worlds.WORLDS))
def test_pooled_labels_through_the_stage_are_unbiased(tmp_path, workspace, world):
    run(recipe(tmp_path, world, problems=150), workspace)
    values, sums, sizes = truth(workspace, world), defaultdict(float), defaultdict(int)
    rows = [row for row in workspace.read(STEP_LABELS).to_pylist() if (row["rollout_id"], row["step_index"]) in values]
    assert len(rows) == len(values) > 1500
    for row in rows:
        sums[row["problem_id"]] += row["value"] - values[row["rollout_id"], row["step_index"]]
        sizes[row["problem_id"]] += 1
    mean = sum(sums.values()) / len(rows)
    error = sum((sums[name] - mean * sizes[name]) ** 2 for name in sums) ** 0.5 / len(rows)
    assert abs(mean) < 4 * error
    assert sum(row["m"] for row in rows) / len(rows) == pytest.approx(2, abs=0.1)
    assert {row["mode"] for row in rows} == {"pooled"}
    assert all(row["standard_error"] > 0 for row in rows)


def test_again_generates_nothing_and_a_second_mode_adds_only_what_it_needs(tmp_path, workspace):
    first = run(recipe(tmp_path), workspace)["label"]
    drawn = workspace.read(COMPLETIONS).num_rows
    before = sorted(map(str, workspace.read(STEP_LABELS).to_pylist()))
    again = run(recipe(tmp_path), workspace)["label"]
    assert again.skipped == first.taken
    assert (workspace.read(COMPLETIONS).num_rows, sorted(map(str, workspace.read(STEP_LABELS).to_pylist()))) == (
        drawn, before,
    )  # fmt: skip
    run(recipe(tmp_path, label={"mode": "exact", "completions": 8}), workspace, ["label"])
    rows = workspace.read(COMPLETIONS).to_pylist()
    keys = {(row["rollout_id"], row["step_index"], row["sample_index"]) for row in rows}
    prefixes = sum(len(row["steps"]) - 1 for row in workspace.read(ROLLOUTS).to_pylist())
    assert len(keys) == len(rows) == 8 * prefixes
    labelled = workspace.read(STEP_LABELS).to_pylist()
    assert {row["mode"] for row in labelled} == {"exact"}
    assert {row["m"] for row in labelled} == {0, 8}
    # The same completions however they were shared out over requests.
    other = Store.open(tmp_path / "other")
    run(recipe(tmp_path, label={"mode": "exact", "completions": 8}), other)
    texts = {(row["rollout_id"], row["step_index"], row["sample_index"]): row["text"] for row in rows}
    straight = other.read(COMPLETIONS).to_pylist()
    assert texts == {(row["rollout_id"], row["step_index"], row["sample_index"]): row["text"] for row in straight}


def test_hard_labels_are_those_of_all_draws_for_a_part_of_them(tmp_path, workspace):
    run(recipe(tmp_path, label={"mode": "hard", "completions": 8}), workspace)
    hard = {(row["rollout_id"], row["step_index"]): row["value"] for row in workspace.read(STEP_LABELS).to_pylist()}
    spent = workspace.read(COMPLETIONS).num_rows
    other = Store.open(tmp_path / "other")
    run(recipe(tmp_path, label={"mode": "exact", "completions": 8}), other)
    naive = {
        (row["rollout_id"], row["step_index"]): row["value"] if row["m"] == 0 else float(row["k"] > 0)
        for row in other.read(STEP_LABELS).to_pylist()
    }
    assert hard == naive
    assert spent < 0.6 * other.read(COMPLETIONS).num_rows


def test_relabelling_generates_nothing_and_gives_what_generating_would_have_given(tmp_path, workspace):
    sizes = {"problems": 8}
    full = recipe(tmp_path, label={"mode": "exact", "completions": 10}, **sizes)
    run(full, workspace)
    drawn = workspace.read(COMPLETIONS).num_rows
    for mode, count in (("exact", 4), ("hard", 8), ("legacy", 11)):
        result = CliRunner().invoke(
            app, ["relabel", str(full), "-w", str(tmp_path / "w"), "--mode", mode, "--completions", str(count)]
        )
        assert result.exit_code == 0, result.output
        other = Store.open(tmp_path / mode)
        run(recipe(tmp_path, label={"mode": mode, "completions": count}, **sizes), other)
        run(recipe(tmp_path, label={"mode": "exact", "completions": 10}, **sizes), workspace, ["ingest"])
        ours, theirs = (
            {(row["rollout_id"], row["step_index"]): (row["value"], row["k"], row["m"]) for row in rows}
            for rows in (workspace.read(STEP_LABELS).to_pylist(), other.read(STEP_LABELS).to_pylist())
        )
        if mode == "hard":
            # The counts are of what was drawn: more here.
            assert {key: row[0] for key, row in ours.items()} == {key: row[0] for key, row in theirs.items()}
        elif mode == "exact":
            assert ours == theirs
        else:
            assert {key: row[0] for key, row in ours.items()} == {key: row[0] for key, row in theirs.items()}
    full = recipe(tmp_path, label={"mode": "exact", "completions": 10}, **sizes)
    assert CliRunner().invoke(app, ["relabel", str(full), "-w", str(tmp_path / "w"), "--mode", "pooled"]).exit_code == 0
    assert {row["mode"] for row in workspace.read(STEP_LABELS).to_pylist()} == {"pooled"}
    assert workspace.read(COMPLETIONS).num_rows == drawn
    refused = CliRunner().invoke(
        app, ["relabel", str(full), "-w", str(tmp_path / "w"), "--mode", "hard", "--completions", "16"]
    )
    assert "need more than were drawn, by exact (10)" in str(refused.exception)


def test_averages_never_use_draws_that_were_stopped_by_what_they_said(tmp_path, workspace):
    run(recipe(tmp_path, label={"mode": "hard", "completions": 8}), workspace)
    path = recipe(tmp_path, label={"mode": "exact", "completions": 1})
    label.relabel(pipeline.load(path).section("label"), pipeline.load(path).section("rollout"), workspace, Silent())
    assert {row["m"] for row in workspace.read(STEP_LABELS).to_pylist()} == {0, 1}
    path = recipe(tmp_path, label={"mode": "exact", "completions": 2})
    with pytest.raises(UserError, match="need more than were drawn"):
        label.relabel(pipeline.load(path).section("label"), pipeline.load(path).section("rollout"), workspace, Silent())


def test_a_token_budget_is_about_what_is_spent(tmp_path, workspace):
    run(recipe(tmp_path, problems=80), workspace, ["ingest", "rollout"])
    rollouts = workspace.read(ROLLOUTS).to_pylist()
    budget = sum(row["tokens"] for row in rollouts)
    run(recipe(tmp_path, problems=80, label={"budget_tokens": budget}), workspace, ["label"])
    spent = sum(row["tokens"] for row in workspace.read(COMPLETIONS).to_pylist())
    assert spent == pytest.approx(budget, rel=0.15)


def test_problems_added_later_change_no_size_of_the_others(tmp_path, workspace):
    run(recipe(tmp_path), workspace)
    before = {(row["rollout_id"], row["step_index"]): row["m"] for row in workspace.read(STEP_LABELS).to_pylist()}
    more = tmp_path / "more"
    more.mkdir()
    path = recipe(more, problems=24)
    workspace_too = Store.open(tmp_path / "w")
    pipeline.run(pipeline.load(path), workspace_too, Silent(), ["ingest"], frozenset({"rows"}))
    run(path, workspace_too, ["rollout", "label"])
    after = {(row["rollout_id"], row["step_index"]): row["m"] for row in workspace.read(STEP_LABELS).to_pylist()}
    assert len(after) > 1.3 * len(before)
    # Other problems say a little about how chains go on, so a few sizes may round the other way; none is drawn again.
    assert sum(after[key] != m for key, m in before.items()) < 0.1 * len(before)
    rows = workspace.read(COMPLETIONS).to_pylist()
    assert len({(row["rollout_id"], row["step_index"], row["sample_index"]) for row in rows}) == len(rows)


def test_imported_rollouts_take_exact_labels_and_are_never_pooled(tmp_path, workspace):
    path = recipe(tmp_path, problems=10)
    run(path, workspace, ["ingest", "rollout"])
    texts = workspace.read(ROLLOUTS).to_pylist()
    source = {row["problem_id"]: row["source_row"] for row in workspace.read(PROBLEMS).to_pylist()}
    foreign = tmp_path / "theirs.jsonl"
    foreign.write_text(
        "".join(json.dumps({"id": source[row["problem_id"]], "text": row["text"]}) + "\n" for row in texts)
    )
    other = Store.open(tmp_path / "other")
    run(path, other, ["ingest"])
    done = CliRunner().invoke(
        app,
        ["import-rollouts", str(foreign), "--recipe", str(path), "-w", str(tmp_path / "other"), "--id", "id",
         "--response", "text", "--policy", "theirs"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output + str(done.exception)
    with pytest.raises(UserError, match="cannot be pooled"):
        run(path, other, ["label"])
    ledger = run(recipe(tmp_path, problems=10, label={"mode": "exact", "completions": 2}), other, ["label"])["label"]
    assert ledger.out == ledger.taken > 0
    assert {row["m"] for row in other.read(STEP_LABELS).to_pylist()} == {0, 2}


def test_rollouts_of_another_token_budget_are_noticed(tmp_path, workspace):
    """The martingale check: completions that may go on where rollouts were cut short do not have their mean."""
    path = recipe(tmp_path, problems=120, label={"mode": "exact", "completions": 8})
    run(path, workspace)
    families = list(Families(pipeline.load(path).section("label"), workspace).all())
    cut = [
        replace(
            family, rollouts=[replace(row, outcome=False) if n % 2 else row for n, row in enumerate(family.rollouts)]
        )
        for family in families
    ]
    assert abs(disagreement(families)) < labels.SUSPICIOUS
    assert abs(disagreement(cut)) > labels.SUSPICIOUS
    assert disagreement(families[:8]) is None


def disagreement(families):
    return labels.LabelTally(
        labels.Ruled(family, rules.Exact(8), [], [rules.Exact(8)]) for family in families
    ).disagreement()


def test_failed_requests_leave_their_rollouts_without_labels_until_they_are_asked_again(tmp_path, workspace):
    ledger = run(recipe(tmp_path, faults={"reject_rate": 0.2}, rollout={"error_budget": 1.0}), workspace)["label"]
    assert ledger.failed
    labelled = {row["rollout_id"] for row in workspace.read(STEP_LABELS).to_pylist()}
    assert 0 < len(labelled) < workspace.read(ROLLOUTS).num_rows
    run(recipe(tmp_path), workspace)
    after = {row["rollout_id"] for row in workspace.read(STEP_LABELS).to_pylist()}
    assert len(after) == workspace.read(ROLLOUTS).num_rows == 64


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"completions": 4}, "no effect with mode pooled"),
        ({"mode": "exact", "mean_completions": 2}, "no effect with mode exact"),
        ({"mean_completions": 2, "budget_tokens": 100}, "say the same"),
        ({"mean_completions": 9, "max_completions": 4}, "above max_completions"),
    ],
)
def test_settings_without_effect_are_errors(tmp_path, section, message):
    with pytest.raises(UserError, match=message):
        pipeline.load(recipe(tmp_path, label=section))


def test_harvested_completions_are_examples_whose_new_steps_have_their_own_outcome(tmp_path, workspace):
    path = recipe(tmp_path, problems=10)
    tree = json.loads(path.read_text())
    path.write_text(json.dumps(tree | {"shard": {"harvest": 0.3}}))
    run(path, workspace)
    examples = {row["rollout_id"]: row for row in workspace.read(EXAMPLES).to_pylist()}
    completions = workspace.read(COMPLETIONS).to_pylist()
    assert len(examples) == workspace.read(ROLLOUTS).num_rows + len(completions)
    for row in completions:
        made = examples[f"{row['rollout_id']}.{row['step_index']:02d}.{row['sample_index']:03d}"]
        rollout, begun = examples[row["rollout_id"]], row["step_index"] + 1
        assert made["steps"][:begun] == rollout["steps"][:begun]
        assert "".join(made["steps"][begun:]) == row["text"]
        assert made["values"] == [None] * begun + [float(row["outcome"])] * (len(made["steps"]) - begun)
        assert set(made["weights"][begun:]) == {0.3}
        assert set(made["weights"][:begun]) == {0.0}
    path.write_text(json.dumps(tree | {"shard": {}}))
    run(path, workspace, ["shard"])
    assert workspace.read(EXAMPLES).num_rows == workspace.read(ROLLOUTS).num_rows
    assert all(value is not None for row in workspace.read(EXAMPLES).to_pylist() for value in row["values"])
