"""Calibration: decomposition, noise floor and chance level against known truth; targets out of a workspace."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prm_testbed import example_rows, fill

from curate.errors import UserError
from curate.sources.synthetic import chain as chains
from curate.sources.synthetic.tasks import TASKS
from curate.tables.schema import EXAMPLES, PROBLEMS, STEP_LABELS
from prm import metrics
from prm.bench import calibration, resample
from prm.bench.calibration import ScoredStep
from prm.bench.resample import Figure
from prm.bench.targets import Aim, aims
from prm.data.examples import read_examples
from tests.beds.rows import commit

steps_of = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 4), st.sampled_from([4, 1, None])).map(
        lambda each: ScoredStep("a", "p", "c", each[0], each[1] / 4 if each[2] == 4 else float(each[1] > 2), each[2])
    ),
    min_size=1,
    max_size=40,
)


def figures(steps: list[ScoredStep], bins: int = 10) -> dict[str, float | None]:
    rows = [(step.problem, step.group, calibration.cells(step, bins)) for step in steps]
    counted = resample.tally(rows, True)
    found = calibration.measure(counted.sums, counted.groups)
    return {name: value for (group, name), value in found.items() if group is None}


@given(steps_of, st.integers(2, 12))
def test_the_parts_add_up_to_the_brier_score_and_the_rest_is_what_metrics_says(steps, bins):
    found = figures(steps, bins)
    scores, targets = [step.score for step in steps], [step.target for step in steps]
    parts = found["reliability"] - found["resolution"] + found["uncertainty"] + found["within"]
    assert found["brier"] == pytest.approx(parts, abs=1e-9)
    assert found["brier"] == pytest.approx(metrics.brier(scores, targets), abs=1e-9)
    table = metrics.calibration(scores, targets, bins)
    assert found["ece"] == pytest.approx(metrics.calibration_error(table), abs=1e-9)
    for each in table:
        assert found[f"bin {round(each.low * bins)}"] == pytest.approx(each.observed)
    assert found["bias"] == pytest.approx(sum(scores) / len(steps) - sum(targets) / len(steps), abs=1e-9)
    assert (found["noise_floor"] is None) == any(step.draws == 1 for step in steps)


def world(count: int, off: float, m: int | None, seed: int) -> tuple[list[ScoredStep], float]:
    """Steps with true chances p, scores p moved by `off` and a little noise, k of m; and the true mean of (s - p)^2."""
    rng, steps, errors = np.random.default_rng(seed), [], []
    for place in range(count):
        p = rng.beta(0.6, 0.6)
        score = float(np.clip(p + off + rng.normal(0, 0.05), 0, 1))
        target = p if m is None else rng.binomial(m, p) / m
        steps.append(ScoredStep("a", str(place // 4), str(place // 4), score, float(target), m))
        errors.append((score - p) ** 2)
    return steps, float(np.mean(errors))


@pytest.mark.parametrize("m", [2, 4, 16])
def test_the_excess_over_the_noise_floor_is_the_error_of_the_scores_however_many_draws(m):
    steps, error = world(40_000, 0.1, m, m)
    found = figures(steps)
    # The floor is most of the Brier score where m is small.
    assert found["noise_floor"] > (3 if m == 2 else 0.5) * error
    assert found["excess"] == pytest.approx(error, rel=0.08)
    known, error = world(5_000, 0.1, None, 1)
    exact = figures(known)
    assert exact["noise_floor"] == 0
    assert exact["excess"] == pytest.approx(error, rel=1e-9)


def test_the_chance_level_is_what_a_calibrated_prm_shows():
    rng = np.random.default_rng(0)
    scores = rng.beta(0.8, 0.8, size=600).tolist()

    def drawn(seed: int, off: float) -> list[ScoredStep]:
        rng = np.random.default_rng(seed)
        pairs = [(score, min(max(score + off, 0), 1)) for score in scores]
        return [ScoredStep("a", str(i), str(i), s, rng.binomial(4, p) / 4, 4) for i, (s, p) in enumerate(pairs)]

    chance = calibration.chance(drawn(1, 0), 10, 0)
    inside = sum(chance.low <= figures(drawn(seed, 0))["ece"] <= chance.high for seed in range(100))
    assert inside >= 88
    assert np.mean([figures(drawn(seed, 0))["ece"] for seed in range(100)]) == pytest.approx(chance.value, rel=0.1)
    assert figures(drawn(1, 0.15))["ece"] > chance.high


def test_outcomes_of_one_chain_are_alike_so_chance_is_higher():
    rng = random.Random(1)
    alike = [ScoredStep("a", str(i), str(i), rng.uniform(0.3, 0.7), 1.0, 1) for i in range(60) for _ in range(8)]
    apart = [ScoredStep("a", str(i), str(i), rng.uniform(0.3, 0.7), 1.0, 1) for i in range(480)]
    assert calibration.chance(alike, 5, 0).value > 1.7 * calibration.chance(apart, 5, 0).value


def test_a_bin_that_is_all_right_is_not_certain():
    assert calibration.widened(Figure(1.0, 1.0, 1.0), 10) == Figure(1.0, pytest.approx(0.6915, abs=1e-4), 1.0)
    assert calibration.widened(Figure(0.0, 0.0, 0.0), 1) == Figure(0.0, 0.0, pytest.approx(0.975))
    assert calibration.widened(Figure(0.5, 0.4, 0.6), 3) == Figure(0.5, 0.4, 0.6)


# --- targets of a workspace ------------------------------------------------------------------------------------------


def label(example: dict, step: int, mode: str, k: int | None, m: int | None, value: float | None) -> dict:
    return {
        "rollout_id": example["rollout_id"],
        "problem_id": example["problem_id"],
        "domain": example["domain"],
        "role": example["role"],
        "step_index": step,
        "mode": mode,
        "k": k,
        "m": m,
        "outcome": example["outcome"],
        "value": value,
        "standard_error": None,
        "weight": 1.0,
        "tokens": 0,
        "stopped": None,
        "truncated": None,
        "failed": None,
    }


def test_targets_are_counts_outcomes_or_exact_truth(make_workspace):
    workspace = make_workspace(train=0, meta=0)
    examples, _ = example_rows(3, "test", ("a", "b"), seed=9)
    workspace.partition(EXAMPLES, "test").clear()
    workspace.partition(PROBLEMS, "test").clear()
    fill(workspace, "test", examples, [])
    read = read_examples(workspace, ("test",))
    found = aims(workspace, read, None)
    assert found.target == "outcome"
    first = read[0]
    outcome = float(first.outcome)
    assert found.of[first.rollout_id] == [*[Aim(outcome, 1)] * 4, Aim(outcome, None)]
    with pytest.raises(UserError, match="counts of independent"):
        aims(workspace, read, "counts")
    with pytest.raises(UserError, match="synthetic"):
        aims(workspace, read, "truth")
    rows = [label(examples[0], 0, "exact", 3, 4, 0.75), label(examples[0], 1, "hard", 1, 1, 1.0)]
    rows += [label(examples[0], 4, "exact", 0, 0, 1.0), label(examples[1], 0, "pooled", 0, 2, 0.1)]
    rows += [label(examples[1], 1, "pooled", 0, 0, 0.4), label(examples[1], 2, "given", None, None, 1.0)]
    commit(workspace.partition(STEP_LABELS), rows)
    counts = aims(workspace, read, None)
    assert counts.target == "counts"
    # Labels that stop early, or that say only a pooled value, are no counts; the last step's is known.
    assert counts.of[examples[0]["rollout_id"]] == [Aim(0.75, 4), None, None, None, Aim(1.0, None)]
    assert counts.of[examples[1]["rollout_id"]] == [Aim(0.0, 2), None, None, None, None]
    assert counts.left == {"label-mode-hard": 1, "unlabelled": 11}


def test_exact_truth_is_of_the_whole_prefix(make_workspace):
    workspace = make_workspace(train=0, meta=0, test=0)
    task, rng = TASKS["bars_read"], random.Random(0)
    facts = task.sample(rng)
    lines = chains.render(task, chains.solve(task, facts, [1], rng)).split("\n")
    steps = [line + "\n" for line in lines[:4]] + ["\n".join(lines[4:])]
    rows, images = example_rows(1, "test", ("a",))
    fill(workspace, "test", [rows[0] | {"steps": steps, "question": task.question(facts)}], images)
    problem = workspace.read(PROBLEMS).to_pylist()[0]
    workspace.partition(PROBLEMS, "test").clear()
    truth = json.dumps({"task": "bars_read", "facts": vars(facts)})
    commit(workspace.partition(PROBLEMS, "test"), [problem | {"truth": truth}])
    read = read_examples(workspace, ("test",))
    verdicts = chains.judge(task, facts, steps)
    assert verdicts[:2] == [True, False]
    found = aims(workspace, read, "truth")
    # A step that would be right by itself is not, behind a wrong one.
    assert found.of[read[0].rollout_id] == [Aim(1.0, None), *[Aim(0.0, None)] * 4]
