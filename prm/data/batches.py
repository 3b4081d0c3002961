"""Which rows a step sees: a pure function of the seed and the step, so that a resumed run needs no stored state.

Every group (domain) gives equally many rows to each step. A group is walked through in a fresh order each epoch; where
its rows are of several strata, in one that spreads each stratum evenly over the epoch, so that steps differ by the rows
and not by the mixture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from curate.seeds import rng


class Stream:
    """Rows by step. `groups` maps a group to its row names; `name` keeps streams of the same seed apart."""

    def __init__(self, name: str, groups: Mapping[str, Sequence[str]], rows_per_group: int, seed: int) -> None:
        if not groups or not all(groups.values()):
            raise ValueError("every group needs at least one row")
        self.name, self.seed, self.rows_per_group = name, seed, rows_per_group
        self.groups = {group: sorted(rows) for group, rows in sorted(groups.items())}
        self._orders: dict[str, tuple[int, list[str]]] = {}

    def _order(self, group: str, epoch: int) -> list[str]:
        known = self._orders.get(group)
        if known is None or known[0] != epoch:
            known = self._orders[group] = (epoch, self._fresh(group, epoch))
        return known[1]

    def _fresh(self, group: str, epoch: int) -> list[str]:
        rows = list(self.groups[group])
        rng(self.seed, self.name, group, epoch).shuffle(rows)
        return rows

    def rows(self, step: int) -> dict[str, list[str]]:
        """Rows of a step, group by group in sorted order."""
        taken = {}
        for group, rows in self.groups.items():
            places = range(step * self.rows_per_group, (step + 1) * self.rows_per_group)
            taken[group] = [self._order(group, place // len(rows))[place % len(rows)] for place in places]
        return taken


class EvenBatches(Stream):
    """Batches of each group with `strata` (group -> strata -> rows): a stretch of an epoch has of every stratum its
    share, to about one row.
    """

    def __init__(
        self, name: str, strata: Mapping[str, Mapping[str, Sequence[str]]], rows_per_group: int, seed: int
    ) -> None:
        groups = {group: [row for part in parts.values() for row in part] for group, parts in strata.items()}
        super().__init__(name, groups, rows_per_group, seed)
        self.strata = {
            group: {stratum: sorted(part) for stratum, part in sorted(parts.items())} for group, parts in strata.items()
        }

    def _fresh(self, group: str, epoch: int) -> list[str]:
        strata = self.strata[group]
        if len(strata) == 1:
            return super()._fresh(group, epoch)
        placed = []
        for stratum, part in strata.items():
            rows, draw = list(part), rng(self.seed, self.name, group, stratum, epoch)
            draw.shuffle(rows)
            start = draw.random()
            placed += [((place + start) / len(rows), row) for place, row in enumerate(rows)]
        return [row for _, row in sorted(placed)]


def by_value(values: Mapping[str, float], count: int) -> dict[str, list[str]]:
    """`count` strata of nearly equal size (fewer where there are fewer rows), from low to high values; equal values go
    by name.
    """
    ordered = sorted(values, key=lambda row: (values[row], row))
    count = min(count, len(ordered))
    edges = [place * len(ordered) // count for place in range(count + 1)]
    width = len(str(count))
    return {f"{place:0{width}d}": ordered[edges[place] : edges[place + 1]] for place in range(count)}


class PooledBatches(Stream):
    """Batches of all groups as one pool: each step draws `rows` rows of it, of each group as many as come up."""

    def __init__(self, name: str, groups: Mapping[str, Sequence[str]], rows: int, seed: int) -> None:
        super().__init__(name, groups, rows, seed)
        self._group = {row: group for group, part in self.groups.items() for row in part}
        self._pool = Stream(name, {"all": list(self._group)}, rows, seed)

    def rows(self, step: int) -> dict[str, list[str]]:
        """Rows of a step by group; a group may have none."""
        taken: dict[str, list[str]] = {group: [] for group in self.groups}
        for row in self._pool.rows(step)["all"]:
            taken[self._group[row]].append(row)
        return taken
