"""Rows as classes: they are held against the schemas where they are defined, and bring back what was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from curate.tables import rows
from curate.tables.rows import columns_of
from curate.tables.schema import ROLLOUTS, STEP_SCORES, TABLES
from curate.tables.store import Store


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_every_table_has_a_class_of_all_its_columns_in_their_order(table):
    assert [each.name for each in fields(rows.whole(table))] == table.schema.names


def test_a_class_with_a_field_that_is_no_column_is_refused():
    with pytest.raises(TypeError, match=r"colour is no column of rollouts"):

        @columns_of(ROLLOUTS)
        @dataclass(frozen=True, slots=True)
        class Strange:
            colour: str


@pytest.mark.parametrize("hint", [int, str, bool], ids=lambda hint: hint.__name__)
def test_a_field_of_another_type_than_its_column_is_refused(hint):
    kind = dataclass(type("Strange", (), {"__annotations__": {"outcome": hint}}))
    with pytest.raises(TypeError, match=r"outcome is .*, but the column rollouts.outcome is"):
        columns_of(ROLLOUTS)(kind)


def test_a_list_of_other_things_is_refused():
    kind = dataclass(type("Strange", (), {"__annotations__": {"steps": Sequence[int]}}))
    with pytest.raises(TypeError, match=r"rollouts.steps is"):
        columns_of(ROLLOUTS)(kind)


def test_a_whole_row_names_every_column():
    kind = dataclass(type("Strange", (rows.Row,), {"__annotations__": {"run": str}}))
    with pytest.raises(TypeError, match=r"lacks columns of step_scores: problem_id, rollout_id, score, step_index"):
        columns_of(STEP_SCORES)(kind)


@columns_of(STEP_SCORES)
@dataclass(frozen=True, slots=True)
class ScoreOnly:
    """Two columns, in another order than the table has them."""

    score: float | None
    rollout_id: str


def test_a_class_reads_its_own_columns_alone(tmp_path: Path):
    store = Store.open(tmp_path / "w")
    whole = rows.StepScoreRow("run", "r-0", "p", 0, None), rows.StepScoreRow("run", "r-0", "p", 1, 0.25)
    store.partition(STEP_SCORES).commit_all(whole)
    assert list(store.rows(ScoreOnly)) == [ScoreOnly(None, "r-0"), ScoreOnly(0.25, "r-0")]
    assert list(store.rows(rows.StepScoreRow)) == list(whole)
    assert list(store.partition(STEP_SCORES).rows(ScoreOnly, 0)) + [
        row for shard in range(1, store.shards) for row in store.partition(STEP_SCORES).rows(ScoreOnly, shard)
    ] == [ScoreOnly(None, "r-0"), ScoreOnly(0.25, "r-0")]
