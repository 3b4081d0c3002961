"""Stage: responses that somebody generated elsewhere in, rollouts out, cut and graded like our own.

The file is read from its beginning each time, and what is in the table is passed over, so that a killed import, a
second one, and one after more problems came in are the same case. Another file, other columns or another cut are other
settings and need `--replace`.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from curate import graders
from curate.errors import RowError, UserError, did_you_mean
from curate.recipe.parsing import Config
from curate.recipe.sections import AnswerWords, IngestConfig
from curate.recipe.source_sections import NAME, RESERVED
from curate.runtime.reporter import Reporter, Silent
from curate.sources.base import GivenChain
from curate.sources.fields.responses import Columns, GivenResponse, columns_of, responses_of
from curate.sources.results import read
from curate.sources.values import look, text_of, writable
from curate.stages import unanswered
from curate.stages.golds import gold_of
from curate.stages.ingest import removal, rows
from curate.stages.ingest.matching import MatchedProblem, Problems
from curate.tables import lineage
from curate.tables.lineage import Ledger
from curate.tables.rows import RejectRow, RolloutRow
from curate.tables.sample_indices import SampleIndices
from curate.tables.schema import GIVEN, PROBLEMS, REJECTS, ROLLOUTS
from curate.tables.store import Partition, Store, Writer
from curate.text import steps, thinking

STAGE = "import"
# So many records are committed at once.
CHUNK = 10_000
Record = Mapping[str, Any] | RowError


class ImportConfig(Config):
    """`curate import-rollouts`: a file of responses to rollouts."""

    file: Path
    """JSON Lines, JSON, Parquet, CSV, TSV or XLSX; of any columns, or a sample log of lmms-eval, or a result of
    VLMEvalKit."""
    records: str | None = None
    """Key of a JSON object, `a.b` for one below another, that holds the records as a list or by their ids."""
    name: str | None = None
    """Name of the rollouts' partition, and of their policy; the file's own name when null."""
    source: str | None = None
    """Where the problems came from; ids are looked for in all sources when null."""
    source_column: str | None = None
    """Column that names the source of each row's problem."""
    id: str | None = None
    """Column that names the problem: its `source_row`. `#` takes the number of the row in the file."""
    response: tuple[str, ...] = ()
    """Column of the text, of a chat whose last turn is the response, or of a list of texts, which are several rollouts.
    Several columns are one text, in this order."""
    lists: Literal["turns", "samples"] | None = None
    """What a list of plain texts is; null goes by the column's name (`messages`, `conversations` and the like)."""
    answer: str | None = None
    """Column of the gold answer: a row where it is another one than the problem's is rejected. `-` compares nothing."""
    outcome: str | None = None
    """Column that says whether a response is right; it is taken in place of our own grade, which the rule names."""
    extracted: str | None = None
    """Column of the answer that somebody extracted from the response: it is graded in place of what we extract."""
    reasoning: str | None = None
    """Column of what the model thought before it answered."""
    stop: tuple[str, ...] = ()
    """A response ends before the first of these texts."""
    filter: str | None = None
    """Whose lines are taken, where a log has a line for each filter; the first one's of a response when null."""
    policy: str | None = None
    """The model that wrote the responses."""
    policy_column: str | None = None
    """Column that names the model that wrote each row's responses."""
    answer_words: AnswerWords = AnswerWords()
    """What the key of the same name in the section rollout means."""
    max_steps: int = 12
    """What the key of the same name in the section rollout means."""
    min_step_characters: int = 1
    """What the key of the same name in the section rollout means."""

    @field_validator("response", mode="before")
    @classmethod
    def _one_column(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given or ()


def run(
    config: ImportConfig,
    workspace: Store,
    ingest: IngestConfig | None = None,
    replace: bool = False,
    reporter: Reporter | None = None,
) -> Ledger:
    """Import what is not there yet; the ledger counts responses (a row without one counts as one).

    `ingest` is the recipe's section, if there is one: its sources' names are taken. With `replace` the import starts
    over, and what hangs on rollouts that do not come back is removed.
    """
    reporter = reporter or Silent()
    columns = _columns(config)
    name = _name(config, workspace, ingest)
    problems = Problems(workspace, columns, config.source)
    partition = workspace.partition(ROLLOUTS, name)
    if replace:
        removal.begin_replacing(workspace, name)
        partition.clear()
    record = _settings(config, problems.sources, columns)
    if partition.files():
        lineage.guard(partition, record, "curate import-rollouts --replace")
    inputs = {"file": config.file.name, "sources": list(problems.sources)}
    lineage.write(partition, STAGE, record, inputs)
    left = workspace.partition(REJECTS, name)
    left.clear()
    made = _Import(config, name, columns, workspace, problems)
    rollouts, rejects, ledger = Writer(partition), Writer(left), Ledger("responses")
    _, records = read(config.file, config.records, columns.response)
    while chunk := list(islice(records, CHUNK)):
        good, bad = made.take(chunk, ledger)
        rollouts.commit_all(good)
        rejects.commit_all(bad)
    ledger.check(STAGE)
    made.check_filter(partition)
    lineage.write(partition, STAGE, record, inputs, ledger)
    removal.end_replacing(workspace, name)
    for note in made.notes(ledger):
        reporter.note(note)
    if (missing := unanswered.sentence(partition)) is not None:
        reporter.note(missing)
    return ledger


def _columns(config: ImportConfig) -> Columns:
    if not config.file.is_file():
        raise UserError(f"There is no file at {config.file}; check the path.")
    if config.file.suffix.lower() == ".xls":
        raise UserError(f"{config.file.name} is an old workbook, which cannot be read; save it as .xlsx or .csv.")
    if "" in config.stop:
        raise UserError("--stop takes a text that is not empty.")
    if config.policy is not None and config.policy_column is not None:
        raise UserError("--policy names one model and --policy-column one for each row; give only one of them.")
    names, _ = read(config.file, config.records, config.response)
    given = {name: getattr(config, name) for name in ("id", "answer", "outcome", "extracted", "reasoning")}
    given |= {"source": config.source_column, "policy": config.policy_column}
    columns = columns_of(names, config.file.name, given, config.response, config.lists)
    if config.filter is not None and columns.filter is None:
        raise UserError(f"--filter: {config.file.name} is not a log with one line per filter (doc_id, filter).")
    return columns


def _name(config: ImportConfig, workspace: Store, ingest: IngestConfig | None) -> str:
    """The partition's name, one that nothing else has."""
    name = config.name
    if name is None:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", config.file.stem).lstrip("._-")
    if not re.fullmatch(NAME, name):
        raise UserError(f'"{name}" cannot be a name; give a --name of letters, digits, dots, dashes and underscores.')
    sources = {part.folder.name for part in workspace.partitions(PROBLEMS)}
    sources |= {source.name for source in ingest.sources} if ingest is not None else set()
    if name in sources | RESERVED:
        raise UserError(f'"{name}" is already the name of a source or of a stage; give the import another --name.')
    return name


def _settings(config: ImportConfig, sources: Sequence[str], columns: Columns) -> dict[str, Any]:
    """What decides what the rows are; the file by its content, so that moving it changes nothing."""
    with config.file.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()[:32]
    return {
        "content": content,
        "records": config.records,
        # A source that comes in later changes nothing for rows that name theirs.
        "source": config.source or (sources[0] if len(sources) == 1 else None),
        "policy": config.policy,
        "columns": asdict(columns) | {"response": list(columns.response)},
        "filter": config.filter,
        "stop": list(config.stop),
        "steps": steps.VERSION,
        "answers": graders.VERSION,
        **config.answer_words.settings(),
        "max_steps": config.max_steps,
        "min_step_characters": config.min_step_characters,
    }


def _ids(rollouts: Partition) -> set[str]:
    return set(rollouts.read(["rollout_id"])["rollout_id"].to_pylist())


@dataclass(frozen=True)
class _ImportedRollout:
    """A response that becomes a rollout, before it has its index."""

    key: str
    problem: MatchedProblem
    chain: GivenChain
    response: GivenResponse
    repeat: int


class _Import:
    """Sorts the records of a file into rollouts and rejects, chunk by chunk."""

    def __init__(self, config: ImportConfig, name: str, columns: Columns, workspace: Store, problems: Problems) -> None:
        self._config, self._name, self._columns, self._problems = config, name, columns, problems
        self._there = _ids(workspace.partition(ROLLOUTS, name))
        others = (part for part in workspace.partitions(ROLLOUTS) if part.folder.name != name)
        self._seen = {key for part in others for key in _ids(part)}
        self._indices = SampleIndices(workspace)
        self._texts: Counter[str] = Counter()
        self._filters: dict[str, str] = {}
        self._filtered: Counter[str] = Counter()
        self._stopped: Counter[str] = Counter()
        self._turns = 0
        self._grades: Counter[tuple[bool | None, bool | None]] = Counter()

    def take(
        self, chunk: Sequence[tuple[int | str, Record]], ledger: Ledger
    ) -> tuple[list[RolloutRow], list[RejectRow]]:
        """(new rollouts, rejects) of these records, counted."""
        drafts, bad = list[_ImportedRollout](), list[RejectRow]()
        for number, record in chunk:
            for place, found in enumerate(self._drafts(record, number)):
                ledger.taken += 1
                if isinstance(found, RowError):
                    bad.append(self._reject(found, record, f"#{number}/{place}"))
                    if found.reason == "duplicate":
                        ledger.duplicate += 1
                    else:
                        ledger.rejected[found.reason] = ledger.rejected.get(found.reason, 0) + 1
                    continue
                ledger.out += 1
                ledger.skipped += found.key in self._there
                if found.key not in self._there:
                    drafts.append(found)
        free = self._indices.free({draft.problem.problem_id for draft in drafts})
        return [self._rollout(draft, free.take(draft.problem.problem_id)) for draft in drafts], bad

    def _drafts(self, record: Record, number: int | str) -> list[_ImportedRollout | RowError]:
        """A rollout to be, or what is wrong, for each response of a record; one error where it has none."""
        if isinstance(record, RowError):
            return [record]
        try:
            self._check_one_filter(record)
            responses = responses_of(record, self._columns)
        except RowError as error:
            return [error]
        try:
            problem, policy = self._problems.find(record, number), self._policy(record)
        except RowError as error:
            return [each if isinstance(each, RowError) else error for each in responses]
        return [self._draft(each, problem, policy) for each in responses]

    def _check_one_filter(self, record: Mapping[str, Any]) -> None:
        """A log with a line for each filter says the same response as often; RowError for all lines but one's."""
        if self._columns.filter is None:
            return
        name, says = str(look(record, self._columns.id)), str(look(record, self._columns.filter))
        taken = self._config.filter or self._filters.setdefault(name, says)
        self._filtered[says] += 1
        if says != taken:
            raise RowError("duplicate", f"the response under the filter {says[:80]} is that under {taken[:80]}")

    def _policy(self, record: Mapping[str, Any]) -> str | None:
        if self._columns.policy is None:
            return self._config.policy
        found = text_of(look(record, self._columns.policy))
        if found is None or not found.strip():
            raise RowError("no-policy", f"{self._columns.policy} is empty")
        return found

    def _draft(
        self, response: GivenResponse | RowError, problem: MatchedProblem, policy: str | None
    ) -> _ImportedRollout | RowError:
        if isinstance(response, RowError):
            return response
        parts = thinking.apart(response.text)
        text, reasoning = self._cut(parts.text), thinking.merged(response.reasoning, parts.reasoning)
        if not text.strip() and reasoning is None:
            return RowError("no-response", "nothing stands before the stop text")
        pieces = steps.split(text, self._config.max_steps, self._config.min_step_characters)
        chain = GivenChain(pieces, policy=policy, reasoning=reasoning)
        # A policy may draw the same text twice; leaving one out would change its share of right answers.
        same = rows.given_id(problem.problem_id, chain)
        repeat = self._texts[same]
        self._texts[same] += 1
        key = rows.given_id(problem.problem_id, chain, repeat)
        if key in self._seen:
            cure = "" if policy is not None else "; give --policy where another model wrote it"
            return RowError("duplicate", f"{key} is the same chain, of another source or import{cure}")
        return _ImportedRollout(key, problem, chain, response, repeat)

    def _cut(self, text: str) -> str:
        """The text up to its first stop text."""
        found = [(place, stop) for stop in self._config.stop if (place := text.find(stop)) >= 0]
        if not found:
            return text
        place, _ = min(found)
        self._stopped.update(stop for _, stop in found)
        return text[:place]

    def _rollout(self, draft: _ImportedRollout, index: int) -> RolloutRow:
        problem = draft.problem
        row = rows.rollout_of(draft.chain, problem, self._name, index, draft.repeat, self._config.answer_words.table)
        extracted = draft.response.extracted
        if self._columns.extracted is not None and problem.answer is not None and problem.answer_type is not None:
            rest = (problem.answer_type, problem.choices, problem.accepted, problem.tolerance)
            verdict = graders.grade(extracted, problem.answer, *rest)
            rule = verdict.rule if extracted is None else f"extracted/{verdict.rule}"
            row = replace(row, outcome=verdict.outcome, outcome_rule=rule, gold=gold_of(problem))
        if self._columns.extracted is not None:
            row = replace(row, answer=extracted)
        if self._columns.outcome is not None:
            self._grades[draft.response.outcome, row.outcome] += 1
            row = _stated(draft.response.outcome, row)
        return row

    def check_filter(self, partition: Partition) -> None:
        """UserError where no line has the filter that was asked for; then nothing was imported."""
        wanted = self._config.filter
        if wanted is not None and not self._filtered[wanted]:
            partition.clear()
            raise UserError(f'--filter: no line has the filter "{wanted}"{did_you_mean(wanted, list(self._filtered))}')

    def notes(self, ledger: Ledger) -> Iterator[str]:
        """What the user is to know of the file as a whole, a sentence each."""
        # A response that is of no use is rejected for that, wherever it belongs.
        if (count := ledger.rejected.get("unknown-problem", 0)) and (unknown := self._problems.unknown):
            first, ours = next(iter(unknown))[:40], self._problems.example[:40]
            yield (
                f"{count:,} of {ledger.taken:,} responses belong to {len(unknown):,} rows "
                f'that the workspace has no problem of (such as "{first}"; it has rows such as "{ours}"): the file is '
                "larger than what was ingested, or names rows otherwise."
            )
        if left_out := self._problems.left_out:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(left_out.items()))
            yield f"{left_out.total():,} of {ledger.taken:,} responses belong to rows that ingest left out: {reasons}."
        if others := {name: count for name, count in self._filtered.items() if name not in self._taken_filters()}:
            said = ", ".join(f"{name} {count:,}" for name, count in others.items())
            yield f"Lines that say a response again under another filter count as duplicates: {said}."
        if self._columns.turns and self._config.lists is None:
            yield (
                f"A list of texts in {self._columns.response[0]} is a chat whose last turn is the response; "
                "--lists samples takes each text as a rollout."
            )
        for stop in self._config.stop:
            if not self._stopped[stop] and ledger.out:
                yield f"--stop has no effect: no response holds {stop!r}."
        if self._grades:
            yield self._compared()

    def _taken_filters(self) -> set[str]:
        return {self._config.filter} if self._config.filter is not None else set(self._filters.values())

    def _compared(self) -> str:
        """How the stated outcomes differ from our own grades."""
        grades, total = self._grades, self._grades.total()
        parts = {
            "right there and not here": sum(grades[True, own] for own in (False, None)),
            "wrong there and right here": grades[False, True],
            "not decided there": sum(grades[None, own] for own in (True, False, None)),
        }
        said = "; ".join(f"{count:,} {what}" for what, count in parts.items())
        return (
            f"Outcomes are those of {self._columns.outcome}, beside our own grades of {total:,} new rollouts: {said}."
        )

    def _reject(self, error: RowError, record: Record, place: str) -> RejectRow:
        name = None if isinstance(record, RowError) else look(record, self._columns.id)
        named = f"{'?' if name is None or isinstance(name, dict | list) else name}{place}"
        origin = lineage.Unplaced(self._name, writable(named))
        return lineage.reject(STAGE, origin, RowError(error.reason, writable(error.detail)))


def _stated(outcome: bool | None, row: RolloutRow) -> RolloutRow:
    """What becomes of a graded row whose file says whether it is right; the rule keeps our own grade for comparison."""
    own = {True: "right", False: "wrong", None: "undecided"}[row.outcome]
    return replace(row, outcome=outcome, outcome_rule=f"{GIVEN}, own {own}: {row.outcome_rule}", gold=None)
