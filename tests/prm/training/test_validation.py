"""Held-out problems: which they are, what is measured on them, which state is kept, when a run ends; curves of it."""

import itertools
import signal
import sys
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from prm_testbed import example_rows, fill, to_examples
from train_testbed import evaluations, settings, train_config, updates

from curate.errors import Interrupted, UserError
from curate.tables import lineage
from curate.tables.rows import ExampleRow, ValidationRow
from curate.tables.schema import EXAMPLES, STEP_SCORES, UPDATES
from prm.config import TrainConfig
from prm.data.holdout import held_out
from prm.model.reward_model import Prm
from prm.model.saved import model_folder
from prm.scoring import score, select
from prm.training import callbacks, train

# A run that is best at step 4 for a while, and at 14 in the end.
SEED = 6
EXAMPLE = to_examples(example_rows(1, "train", ("a",))[0])[0]


def values(workspace) -> list[float]:
    return [row["value"] for row in evaluations(workspace)]


def validated(folder: str, steps: int = 18, checkpoint_every: int = 5, **changes) -> TrainConfig:
    """A run that is best in its middle, with its rates as high as they are."""
    how = {"every": 2, "share": 0.4} | changes.pop("validation", {})
    rates = {"lr": 1e-2, "lr_warmup": 1, "lr_schedule": "constant", "null_runs": 0}
    return settings(folder, **(rates | changes), steps=steps, checkpoint_every=checkpoint_every, validation=how)


def parameters(workspace) -> list[torch.Tensor]:
    return list(Prm.load(str(model_folder(workspace, "seed-0"))).state_dict().values())


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def best_files(workspace) -> list[str]:
    return sorted(path.name for path in workspace.root.rglob("best*"))


problems = st.lists(st.tuples(st.sampled_from("ab"), st.lists(st.integers(0, 30), max_size=2)), min_size=1, max_size=30)


@given(problems, st.sampled_from([0.1, 0.3, 0.9]))
def test_held_out_problems_share_nothing_with_the_others(made, share):
    examples = [
        replace(EXAMPLE, problem_id=f"p{i}", domain=domain, image_hashes=tuple(map(str, images)))
        for i, (domain, images) in enumerate(made)
    ]
    held = held_out(examples, share)
    sides = [{i for e in examples if (e.problem_id in held) == side for i in e.image_hashes} for side in (True, False)]
    assert not sides[0] & sides[1]
    assert held == held_out([*reversed(examples), *examples], share)
    of_domain, taken = (Counter(e.domain for e in examples if chosen(e)) for chosen in (
        lambda e: True, lambda e: e.problem_id in held
    ))  # fmt: skip
    for domain, count in of_domain.items():
        assert taken[domain] <= min(count - 1, max(1, round(share * count)))
        if not any(e.image_hashes for e in examples):
            assert taken[domain] == min(count - 1, max(1, round(share * count)))


def test_more_problems_change_few_sides():
    examples = [replace(EXAMPLE, problem_id=f"p{i}", image_hashes=()) for i in range(200)]
    few, many = held_out(examples[:100], 0.1), held_out(examples, 0.1)
    assert (len(few), len(many)) == (10, 20)
    # Of those that were there, the first by hash either way.
    there = many & {f"p{i}" for i in range(100)}
    assert there <= few or few <= there
    assert few != {f"p{i}" for i in range(10)}


def test_the_best_state_is_saved_and_survives_two_kills(tiny_model, make_workspace):
    whole, broken = make_workspace("whole", train=24), make_workspace("broken", train=24)
    config = validated(tiny_model, lr=1.4e-2)
    result = train.run(config, whole, SEED)
    found = evaluations(whole)
    assert [row["step"] for row in found] == list(range(2, 19, 2))
    (kept,) = (row for row in found if row["kept"])
    assert kept["value"] == min(values(whole))
    # So that the state at the end, or before the last kill, would be another one.
    assert kept["step"] == 14
    assert {row["rows"] for row in found} == {9}
    assert result.notes[-1] == f"seed-0: the PRM of step 14 is kept, brier {kept['value']:.4g}."

    def killed_at(last: int) -> None:
        def die(run: str, step: int, total: int, info: dict) -> None:
            if step == last:
                raise MemoryError

        with pytest.raises(MemoryError):
            train.run(config, broken, SEED, die)

    killed_at(14)
    # The checkpoint of step 10 speaks of 4; what came after it goes with the next one.
    assert best_files(broken) == ["best-12.safetensors", "best-14.safetensors", "best-4.safetensors"]
    killed_at(17)
    assert best_files(broken) == ["best-14.safetensors"]
    steps = []
    train.run(config, broken, SEED, lambda run, step, *_: steps.append(step))
    assert steps == [16, 17, 18]
    assert (evaluations(broken), updates(broken)) == (found, updates(whole))
    assert same(parameters(whole), parameters(broken))
    assert best_files(broken) == best_files(whole) == []

    record = lineage.read(broken.partition(UPDATES, "seed-0"))
    assert record["versions"]["kept_step"] == "14"
    assert record["versions"]["validation"] == f"brier {kept['value']!r}"
    # What is saved scores as it was measured, read by another way.
    score.run(broken, ["seed-0"], ("train",))
    scores = {(r["rollout_id"], r["step_index"]): r["score"] for r in broken.read(STEP_SCORES).to_pylist()}
    held = train.prepare(config, broken)[0].held
    pairs = [(scores[n, i], v) for n in held.names for i, v in enumerate(by_name(broken)[n]["values"])]
    assert kept["value"] == pytest.approx(sum((s - v) ** 2 for s, v in pairs) / len(pairs), rel=1e-5)


def by_name(workspace) -> dict[str, dict]:
    return {row["rollout_id"]: row for row in workspace.read(EXAMPLES).to_pylist()}


def test_patience_ends_a_run_where_it_was_best_before(tiny_model, make_workspace):
    workspace, short = make_workspace("w", train=24), make_workspace("short", train=24)
    config, told = validated(tiny_model, steps=30, lr=1.4e-2, validation={"patience": 3}), []

    def press(run: str, step: int, total: int, info: dict) -> None:
        told.append((step, info.get("ended")))
        if "ended" in info:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        train.run(config, workspace, SEED, press)
    # Best at 4, no better at 6, 8, 10; nothing is left to do after the interruption but to save.
    result = train.run(config, workspace, SEED, press)
    assert told[-1] == (10, 1.0)
    assert len(told) == 10
    assert [row["step"] for row in evaluations(workspace) if row["kept"]] == [4]
    assert "ended at step 10 of 30" in result.notes[-1]
    assert lineage.read(workspace.partition(UPDATES, "seed-0"))["versions"]["ended_early"] == "10"
    last = [row for row in updates(workspace) if row["domain"] == "a"][-1]
    assert last["step"] == 9
    assert result.runs[0].weights["a"] == last["weight"]

    train.run(validated(tiny_model, steps=4, lr=1.4e-2, validation={"keep": "last"}), short, SEED)
    assert same(parameters(workspace), parameters(short))
    again = train.run(config, workspace, SEED, press)
    assert again.runs[0].there
    assert again.runs[0].weights == result.runs[0].weights
    assert train.run(config, workspace, SEED, replace=True).runs[0].weights == result.runs[0].weights


def test_neither_held_out_labels_nor_the_test_set_touch_the_training(tiny_model, make_workspace):
    config = validated(tiny_model, steps=6, validation={"keep": "last"}, null_runs=1)
    plain, flipped = make_workspace("plain", train=24), make_workspace("flipped", train=24, test=0)
    held = train.prepare(config, plain)[0].held.names
    assert len(held) == 9
    rows = list(flipped.partition(EXAMPLES, "train").rows(ExampleRow))
    flipped.partition(EXAMPLES, "train").clear()
    flipped.partition(EXAMPLES, "train").commit_all(
        replace(row, values=[1 - value for value in row.values]) if row.rollout_id in held else row for row in rows
    )
    # Whoever encodes one of these counts a reject.
    odd, _ = example_rows(4, "test", ("a",), seed=8)
    fill(flipped, "test", [row | {"question": "<|im_end|>", "image_hashes": []} for row in odd], [])
    results = [train.run(config, workspace, 0) for workspace in (plain, flipped)]
    assert results[1].ledger.rejected == {}
    assert updates(plain) == updates(flipped)
    assert same(parameters(plain), parameters(flipped))
    pairs = list(zip(values(plain), values(flipped), strict=True))
    assert len(pairs) == 6
    assert all(one != other for one, other in pairs)
    assert [row["kept"] for row in evaluations(plain)] == [False] * 3 + [False, False, True]

    other = make_workspace("other", train=24, test=9)
    train.run(config, other, 0)
    assert evaluations(other) == evaluations(plain)


def several(workspace, outcomes: dict[int, list[bool]]) -> None:
    """Train problems of two domains with rollouts of other chains; problem i has outcomes[i % len]."""
    rows, images = example_rows(20, "train", ("a", "b"))
    chains, _ = example_rows(80, "chains", ("a", "b"))
    made = []
    for place, row in enumerate(rows):
        for i, outcome in enumerate(outcomes[place % len(outcomes)]):
            about = {"rollout_id": f"{row['problem_id']}-{i:03d}", "sample_index": i, "outcome": outcome}
            made.append(row | about | {"steps": chains[4 * place + i]["steps"]})
    # A completion that was harvested is no rollout of its own.
    made.append(made[0] | {"rollout_id": made[0]["rollout_id"] + ".01.000"})
    fill(workspace, "train", made, images)


def test_best_of_n_is_that_of_the_saved_prm(tiny_model, make_workspace):
    workspace = make_workspace(train=0)
    several(workspace, {0: [True, False, False], 1: [False, True, True, False], 2: [True]})
    config = validated(tiny_model, steps=6, validation={"metric": "best-of-n", "share": 0.9})
    train.run(config, workspace, 0)
    (kept,) = (row for row in evaluations(workspace) if row["kept"])
    assert kept["value"] == max(values(workspace))
    held = {row.example.rollout_id: row.example for row in train.prepare(config, workspace)[0].held.rows}
    assert not any("." in name for name in held)
    assert kept["rows"] == len(held)
    score.run(workspace, ["seed-0"], ("train",))
    steps = {name: len(example.steps) for name, example in held.items()}
    logits = select.rollout_logits(workspace, steps, "mean-log-odds")["seed-0"]
    candidates = defaultdict(list)
    for name, example in held.items():
        candidates[example.problem_id].append((logits[name], example.outcome))
    picks = [max(part)[1] for part in candidates.values() if len(part) > 1]
    assert 8 < len(picks) < len(candidates)
    assert kept["value"] == pytest.approx(sum(picks) / len(picks))


def test_choosing_rollouts_leaves_what_is_held_out_alone(tiny_model, make_workspace):
    workspace = make_workspace(train=24, meta=0)
    config = validated(tiny_model, mode="car", subset={"share": 0.5}, null_runs=0)
    data, ledger = train.prepare(config, workspace)
    names = set(itertools.chain(*data.train.values()))
    assert (len(names), len(data.held.names)) == (8, 9)
    assert not names & data.held.names
    assert (ledger.out, ledger.rejected) == (17, {"car-rank": 7})


def test_scores_that_are_no_numbers_have_no_value_and_leave_the_last_state(tiny_model, make_workspace):
    workspace = make_workspace(train=24)
    train.run(validated(tiny_model, steps=4, lr=1e25, clip=None, mode="uniform"), workspace, 0)
    assert [(row["step"], row["value"], row["kept"]) for row in evaluations(workspace)] == [
        (2, None, False), (4, None, True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "found", "place", "since"),
    [
        ("brier", [0.3, 0.2, None, 0.2], 1, 2),
        ("auroc", [0.3, 0.2, None, 0.4], 3, 0),
        ("best-of-n", [None, 0.5, 0.5, 0.5], 1, 2),
        ("brier", [None, None], None, 2),
        ("brier", [], None, 0),
    ],
)
def test_the_best_is_the_first_of_equal_values_and_no_value_is_never(metric, found, place, since):
    history = [
        ValidationRow("seed-0", False, step, metric, value, rows=9, kept=False) for step, value in enumerate(found)
    ]
    assert (callbacks.best(history), callbacks.stalled(history)) == (place, since)


@pytest.mark.parametrize(
    ("changes", "how", "message"),
    [
        (
            {},
            {"threshold": 0.3},
            r'threshold" .* has no effect with metric brier: it belongs to metric auroc or',
        ),
        ({"steps": 20}, {"every": 5, "patience": 3}, r"patience 3 has no effect in 4 evaluation\(s\)"),
        ({}, {"metric": "f1"}, "first-error-f1"),
    ],
)
def test_settings_without_effect_are_refused(changes, how, message):
    with pytest.raises(UserError, match=message):
        validated("anywhere", **changes, validation=how)


def test_a_resolved_recipe_can_be_read_again_and_says_nothing_where_nothing_is_held_out():
    config = validated("anywhere")
    assert train_config(**config.model_dump()) == config
    assert "validation" not in settings("anywhere").model_dump()


@pytest.mark.parametrize(
    ("rows", "how", "message"),
    [
        ({"domain": "a"}, {"metric": "best-of-n"}, "lack both a right and a wrong rollout of one problem"),
        ({"values": [0.9] * 5}, {"metric": "auroc"}, "lack both right and wrong steps"),
        ({"values": [0.9] * 5}, {"metric": "first-error-f1"}, "lack both wrong and right chains"),
        ({"weights": [0.0] * 5}, {}, "lack a labelled step"),
        ({"image_hashes": ["same"]}, {}, "No training problem can be held out"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(tiny_model, make_workspace, rows, how, message):
    workspace = make_workspace(train=0)
    made, images = example_rows(12, "train", ("a", "b"))
    if rows.get("image_hashes"):
        images[0]["image_hash"] = "same"
    fill(workspace, "train", [row | rows for row in made], images)
    with pytest.raises(UserError, match=message):
        train.run(validated(tiny_model, mode="uniform", validation=how), workspace, 0)


def test_curves_of_a_resumed_run_have_every_point_once(tiny_model, make_workspace):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    workspace = make_workspace(train=24)
    config = validated(tiny_model, steps=8, checkpoint_every=3, tensorboard=True)

    def die(run: str, step: int, total: int, info: dict) -> None:
        if step == 5:
            raise MemoryError

    with pytest.raises(MemoryError):
        train.run(config, workspace, 0, die)
    train.run(config, workspace, 0)
    curves = EventAccumulator(str(workspace.root / "tensorboard" / "seed-0"))
    curves.Reload()
    seen = {tag: [(point.step, point.value) for point in curves.Scalars(tag)] for tag in curves.Tags()["scalars"]}
    assert [step for step, _ in seen["lr"]] == list(range(1, 9))
    # Points are float32.
    for name in ("weight", "dot", "train_loss"):
        for domain in "abc":
            rows = [row for row in updates(workspace) if row["domain"] == domain and row[name] is not None]
            expected = [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows]
            assert len(expected) >= 3
            assert seen[f"{name}/{domain}"] == expected
    expected = [(row["step"], pytest.approx(row["value"], rel=1e-6)) for row in evaluations(workspace)]
    assert seen["validation/brier"] == expected
    assert {"meta_loss", "train_loss", "clipped", "skipped"} <= seen.keys()
    again = train.run(config.model_copy(update={"tensorboard": False}), workspace, 0)
    assert again.runs[0].there


def test_curves_without_their_package_are_refused_before_anything_is_trained(make_workspace, monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("torch.utils.tensorboard", "tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match=r"pip install 'curate-prm\[tensorboard\]'"):
        train.run(settings("anywhere", tensorboard=True), make_workspace(train=0), 0)
