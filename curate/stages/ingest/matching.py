"""Which problem an imported response belongs to: by its row's name, in one source or over several."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from curate.errors import RowError, UserError, did_you_mean
from curate.graders import grade
from curate.sources.fields.responses import NO_ANSWER, Columns, answers_of, name_of
from curate.sources.values import look, text_of
from curate.tables import lineage
from curate.tables.rows import columns_of
from curate.tables.schema import PROBLEMS, REJECTS
from curate.tables.store import Store, among


@columns_of(PROBLEMS)
@dataclass(frozen=True, slots=True)
class MatchedProblem:
    """What a rollout takes from its problem, and what answers to it are graded by."""

    problem_id: str
    domain: str
    role: str
    source: str
    source_row: str
    answer: str | None
    answer_type: str | None
    choices: Sequence[str]
    accepted: Sequence[str]
    tolerance: float | None


@columns_of(REJECTS)
@dataclass(frozen=True, slots=True)
class _Rejected:
    """Why a row was left out."""

    source: str
    source_row: str
    reason: str


class Problems:
    """The problems of the sources that a file's responses may belong to.

    Where one source is named, or is all there is, a row's name is looked for in that; where a column names the source,
    in that one; else in all sources, which is allowed only where no name can mean a row of two of them.
    """

    def __init__(self, workspace: Store, columns: Columns, source: str | None) -> None:
        """UserError when there are no problems, no such source, or names that leave the source open."""
        self._columns = columns
        self.sources = _chosen(workspace, columns, source)
        self._rows: dict[str, dict[str, list[MatchedProblem]]] = {name: defaultdict(list) for name in self.sources}
        for name, rows in self._rows.items():
            for row in workspace.rows(MatchedProblem, pc.field("source") == name):
                rows[row.source_row].append(row)
        self.unknown: dict[str, None] = {}
        """Names of rows that the sources did not have, as they were met."""
        self.left_out: Counter[str] = Counter()
        """Responses to rows that ingest left out, by its reason."""
        self._rejected = _rejected(workspace, self.sources)
        if columns.from_zero:
            self._check_rows_are_counted(workspace)
        if len(self.sources) > 1 and columns.source is None:
            self._check_names_are_apart()

    @property
    def example(self) -> str:
        """How a row of the sources is named."""
        return next(name for rows in self._rows.values() for name in rows)

    def _check_rows_are_counted(self, workspace: Store) -> None:
        """A log that counts rows says nothing of a source whose rows have names, nor which of several it counts."""
        if len(self.sources) > 1:
            raise UserError(
                f"The file numbers its rows ({self._columns.id}), and the workspace has several sources; give "
                f"--source, one of {', '.join(self.sources)}."
            )
        (name,) = self.sources
        config = (lineage.read(workspace.partition(PROBLEMS, name)) or {}).get("config") or {}
        named = (config.get("columns") or {}).get("id")
        if named is not None:
            raise UserError(
                f'The file numbers its rows ({self._columns.id}), and the rows of source "{name}" are named by its '
                f"column {named}; give --id, a column with those names."
            )

    def _check_names_are_apart(self) -> None:
        counted = [name for name, rows in self._rows.items() if all(row.isdecimal() for row in rows)]
        alike, what = counted[:2], "are numbers in both"
        seen: dict[str, str] = {}
        for name, rows in self._rows.items():
            for row in rows:
                if (other := seen.setdefault(row, name)) != name:
                    alike, what = [other, name], f'have a name in common, "{row[:40]}"'
        if len(alike) > 1:
            raise UserError(
                f"The workspace has several sources, and the names of the rows of {alike[0]} and {alike[1]} {what}, so "
                f"an id does not say which is meant; give --source, one of {', '.join(self.sources)}, or "
                "--source-column."
            )

    def find(self, record: Mapping[str, Any], number: int | str) -> MatchedProblem:
        """The problem of a record, the file's `number`-th; RowError where there is none, or another gold answer."""
        name, sources = name_of(record, self._columns, number), self.sources
        if self._columns.source is not None:
            sources = [self._source_of(record, self._columns.source)]
        found = [row for source in sources for row in self._rows[source].get(name, ())]
        if not found and (reason := next(filter(None, (self._rejected.get((each, name)) for each in sources)), None)):
            self.left_out[reason] += 1
            raise RowError("problem-left-out", f"row {name[:80]!r} was left out when it was ingested: {reason}")
        if not found:
            self.unknown[name] = None
        if len(found) != 1:
            raise RowError(
                "ambiguous-problem" if found else "unknown-problem",
                f"{len(found)} problems of source {' or '.join(sources)} come from row {name[:80]!r}",
            )
        self._check_answer(record, found[0])
        return found[0]

    def _source_of(self, record: Mapping[str, Any], column: str) -> str:
        found = text_of(look(record, column))
        if found not in self._rows:
            raise RowError("unknown-source", f"{column} says {str(found)[:80]!r}, which is no source of the workspace")
        return str(found)

    def _check_answer(self, record: Mapping[str, Any], problem: MatchedProblem) -> None:
        """Files whose rows were counted or named otherwise would be graded against other problems."""
        column, gold = self._columns.answer, problem.answer
        said = answers_of(record, column) if column else []
        if not said or gold is None or problem.answer_type is None:
            return
        rest = (problem.answer_type, problem.choices, problem.accepted, problem.tolerance)
        if all(grade(each, gold, *rest).outcome is False for each in said):
            raise RowError(
                "other-answer",
                f"{column} says {said[0][:80]!r}, the problem's answer is {gold[:80]!r}: another problem, or an answer "
                f"that is written in another way (then give --answer {NO_ANSWER})",
            )


def _rejected(workspace: Store, sources: Sequence[str]) -> dict[tuple[str, str], str]:
    """(source, row) -> why ingest left the row out."""
    where = among("source", sources) & (pc.field("stage") == "ingest")
    # Behind the row's name its number is written, which tells rows of one name apart.
    return {(row.source, row.source_row.rpartition("#")[0]): row.reason for row in workspace.rows(_Rejected, where)}


def _chosen(workspace: Store, columns: Columns, source: str | None) -> Sequence[str]:
    """The sources that responses may belong to."""
    known = [part.folder.name for part in workspace.partitions(PROBLEMS) if part.files()]
    if not known:
        raise UserError("The workspace has no problems; run `curate ingest` first.")
    if source is not None and columns.source is not None:
        raise UserError("--source names one source and --source-column one for each row; give only one of them.")
    if source is not None and source not in known:
        raise UserError(f"--source {source}: the workspace has no such source{did_you_mean(source, known)}")
    return known if source is None else [source]
