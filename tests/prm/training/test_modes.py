"""Modes of `prm train` end to end on a tiny model: weights of rollouts, chosen rollouts, settings without effect."""

import re

import pytest
import torch
import yaml
from train_testbed import settings, train_config, updates

from curate import pipeline
from curate.errors import UserError
from curate.tables import lineage
from curate.tables.schema import REJECTS, ROLLOUT_WEIGHTS
from prm.config import PER_ROLLOUT, LearnedTraining
from prm.distributed.process_group import ProcessGroup
from prm.model.reward_model import Prm
from prm.model.saved import model_folder
from prm.reporting import build
from prm.scoring import score
from prm.training import train

UPPER = {"unroll": 2, "warmup": 1, "lr": 0.1, "meta_rows": 4}


@pytest.mark.parametrize("mode", PER_ROLLOUT)
def test_weights_of_rollouts_are_learned_kept_and_reported(tiny_model, make_workspace, mode):
    workspace = make_workspace()
    config = settings(tiny_model, mode=mode, micro_rows=4)
    result = train.run(config, workspace, 0)
    assert [one.run for one in result.runs] == ["seed-0", "null-0"]
    rows = {(row["run"], row["rollout_id"]): row for row in workspace.read(ROLLOUT_WEIGHTS).to_pylist()}
    assert len(rows) == 24
    assert {row["domain"] for row in rows.values()} == {"a", "b", "c"}
    assert all(row["reads"] > 0 or row["dot"] is None for row in rows.values())
    last = [row for row in updates(workspace) if row["run"] == "seed-0" and row["update"] == 2]
    for row in last:
        known = [r["weight"] for (run, _), r in rows.items() if run == "seed-0" and r["domain"] == row["domain"]]
        known = [weight for weight in known if weight is not None]
        # The network sees its rollouts anew in the step after the last update; a table stands still.
        assert row["weight"] == pytest.approx(sum(known) / len(known), rel=1e-9 if mode == "instance-table" else 0.05)
        assert row["raw"] is None
        assert row["dot"] != 0
        assert -1 <= row["cosine"] <= 1
    assert sum(row["weight"] for row in last) == pytest.approx(3)
    record = lineage.read(workspace.partition(ROLLOUT_WEIGHTS, "null-0"))
    assert record["complete"]
    assert record["config"]["mode"] == mode
    assert train.run(config, workspace, 0).runs[0].there
    score.run(workspace)
    built = build.build(workspace)
    assert built.mode == mode
    assert {row.domain: row.weight for row in built.domains} == pytest.approx({r["domain"]: r["weight"] for r in last})
    assert {row.verdict for row in built.domains} <= {"up", "down", "indistinguishable"}
    assert any("rollout_weights" in note for note in built.notes)


@pytest.mark.parametrize("mode", PER_ROLLOUT)
def test_a_killed_run_of_rollout_weights_goes_on_to_the_same_end(tiny_model, make_workspace, mode):
    whole, broken = make_workspace("whole"), make_workspace("broken")
    config = settings(tiny_model, mode=mode, null_runs=0)
    train.run(config, whole, 0)

    def die(run: str, step: int, total: int, info: dict) -> None:
        if step == 5:
            raise MemoryError

    with pytest.raises(MemoryError):
        train.run(config, broken, 0, die)
    assert broken.read(ROLLOUT_WEIGHTS).num_rows == 0
    train.run(config, broken, 0)
    assert updates(whole) == updates(broken)
    assert whole.read(ROLLOUT_WEIGHTS).equals(broken.read(ROLLOUT_WEIGHTS))
    one, other = (Prm.load(str(model_folder(w, "seed-0"))) for w in (whole, broken))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    train.run(settings(tiny_model), whole, 0, replace=True)
    assert whole.read(ROLLOUT_WEIGHTS).num_rows == 0


@pytest.mark.parametrize("freeze", [True, False], ids=["frozen", "vision"])
def test_half_precision_and_an_unfrozen_vision_tower(tiny_model, make_workspace, freeze):
    config = settings(
        tiny_model, mode="instance-table", null_runs=0, precision="bfloat16", freeze_vision=freeze, steps=12
    )
    workspace = make_workspace()
    train.run(config, workspace, 0)
    assert len({row["weight"] for row in workspace.read(ROLLOUT_WEIGHTS).to_pylist()}) >= 6


@pytest.mark.parametrize("mode", ["s1", "car"])
def test_a_chosen_part_is_trained_on_and_the_rest_is_listed(tiny_model, make_workspace, mode):
    workspace = make_workspace(meta=0)
    result = train.run(settings(tiny_model, mode=mode, steps=10, subset={"share": 0.5}), workspace, 0)
    assert [one.run for one in result.runs] == ["seed-0"]
    listed = workspace.read(REJECTS).to_pylist()
    assert sum(result.ledger.rejected.values()) == len(listed) == 12 - result.ledger.out
    assert 0 < result.ledger.out <= 6
    assert {row["reason"] for row in listed} == set(result.ledger.rejected)
    assert all(row["reason"].startswith(f"{mode}-") and row["detail"] for row in listed)
    assert len(result.notes) == 1
    assert f"Mode {mode} trains on {result.ledger.out} of 12 rollouts (" in result.notes[0]
    rows = updates(workspace)
    assert {row["weight"] for row in rows} == {1.0}
    # A batch is as large as with all domains, and each update sees five.
    assert {sum(row["rows"] for row in rows if row["update"] == update) for update in (1, 2)} == {30}
    built = build.build(workspace)
    assert {row.verdict for row in built.domains if row.weight is not None} == {"unknown"}
    score.run(workspace)


@pytest.mark.parametrize(
    ("given", "key", "message"),
    [
        ({"mode": "uniform", "upper": {"unroll": 5}}, "upper", "with mode uniform: it belongs to mode domain"),
        ({"mode": "s1", "upper": {"lr": 0.1}}, "upper", "with mode s1: it belongs to mode domain"),
        ({"mode": "car", "upper": {"loss": "pairs"}}, "upper", "with mode car: it belongs to mode domain"),
        ({"mode": "frozen", "weights": {"a": 1.0}, "upper": {"ema": 0.5}}, "upper", "with mode frozen"),
        ({"mode": "uniform", "null_runs": 3}, "null_runs", "with mode uniform: it belongs to mode domain"),
        ({"mode": "domain", "subset": {"share": 0.5}}, "subset", "with mode domain: it belongs to mode s1"),
        ({"mode": "s1", "subset": {"clusters": 5}}, "subset.clusters", "with mode s1: it belongs to mode car"),
        ({"mode": "s1", "weights": {"a": 1.0}}, "weights", "with mode s1: it belongs to mode frozen"),
        ({"upper": {"rule": "mirror", "betas": (0, 0.9)}}, "upper.betas", "with rule mirror: it belongs to rule adam"),
    ],
)  # fmt: skip
def test_settings_without_effect_are_refused(given, key, message):
    with pytest.raises(
        UserError, match=rf'^"train\.{re.escape(key)}" in the recipe has no effect {re.escape(message)}'
    ):
        train_config(model="m", **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mode": "frozen"}, r'"train\.weights" in the recipe: Field required'),
        ({"mode": "frozen", "weights": {}}, r'"train\.weights" in the recipe: Dictionary should have at least 1 item'),
        ({"mode": "frozen", "weights": {"a": 0.0}}, "not all 0"),
        ({"mode": "frozen", "weights": {"a": 1.0, "b": -1.0}}, "must not be negative"),
        ({"mode": "instance-net", "upper": {"rule": "mirror"}},
         r'"train\.upper\.rule" in the recipe cannot be mirror with mode instance-net: that belongs to mode domain\.'),
        ({"mode": "instance-net", "upper": {"rule": "miror"}}, r"upper\.rule.* Input should be 'adam'"),
    ],
)  # fmt: skip
def test_settings_that_a_mode_cannot_have_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        train_config(model="m", **given)


@pytest.mark.parametrize(
    "given",
    [
        {"mode": "uniform", "upper": {}, "null_runs": 0},
        {"mode": "instance-net", "upper": {"unroll": 1}, "null_runs": 2},
        {"mode": "car", "subset": {"share": 0.2, "clusters": 7}},
        {"mode": "domain"},
        {"mode": "domain", "upper": {"rule": "mirror"}},
    ],
)
def test_what_was_resolved_can_be_read_again(given):
    config = train_config(model="m", **given)
    dumped = config.model_dump(mode="json")
    assert train_config(**dumped).model_dump(mode="json") == dumped
    assert ("upper" in dumped) == isinstance(config, LearnedTraining)
    assert ("subset" in dumped) == (config.mode == "car")


def test_a_recipe_says_it_in_one_sentence(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "x", "train": {"model": "m", "mode": "uniform", "upper": {"lr": 0.1}}}))
    with pytest.raises(
        UserError, match=r"^\"train\.upper\" in the recipe has no effect with mode uniform: it belongs to mode domain"
    ):
        pipeline.load(path)
    assert pipeline.load(path, ["train.upper={}"]).resolved()["train"]["mode"] == "uniform"


def test_one_train_domain_is_enough_for_weights_of_rollouts(tiny_model, make_workspace):
    workspace = make_workspace(train=1)
    config = settings(tiny_model, mode="instance-table", null_runs=0, steps=2, upper=UPPER)
    assert train.run(config, workspace, 0).runs[0].weights == {"a": pytest.approx(1)}


@pytest.mark.parametrize("mode", PER_ROLLOUT)
def test_weights_of_rollouts_are_for_one_process(tiny_model, make_workspace, mode):
    class Two(ProcessGroup):
        size = 2

    workspace = make_workspace()
    with pytest.raises(UserError, match="runs as one process"):
        train.run(settings(tiny_model, mode=mode), workspace, 0, process_group=Two())
