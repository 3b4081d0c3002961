"""The whole chain by the command, with real vLLM and the demo policy, twice: the second time does nothing."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from curate.seeds import content_hash
from curate.sources.synthetic import judge_truth
from curate.tables.schema import COMPLETIONS, EXAMPLES, ROLLOUTS, STEP_LABELS, UPDATES
from curate.tables.store import Store

ROOT = Path(__file__).parents[2]
ENGINE = "vllm" if importlib.util.find_spec("vllm") else "transformers"


def curate(*words) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from curate.cli.app import main; main()", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    place = tmp_path_factory.mktemp("chain") / "w"
    done = curate("run", ROOT / "recipes" / "runs" / "smoke.yaml", "-w", place)
    assert done.returncode == 0, done.stderr[-3000:]
    return place, done


def lineage(place, table, partition="main"):
    return json.loads((place / "tables" / table / partition / "lineage.json").read_text())


def test_every_stage_ran_with_the_real_engine_and_its_accounts_add_up(ran):
    place, done = ran
    if ENGINE == "vllm":
        assert "vLLM" in done.stderr
        assert any(name.startswith("vllm") for name in lineage(place, "rollouts")["versions"])
    for path in place.glob("tables/*/*/lineage.json"):
        record = json.loads(path.read_text())
        book = record["ledger"]
        lost = sum(book["rejected"].values()) + sum(book["failed"].values())
        assert record["complete"]
        assert book["taken"] == book["out"] + book["duplicate"] + lost


def test_rollouts_and_labels_are_what_the_recipe_asks_for(ran):
    workspace = Store.open(ran[0], create=False)
    rollouts = {row["rollout_id"]: row for row in workspace.read(ROLLOUTS).to_pylist()}
    assert len(rollouts) == 3 * 6 * 2 + 6 * 4 + 2 * 4 * 4
    for row in rollouts.values():
        assert "".join(row["steps"]) == row["text"]
        assert row["step_ends"] == sorted(row["step_ends"])
        assert not row["steps"] or row["step_ends"][-1] == len(row["token_ids"])
        assert row["outcome"] in (True, False)
    completions = workspace.read(COMPLETIONS).to_pylist()
    labelled = [row for row in rollouts.values() if row["role"] == "train"]
    assert len(completions) == sum(2 * (len(row["steps"]) - 1) for row in labelled if row["steps"])
    for label in workspace.read(STEP_LABELS).to_pylist():
        last = label["step_index"] == len(rollouts[label["rollout_id"]]["steps"]) - 1
        assert label["m"] == (0 if last else 2)
        assert label["value"] == (float(label["outcome"]) if last else label["k"] / label["m"])


def test_the_policy_writes_chains_that_the_exact_checker_reads(ran):
    workspace = Store.open(ran[0], create=False)
    from curate.tables.schema import PROBLEMS

    truth = {row["problem_id"]: row["truth"] for row in workspace.read(PROBLEMS).to_pylist()}
    chains = [row for row in workspace.read(ROLLOUTS).to_pylist() if row["finish"] == "stop"]
    five = [row for row in chains if len(row["steps"]) == 5]
    assert len(five) > 0.8 * len(chains)
    verdicts = [judge_truth(truth[row["problem_id"]], row["steps"]) for row in five]
    assert any(all(steps) for steps in verdicts)
    assert any(not all(steps) for steps in verdicts)


def test_weights_and_the_report_are_there(ran):
    place, done = ran
    workspace = Store.open(place, create=False)
    updates = workspace.read(UPDATES).to_pylist()
    last = max(row["update"] for row in updates)
    final = {row["domain"]: row["weight"] for row in updates if row["update"] == last and row["run"] == "seed-0"}
    assert sum(final.values()) / len(final) == pytest.approx(1)
    assert set(final.values()) != {1.0}
    assert {row["run"] for row in updates} == {"seed-0", "null-0"}
    for name in ("report.json", "report.md", "report.html", "select.json"):
        assert (place / "reports" / name).stat().st_size > 500
    for domain in final:
        assert domain in done.stdout
    assert workspace.read(EXAMPLES).num_rows == 92


def test_the_second_time_nothing_is_generated_or_trained(ran):
    place, _ = ran

    def state():
        files = [path for path in (place / "tables").rglob("*.parquet") if path.parts[-3] not in ("examples",)]
        files += list((place / "models").rglob("*.safetensors"))
        return {path: content_hash(path.read_bytes()) for path in files}

    before = state()
    again = curate("run", ROOT / "recipes" / "runs" / "smoke.yaml", "-w", place)
    assert again.returncode == 0, again.stderr[-2000:]
    assert state() == before
    assert "were there already" in again.stdout
    assert "vLLM 0" not in again.stderr


def test_looking_at_the_workspace(ran):
    place, _ = ran
    status = curate("status", "-w", place, "--json")
    assert {row["stage"] for row in json.loads(status.stdout)} >= {"ingest", "rollout", "label", "shard", "train"}
    rows = json.loads(curate("sql", "SELECT problem_id FROM problems LIMIT 1", "-w", place, "--json").stdout)
    shown = json.loads(curate("show", rows[0]["problem_id"][:12], "-w", place, "--json").stdout)
    assert shown["problem"]["problem_id"] == rows[0]["problem_id"]
    assert Path(shown["image_files"][0]).read_bytes().startswith(b"\x89PNG")
    assert curate("show", "zz", "-w", place).returncode == 2
    assert curate("sql", "SELEC", "-w", place).returncode == 2


def test_another_setting_is_refused_with_the_key_that_changed(ran):
    place, _ = ran
    recipe = ROOT / "recipes" / "runs" / "smoke.yaml"
    refused = curate("rollout", recipe, "-w", place, "--set", "rollout.sampling.temperature=0.5")
    assert refused.returncode == 2
    assert "sampling.temperature: 1.0 -> 0.5" in refused.stderr
    assert "--replace" in refused.stderr
    wrong = curate("rollout", recipe, "-w", place.parent / "w2", "--set", "rollout.engine.model=./nowhere")
    assert wrong.returncode == 2
