"""What a plan says before anything is spent, and what it says is what is spent."""

import json

import pytest
from typer.testing import CliRunner

from curate import chain
from curate.cli.app import app
from curate.schema import COMPLETIONS, ROLLOUTS
from curate.stage import Silent
from curate.store import Workspace


@pytest.fixture
def recipe(tmp_path):
    source = {"kind": "synthetic", "task": "bars_read", "rows": 30}
    tree = {
        "name": "t",
        "seed": 3,
        "ingest": {
            "sources": [
                source | {"name": "bars"},
                source | {"name": "dials", "task": "dial_read"},
                source | {"name": "meta", "role": "meta", "domain": "bars", "rows": 10},
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
    chain.run(chain.load(path), Workspace.open(tmp_path / "w"), Silent(), ["ingest"])
    return path


def plan(recipe, *words):
    result = CliRunner().invoke(app, ["plan", str(recipe), "-w", str(recipe.parent / "w"), *words])
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.output


def test_without_anything_measured_there_are_counts_and_a_bound(recipe):
    made = json.loads(plan(recipe, "--json"))
    assert [(line["domain"], line["role"], line["requests"], line["samples"]) for line in made["lines"]] == [
        ("bars", "meta", 10, 40),
        ("bars", "train", 30, 120),
        ("dials", "train", 30, 120),
    ]
    assert made["most_tokens"] == 280 * 900
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
    workspace = Workspace.open(recipe.parent / "w")
    kept = workspace.read(ROLLOUTS).num_rows
    assert kept == made["measured_on"] == 3 * 10 * 4
    assert made["hours"] == pytest.approx(made["gpu_hours"])
    assert made["disk_bytes"] > 0
    assert "GPU-hours" not in plan(recipe)  # the speed is a pilot's
    assert "tokens, measured on 120 rollouts" in plan(recipe)
    expected = {(line["domain"], line["role"]): line for line in made["lines"]}
    before = sum(workspace.read(ROLLOUTS)["tokens"].to_pylist())
    ledgers = chain.run(chain.load(recipe), workspace, Silent(), ["rollout", "label"])
    assert ledgers["rollout"].skipped == kept
    spent = sum(workspace.read(ROLLOUTS)["tokens"].to_pylist()) - before
    assert spent == pytest.approx(sum(line["rollout_tokens"] for line in expected.values()), rel=0.1)
    completions = workspace.read(COMPLETIONS)
    assert completions.num_rows == pytest.approx(sum(line["completions"] for line in expected.values()), rel=0.1)
    spent = sum(completions["tokens"].to_pylist())
    # Pooled labels draw more where completions are short.
    assert spent == pytest.approx(sum(line["label_tokens"] for line in expected.values()), rel=0.25)
    done = json.loads(plan(recipe, "--json"))
    assert sum(line["samples"] for line in done["lines"]) == 0
