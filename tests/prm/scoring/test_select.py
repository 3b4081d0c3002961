"""Best-of-N: known truth by hand and by counting all subsets, and what must hold for any candidates."""

from __future__ import annotations

import io
import json
import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_testbed import rollout_row, score_row
from rich.console import Console

from curate.errors import UserError
from curate.seeds import digest
from curate.tables.schema import ROLLOUTS, STEP_SCORES
from curate.tables.store import Store
from prm.render import terminal
from prm.scoring import select
from prm.scoring.best_of_n import Candidate, Votes, best, expected, first, majority, weighted
from prm.sections import SelectConfig
from tests.beds.rows import commit


def candidate(index, answer="1", outcome=True, logit=None):
    return Candidate(index, answer, outcome, {"r": logit})


@st.composite
def problems(draw, unique=False, decided=False):
    count = draw(st.integers(1, 6))
    logits = draw(
        st.lists(
            st.floats(-5, 5) if unique else st.one_of(st.none(), st.integers(-2, 2).map(float)),
            min_size=count,
            max_size=count,
            unique=unique,
        )
    )
    # The empty answer is one, too.
    answers = st.sampled_from(["1", "2", "3"] if decided else [None, " ", "1", "2", "3"])
    found = []
    for index in range(count):
        answer = draw(answers)
        # The gold answer is 1; an answer may be undecided, no answer always is.
        known = decided or (answer is not None and draw(st.booleans()))
        found.append(candidate(index, answer, answer == "1" if known else None, logits[index]))
    return found


@given(problems())
def test_expectations_are_those_of_counting_every_subset(found):
    for size in range(1, len(found) + 1):
        subsets = [list(chosen) for chosen in combinations(found, size)]
        accuracy = expected(found, ["r"], size, 0)
        picks = {"prm r": lambda part: best(part, "r"), "weighted r": lambda part: weighted(part, "r")}
        picks |= {"first": first, "majority": majority}
        for method, pick in picks.items():
            hits = sum(part[pick(part)].outcome is True for part in subsets)
            assert accuracy[method] == pytest.approx(hits / len(subsets)), method
        assert accuracy["oracle"] == pytest.approx(
            sum(any(one.outcome for one in part) for part in subsets) / len(subsets)
        )
        mean = sum(sum(one.outcome is True for one in part) / size for part in subsets) / len(subsets)
        assert accuracy["random"] == pytest.approx(mean)


@given(problems())
def test_nothing_beats_the_oracle_and_one_candidate_leaves_no_choice(found):
    for size in range(1, len(found) + 1):
        accuracy = expected(found, ["r"], size, 0)
        assert all(accuracy["oracle"] >= value - 1e-12 for value in accuracy.values())
    assert len({round(value, 12) for value in expected(found, ["r"], 1, 0).values()}) == 1


@given(problems(unique=True), st.randoms(use_true_random=False))
def test_order_of_candidates_does_not_matter_to_the_prm(found, rng):
    mixed = found[:]
    rng.shuffle(mixed)
    assert mixed[best(mixed, "r")] == found[best(found, "r")]


@given(problems(decided=True), st.permutations(["1", "2", "3"]))
def test_majority_does_not_care_what_answers_are_called(found, names):
    renamed = [Candidate(one.sample_index, names[int(one.answer) - 1], one.outcome, one.logits) for one in found]
    assert majority(renamed) == majority(found)


@given(problems(), st.randoms(use_true_random=False))
def test_majority_ignores_the_order_and_the_scores(found, rng):
    mixed = [Candidate(one.sample_index, one.answer, one.outcome, {"r": rng.random()}) for one in found]
    rng.shuffle(mixed)
    assert mixed[majority(mixed)].sample_index == found[majority(found)].sample_index


def test_ties_go_to_the_lowest_sample_index():
    tied = [candidate(3, "2", False, 1.0), candidate(1, "1", True, 1.0), candidate(2, "2", False, 0.0)]
    assert best(tied, "r") == 1
    assert first(tied) == 1
    # Two votes for 2 win against one for 1; of the two, index 2 comes before 3.
    assert majority(tied) == 2
    assert majority([candidate(5, "2", False), candidate(4, "1", True)]) == 1


def test_no_answer_never_outvotes_an_answer():
    found = [candidate(0, None, None), candidate(1, None, None), candidate(2, "?", None), candidate(3, "1", True)]
    assert majority(found) == 3
    assert majority(found[:3]) == 0


def test_votes_are_equal_but_for_case_and_spaces():
    found = [candidate(0, "blue", False), candidate(1, " Red  bar", True), candidate(2, "red bar ", True)]
    assert majority(found) == 1


def test_missing_scores_rank_last():
    found = [candidate(0, logit=None), candidate(1, logit=-50.0), candidate(2, logit=None)]
    assert best(found, "r") == 1
    assert best([found[0], found[2]], "r") == 0


def test_one_sure_chain_outweighs_two_doubtful_ones_and_without_scores_the_majority_decides():
    found = [candidate(0, "2", False, -3.0), candidate(1, "2", False, -3.0), candidate(2, "1", True, 2.0)]
    assert (majority(found), weighted(found, "r")) == (0, 2)
    assert weighted(found, "other") == majority(found)
    # 0.5 + 0.5 for one answer are as much as 1.0 for the other would be; equal sums go by votes, then by index.
    level = [candidate(0, "1", True, 0.0), candidate(1, "2", False, 0.0), candidate(2, "2", False, None)]
    assert weighted(level, "r") == 1
    assert weighted([candidate(0, None, None, 5.0), candidate(1, "1", True, None)], "r") == 1
    assert weighted([candidate(1, None, None, 5.0), candidate(0, None, None, None)], "r") == 1


@given(problems())
def test_equal_scores_make_the_weighted_vote_the_majority(found):
    level = [Candidate(one.sample_index, one.answer, one.outcome, {"r": 1.0}) for one in found]
    assert weighted(level, "r") == majority(level)
    for size in range(1, len(found) + 1):
        accuracy = expected(level, ["r"], size, 0)
        assert accuracy["weighted r"] == pytest.approx(accuracy["majority"])


def test_votes_over_many_candidates_are_drawn_and_repeatable():
    found = [candidate(index, "1" if index % 3 else "2", bool(index % 3)) for index in range(24)]
    share = Votes(found, 5, 7).majority()
    assert share == Votes(found, 5, 7).majority() == Votes(found[::-1], 5, 7).majority()
    # Majority of 5 of 16 right and 8 wrong, hypergeometric: about 0.80.
    assert share == pytest.approx(0.80, abs=0.05)


# Three problems of four rollouts; right answers and scores by hand. The PRM finds the right one of `p0` and `p1`.
OUTCOMES = {"p0": [False, True, False, False], "p1": [True, True, False, None], "p2": [False] * 4}
LOGITS = {"p0": [0.1, 0.9, 0.2, 0.3], "p1": [0.2, 0.8, 0.6, 0.5], "p2": [0.5, 0.5, 0.5, 0.5]}


@pytest.fixture
def workspace(tmp_path):
    made, rng, rollouts, scores = Store.open(tmp_path / "w"), random.Random(1), [], []
    for number, (problem, outcomes) in enumerate(OUTCOMES.items()):
        for sample, outcome in enumerate(outcomes):
            domain = "a" if number < 2 else "b"
            row = rollout_row(digest(problem), domain, "test", sample, "7", outcome, rng)
            # Wrong answers differ, so that no vote gathers behind them.
            row["answer"] = "7" if outcome else (None if outcome is None else f"wrong {sample}")
            rollouts.append(row)
            for run, sign in (("seed-0", 1), ("seed-1", -1)):
                score = 0.5 + sign * (LOGITS[problem][sample] - 0.5) * 0.9
                scores += [score_row(run, row, step, score) for step in range(4)]
    commit(made.partition(ROLLOUTS), rollouts)
    commit(made.partition(STEP_SCORES), scores)
    return made


def test_selection_by_hand(workspace):
    found = select.run(workspace, SelectConfig())
    assert (found.problems, found.rollouts, found.undecided, found.sizes) == (3, 12, 1, (1, 2, 4))
    four = {method: found.find(method, 4).accuracy for method in found.methods}
    assert four["random"] == pytest.approx((1 / 4 + 2 / 4 + 0) / 3)
    assert four["first"] == pytest.approx(1 / 3)
    # p0: four different answers, the first wins and is wrong; p1: two votes for the right one.
    assert four["majority"] == pytest.approx(1 / 3)
    assert four["oracle"] == pytest.approx(2 / 3)
    assert found.find("prm", 4, run="seed-0").accuracy == pytest.approx(2 / 3)
    # The other run turns the order around: p0 and p1 pick sample 0, wrong and right.
    assert found.find("prm", 4, run="seed-1").accuracy == pytest.approx(1 / 3)
    assert four["prm"] == pytest.approx(1 / 2)
    gain = found.find("prm", 4, run="seed-0")
    assert gain.gain == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)
    spread = [3 / 4, 1 / 2, 0.0]
    mean = sum(spread) / 3
    assert gain.gain_error == pytest.approx((sum((x - mean) ** 2 for x in spread) / 2 / 3) ** 0.5)
    assert found.find("prm", 4, "b", "seed-0").accuracy == 0
    assert found.find("random", 4, "a").problems == 2
    assert found.missing == {"seed-0": 0, "seed-1": 0}


def test_a_step_without_score_makes_a_rollout_rank_last(workspace):
    partition = workspace.partition(STEP_SCORES)
    rows = partition.read().to_pylist()
    winner = digest("p0") + "-001"
    partition.clear()
    for one in rows:
        if one["rollout_id"] == winner and one["step_index"] == 2:
            one["score"] = None
    commit(partition, rows)
    found = select.run(workspace, SelectConfig())
    assert found.missing == {"seed-0": 1, "seed-1": 1}
    pick = next(one for one in found.picks if one.rollout_id == winner and one.run == "seed-0")
    assert (pick.score, pick.rank, pick.picked_by) == (None, 4, ())
    assert found.find("prm", 4, run="seed-0").accuracy == pytest.approx(1 / 3)


def test_picks_and_json(workspace):
    found = select.run(workspace, SelectConfig(sizes=(4,)))
    rows = [row for row in found.pick_rows() if row["run"] == "seed-0" and row["problem_id"] == digest("p1")]
    assert [(row["sample_index"], row["rank"], row["picked_by"]) for row in rows] == [
        (0, 4, ["weighted", "majority", "first"]),
        (1, 1, ["prm"]),
        (2, 2, []),
        (3, 3, []),
    ]
    assert rows[1]["score"] == pytest.approx(0.5 + 0.3 * 0.9)
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert plain["schema"] == "curate-prm/selection/1"
    # Overall and two domains; four methods without scores, two of either run and of their mean.
    assert len(plain["scores"]) == 3 * (4 + 2 * 3)
    assert plain["calibration"][0]["rollouts"] == 11


def test_one_candidate_leaves_nothing_to_gain(workspace):
    for score in select.run(workspace, SelectConfig(sizes=(1,))).scores:
        assert (score.gain, score.gain_error) == (pytest.approx(0), pytest.approx(0) if score.problems > 1 else None)


def test_problems_with_fewer_candidates_count_only_in_sizes_they_have(workspace):
    partition, extra = workspace.partition(ROLLOUTS), digest("p3")
    commit(partition, [rollout_row(extra, "b", "test", place, "7", True, random.Random(2)) for place in (0, 1)])
    found = select.run(workspace, SelectConfig(sizes=(2, 4)))
    assert [found.find("random", size).problems for size in (2, 4)] == [4, 3]
    assert found.find("random", 2, "b").accuracy == pytest.approx(1 / 2)
    # Nothing of it was scored: both rollouts are counted, and the first of them is picked.
    assert found.missing == {"seed-0": 2, "seed-1": 2}
    assert found.find("prm", 2, "b").accuracy == pytest.approx(1 / 2)


def test_written_file_holds_the_figures_and_every_candidate(workspace):
    found = select.run(workspace, SelectConfig(sizes=(1, 4)))
    path = select.write(found, workspace)
    assert path == workspace.root / "reports" / "select.json"
    plain = json.loads(path.read_text())
    assert plain == json.loads(json.dumps(select.to_json(found)))
    assert len(plain["candidates"]) == 2 * 12
    undecided = [row for row in plain["candidates"] if row["outcome"] is None]
    assert {(row["problem_id"], row["sample_index"], row["answer"]) for row in undecided} == {(digest("p1"), 3, None)}
    assert select.write(found, workspace) == path


def test_the_table_shows_figures_within_100_columns(workspace):
    console = Console(width=100, file=io.StringIO(), color_system=None)
    console.print(terminal.render_selection(select.run(workspace, SelectConfig(sizes=(1, 4)))))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    # Two thirds right with an error of 1/3 over the three problems.
    assert any("seed-0" in line and "66.7 ± 33.3" in line for line in lines)
    assert any("oracle" in line and "66.7" in line for line in lines)


@pytest.mark.parametrize("name", ["mean-log-odds", "sum-log-odds", "mean", "min", "max", "last", "product"])
def test_every_aggregation_ranks_equal_steps_alike(workspace, name):
    found = select.run(workspace, SelectConfig(aggregation=name, sizes=(4,)))
    assert found.find("prm", 4, run="seed-0").accuracy == pytest.approx(2 / 3)


def test_user_mistakes_say_the_cure(tmp_path, workspace):
    empty = Store.open(tmp_path / "empty")
    with pytest.raises(UserError, match="role test"):
        select.run(empty, SelectConfig())
    with pytest.raises(ValueError, match='no aggregation "meen"; did you mean "mean"'):
        SelectConfig(aggregation="meen")
    for sizes in ((), (0, 2)):
        with pytest.raises(UserError, match="1 or more"):
            select.run(workspace, SelectConfig(sizes=sizes))
    with pytest.raises(UserError, match="lower"):
        select.run(workspace, SelectConfig(sizes=(64,)))
    workspace.partition(STEP_SCORES).clear()
    with pytest.raises(UserError, match="prm score"):
        select.run(workspace, SelectConfig())
