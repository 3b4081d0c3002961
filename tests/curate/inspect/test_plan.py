"""What a plan says before anything is spent, and what it says is what is spent."""

import json

import pytest
from typer.testing import CliRunner

from curate import pipeline
from curate.cli.app import app
from curate.runtime.reporter import Silent
from curate.tables.schema import COMPLETIONS, DROPS, JUDGEMENTS, PROBLEMS, ROLLOUTS
from curate.tables.store import Store
from tests.beds.rows import commit

ROWS, META = 30, 10


@pytest.fixture
def recipe(tmp_path):
    source = {"kind": "synthetic", "task": "bars_read", "rows": ROWS}
    tree = {
        "name": "t",
        "seed": 3,
        "ingest": {
            "sources": [
                source | {"name": "bars"},
                source | {"name": "dials", "task": "dial_read"},
                source | {"name": "meta", "role": "meta", "domain": "bars", "rows": META},
            ]
        },
        "rollout": {
            "engine": {"kind": "simulated", "model": "world"},
            "samples": 4,
            "sampling": {"max_tokens": 900},
        },
        "label": {"mean_completions": 2},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(tree))
    pipeline.run(pipeline.load(path), Store.open(tmp_path / "w"), Silent(), ["ingest"])
    return path


def plan(recipe, *words):
    result = CliRunner().invoke(app, ["plan", str(recipe), "-w", str(recipe.parent / "w"), *words])
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.output


def test_without_anything_measured_there_are_counts_and_a_bound(recipe):
    made = json.loads(plan(recipe, "--json"))
    assert [(line["domain"], line["role"], line["requests"], line["samples"]) for line in made["lines"]] == [
        ("bars", "meta", META, 4 * META),
        ("bars", "train", ROWS, 4 * ROWS),
        ("dials", "train", ROWS, 4 * ROWS),
    ]
    assert made["max_tokens"] == 4 * (2 * ROWS + META) * 900
    assert (made["tokens"], made["hours"], made["disk_bytes"]) == (None, None, None)
    assert made["lines"][0]["label_tokens"] == 0
    assert [line["votes"] for line in made["lines"]] == [0, 0, 0]
    tree = json.loads(recipe.read_text())
    judge = {"engine": {"kind": "simulated", "model": "judge"}, "sampling": {"temperature": 1}}
    recipe.write_text(json.dumps(tree | {"judge": judge | {"samples": 3, "limit": 50}}))
    assert [line["votes"] for line in json.loads(plan(recipe, "--json"))["lines"]] == [0, 150, 150]
    said = plan(recipe)
    assert "use --pilot" in said
    assert "# bars (" in said


def test_a_pilot_is_kept_and_its_estimate_holds(recipe):
    made = json.loads(plan(recipe, "--json", "--pilot", "10"))
    workspace = Store.open(recipe.parent / "w")
    kept = workspace.read(ROLLOUTS).num_rows
    assert kept == made["measured_on"] == 3 * 10 * 4
    assert made["hours"] == pytest.approx(made["gpu_hours"])
    assert made["disk_bytes"] > 0
    assert "GPU-hours" not in plan(recipe)  # the speed is a pilot's
    assert "tokens, measured on 120 rollouts" in plan(recipe)
    expected = {(line["domain"], line["role"]): line for line in made["lines"]}
    before = sum(workspace.read(ROLLOUTS)["tokens"].to_pylist())
    ledgers = pipeline.run(pipeline.load(recipe), workspace, Silent(), ["rollout", "label"])
    assert ledgers["rollout"].skipped == kept
    spent = sum(workspace.read(ROLLOUTS)["tokens"].to_pylist()) - before
    assert spent == pytest.approx(sum(line["rollout_tokens"] for line in expected.values()), rel=0.1)
    completions = workspace.read(COMPLETIONS)
    assert completions.num_rows == pytest.approx(sum(line["completions"] for line in expected.values()), rel=0.1)
    spent = sum(completions["tokens"].to_pylist())
    # Pooled labels draw more where completions are short.
    assert spent == pytest.approx(sum(line["label_tokens"] for line in expected.values()), rel=0.25)
    done = json.loads(plan(recipe, "--json"))
    assert done["tokens"] == done["disk_bytes"] == 0
    assert {value for line in done["lines"] for key, value in line.items() if key not in ("domain", "role")} == {0}
    assert plan(recipe).endswith("Nothing is left to generate.\n")


def test_a_pilot_tries_labels_too_and_keeps_none_of_their_completions(recipe):
    tree = json.loads(recipe.read_text())
    hard = {"mode": "hard", "completions": 16}
    recipe.write_text(json.dumps(tree | {"label": hard}))
    made = json.loads(plan(recipe, "--json", "--pilot", "15"))
    workspace = Store.open(recipe.parent / "w")
    assert workspace.read(COMPLETIONS).num_rows == 0
    assert not workspace.staging(COMPLETIONS).folder.exists()
    assert made["label_tokens_per_second"] > 0
    rollouts = sum(line["rollout_tokens"] for line in made["lines"])
    seconds = rollouts / made["tokens_per_second"] + (made["tokens"] - rollouts) / made["label_tokens_per_second"]
    assert made["hours"] == pytest.approx(seconds / 3600)
    assert "tokens/s for rollouts and" in plan(recipe, "--pilot", "16")
    pipeline.run(pipeline.load(recipe), workspace, Silent(), ["rollout", "label"])
    drawn = workspace.read(COMPLETIONS)
    # Far from the 16 that there may be: it stops at the first right one.
    assert drawn.num_rows == pytest.approx(sum(line["completions"] for line in made["lines"]), rel=0.35)
    assert sum(drawn["tokens"].to_pylist()) == pytest.approx(made["tokens"] - rollouts, rel=0.35)


def test_a_plan_of_labels_for_rollouts_that_are_there_is_what_a_run_draws(recipe):
    """Also of a part that another rule has drawn, and of votes."""
    workspace = Store.open(recipe.parent / "w")
    tree = json.loads(recipe.read_text())
    judge = {"engine": {"kind": "simulated", "model": "judge"}, "sampling": {"temperature": 1}, "samples": 2}

    def drawn(label):
        recipe.write_text(json.dumps(tree | {"label": label, "judge": judge}))
        made = json.loads(plan(recipe, "--json"))
        before, votes = workspace.read(COMPLETIONS).num_rows, workspace.read(JUDGEMENTS).num_rows
        ledger = pipeline.run(pipeline.load(recipe), workspace, Silent(), ["label", "judge"])["label"]
        lines = made["lines"]
        assert sum(line["prefixes"] for line in lines) == ledger.taken - ledger.skipped
        assert sum(line["votes"] for line in lines) == workspace.read(JUDGEMENTS).num_rows - votes
        return workspace.read(COMPLETIONS).num_rows - before, sum(line["completions"] for line in lines)

    pipeline.run(pipeline.load(recipe), workspace, Silent(), ["rollout"])
    exact = {"mode": "exact", "completions": 2}
    for label in (exact | {"rollouts": 1}, exact, exact | {"completions": 5}, {"mean_completions": 6}):
        real, planned = drawn(label)
        assert real == planned > 0


@pytest.mark.parametrize("mode", [{"mode": "hard", "completions": 12}, {"mode": "legacy", "completions": 9}])
def test_a_rule_that_stops_early_is_planned_at_its_most_after_another(recipe, mode):
    """What the other drew says little about prefixes that it could not decide."""
    workspace = Store.open(recipe.parent / "w")
    tree = json.loads(recipe.read_text()) | {"label": {"mode": "exact", "completions": 3}}
    recipe.write_text(json.dumps(tree))
    pipeline.run(pipeline.load(recipe), workspace, Silent(), ["rollout", "label"])
    recipe.write_text(json.dumps(tree | {"label": mode}))
    lines, before = json.loads(plan(recipe, "--json"))["lines"], workspace.read(COMPLETIONS).num_rows
    ledger = pipeline.run(pipeline.load(recipe), workspace, Silent(), ["label"])["label"]
    drawn = workspace.read(COMPLETIONS).num_rows - before
    prefixes, planned = (sum(line[name] for line in lines) for name in ("prefixes", "completions"))
    assert prefixes == ledger.taken - ledger.skipped > 0
    assert planned == prefixes * (mode["completions"] - 3 - (mode["mode"] == "legacy")) >= drawn > 0
    assert json.loads(plan(recipe, "--json"))["tokens"] == 0


@pytest.mark.parametrize("pilot", [True, False])
def test_a_budget_of_tokens_is_what_labels_are_planned_to_take(recipe, pilot):
    """Before all rollouts are there, and when they are; less where every prefix has the most that it may have."""
    tree = json.loads(recipe.read_text())
    workspace = Store.open(recipe.parent / "w")
    if not pilot:
        pipeline.run(pipeline.load(recipe), workspace, Silent(), ["rollout"])

    def planned(budget):
        recipe.write_text(json.dumps(tree | {"label": {"budget_tokens": budget, "max_completions": 4}}))
        made = json.loads(plan(recipe, "--json", *(["--pilot", "10"] if pilot else [])))
        return sum(line["label_tokens"] for line in made["lines"]), made["lines"]

    tokens, _ = planned(30_000)
    assert tokens == pytest.approx(30_000, rel=0.02 if pilot else 0.15)
    _, lines = planned(10**9)
    assert sum(line["completions"] for line in lines) == 4 * sum(line["prefixes"] for line in lines)
    recipe.write_text(json.dumps(tree | {"label": {"budget_tokens": 30_000, "max_completions": 4}}))
    pipeline.run(pipeline.load(recipe), workspace, Silent(), ["rollout", "label"])
    assert sum(workspace.read(COMPLETIONS)["tokens"].to_pylist()) == pytest.approx(tokens, rel=0.15)
    assert planned(30_000)[0] == 0


def test_a_problem_that_is_dropped_costs_nothing(recipe):
    """Its rollouts are there, and get neither completions nor votes."""
    workspace = Store.open(recipe.parent / "w")
    judge = {"engine": {"kind": "simulated", "model": "judge"}, "sampling": {"temperature": 1}}
    recipe.write_text(json.dumps(json.loads(recipe.read_text()) | {"judge": judge}))
    pipeline.run(pipeline.load(recipe), workspace, Silent(), ["rollout"])
    gone = [row for row in workspace.read(PROBLEMS).to_pylist() if row["role"] == "train"][:20]
    fields = {"by": "dedup", "reason": "duplicate", "against": "x", "against_domain": "x", "against_role": "train"}
    drops = [{name: row[name] for name in ("problem_id", "domain", "role")} | fields for row in gone]
    commit(workspace.partition(DROPS, "dedup"), [{"image_distance": None, "text_similarity": 1.0} | r for r in drops])
    lines = json.loads(plan(recipe, "--json"))["lines"]
    assert sum(line["votes"] for line in lines) == (2 * ROWS - 20) * 4 * pipeline.load(recipe).section("judge").samples
    pipeline.run(pipeline.load(recipe), workspace, Silent(), ["label", "judge"])
    assert workspace.read(COMPLETIONS).num_rows == sum(line["completions"] for line in lines)
    assert plan(recipe).endswith("Nothing is left to generate.\n")


@pytest.mark.parametrize("samples", [1, 4])
def test_a_run_spends_its_budget_however_many_rollouts_a_problem_has(recipe, samples):
    """With one, the cost of a completion is known from the chains of other problems alone."""
    tree = json.loads(recipe.read_text())
    tree["rollout"]["samples"] = samples
    tree["label"] = {"budget_tokens": 10_000 * samples, "max_completions": 8}
    recipe.write_text(json.dumps(tree))
    workspace = Store.open(recipe.parent / "w")
    pipeline.run(pipeline.load(recipe), workspace, Silent(), ["rollout"])
    planned = sum(line["label_tokens"] for line in json.loads(plan(recipe, "--json"))["lines"])
    pipeline.run(pipeline.load(recipe), workspace, Silent(), ["label"])
    spent = sum(workspace.read(COMPLETIONS)["tokens"].to_pylist())
    assert (planned, spent) == (pytest.approx(10_000 * samples, rel=0.2), pytest.approx(10_000 * samples, rel=0.2))
