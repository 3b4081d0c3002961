"""What a column of the report is, and the row of the dataset-quality table that it is read from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from prm.metrics import Interval
from prm.reporting import formats
from prm.reporting.null_band import Band
from prm.reporting.stats import DomainFacts, Over

R = TypeVar("R")
Form = Literal["terminal", "markdown", "page"]
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class DomainRow:
    """One row of the dataset-quality table. Weight and ranks are None for a domain that no run trained on.

    `band` is where chance may leave it (`prm.reporting.null_band`); `verdict` is "up", "down", "indistinguishable" or
    "unknown". Losses are means over the first and last tenth of the updates, and over runs; `t` is the running
    t-statistic of the domain's dots at the end, over runs, and `signal` the one of the dots of all runs together
    (`prm.reporting.stats`).
    """

    domain: str
    weight: float | None
    interval: Interval | None
    band: Band | None
    verdict: str
    too_hard: bool
    rank: int | None
    best_rank: int | None
    worst_rank: int | None
    facts: DomainFacts
    loss_first: float | None
    loss_last: float | None
    t: Over | None
    signal: float | None
    explanation: str


@dataclass(frozen=True, slots=True)
class ShownAs:
    """How a column stands in one form for people, where it differs from what the column says of itself.

    `title` is that of the terminal's table or of the page's group of columns that it belongs to. One that is not there
    yet makes a table or a group of its own; without one a column is in the terminal's last table, and in no group.
    `key` explains the heading, in a line under the terminal's table.
    """

    title: str = ""
    heading: str = ""
    key: str = ""
    show: Callable[[Any], str] | None = None


@dataclass(frozen=True, slots=True)
class ReportColumn(Generic[R]):
    """A column of the report: what it says, how it is read from a row, and where it appears.

    Attributes:
        name: Its name for programs: that of the CSV's column, and of the JSON's key.
        help: What it says, in a few words for people, with its unit or range.
        value: Reads the value from a row: a text, figure or truth value, a tuple of texts, or a dataclass of such.
            Missing is None.
        show: The value as text for people; by its type where this is left out.
        heading: Its heading for people; the name, in words, where this is left out.
        left: Whether it is a text, which is aligned left.
        terminal, markdown, page: Where, and how, people see it; None where they do not.
        csv: Whether the CSV has it.
        json: Whether the JSON has it under its name; or its key there, with dots between a record and what is in it.
        compared: Whether the CSV of a difference has its values in both workspaces, as `<name>_a` and `<name>_b`.
        told: Whether people, and the JSON, are told where it differs between two workspaces.
    """

    name: str
    help: str
    value: Callable[[R], Any]
    show: Callable[[Any], str] = formats.text
    heading: str = ""
    left: bool = False
    terminal: ShownAs | None = None
    markdown: ShownAs | None = None
    page: ShownAs | None = None
    csv: bool = True
    json: bool | str = True
    compared: bool = False
    told: bool = False

    def __post_init__(self) -> None:
        """ValueError for a name that no program can use, or without a word of help."""
        if not _NAME.fullmatch(self.name) or not self.help:
            raise ValueError(f"a report column needs a name of small letters, digits and _, and help: {self.name!r}")

    @property
    def key(self) -> str | None:
        """The key that it has in the JSON; None where it has none."""
        return self.json if isinstance(self.json, str) else self.name if self.json else None

    def shown(self, form: Form) -> ShownAs | None:
        """How it stands in a form; None where it does not."""
        found: ShownAs | None = getattr(self, form)
        return found

    def heading_in(self, form: Form | None = None) -> str:
        """The heading for people, in a form that may have one of its own."""
        shown = self.shown(form) if form else None
        return (shown.heading if shown else "") or self.heading or self.name.replace("_", " ")

    def text(self, row: R, form: Form) -> str:
        """A cell in a form for people, with nothing escaped."""
        shown = self.shown(form)
        return ((shown.show if shown else None) or self.show)(self.value(row))


def arranged(columns: Iterable[ReportColumn[R]], first: Sequence[str] = ()) -> list[ReportColumn[R]]:
    """The columns, those whose names are in `first` before the others; the others stay in their order."""
    places = {name: place for place, name in enumerate(first)}
    return sorted(columns, key=lambda column: places.get(column.name, len(places)))


def grouped(
    columns: Iterable[ReportColumn[R]], form: Form, titles: Sequence[str], untitled: str = ""
) -> list[tuple[str, list[ReportColumn[R]]]]:
    """(title, columns) of a form's tables or groups of columns: those of `titles` first, empty ones left out.

    Columns without a title belong to `untitled`.
    """
    found: dict[str, list[ReportColumn[R]]] = {title: [] for title in titles}
    for column in columns:
        if (shown := column.shown(form)) is not None:
            found.setdefault(shown.title or untitled, []).append(column)
    return [(title, each) for title, each in found.items() if each]
