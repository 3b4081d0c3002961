"""Rollouts with all that belongs to them, out of a workspace, in a fixed order and in memory that does not grow."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow.compute as pc

from curate.errors import RowError, UserError, did_you_mean
from curate.exports.base import ExportedLabel, ExportedRollout, ExportImage, Item
from curate.stages.active import dropped
from curate.stages.stored_images import StoredImages
from curate.tables.rows import ProblemRow
from curate.tables.schema import PROBLEMS, ROLLOUTS, STEP_LABELS
from curate.tables.store import CommittedFiles, Store, among

# Rollouts that are read together, unless a single problem has more.
GROUP = 500


class _ExportedShard(NamedTuple):
    """The files of one shard."""

    rollouts: CommittedFiles
    problems: CommittedFiles
    labels: CommittedFiles


class Records:
    """The rollouts of some roles and domains (of all where none is named), shard by shard, by problem and rollout."""

    def __init__(self, workspace: Store, roles: Sequence[str] = (), domains: Sequence[str] = ()) -> None:
        """UserError when there is no such rollout."""
        self._workspace, self._roles, self._domains = workspace, roles, domains
        self._images, self._out = StoredImages(workspace), dropped(workspace)
        if not workspace.files(ROLLOUTS):
            raise UserError("The workspace has no rollouts; run `curate rollout` first.")
        self.count = 0
        for batch in workspace.batches(ROLLOUTS, ["role", "domain"], where=self._where()):
            self.count += batch.num_rows
        if not self.count:
            raise UserError(self._none())

    def _none(self) -> str:
        """Why there is no such rollout."""
        known = {
            name for batch in self._workspace.batches(ROLLOUTS, ["domain"]) for name in batch["domain"].to_pylist()
        }
        strange = next((name for name in self._domains if name not in known), None)
        if strange is not None:
            return f'There are no rollouts of domain "{strange}"{did_you_mean(strange, sorted(known))}'
        return "There are no rollouts of these roles and domains; see `curate status`."

    def _where(self) -> Any:
        where = None
        for column, names in (("role", self._roles), ("domain", self._domains)):
            if names:
                each = among(column, list(names))
                where = each if where is None else where & each
        return where

    def all(self) -> Iterator[tuple[ExportedRollout, Item | RowError]]:
        """Each rollout, and its item or why it has none."""
        for shard in range(self._workspace.shards):
            tables = (ROLLOUTS, PROBLEMS, STEP_LABELS)
            files = _ExportedShard(*(self._workspace.shard(table, shard) for table in tables))
            for first, last in self._ranges(files.rollouts):
                yield from self._read(files, first, last)

    def _ranges(self, rollouts: CommittedFiles) -> Iterator[tuple[str, str]]:
        """First and last problem of what is read together."""
        counts = Counter(rollouts.read(["problem_id"], self._where())["problem_id"].to_pylist())
        group, held = list[str](), 0
        for name in sorted(counts):
            if group and held + counts[name] > GROUP:
                yield group[0], group[-1]
                group, held = [], 0
            group.append(name)
            held += counts[name]
        if group:
            yield group[0], group[-1]

    def _read(self, files: _ExportedShard, first: str, last: str) -> Iterator[tuple[ExportedRollout, Item | RowError]]:
        within = (pc.field("problem_id") >= first) & (pc.field("problem_id") <= last)
        wanted = self._where()
        problems = {row.problem_id: row for row in files.problems.rows(ProblemRow, within)}
        labels: dict[str, dict[int, ExportedLabel]] = defaultdict(dict)
        for label in files.labels.rows(ExportedLabel, within):
            labels[label.rollout_id][label.step_index] = label
        rollouts = files.rollouts.rows(ExportedRollout, within if wanted is None else within & wanted)
        for rollout in sorted(rollouts, key=lambda row: (row.problem_id, row.rollout_id)):
            problem, steps = problems.get(rollout.problem_id), range(len(rollout.steps))
            if problem is None:
                yield rollout, RowError("no-problem", "its problem was deleted when its source was ingested again")
            elif problem.problem_id in self._out:
                yield (
                    rollout,
                    RowError(self._out[problem.problem_id], "its problem was dropped, see the table drops"),
                )
            else:
                images = [ExportImage(each.image_hash, each.data) for each in self._images.of(problem.image_hashes)]
                found = labels[rollout.rollout_id]
                yield rollout, Item(rollout, problem, [found.get(step) for step in steps], images)
