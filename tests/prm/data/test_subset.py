"""The selection baselines: what they leave out, why, and that it adds up."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from train_testbed import train_config

from curate.errors import UserError
from prm.config import CarTraining, ClusterSubset, S1Training, SubsetConfig
from prm.data import subset
from prm.data.batches import PooledBatches
from prm.data.examples import Example


def example(
    name: str, values: list[float | None], domain: str = "a", problem: str = "", steps: list[str] | None = None
):
    steps = ["Look."] * len(values) if steps is None else steps
    return Example(
        rollout_id=name, problem_id=problem or name, domain=domain, role="train", sample_index=0, question=f"Q {name}?",
        choices=(), image_hashes=(), steps=tuple(steps), values=tuple(values), weights=(1.0,) * len(values),
        outcome=True,
    )  # fmt: skip


labels = st.lists(st.none() | st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=4).filter(
    lambda values: any(value is not None for value in values)
)


@settings(deadline=None)
@given(
    st.lists(st.tuples(labels, st.sampled_from("ab")), min_size=1, max_size=20), st.floats(0.05, 1), st.integers(0, 3)
)
def test_every_rollout_is_kept_or_left_with_a_reason(rows, share, run_seed):
    examples = [example(f"r{i:02d}", values, domain) for i, (values, domain) in enumerate(rows)]
    keep = max(1, round(share * len(examples)))
    for mode in ("s1", "car"):
        config = train_config(model="m", mode=mode, subset={"share": share})
        try:
            left = subset.choose(config, examples, run_seed)
        except UserError as error:
            assert mode == "s1"
            assert "leaves none" in str(error)
            continue
        backwards = subset.choose(config, examples[::-1], run_seed)
        assert Counter(e.rollout_id for e, _ in left) == Counter(e.rollout_id for e, _ in backwards)
        assert len({e.rollout_id for e, _ in left}) == len(left)
        assert all(error.reason.startswith(f"{mode}-") for _, error in left)
        kept = len(examples) - len(left)
        assert kept == keep if mode == "car" else kept <= keep


def test_s1_leaves_out_the_malformed_and_what_the_policy_never_fails():
    rows = [
        example("hole", [0.5, None]),
        example("blank", [0.5, 0.5], steps=["Look.", " "]),
        example("sure", [1.0, 1.0]),
        example("sure-here", [1.0, 1.0], problem="p"),
        example("not-there", [0.5, 1.0], problem="p"),
    ]
    left = {
        e.rollout_id: error for e, error in subset.choose(S1Training(model="m", subset=SubsetConfig(share=1)), rows, 0)
    }
    assert {name: error.reason for name, error in left.items()} == {
        "hole": "s1-malformed", "blank": "s1-malformed", "sure": "s1-easy"
    }  # fmt: skip
    assert left["hole"].detail == "step 1 has no label"
    assert left["blank"].detail == "step 1 has no text"
    with pytest.raises(UserError, match=r"leaves none of 1 training rollouts \(1 s1-easy\)"):
        subset.choose(S1Training(model="m"), rows[2:3], 0)


def test_s1_draws_domains_alike_and_favours_long_chains():
    rows = [example(f"a{i:03d}", [0.5], "a", steps=["x" * (i + 1)]) for i in range(180)]
    rows += [example(f"b{i:03d}", [0.5], "b", steps=["x" * (i + 1)]) for i in range(20)]
    left = {e.rollout_id for e, _ in subset.choose(S1Training(model="m", subset=SubsetConfig(share=0.1)), rows, 0)}
    kept = [row for row in rows if row.rollout_id not in left]
    shares = Counter(row.domain for row in kept)
    assert sum(shares.values()) == 20
    # 1 of 10 rollouts is of b, and about every second one drawn.
    assert 5 <= shares["b"] <= 15
    ranks = [180 - len(row.steps[0]) for row in kept if row.domain == "a"]
    assert sum(ranks) / len(ranks) < 20


def test_bis_prefers_mixed_chains_with_sure_labels():
    assert subset.quality(example("x", [0.0, 0.0])) == 0
    assert subset.quality(example("x", [1.0, 0.0, None])) == pytest.approx((0.25 + 0.05) * 1.0)
    assert subset.quality(example("x", [0.5, 0.0])) == pytest.approx((0.25 + 0.05) * 0.5)
    assert subset.quality(example("x", [1.0, 1.0])) == pytest.approx(0.05)


def test_car_keeps_the_best_of_each_cluster_and_then_the_best():
    """Three kinds of text; the kind about birds has the lowest quality and still keeps one."""
    rng, rows = random.Random(0), []
    words = {
        "bars": "bar chart height axis label",
        "birds": "bird wing feather nest egg",
        "clock": "hand dial hour minute",
    }
    for kind, text in words.items():
        for i in range(10):
            steps = [" ".join(rng.choices(text.split(), k=12))]
            values = [1.0] * (i + 1) + [0.0] * (10 - i)
            rows.append(
                example(
                    f"{kind}{i}", [0.0] if kind == "birds" else values, steps=steps * (1 if kind == "birds" else 11)
                )
            )
    left = subset.choose(CarTraining(model="m", subset=ClusterSubset(share=0.3, clusters=3)), rows, 0)
    kept = {row.rollout_id for row in rows} - {e.rollout_id for e, _ in left}
    assert len(kept) == 9
    assert sum(name.startswith("birds") for name in kept) == 1
    # Half of the steps positive is the best there is.
    assert {"bars4", "bars5", "clock4", "clock5"} <= kept
    assert all("of 30; 9 are kept" in error.detail for _, error in left)


def test_k_means_finds_groups_that_are_there():
    rng = np.random.default_rng(0)
    centres = np.eye(8, dtype=np.float32)[:4] * 5
    points = np.concatenate([centre + 0.1 * rng.standard_normal((20, 8)).astype(np.float32) for centre in centres])
    found = subset.cluster(points, 4, 0)
    assert [len(set(found[place : place + 20])) for place in range(0, 80, 20)] == [1, 1, 1, 1]
    assert len(set(found)) == 4
    assert len(set(subset.cluster(np.ones((5, 3), np.float32), 3, 0))) == 1


def test_texts_that_share_words_are_near():
    made = subset.vectors(["red bars on a chart", "blue bars on a chart", "a bird in its nest", ""])
    assert np.linalg.norm(made, axis=1) == pytest.approx([1, 1, 1, 0], abs=1e-6)
    assert made[0] @ made[1] > 0.3 > made[0] @ made[2]


def test_a_pool_gives_each_domain_what_comes_up():
    groups = {"a": [f"a{i}" for i in range(9)], "b": ["b0"]}
    pool = PooledBatches("train", groups, 5, 0)
    steps = [pool.rows(step) for step in range(2)]
    assert all(set(rows) == {"a", "b"} for rows in steps)
    assert sorted(name for rows in steps for part in rows.values() for name in part) == sorted(
        [*groups["a"], *groups["b"]]
    )
    assert all(sum(map(len, rows.values())) == 5 for rows in steps)
    assert steps[1] == PooledBatches("train", groups, 5, 0).rows(1)
