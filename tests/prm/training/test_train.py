"""The stages end to end on a tiny model: train, resume, refuse, score."""

import math
import signal
import statistics
import threading

import pytest
import torch
from prm_testbed import example_rows, fill
from train_testbed import settings, updates

from curate.errors import Interrupted, UserError
from curate.tables import lineage
from curate.tables.schema import EXAMPLES, REJECTS, STEP_SCORES, UPDATES
from prm.config import AdamUpper
from prm.model.reward_model import Prm
from prm.model.saved import model_folder, read_card
from prm.scoring import score
from prm.training import train


def test_train_then_score(tiny_model, make_workspace):
    workspace, seen = make_workspace(), []
    result = train.run(settings(tiny_model), workspace, 5, lambda *args: seen.append(args))
    assert [(one.run, one.null_control, one.there) for one in result.runs] == [
        ("seed-0", False, False), ("null-0", True, False)
    ]  # fmt: skip
    assert (result.ledger.taken, result.ledger.out) == (20, 20)
    assert [step for run, step, total, _ in seen if run == "seed-0" and total == 6] == [1, 2, 3, 4, 5, 6]
    rows = updates(workspace)
    assert [(r["update"], r["step"]) for r in rows if r["run"] == "seed-0" and r["domain"] == "a"] == [
        (0, 0), (1, 3), (2, 5)
    ]  # fmt: skip
    assert all(r["weight"] == 1 and r["dot"] is None and r["meta_loss"] is None for r in rows if r["update"] == 0)
    assert all(r["weight"] != 1 and math.isfinite(r["dot"]) for r in rows if r["update"] == 2)
    assert {r["seed"] for r in rows} == {5}
    for run, domain in {(r["run"], r["domain"]) for r in rows}:
        path = [r for r in rows if (r["run"], r["domain"]) == (run, domain)]
        dots = [r["dot"] for r in path[1:]]
        assert [r["t"] for r in path[:2]] == [None, None]
        assert path[2]["t"] == pytest.approx(statistics.mean(dots) / statistics.stdev(dots) * 2**0.5)
    assert not model_folder(workspace, "null-0").exists()
    assert read_card(model_folder(workspace, "seed-0")).aggregation == "mean-log-odds"

    again = train.run(settings(tiny_model, seeds=1), workspace, 5)
    assert all(one.there for one in again.runs)
    assert again.ledger.skipped == again.ledger.out
    assert {one.run: dict(one.weights) for one in again.runs} == {one.run: one.weights for one in result.runs}
    assert updates(workspace) == rows
    more = train.run(settings(tiny_model, seeds=2), workspace, 5)
    assert [one.there for one in more.runs] == [True, False, True]

    ledger = score.run(workspace, ["seed-0"], ("test", "meta"))
    scores = workspace.read(STEP_SCORES).to_pylist()
    assert (ledger.taken, ledger.out, len(scores)) == (12, 12, 60)
    assert all(0 < row["score"] < 1 for row in scores)
    assert len({row["score"] for row in scores}) > 30
    assert score.run(workspace, ["seed-0"], ("test", "meta")).skipped == 12
    assert score.run(workspace).taken == 8
    assert score.trained_runs(workspace) == ["seed-0", "seed-1"]


def test_a_killed_run_goes_on_to_the_same_end(tiny_model, make_workspace):
    whole, broken = make_workspace("whole"), make_workspace("broken")
    train.run(settings(tiny_model, null_runs=0), whole, 0)

    def die(run: str, step: int, total: int, info: dict) -> None:
        if step == 3:
            raise MemoryError

    with pytest.raises(MemoryError):
        train.run(settings(tiny_model, null_runs=0), broken, 0, die)
    steps = []
    train.run(settings(tiny_model, null_runs=0), broken, 0, lambda run, step, *_: steps.append(step))
    assert steps == [3, 4, 5, 6]
    assert updates(whole) == updates(broken)
    one, other = (Prm.load(str(model_folder(w, "seed-0"))) for w in (whole, broken))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert not list(broken.partition(UPDATES, "seed-0").folder.glob("checkpoint*"))


def test_ctrl_c_stops_after_the_step_and_resumes(tiny_model, make_workspace):
    workspace = make_workspace()

    def press(run: str, step: int, total: int, info: dict) -> None:
        if step == 1:
            signal.raise_signal(signal.SIGINT)

    config = settings(tiny_model, null_runs=0)
    # Not Python's own where the tests run in the background of a shell, which ignores the signal there.
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted):
        train.run(config, workspace, 0, press)
    assert signal.getsignal(signal.SIGINT) is before
    steps = []
    train.run(config, workspace, 0, lambda run, step, *_: steps.append(step))
    assert steps == [2, 3, 4, 5, 6]


def test_runs_outside_the_main_thread(tiny_model, make_workspace):
    workspace, ended = make_workspace(), []
    config = settings(tiny_model, null_runs=0, steps=1)
    thread = threading.Thread(target=lambda: ended.append(train.run(config, workspace, 0)))
    thread.start()
    thread.join()
    assert ended[0].runs[0].run == "seed-0"


def test_other_settings_or_data_never_mix(tiny_model, make_workspace):
    workspace = make_workspace()
    config = settings(tiny_model, null_runs=0, steps=1)
    train.run(config, workspace, 0)
    with pytest.raises(UserError, match=r"lr: 0.001 -> 0.002"):
        train.run(config.model_copy(update={"lr": 2e-3}), workspace, 0)
    fill(workspace, "more", *example_rows(3, "train", ("a", "b", "c"), seed=9))
    with pytest.raises(UserError, match="data: "):
        train.run(config, workspace, 0)
    assert not train.run(config, workspace, 0, replace=True).runs[0].there
    assert lineage.read(workspace.partition(UPDATES, "seed-0"))["complete"]


def test_uniform_mode_needs_no_meta_set_and_no_controls(tiny_model, make_workspace):
    workspace = make_workspace(meta=0)
    result = train.run(settings(tiny_model, mode="uniform"), workspace, 0)
    assert [one.run for one in result.runs] == ["seed-0"]
    assert {row["weight"] for row in updates(workspace)} == {1.0}


def test_a_trained_prm_fits_its_labels(tiny_model, make_workspace):
    workspace = make_workspace(train=6, meta=0)
    train.run(settings(tiny_model, mode="uniform", steps=40, lr=3e-3, loss="bce", lr_warmup=1), workspace, 0)
    losses = [row["train_loss"] for row in updates(workspace) if row["train_loss"] is not None]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])


def test_long_and_ungraded_examples_are_counted(tiny_model, make_workspace):
    workspace = make_workspace()
    rows, images = example_rows(3, "train", ("a", "b", "c"), seed=4)
    rows[0]["steps"] = [step * 60 for step in rows[0]["steps"]]
    rows[1]["values"] = [None] * 5
    rows[2]["question"] = "<|im_end|>"
    fill(workspace, "odd", rows, images)
    ledger = train.run(settings(tiny_model, steps=1, null_runs=0), workspace, 0).ledger
    assert ledger.rejected == {"too-long": 1, "no-label": 1, "special-token": 1}
    assert (ledger.taken, ledger.out) == (23, 20)
    listed = {row["problem_id"]: row["reason"] for row in workspace.read(REJECTS).to_pylist()}
    assert listed == dict(zip((r["problem_id"] for r in rows), ("too-long", "no-label", "special-token"), strict=True))


def test_what_a_lost_file_leaves_is_scored_as_it_was_to_the_last_bit(tiny_model, make_workspace):
    workspace = make_workspace(test=12)
    train.run(settings(tiny_model, steps=1, null_runs=0), workspace, 0)
    score.run(workspace, batch_rows=4)
    before = {(r["rollout_id"], r["step_index"]): r["score"] for r in workspace.read(STEP_SCORES).to_pylist()}
    files = workspace.partition(STEP_SCORES, "seed-0").files()
    assert len(files) > 1
    for path in files[:2]:
        path.with_suffix(".done").unlink()
        score.run(workspace, batch_rows=4)
        found = {(r["rollout_id"], r["step_index"]): r["score"] for r in workspace.read(STEP_SCORES).to_pylist()}
        assert found == before


def test_what_cannot_be_scored_is_null_and_counted(tiny_model, make_workspace):
    workspace = make_workspace(test=0)
    rows, images = example_rows(3, "test", ("a",), seed=4)
    rows[0]["question"] = "<|im_end|>"
    rows[1]["steps"] = ["One.\n", " \n", "Two."]
    fill(workspace, "odd", rows, images)
    train.run(settings(tiny_model, steps=1, null_runs=0), workspace, 0)
    for _ in range(2):
        ledger = score.run(workspace)
        assert (ledger.taken, ledger.out, ledger.rejected) == (3, 2, {"no-score": 1})
        assert [row["problem_id"] for row in workspace.read(REJECTS).to_pylist()] == [rows[0]["problem_id"]]
    found = {(r["rollout_id"], r["step_index"]): r["score"] for r in workspace.read(STEP_SCORES).to_pylist()}
    assert all(found[rows[0]["rollout_id"], step] is None for step in range(5))
    assert [found[rows[1]["rollout_id"], step] is None for step in range(3)] == [False, True, False]


@pytest.mark.parametrize("what", ["problem", "image"])
def test_sets_that_overlap_are_refused(tiny_model, make_workspace, what):
    workspace = make_workspace()
    train_row = workspace.partition(EXAMPLES, "train").read().to_pylist()[0]
    rows, _ = example_rows(1, "meta", ("a",), seed=3)
    key = {"problem": "problem_id", "image": "image_hashes"}[what]
    fill(workspace, "again", [rows[0] | {key: train_row[key]}], [])
    with pytest.raises(UserError, match=f"share 1 {what}"):
        train.run(settings(tiny_model), workspace, 0)


@pytest.mark.parametrize(
    ("sizes", "changes", "message"),
    [
        ({"meta": 0}, {}, "no graded meta example"),
        ({"train": 1}, {}, "Only one train domain"),
        ({"train": 0}, {}, "no train example"),
        (
            {},
            {"mode": "frozen", "weights": {"a": 1.0, "b": 1.0, "cc": 1.0}},
            '"cc", which is not a train domain; did you mean "c"',
        ),
        ({}, {"mode": "frozen", "weights": {"a": 1.0}}, "has no weight for b, c"),
        ({}, {"label_tokens": ("+", "wrong answer")}, "label_tokens"),
        ({}, {"model": "/nowhere/at/all"}, "cannot be loaded"),
    ],
)
def test_what_cannot_be_trained_on_is_one_sentence(tiny_model, make_workspace, sizes, changes, message):
    with pytest.raises(UserError, match=message):
        train.run(settings(tiny_model, **changes), make_workspace(**sizes), 0)


def test_meta_outcomes_that_are_all_alike_are_refused(tiny_model, make_workspace):
    workspace = make_workspace(meta=0)
    rows, images = example_rows(4, "meta", ("a",))
    fill(workspace, "meta", [row | {"outcome": True} for row in rows], images)
    with pytest.raises(UserError, match="All 4 meta rollouts are right"):
        train.run(settings(tiny_model), workspace, 0)


PAIRS = AdamUpper(loss="pairs", unroll=2, warmup=1, lr=0.1, meta_rows=4, meta_ema=0.5)


def fill_meta_problems(workspace, outcomes: list[list[bool]]) -> None:
    """A meta problem for each list, with a rollout of each outcome."""
    rows, images = example_rows(len(outcomes), "meta", ("a",))
    rollouts = [
        row | {"rollout_id": f"{row['problem_id']}-{i:03d}", "sample_index": i, "outcome": outcome}
        for row, rights in zip(rows, outcomes, strict=True)
        for i, outcome in enumerate(rights)
    ]
    fill(workspace, "meta", rollouts, images)


def test_pairs_train_in_micro_batches_and_resume_bit_equal(tiny_model, make_workspace):
    outcomes = [[True, False], [True, True], [False, True, False], [False]]
    config, finals = settings(tiny_model, upper=PAIRS, micro_rows=3), []
    for name, stop_at in (("whole", None), ("stopped", 3)):
        workspace = make_workspace(name, meta=0)
        fill_meta_problems(workspace, outcomes)
        if stop_at:

            def interrupt(run, step, *_):
                if step == 3:
                    signal.raise_signal(signal.SIGINT)

            with pytest.raises(Interrupted):
                train.run(config, workspace, 0, interrupt)
        result = train.run(config, workspace, 0)
        assert result.notes == [
            "Pairs: 2 of 4 meta problems have both right and wrong rollouts; the others say nothing."
        ]
        finals.append(updates(workspace))
    assert finals[0] == finals[1]
    last = [row for row in finals[0] if row["update"] == 2]
    assert {row["run"] for row in last} == {"seed-0", "null-0"}
    assert all(0 < row["meta_loss"] < 1 and row["weight"] != 1 for row in last)


def test_a_meta_set_without_pairs_is_refused_before_anything_is_trained(tiny_model, make_workspace):
    workspace = make_workspace(meta=0)
    fill_meta_problems(workspace, [[True, True], [False]])
    with pytest.raises(UserError, match="No meta problem has both a right and a wrong rollout"):
        train.run(settings(tiny_model, upper=PAIRS), workspace, 0)
    assert updates(workspace) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"upper": {"loss": "pairs", "meta_rows": 5}}, "make it even"),
        ({"upper": PAIRS, "micro_rows": 1}, "micro_rows is 1"),
    ],
)
def test_settings_that_cannot_hold_pairs_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        settings("anywhere", **changes)


def test_an_empty_workspace_and_a_missing_prm_are_user_errors(tiny_model, make_workspace):
    with pytest.raises(UserError, match="curate shard"):
        train.run(settings(tiny_model), make_workspace(train=0, meta=0, test=0), 0)
    with pytest.raises(UserError, match="prm train"):
        score.run(make_workspace("other"))
