"""One problem or rollout, gathered from all tables, for `curate show`."""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from curate.errors import UserError
from curate.seeds import digest
from curate.stages.judge import judgement
from curate.tables import KNOWN
from curate.tables.rows import ImageRow, JudgementRow, ProblemRow, RolloutRow, StepLabelRow
from curate.tables.schema import PROBLEMS, ROLLOUTS, Table
from curate.tables.store import Store, among, write_atomic

if TYPE_CHECKING:
    from rich.console import Group


def _matches(workspace: Store, identity: str) -> tuple[str, str | None]:
    """(problem id, rollout id or None) that `identity` begins."""
    if not re.fullmatch(r"[0-9a-f]{4,32}(-([0-9]{0,3}|[0-9a-f]{4,12}))?", identity):
        raise UserError(
            f'"{identity}" is not an id; ids are hexadecimal and have at least four characters, see `curate sql`.'
        )
    head, dash, _ = identity.partition("-")
    found = workspace.read(PROBLEMS, ["problem_id"], where=pc.starts_with(pc.field("problem_id"), head))
    ids = sorted(found["problem_id"].to_pylist())
    if len(ids) != 1:
        many = f"{len(ids)} problems begin with" if ids else "No problem begins with"
        raise UserError(
            f'{many} "{head}"; give more of the id, as `curate sql "SELECT problem_id FROM problems"` shows.'
        )
    if not dash:
        return ids[0], None
    rollouts = workspace.read(ROLLOUTS, ["rollout_id"], where=pc.field("problem_id") == ids[0])
    tail = identity.partition("-")[2]
    # A sample index, or the beginning of the name of a chain that its source brought.
    wanted = tail if len(tail) > 3 else tail.zfill(3)
    hits = [
        key
        for key in rollouts["rollout_id"].to_pylist()
        if (last := key.rpartition("-")[2]) == wanted or (len(wanted) > 3 and last.startswith(wanted))
    ]
    if not hits:
        raise UserError(f"Problem {ids[0]} has no rollout {tail}; it has {rollouts.num_rows}.")
    return ids[0], hits[0]


@dataclass(frozen=True)
class FoundRollout:
    """A rollout with its labels by step, and the judge's votes on it."""

    row: RolloutRow
    labels: Sequence[StepLabelRow]
    judgements: Sequence[JudgementRow]


@dataclass(frozen=True)
class FoundProblem:
    """A problem with files of its images, and its rollouts or the one that was asked for."""

    row: ProblemRow
    image_files: Sequence[str]
    rollouts: Sequence[FoundRollout]
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    """Rows of the problem in the tables that installed packages bring."""

    def to_json(self) -> dict[str, Any]:
        """Plain values: `problem`, `image_files`, and `rollouts`, each with its `labels` and `judgements`."""
        rollouts = [
            asdict(each.row) | {name: [asdict(row) for row in getattr(each, name)] for name in ("labels", "judgements")}
            for each in self.rollouts
        ]
        found = {"problem": asdict(self.row), "image_files": self.image_files, "rollouts": rollouts}
        return found | ({"tables": self.tables} if self.tables else {})


def _image_files(workspace: Store, hashes: Sequence[str]) -> list[Path]:
    """The images as files under `cache/images`, byte for byte."""
    folder = workspace.root / "cache" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for row in workspace.rows(ImageRow, among("image_hash", hashes)):
        path = folder / f"{row.image_hash}.{row.format.lower()}"
        if not path.exists():
            write_atomic(path, row.bytes, alone=False)
        paths.append(path)
    return paths


def find(workspace: Store, identity: str) -> FoundProblem:
    """Gather a problem or a rollout; UserError where `identity` begins none, or several."""
    problem_id, rollout_id = _matches(workspace, identity)
    here = pc.field("problem_id") == problem_id
    (problem,) = workspace.rows(ProblemRow, here)
    labels, judged = list(workspace.rows(StepLabelRow, here)), list(workspace.rows(JudgementRow, here))
    found = []
    for row in sorted(workspace.rows(RolloutRow, here), key=lambda row: row.sample_index):
        if rollout_id not in (None, row.rollout_id):
            continue
        steps = digest(row.steps)
        of_steps = [label for label in labels if label.rollout_id == row.rollout_id]
        votes = [vote for vote in judged if (vote.rollout_id, vote.steps_digest) == (row.rollout_id, steps)]
        found.append(
            FoundRollout(
                row,
                sorted(of_steps, key=lambda label: label.step_index),
                sorted(votes, key=lambda vote: vote.sample_index),
            )
        )
    files = [str(path) for path in _image_files(workspace, problem.image_hashes)]
    brought = {name: _rows(workspace, KNOWN.find(name), problem_id, rollout_id) for name in KNOWN.installed()}
    return FoundProblem(problem, files, found, brought)


def _rows(workspace: Store, table: Table, problem_id: str, rollout_id: str | None) -> list[dict[str, Any]]:
    """The rows of a problem in a table, of one rollout where it is asked for and the table knows rollouts."""
    wanted = {"problem_id": problem_id, "rollout_id": rollout_id}
    terms = [pc.field(name) == value for name, value in wanted.items() if value and name in table.schema.names]
    if not terms:
        return []
    found: list[dict[str, Any]] = workspace.read(table, where=functools.reduce(operator.and_, terms)).to_pylist()
    return found


def _gold(problem: ProblemRow) -> str:
    if problem.answer is None:
        return "No gold answer: its source brings labelled chains.\n"
    return f"Gold answer: {' or '.join([problem.answer, *problem.accepted])} ({problem.answer_type})\n"


def render(found: FoundProblem) -> Group:
    """Show what was gathered on a terminal."""
    from rich.console import Group
    from rich.table import Table as Shown
    from rich.text import Text

    problem = found.row
    head = Text.assemble(
        (f"Problem {problem.problem_id}", "bold"),
        f"  {problem.domain} ({problem.role}), {problem.source} row {problem.source_row}\n",
        f"{problem.question}\n",
        *(f"  ({chr(65 + i)}) {choice}\n" for i, choice in enumerate(problem.choices)),
        _gold(problem),
        *(f"Image: {path}\n" for path in found.image_files),
    )
    parts: list[Any] = [head]
    for each in found.rollouts:
        rollout = each.row
        outcome = {True: ("right", "green"), False: ("wrong", "red"), None: ("undecided", "yellow")}[rollout.outcome]
        title = f"Rollout {rollout.rollout_id}: {rollout.answer} is {outcome[0]} ({rollout.outcome_rule})"
        table = Shown(title=title, title_style=outcome[1], title_justify="left", expand=True)
        table.add_column("step", justify="right")
        table.add_column("text", ratio=1)
        table.add_column("label", justify="right")
        table.add_column("k/m", justify="right")
        if each.judgements:
            table.add_column("judge", justify="right")
        said = judgement.majority([vote.first_error for vote in each.judgements], len(rollout.steps))
        labels = {label.step_index: label for label in each.labels}
        for index, step in enumerate(rollout.steps):
            label = labels.get(index)
            value = "" if label is None or label.value is None else f"{label.value:.2f}"
            counts = "" if label is None or label.m is None else f"{label.k}/{label.m}"
            opinion = [{True: "right", False: "wrong", None: ""}[said[index]]] if each.judgements else []
            table.add_row(str(index), Text(step.strip()), value, counts, *opinion)
        parts.append(table)
    for name, rows in found.tables.items():
        shown = Shown(title=name, title_justify="left")
        for column in rows[0] if rows else ():
            shown.add_column(column, overflow="fold")
        for row in rows:
            shown.add_row(*(Text("" if cell is None else str(cell)) for cell in row.values()))
        parts += [shown] if rows else []
    return Group(*parts)
