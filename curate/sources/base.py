"""What a source is: rows out, each either usable or an error that names its row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from curate.errors import RowError

Record = Mapping[str, Any]
"""One record of a file or a hub split, field name to value."""
Numbered = tuple[int | str, Record | RowError]
"""A record's number or name in its file, with the record or what is wrong with it."""


@dataclass(frozen=True)
class GivenChain:
    """A chain of thought that a source brings, in steps, with what it says about each (empty where it says nothing).

    `values` are labels in [0, 1], null where a step has none; `counts` are (right, graded) completions that a label
    came from. `outcome` is whether the final answer is right, `policy` names the model that wrote the chain,
    `reasoning` is what it thought before. A chain that is not known to be `whole` and comes to no answer is no
    wrong one.
    """

    steps: Sequence[str]
    values: Sequence[float | None] = ()
    counts: Sequence[tuple[int, int] | None] = ()
    outcome: bool | None = None
    policy: str | None = None
    whole: bool = True
    reasoning: str | None = None


@dataclass(frozen=True)
class SourceRow:
    """One problem as its source has it; `images` are the original bytes, never re-encoded.

    `accepted` are further right answers, `tolerance` is how far off a number is still right (see `answers.Gold`).
    `question` and `answer` may still be missing or odd: `curate ingest` decides and rejects with a reason.
    `truth` is JSON known only to synthetic sources. `chain` is there where the source brings chains.
    """

    source_row: str
    question: str | None
    answer: str | None
    choices: Sequence[str] = ()
    images: Sequence[bytes] = field(default=(), repr=False)
    domain: str | None = None
    answer_type: str | None = None
    accepted: Sequence[str] = ()
    tolerance: float | None = None
    truth: str | None = None
    chain: GivenChain | None = None


@dataclass(frozen=True)
class BadRow:
    """A row that the source could not read: counted, rejected, never the end of the run."""

    source_row: str
    error: RowError


class Source(Protocol):
    """Yields every row of the source exactly once, in a fixed order.

    A source that is read from elsewhere may have `read_from`, known once its first row is there: what its rows really
    come from, by name, such as the commit that a branch stood for (`revision`).
    """

    def rows(self) -> Iterator[SourceRow | BadRow]:
        """All rows; raises UserError when the source itself is not there."""
        ...
