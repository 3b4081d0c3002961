"""A problem as it is compared: what is asked, of which images, with which choices, and what is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from curate.errors import UserError
from curate.graders import grade
from curate.graders.base import folded
from curate.stages.golds import right_of
from curate.stages.overlap import texts
from curate.stages.overlap.rows import stream
from curate.tables.rows import column_names, columns_of, rows_of
from curate.tables.schema import PROBLEMS
from curate.tables.store import Store

_AT_ONCE = 1000
# A question in its normal form, and the texts of its choices.
Asked = tuple[str, tuple[str, ...]]


@columns_of(PROBLEMS)
@dataclass(frozen=True)
class Problem:
    """A row of `problems`; `answer` and `answer_type` are null where its source has no gold answer."""

    problem_id: str
    domain: str
    role: str
    question: str
    choices: Sequence[str]
    answer: str | None
    accepted: Sequence[str]
    answer_type: str | None
    tolerance: float | None
    image_hashes: Sequence[str]

    @cached_property
    def options(self) -> tuple[str, ...]:
        """Texts of the choices in an order of their own: letters say nothing."""
        return tuple(sorted(map(folded, self.choices)))

    @property
    def asked(self) -> Asked:
        """What is asked, apart from the images."""
        return texts.normal(self.question), self.options

    @property
    def text(self) -> str:
        """The question and its choices, whatever their order."""
        return "\n".join([self.question, *self.options])

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        """The numbers of the question, in order."""
        return texts.numbers(self.question)

    @cached_property
    def right(self) -> str | None:
        """The right answer in a form to compare, see `golds.right_of`."""
        return right_of(self)

    def agrees(self, other: Problem) -> bool | None:
        """Whether the gold answers of two problems that ask the same are the same.

        None where one has none, or where their graders cannot tell.
        """
        if self.right is None or other.right is None:
            return None
        if self.right == other.right:
            return True
        verdicts = {self._accepts(other), other._accepts(self)}
        return True if True in verdicts else None if None in verdicts else False

    def _accepts(self, other: Problem) -> bool | None:
        assert self.answer is not None and self.answer_type is not None  # noqa: S101
        gold = (self.answer, self.answer_type, self.choices, self.accepted, self.tolerance)
        return grade(other.right, *gold).outcome


def read(workspace: Store) -> list[Problem]:
    """All problems, by domain and identity; UserError when there is none."""
    found = [
        problem
        for path in workspace.files(PROBLEMS)
        for batch in stream(path, column_names(Problem), _AT_ONCE)
        for problem in rows_of(Problem, batch)
    ]
    if not found:
        raise UserError("The workspace has no problems; run `curate ingest` first.")
    return sorted(found, key=lambda problem: (problem.domain, problem.problem_id))
