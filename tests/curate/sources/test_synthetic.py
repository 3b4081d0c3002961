"""The synthetic problems: exact answers, an exact checker, planted defects, the same bytes every time."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import UserError
from curate.recipe import source_table
from curate.recipe.parsing import validate
from curate.recipe.source_sections import SyntheticSource
from curate.seeds import content_hash
from curate.sources.synthetic import Synthetic, chain, judge_truth
from curate.sources.synthetic.tasks import TASKS
from curate.text.steps import split

names = st.sampled_from(sorted(TASKS))


def rows(task, count=40, **more):
    source = {"kind": "synthetic", "name": "s", "task": task, "rows": count, **more}
    return list(Synthetic(validate(SyntheticSource, source, "source")).rows())


def right(row):
    known = json.loads(row.truth)
    task = TASKS[known["task"]]
    return chain.gold(task, task.facts(**known["facts"]))


def test_a_recipe_knows_the_tasks():
    assert tuple(TASKS) == source_table.TASKS


def first_wrong(task, facts, steps) -> int | None:
    """Index of the first wrong step; the number of steps when the chain stops short; None when all is right."""
    verdicts = chain.judge(task, facts, steps)
    return next(
        (index for index, right in enumerate(verdicts) if not right), None if len(verdicts) == 5 else len(verdicts)
    )


@given(names, st.integers(0, 10**6), st.sets(st.integers(0, 4), max_size=3))
def test_the_checker_finds_the_first_slip(name, seed, slips):
    task, rng = TASKS[name], random.Random(seed)
    facts = task.sample(rng)
    written = chain.solve(task, facts, slips, rng)
    steps = split(chain.render(task, written))
    assert len(steps) == 5
    truth = chain.solve(task, facts)
    expected = next((i for i in range(5) if written[i] != truth[i]), None)
    assert first_wrong(task, facts, steps) == expected
    # A slip is always one that shows, so the first slip is the first wrong step.
    assert expected == (min(slips) if slips else None)


@given(names, st.integers(0, 10**6), st.text(max_size=60))
def test_the_checker_never_calls_other_text_right(name, seed, text):
    task = TASKS[name]
    facts = task.sample(random.Random(seed))
    steps = split(chain.render(task, chain.solve(task, facts)))
    for place in range(5):
        broken = [*steps[:place], text, *steps[place + 1 :]]
        if text.strip() != steps[place].strip():
            assert not chain.judge(task, facts, broken)[place]


def test_a_chain_that_stops_short_or_runs_on_is_wrong_there():
    task = TASKS["bars_read"]
    facts = task.sample(random.Random(1))
    steps = split(chain.render(task, chain.solve(task, facts)))
    assert first_wrong(task, facts, steps) is None
    assert first_wrong(task, facts, steps[:3]) == 3
    assert first_wrong(task, facts, [*steps, "Step 6: more"]) == 5
    swapped = [steps[1], steps[0], *steps[2:]]
    assert first_wrong(task, facts, swapped) == 0


@pytest.mark.parametrize("task", sorted(TASKS))
def test_rows_are_the_same_every_time_and_differ_from_each_other(task):
    count = 30
    first, again = rows(task, count), rows(task, count)
    assert [(r.question, r.answer, r.images) for r in first] == [(r.question, r.answer, r.images) for r in again]
    assert len({content_hash(r.images[0]) + r.question for r in first}) == count
    assert all(r.answer == right(r) for r in first)
    assert all(r.answer in r.choices for r in first if r.choices)


def test_sources_of_other_names_have_other_problems():
    one = Synthetic(SyntheticSource(kind="synthetic", name="one", task="table_lookup", rows=50)).rows()
    two = Synthetic(SyntheticSource(kind="synthetic", name="two", task="table_lookup", rows=50)).rows()
    assert not {r.images[0] for r in one} & {r.images[0] for r in two}


def test_defects_are_what_they_say():
    clean = rows("rectangle_perimeter")
    wrong = rows("rectangle_perimeter", defect="wrong-gold")
    assert 0.5 < sum(r.answer != right(r) for r in wrong) / len(wrong) < 0.9
    rule = rows("rectangle_perimeter", defect="wrong-rule")
    assert sum(r.answer != right(r) for r in rule) > 0.9 * len(rule)
    swapped = rows("rectangle_perimeter", defect="swapped-image")
    assert [r.answer for r in swapped] == [r.answer for r in clean]
    assert all(a.images != b.images for a, b in zip(swapped, clean, strict=True))
    leaked = rows("rectangle_perimeter", defect="leaked-answer")
    assert all(r.question.endswith(f"(answer: {right(r)})") for r in leaked)
    near = rows("rectangle_perimeter", defect="near-duplicates")
    assert len({r.truth for r in near}) == 5
    assert len({r.images[0] for r in near}) == len(near)


def test_truth_travels_with_the_row():
    row = rows("dial_read", 3)[1]
    task, known = TASKS["dial_read"], json.loads(row.truth)
    steps = split(chain.render(task, chain.solve(task, task.facts(**known["facts"]))))
    assert judge_truth(row.truth, steps) == [True] * 5


def test_an_unknown_task_and_too_many_rows_are_one_sentence():
    with pytest.raises(UserError, match='did you mean "bars_read"'):
        rows("bars_raed")
    with pytest.raises(UserError, match="lower rows"):
        rows("rectangle_area", 100_000)
