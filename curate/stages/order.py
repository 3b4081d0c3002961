"""The order of stages, from what each declares that it reads and writes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Protocol, TypeVar

from curate.errors import UserError, did_you_mean
from curate.tables import all_tables
from curate.tables.schema import TABLES


class DeclaredStage(Protocol):
    """What the place of a stage depends on: names of tables, and in `reads` also names of earlier stages."""

    @property
    def name(self) -> str: ...
    @property
    def reads(self) -> Sequence[str]: ...
    @property
    def writes(self) -> Sequence[str]: ...


S = TypeVar("S", bound=DeclaredStage)


def in_order(stages: Sequence[S], known: Collection[str]) -> list[S]:
    """These stages, each behind all others that write a table it reads, and behind the stages that it names.

    Where several could come next, the one that is given first does. `known` are the names of all stages. UserError
    where stages wait for one another, or a stage names what is neither a table nor a stage.
    """
    for stage in stages:
        _check(stage, known)
    left, found = list(stages), list[S]()
    while left:
        ready = next((stage for stage in left if not any(_waits(stage, other) for other in left)), None)
        if ready is None:
            raise UserError(_circle(left))
        left.remove(ready)
        found.append(ready)
    return found


def _waits(stage: DeclaredStage, other: DeclaredStage) -> str:
    """What of the other one a stage reads, in words; "" for nothing. What it writes itself it does not wait for."""
    if stage.name == other.name:
        return ""
    if other.name in stage.reads:
        return f"the stage {other.name}"
    table = next((name for name in stage.reads if name in other.writes), None)
    return "" if table is None else f"{table}, which {other.name} writes"


def _check(stage: DeclaredStage, known: Collection[str]) -> None:
    for verb, names, others in (("reads", stage.reads, known), ("writes", stage.writes, ())):
        for name in names:
            # Tables of packages are looked up only where one is named.
            if name not in TABLES and name not in others and name not in all_tables():
                nearest = did_you_mean(name, [*all_tables(), *others])
                what = "neither a table nor a stage" if verb == "reads" else "no table"
                raise UserError(f'The stage {stage.name} {verb} "{name}", which is {what}{nearest}')


def _circle(left: Sequence[DeclaredStage]) -> str:
    """The sentence for stages of which each waits for another one of them."""
    walked = [left[0]]
    while len({stage.name for stage in walked}) == len(walked):
        walked.append(next(other for other in left if _waits(walked[-1], other)))
    walked = walked[[stage.name for stage in walked].index(walked[-1].name) :]
    told = ", and ".join(f"{stage.name} reads {_waits(stage, other)}" for stage, other in pairwise(walked))
    return f"Stages wait for one another: {told}; leave one of these sections out, or change what it declares."
