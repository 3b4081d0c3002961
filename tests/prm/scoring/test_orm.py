"""An outcome reward model: what it learns from, what it says, and how it stands beside a PRM in best-of-N."""

import json
import random

import pytest
import torch
from prm_testbed import example_rows, fill
from report_testbed import rollout_row
from train_testbed import settings

from curate.errors import UserError
from curate.tables import lineage
from curate.tables.schema import EXAMPLES, REJECTS, ROLLOUTS, STEP_SCORES
from prm.bench.score import models
from prm.data.examples import read_examples, read_images
from prm.model.saved import model_folder, read_card
from prm.scoring import score, select
from prm.sections import SelectConfig
from prm.serving import export
from prm.serving.rows import ServedRollout
from prm.serving.scorer import Scorer
from prm.training import train
from prm.training.inputs import prepare, targeted
from tests.beds.rows import commit


def orm(folder: str, **changes):
    return settings(folder, mode="uniform", target="outcome", **changes)


def test_only_the_last_step_has_a_label_and_it_is_the_outcome(make_workspace):
    workspace = make_workspace()
    for example in read_examples(workspace, ("train", "meta")):
        found = targeted(example, "outcome")
        assert targeted(example, "steps") == example
        if example.role == "meta":
            assert found == example
            continue
        assert found.values == (*(None,) * (len(example.steps) - 1), float(example.outcome))
        assert sum(found.weights) == 1


def test_labels_of_steps_do_not_matter_and_outcomes_do(tiny_model, make_workspace):
    """Two workspaces with other step labels train to the same scores bit for bit, one with other outcomes does not."""
    rows, images = example_rows(12, "train", ("a", "b", "c"))
    variants = {
        "plain": rows,
        "labels": [row | {"values": [0.5] * len(row["steps"])} for row in rows],
        "outcomes": [row | {"outcome": not row["outcome"]} for row in rows],
    }
    scores = {}
    for name, these in variants.items():
        workspace = make_workspace(name, train=0)
        fill(workspace, "train", these, images)
        train.run(orm(tiny_model), workspace, 0)
        score.run(workspace)
        scores[name] = {
            (row["rollout_id"], row["step_index"]): row["score"] for row in workspace.read(STEP_SCORES).to_pylist()
        }
    assert scores["plain"] == scores["labels"]
    assert scores["plain"].keys() == scores["outcomes"].keys()
    assert scores["plain"] != scores["outcomes"]
    steps = {row["rollout_id"]: len(row["steps"]) for row in workspace.read(EXAMPLES).to_pylist()}
    for (rollout, step), found in scores["plain"].items():
        assert (found is not None) == (step == steps[rollout] - 1)


def test_a_rollout_without_outcome_is_rejected_by_name(tiny_model, make_workspace):
    rows, images = example_rows(6, "train", ("a", "b", "c"))
    workspace = make_workspace(train=0)
    fill(workspace, "train", [rows[0] | {"outcome": None}, *rows[1:]], images)
    _, ledger = prepare(orm(tiny_model), workspace)
    assert ledger.rejected == {"no-label": 1}
    assert [row["reason"] for row in workspace.read(REJECTS).to_pylist()] == ["no-label"]


def test_an_orm_from_elsewhere_stands_beside_the_prm(tiny_model, make_workspace):
    here, there = make_workspace("here"), make_workspace("there")
    train.run(settings(tiny_model, mode="uniform"), here, 0)
    train.run(orm(tiny_model), there, 0)
    folder = model_folder(there, "seed-0")
    assert (read_card(folder).of_outcomes, read_card(folder).aggregation) == (True, "last")
    ledger = score.run(here, models={"outcomes": folder})
    assert (ledger.taken, ledger.out, ledger.skipped) == (8, 8, 0)
    assert score.run(here, models={"outcomes": folder}).skipped == 8
    # The same scores as at home.
    score.run(there)
    home = {(row["rollout_id"], row["step_index"]): row["score"] for row in there.read(STEP_SCORES).to_pylist()}
    rows = [row for row in here.read(STEP_SCORES).to_pylist() if row["run"] == "outcomes"]
    assert {(row["rollout_id"], row["step_index"]): row["score"] for row in rows} == home

    tests = read_examples(here, ("test",))
    rng = random.Random(0)
    rollouts = []
    for example in tests:
        made = rollout_row(example.problem_id, example.domain, "test", example.sample_index, "7", example.outcome, rng)
        rollouts.append(made | {"rollout_id": example.rollout_id, "steps": list(example.steps)})
    commit(here.partition(ROLLOUTS), rollouts)
    found = select.run(here, SelectConfig(sizes=(1,)))
    assert (found.runs, found.orms, found.missing) == (("seed-0",), ("outcomes",), {"outcomes": 0, "seed-0": 0})
    assert {"prm", "weighted", "orm"} <= set(found.methods)
    steps = {example.rollout_id: len(example.steps) for example in tests}
    logits = select.rollout_logits(here, steps, "min", {"outcomes"})["outcomes"]
    last = {example.rollout_id: home[example.rollout_id, len(example.steps) - 1] for example in tests}
    assert logits == pytest.approx(
        {name: float(torch.logit(torch.tensor(one))) for name, one in last.items()}, abs=1e-5
    )


def test_a_service_says_what_is_stored_and_step_benchmarks_refuse_it(tiny_model, make_workspace, tmp_path):
    workspace = make_workspace()
    train.run(orm(tiny_model), workspace, 0)
    score.run(workspace)
    folder = model_folder(workspace, "seed-0")
    stored = {(row["rollout_id"], row["step_index"]): row["score"] for row in workspace.read(STEP_SCORES).to_pylist()}
    examples = read_examples(workspace, ("test",))
    images = read_images(workspace, examples)
    scorer = Scorer(folder, batch_rows=1)
    for example in examples:
        given = tuple((key, images[key]) for key in example.image_hashes)
        (found,) = scorer([ServedRollout(example.question, example.choices, given, example.steps)])
        wanted = [stored[example.rollout_id, step] for step in range(len(example.steps))]
        assert found.steps == pytest.approx(wanted, abs=1e-6)
        assert found.score == pytest.approx(wanted[-1], abs=1e-6)
    with pytest.raises(UserError, match="outcome reward model and has no scores of steps"):
        models(workspace, [], None)
    export.run(workspace, "seed-0", tmp_path / "out")
    reading = json.loads((tmp_path / "out" / "prm.json").read_text())["reading"]
    assert "only the last step's was trained" in reading["read"]


def test_names_and_folders_that_cannot_be(tiny_model, make_workspace, tmp_path):
    workspace = make_workspace()
    train.run(settings(tiny_model, mode="uniform"), workspace, 0)
    with pytest.raises(UserError, match="is a run of this workspace"):
        score.run(workspace, models={"seed-0": model_folder(workspace, "seed-0")})
    with pytest.raises(UserError, match="no trained PRM at"):
        score.run(workspace, models={"other": tmp_path})
    score.run(workspace, models={"other": model_folder(workspace, "seed-0")})
    other = make_workspace("second")
    train.run(settings(tiny_model, mode="uniform", steps=4), other, 1)
    with pytest.raises(UserError, match="prm score --replace"):
        score.run(workspace, models={"other": model_folder(other, "seed-0")})
    with pytest.raises(UserError, match="aggregation has no effect"):
        orm("anywhere", aggregation="min")
    assert lineage.read(workspace.partition(STEP_SCORES, "other"))["complete"]
