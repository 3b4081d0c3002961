"""Stage: responses that somebody generated elsewhere in, rollouts out, cut and graded like our own.

The file is read from its beginning each time, and what is in the table is passed over, so that a killed import, a
second one, and one after more problems came in are the same case. Another file, other columns or another cut are other
settings and need `--replace`.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from curate import lineage, rows, steps, thinking
from curate.answers import grade
from curate.config import Config, did_you_mean
from curate.errors import RowError, UserError
from curate.lineage import Ledger
from curate.schema import PROBLEMS, REJECTS, ROLLOUTS, Row
from curate.sections import IngestConfig
from curate.source_sections import NAME, RESERVED, MappedSource
from curate.sources.base import GivenChain
from curate.sources.files import read
from curate.sources.responses import NO_ANSWER, Columns, columns_of, name_of, texts_of
from curate.sources.values import look, text_of, writable
from curate.store import Partition, Workspace, Writer

STAGE = "import"
# So many records are committed at once.
CHUNK = 10_000


class ImportConfig(Config):
    """`curate import-rollouts`: a file of responses to rollouts."""

    file: Path
    """JSON Lines, Parquet, CSV or TSV; of any columns, or a sample log of lmms-eval, or a result of VLMEvalKit."""
    name: str | None = None
    """Of the rollouts' partition, and in their policy; the file's own name when null."""
    source: str | None = None
    """Where the problems came from; needed when the workspace has several sources."""
    id: str | None = None
    """Column that names the problem: its `source_row`."""
    response: str | None = None
    """Column of the text, or of a list of texts, which are several rollouts."""
    answer: str | None = None
    """Column of the gold answer: a row where it is another one than the problem's is rejected. `-` compares nothing."""
    policy: str | None = None
    """The model that wrote the responses."""
    max_steps: int = 12
    """As in the section rollout."""
    min_step_characters: int = 1
    """As in the section rollout."""


def run(
    config: ImportConfig, workspace: Workspace, ingest: IngestConfig | None = None, replace: bool = False
) -> Ledger:
    """Import what is not there yet; the ledger counts responses (a row without one counts as one).

    `ingest` is the recipe's section, if there is one: it says how the problems' rows are named.
    """
    names, columns = _columns(config)
    name = _name(config, workspace, ingest)
    partition = workspace.partition(ROLLOUTS, name)
    if replace:
        partition.clear()
    source = _source(config, workspace)
    _check_rows_are_numbered(columns, source, ingest, config.file.name, names)
    record = _settings(config, source, columns)
    lineage.guard(partition, record, "curate import-rollouts --replace")
    inputs = {"file": config.file.name, "source": source}
    lineage.write(partition, STAGE, record, inputs)
    left = workspace.partition(REJECTS, name)
    left.clear()
    made = _Import(config, name, columns, workspace, source)
    rollouts, rejects, ledger = Writer(partition), Writer(left), Ledger("responses")
    _, records = read(config.file)
    while chunk := list(islice(records, CHUNK)):
        good, bad = made.take(chunk, ledger)
        rollouts.commit_all(good)
        rejects.commit_all(bad)
    ledger.check(STAGE)
    lineage.write(partition, STAGE, record, inputs, ledger)
    return ledger


def _columns(config: ImportConfig) -> tuple[list[str], Columns]:
    if not config.file.is_file():
        raise UserError(f"There is no file at {config.file}; check the path.")
    if config.file.suffix.lower() in (".xlsx", ".xls"):
        raise UserError(f"{config.file.name} is a spreadsheet, which is not read here; save it as .csv or .tsv.")
    names, _ = read(config.file)
    return names, columns_of(names, config.file.name, config.id, config.response, config.answer)


def _name(config: ImportConfig, workspace: Workspace, ingest: IngestConfig | None) -> str:
    """The partition's name, one that nothing else has."""
    name = config.name
    if name is None:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", config.file.stem).lstrip("._-")
    if not re.fullmatch(NAME, name):
        raise UserError(f'"{name}" is no name; give --name of letters, digits, dots, dashes and underscores.')
    sources = {part.folder.name for part in workspace.partitions(PROBLEMS)}
    sources |= {source.name for source in ingest.sources} if ingest is not None else set()
    if name in sources | RESERVED:
        raise UserError(f'"{name}" is the name of a source or of a stage already; give the import another --name.')
    return name


def _source(config: ImportConfig, workspace: Workspace) -> str:
    """The source that the responses' problems came from."""
    known = [part.folder.name for part in workspace.partitions(PROBLEMS) if part.files()]
    if not known:
        raise UserError("The workspace has no problems; run `curate ingest` first.")
    if config.source is None and len(known) > 1:
        raise UserError(f"The workspace has several sources; give --source, one of {', '.join(known)}.")
    if config.source is not None and config.source not in known:
        raise UserError(
            f"--source {config.source}: the workspace has no such source{did_you_mean(config.source, known)}"
        )
    return config.source or known[0]


def _check_rows_are_numbered(
    columns: Columns, source: str, ingest: IngestConfig | None, file: str, names: Sequence[str]
) -> None:
    """A log that counts rows says nothing of a source whose rows have names."""
    for each in ingest.sources if ingest is not None else ():
        if columns.from_zero and each.name == source and isinstance(each, MappedSource) and each.columns.id is not None:
            raise UserError(
                f'{file} counts rows ({columns.id}), and the rows of source "{source}" are named by columns.id; give '
                f"--id, a column with those names, one of {', '.join(names)}."
            )


def _settings(config: ImportConfig, source: str, columns: Columns) -> dict[str, Any]:
    """What decides what the rows are; the file by its content, so that moving it changes nothing."""
    with config.file.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()[:32]
    return {
        "content": content,
        "source": source,
        "policy": config.policy,
        "columns": asdict(columns) | {"response": list(columns.response)},
        "steps": steps.VERSION,
        "max_steps": config.max_steps,
        "min_step_characters": config.min_step_characters,
    }


def _ids(rollouts: Partition) -> set[str]:
    return set(rollouts.read(["rollout_id"])["rollout_id"].to_pylist())


class _Import:
    """Sorts the records of a file into rollouts and rejects, chunk by chunk."""

    def __init__(self, config: ImportConfig, name: str, columns: Columns, workspace: Workspace, source: str) -> None:
        self._config, self._name, self._columns, self._source = config, name, columns, source
        self._problems: dict[str, list[Row]] = defaultdict(list)
        for row in workspace.read(PROBLEMS, where=pc.field("source") == source).to_pylist():
            self._problems[row["source_row"]].append(row)
        self._there = _ids(workspace.partition(ROLLOUTS, name))
        others = (part for part in workspace.partitions(ROLLOUTS) if part.folder.name != name)
        self._seen = {key for part in others for key in _ids(part)}
        self._samples: Counter[str] = Counter()
        self._texts: Counter[str] = Counter()

    def take(
        self, chunk: Sequence[tuple[int | str, Mapping[str, Any] | RowError]], ledger: Ledger
    ) -> tuple[list[Row], list[Row]]:
        """(new rollouts, rejects) of these records, counted."""
        good, bad = list[Row](), list[Row]()
        for number, record in chunk:
            name = self._named(record)
            for place, found in enumerate(self._rollouts(record, name)):
                ledger.taken += 1
                if isinstance(found, RowError):
                    bad.append(self._reject(found, f"{'?' if isinstance(name, RowError) else name}#{number}/{place}"))
                    if found.reason == "duplicate":
                        ledger.duplicate += 1
                    else:
                        ledger.rejected[found.reason] = ledger.rejected.get(found.reason, 0) + 1
                    continue
                ledger.out += 1
                ledger.skipped += found["rollout_id"] in self._there
                if found["rollout_id"] not in self._there:
                    good.append(found)
        return good, bad

    def _named(self, record: Mapping[str, Any] | RowError) -> str | RowError:
        """Which row of the source it belongs to."""
        try:
            return record if isinstance(record, RowError) else name_of(record, self._columns)
        except RowError as error:
            return error

    def _rollouts(self, record: Mapping[str, Any] | RowError, name: str | RowError) -> Iterator[Row | RowError]:
        """A rollout or what is wrong, for each response of a record; one error where it has none."""
        try:
            texts = [record] if isinstance(record, RowError) else texts_of(record, self._columns)
        except RowError as error:
            texts = [error]
        for text in texts:
            try:
                if isinstance(text, RowError):
                    raise text
                if isinstance(name, RowError):
                    raise name
                assert not isinstance(record, RowError)  # noqa: S101
                yield self._rollout(text, self._problem(record, name))
            except RowError as error:
                yield error

    def _problem(self, record: Mapping[str, Any], name: str) -> Row:
        found = self._problems.get(name, [])
        if len(found) != 1:
            raise RowError(
                "ambiguous-problem" if found else "unknown-problem",
                f"{len(found)} problems of source {self._source} come from row {name[:80]!r}",
            )
        self._check_answer(record, found[0])
        return found[0]

    def _check_answer(self, record: Mapping[str, Any], problem: Row) -> None:
        """Files whose rows were counted or named otherwise would be graded against other problems."""
        column, gold = self._columns.answer, problem["answer"]
        said = text_of(look(record, column)) if column else None
        if said is None or gold is None:
            return
        rest = (problem[part] for part in ("answer_type", "choices", "accepted", "tolerance"))
        if grade(said, gold, *rest).outcome is False:
            raise RowError(
                "other-answer",
                f"{column} says {said[:80]!r}, the problem's answer is {gold[:80]!r}: another problem, or an answer "
                f"that is written in another way (then give --answer {NO_ANSWER})",
            )

    def _rollout(self, text: str, problem: Row) -> Row:
        parts = thinking.apart(text)
        pieces = steps.split(parts.text, self._config.max_steps, self._config.min_step_characters)
        chain = GivenChain(pieces, policy=self._config.policy, reasoning=parts.reasoning)
        # A policy may draw the same text twice; leaving one out would change its share of right answers.
        same = rows.given_id(problem["problem_id"], chain)
        repeat = self._texts[same]
        self._texts[same] += 1
        key = rows.given_id(problem["problem_id"], chain, repeat)
        if key in self._seen:
            raise RowError("duplicate", f"{key} is the same chain, of another source or import")
        index = self._samples[problem["problem_id"]]
        self._samples[problem["problem_id"]] += 1
        if key in self._there:
            return {"rollout_id": key}
        return rows.rollout_of(chain, problem, self._name, index, repeat)

    def _reject(self, error: RowError, place: str) -> Row:
        row = {"source": self._name, "source_row": writable(place), "problem_id": None, "domain": None}
        return lineage.reject(STAGE, row, RowError(error.reason, writable(error.detail)))
