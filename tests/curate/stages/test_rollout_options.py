"""The options of `curate rollout`: short forms of keys, a part of the problems, and a run that writes nothing."""

import pytest
import yaml
from typer.testing import CliRunner

from curate.cli.app import app
from curate.engines import build
from curate.errors import UserError
from curate.recipe.parsing import validate
from curate.recipe.sections import EngineConfig, RolloutConfig
from curate.seeds import shard_of
from curate.stages import generation
from curate.tables.lineage import read
from curate.tables.rows import RolloutRow
from curate.tables.schema import PROBLEMS, ROLLOUTS
from curate.tables.store import Store

ROWS = 6
RECIPE = {
    "name": "options",
    "seed": 3,
    "ingest": {
        "sources": [
            {"kind": "synthetic", "name": "bars", "task": "bars_read", "rows": ROWS},
            {"kind": "synthetic", "name": "tables", "task": "table_lookup", "rows": ROWS},
            {"kind": "synthetic", "name": "m", "domain": "bars", "task": "bars_read", "rows": ROWS, "role": "meta"},
        ]
    },
    "rollout": {"engine": {"kind": "simulated", "model": "world"}, "samples": 2, "sampling": {"max_tokens": 600}},
}  # fmt: skip


@pytest.fixture
def rollout(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    workspace = tmp_path / "w"

    def go(*words, command="rollout"):
        done = CliRunner().invoke(app, [command, str(recipe), "-w", str(workspace), *words])
        if done.exception is not None:
            raise done.exception
        return done.stdout

    go(command="ingest")
    return go


@pytest.fixture
def workspace(rollout, tmp_path):
    return Store.open(tmp_path / "w")


def rollouts(workspace):
    return workspace.read(ROLLOUTS).to_pylist()


def last_recipe(workspace):
    return yaml.safe_load(
        max(workspace.root.glob("runs/*/recipe.yaml"), key=lambda path: path.stat().st_mtime_ns).read_text()
    )


def test_each_option_stands_for_its_key(rollout, workspace):
    rollout(
        "--model", "yes", "-n", "3", "--temperature", "0.7", "--top-p", "0.9", "--max-tokens", "500", "--seed", "8",
        "--engine-arg", "world_seed=4", "--engine-arg", "latency=0.001", "--limit", "2", "--domain", "bars",
    )  # fmt: skip
    resolved = last_recipe(workspace)
    assert resolved["seed"] == 8
    section = resolved["rollout"]
    assert (section["engine"]["model"], section["engine"]["args"]) == ("yes", {"world_seed": 4, "latency": 0.001})
    assert (section["samples"], section["limit"], section["domains"]) == (3, 2, ["bars"])
    assert section["sampling"] == {"temperature": 0.7, "top_p": 0.9, "top_k": 0, "max_tokens": 500}
    # Two problems of each role, three samples of each.
    assert len(rollouts(workspace)) == 2 * 2 * 3
    assert {row["domain"] for row in rollouts(workspace)} == {"bars"}


def test_a_larger_limit_adds_to_a_smaller_one_and_all_is_the_rest(rollout, workspace):
    rollout("--limit", "2")
    few = {row["rollout_id"]: row for row in rollouts(workspace)}
    assert len(few) == 3 * 2 * 2
    assert "(12 were there already)" in rollout("--limit", "4")
    more = {row["rollout_id"]: row for row in rollouts(workspace)}
    assert len(more) == 3 * 4 * 2 and few.items() <= more.items()
    rollout("--domain", "tables")
    rollout()
    everything = {row["rollout_id"]: row for row in rollouts(workspace)}
    assert len(everything) == 3 * ROWS * 2 and more.items() <= everything.items()
    assert "limit" not in read(workspace.partition(ROLLOUTS))["config"]


def test_an_unknown_domain_is_a_user_error_with_the_nearest_name(rollout, workspace):
    with pytest.raises(UserError, match='no domain "barz" to roll out; did you mean "bars"'):
        rollout("--domain", "barz")
    assert not rollouts(workspace)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tp", "2"], 'simulated engine has no argument "tensor_parallel_size"'),
        (["--gpu-memory-utilization", "0.5"], 'no argument "gpu_memory_utilization"'),
        (["--max-pixels", "5000"], "engine.max_pixels has no effect with the engine simulated"),
        (["--max-model-len", "512"], "engine.max_model_len has no effect with the engine simulated"),
        (["--url", "http://x/v1"], "engine.urls has no effect with the engine simulated"),
        (["--engine", "simulatd"], 'did you mean "simulated"'),
        (["--engine-arg", "latency"], "--engine-arg takes key=value"),
        (["--samples", "0"], "greater than or equal to 1"),
        (["-n", "3", "--set", "rollout.samples=4"], "--samples and --set rollout.samples=4 set the same key"),
        (["--tp", "2", "--engine-arg", "tensor_parallel_size=4"], "set the same key"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry"])
def test_an_option_that_cannot_have_its_effect_is_an_error(rollout, workspace, words, said, dry):
    with pytest.raises(UserError) as error:
        rollout(*words, *dry)
    assert said in str(error.value)
    assert not rollouts(workspace)


@pytest.mark.parametrize("other", ["--replace", "--json"])
def test_a_dry_run_takes_nothing_that_it_would_not_do(rollout, other):
    with pytest.raises(UserError, match=f"{other} has no effect with --dry-run"):
        rollout("--dry-run", other)


def test_a_dry_run_shows_prompts_and_counts_and_writes_nothing(rollout, workspace):
    rollout("--limit", "1", "--domain", "bars")
    before = {path: path.stat().st_mtime_ns for path in workspace.root.rglob("*")}
    said = rollout("--dry-run", "-n", "5")
    assert {path: path.stat().st_mtime_ns for path in workspace.root.rglob("*")} == before
    # 18 problems, two of which have two of their five samples.
    assert said.splitlines()[-1] == "18 requests and 86 samples are pending."
    assert [line.split()[1] for line in said.splitlines() if line.startswith("# ")] == ["bars", "tables"]
    questions = {row["domain"]: [] for row in workspace.read(PROBLEMS).to_pylist()}
    for row in workspace.read(PROBLEMS).to_pylist():
        questions[row["domain"]].append(row["question"])
    assert all(any(question in said for question in each) for each in questions.values())
    assert "Answer the question about the image in exactly five steps" in said
    rollout("-n", "5")
    assert rollout("--dry-run", "-n", "5").splitlines()[-1] == "0 requests and 0 samples are pending."
    with pytest.raises(UserError, match=r"sampling\.temperature: 1\.0 -> 0\.5"):
        rollout("--dry-run", "--temperature", "0.5")


def test_a_dry_run_counts_what_a_killed_run_left_in_its_journal(rollout, workspace):
    rollout("--limit", "1")
    rows = rollouts(workspace)[:2]
    partition = workspace.partition(ROLLOUTS)
    assert len({row["problem_id"] for row in rows}) == 1
    shard = shard_of(rows[0]["problem_id"], workspace.shards)
    record = (partition.folder / "lineage.json").read_bytes()
    partition.clear()
    partition.folder.mkdir(parents=True, exist_ok=True)
    (partition.folder / "lineage.json").write_bytes(record)
    journal = partition.journal(shard)
    journal.append([RolloutRow(**row) for row in rows])
    journal.close()
    pending = 3 * ROWS * 2 - 2
    assert f"and {pending} samples" in rollout("--dry-run")
    assert partition.journals() == [shard]


def test_a_dry_run_makes_no_workspace(rollout, tmp_path):
    with pytest.raises(UserError, match="no workspace"):
        rollout("--dry-run", "-w", str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_what_the_policy_sees_is_a_part_of_it_and_which_problems_are_not():
    plain = validate(RolloutConfig, RECIPE["rollout"], "rollout")
    policy, settings = generation.policy_digest(plain), generation.settings(plain)
    for change in ({"limit": 3}, {"domains": ["bars"]}, {"samples": 4}):
        other = plain.model_copy(update=change)
        assert (generation.policy_digest(other), generation.settings(other)) == (policy, settings)
    smaller = plain.model_copy(update={"engine": plain.engine.model_copy(update={"max_pixels": 4096})})
    assert generation.policy_digest(smaller) != policy
    assert generation.settings(smaller) == settings | {"max_pixels": 4096}


def test_a_setting_without_effect_is_refused_and_one_of_an_outside_engine_is_its_own_matter(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    build(EngineConfig(kind="transformers", model=str(tmp_path), max_pixels=5000, max_model_len=512))
    with pytest.raises(UserError, match=r"engine\.urls has no effect"):
        build(EngineConfig(kind="vllm", model=str(tmp_path), urls=("http://x/v1",)))
