"""The order of stages follows from what they read and write."""

from dataclasses import dataclass
from itertools import chain, combinations

import pytest
from installed_package import installed_package

from curate import pipeline
from curate.errors import UserError
from curate.stages.order import in_order

# As it was when every stage had a number.
ORDER = (
    *("ingest", "dedup", "decontaminate", "rollout", "label", "judge", "shard"),
    *("train", "score", "select", "report"),
)


def names(stages) -> list[str]:
    return [stage.name for stage in stages]


def test_every_choice_of_our_stages_runs_in_the_known_order():
    assert sorted(pipeline.STAGES) == sorted(ORDER)
    for chosen in chain.from_iterable(combinations(ORDER, count) for count in range(len(ORDER) + 1)):
        assert names(pipeline.ordered(reversed(chosen))) == list(chosen)


@dataclass
class Declared:
    name: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


def test_the_order_does_not_depend_on_how_stages_are_given():
    stages = [pipeline.STAGES.find(name) for name in ORDER]
    filtering = Declared("filtering", ("problems",), ("drops",))
    counting = Declared("counting", ("drops", "label"))
    for given in ([*stages, counting, filtering], [filtering, counting, *stages]):
        found = names(in_order(given, [*ORDER, "filtering", "counting"]))
        assert [name for name in found if name in ORDER] == list(ORDER)
        assert found.index("ingest") < found.index("filtering") < found.index("rollout")
        assert found.index("label") < found.index("counting")
    # What is ready at the same time comes in the order in which it was given.
    assert names(in_order([Declared("b"), Declared("a")], ())) == ["b", "a"]


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        (
            [Declared("a", ("problems",), ("drops",)), Declared("b", ("drops",), ("problems",))],
            "Stages wait for one another: a reads problems, which b writes, and b reads drops, which a writes; leave",
        ),
        (
            [Declared("x", ("c",)), Declared("b", ("c",)), Declared("c", ("b",))],
            "c reads the stage b, and b reads the stage c;",
        ),
        ([Declared("a", ("rolouts",))], 'The stage a reads "rolouts", which is neither a table nor a stage; did you'),
        ([Declared("a", (), ("b",)), Declared("b")], 'The stage a writes "b", which is no table'),
    ],
)
def test_what_cannot_be_ordered_is_one_sentence(stages, said):
    with pytest.raises(UserError) as error:
        in_order(stages, "abcx")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_stage_does_not_wait_for_itself():
    assert names(in_order([Declared("a", ("problems", "a"), ("problems",))], ("a",))) == ["a"]


OTHER = """
from curate.pipeline import Stage
from curate.recipe.parsing import Config
class FilterConfig(Config):
    share: float = 0.5
def run(context, config): raise NotImplementedError
FILTER = Stage("filter", FilterConfig, run, reads=("problems",), writes=("drops",))
AGAIN = Stage("again", FilterConfig, run, reads=("rollouts",), writes=("problems",))
ODD = Stage("even", FilterConfig, run)
"""


def test_a_stage_of_a_package_is_placed_by_what_it_declares(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "filter: {share: 0.1}\nrollout: {engine: {kind: simulated, model: m}}\nshard: {}\n"
        "ingest: {sources: [{kind: synthetic, name: s, task: bars_read, rows: 1}]}\n"
    )
    points = {"curate.stages": {"filter": "other:FILTER", "again": "other:AGAIN", "odd": "other:ODD"}}
    with installed_package(tmp_path / "other", {"other.py": OTHER}, points):
        loaded = pipeline.load(recipe)
        assert names(pipeline.ordered(loaded.sections)) == ["ingest", "filter", "rollout", "shard"]
        with pytest.raises(UserError, match="Stages wait for one another: rollout reads problems, which again writes"):
            pipeline.load(recipe, ["again.share=1"])
        with pytest.raises(UserError, match='package other brings the section "odd", which calls itself "even"'):
            pipeline.load(recipe, ["odd.share=1"])
        with pytest.raises(UserError, match='did you mean "filter"'):
            pipeline.load(recipe, ["filtr.share=1"])
