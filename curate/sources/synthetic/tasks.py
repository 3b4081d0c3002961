"""The synthetic tasks, by name."""

from __future__ import annotations

from typing import Any

from curate.sources.synthetic import cells, charts, tables
from curate.sources.synthetic.base import NAMED, Facts, Slots, SyntheticStep, SyntheticTask

__all__ = ["NAMED", "TASKS", "Facts", "Slots", "SyntheticStep", "SyntheticTask"]

TASKS: dict[str, SyntheticTask[Any]] = {
    task.name: task
    for task in (
        charts.bars_read,
        charts.bars_difference,
        charts.bars_sum,
        charts.dial_read,
        cells.dots_count,
        cells.dots_more,
        cells.grid_distance,
        cells.rectangle_area,
        cells.rectangle_perimeter,
        tables.table_lookup,
        tables.table_largest,
        charts.needles,
    )
}
