"""Stage: sources in, problems, images and rejects out. What can go wrong is a row; it is kept with its reason.

Each source is a partition of `problems`, `images` and `rejects`. Every row of a source ends in exactly one of problems,
duplicates and rejects, so the ledger adds up. Rows are committed in chunks; the source counts as done when its lineage
record says so, and a killed ingest skips the rows that are there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.dataset as pads

from curate import lineage
from curate.answers import grade, infer_type
from curate.config import did_you_mean
from curate.errors import RowError, UserError
from curate.images import ImageFacts
from curate.inspectors import Batch, Found, Inspectors, look
from curate.lineage import Ledger
from curate.schema import IMAGES, PROBLEMS, REJECTS, Row
from curate.sections import FilesSource, HubSource, IngestConfig, PackageSource, SyntheticSource
from curate.seeds import digest
from curate.sources import open_source
from curate.sources.base import BadRow, SourceRow
from curate.stage import Reporter
from curate.store import Partition, Workspace, Writer

STAGE = "ingest"
# What is committed at once. Pictures are held twice as long: while a chunk is committed, the next one is read.
CHUNK = 20_000
CHUNK_BYTES = 24 * 2**20
# What goes to an inspector at once.
BATCH_BYTES = 2**20
T = TypeVar("T")
AnySource = SyntheticSource | FilesSource | HubSource | PackageSource


@dataclass
class _Seen:
    """What the workspace holds already: images, the problems by id, and which roles an image serves."""

    images: set[str] = field(default_factory=set)
    problems: dict[str, str] = field(default_factory=dict)
    image_roles: dict[str, str] = field(default_factory=dict)
    question_roles: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, workspace: Workspace, besides: str) -> _Seen:
        """From every source but `besides`, whose own rows are read again."""
        seen = cls(images=set(workspace.read(IMAGES, ["image_hash"])["image_hash"].to_pylist()))
        columns = ["problem_id", "role", "source", "question", "choices", "image_hashes"]
        # Batch by batch: rows of a million problems as Python objects would fill the memory.
        for batch in workspace.read(PROBLEMS, columns).to_batches(max_chunksize=10_000):
            for row in batch.to_pylist():
                if row["source"] != besides:
                    seen.add(row)
        return seen

    def add(self, row: Row) -> None:
        """Remember a problem."""
        self.problems[row["problem_id"]] = row["source"]
        for key in row["image_hashes"]:
            self.image_roles.setdefault(key, row["role"])
        if not row["image_hashes"]:
            self.question_roles.setdefault(_question_key(row), row["role"])


@dataclass(frozen=True)
class _Writers:
    """Where the rows of a source go."""

    problems: Writer
    images: Writer
    rejects: Writer


@dataclass(frozen=True)
class Picture:
    """A picture of a row, inspected."""

    image_hash: str
    data: bytes
    facts: ImageFacts


@dataclass
class _Read:
    """A row as it was read, and where its pictures are in the batch that is being inspected."""

    row: SourceRow | BadRow
    batch: Batch | None = None
    start: int = 0

    @property
    def images(self) -> Sequence[bytes]:
        """The row's pictures."""
        return self.row.images if isinstance(self.row, SourceRow) else ()

    def looked(self) -> list[Picture | RowError]:
        """Its pictures inspected; waits."""
        if self.batch is None:
            return []
        found = self.batch.found()[self.start : self.start + len(self.images)]
        return [_picture(data, each) for data, each in zip(self.images, found, strict=True)]


def _picture(data: bytes, found: Found) -> Picture | RowError:
    return found if isinstance(found, RowError) else Picture(found[0], data, found[1])


def _question_key(row: Row) -> str:
    return digest(row["question"], row["choices"])


def run(
    config: IngestConfig,
    workspace: Workspace,
    base: Path,
    reporter: Reporter,
    replace: Collection[str] = (),
) -> Ledger:
    """Ingest every source that is not done; the ledger counts source rows. `replace` names sources to start over."""
    names = [source.name for source in config.sources]
    for name in replace:
        if name not in names:
            raise UserError(f"--replace {name}: the recipe has no such source{did_you_mean(name, names)}")
        _clear(name, workspace)
    total = Ledger("rows")
    reporter.start(STAGE, len(config.sources), "sources")
    for source in config.sources:
        ledger = _ingest_source(source, config, workspace, base)
        _add(total, ledger)
        reporter.advance(1, source.name)
    reporter.finish()
    total.check(STAGE)
    return total


def _clear(name: str, workspace: Workspace) -> None:
    """Delete the rows of a source. Pictures that problems of other sources show too go over to those first."""
    owned = _hashes(workspace.partition(IMAGES, name))
    for problems in workspace.partitions(PROBLEMS):
        if not owned or problems.folder.name == name:
            continue
        rows = problems.read(["problem_id", "image_hashes"]).to_pylist()
        shown = {key: row["problem_id"] for row in rows for key in row["image_hashes"] if key in owned}
        heir = workspace.partition(IMAGES, problems.folder.name)
        wanted = shown.keys() - _hashes(heir)
        owned -= shown.keys()
        if not wanted:
            continue
        kept = workspace.read(IMAGES, where=pads.field("image_hash").isin(sorted(wanted))).to_pylist()
        heir.commit_all(row | {"problem_id": shown[row["image_hash"]]} for row in kept)
    for table in (PROBLEMS, IMAGES, REJECTS):
        workspace.partition(table, name).clear()


def _hashes(images: Partition) -> set[str]:
    return set(images.read(["image_hash"])["image_hash"].to_pylist())


def _chunks(rows: Iterator[SourceRow | BadRow], inspectors: Inspectors) -> Iterator[list[_Read]]:
    """What is committed at once: so many rows, fewer where their pictures are large. Inspection begins at once."""
    chunk, batch, held, waiting = list[_Read](), list[_Read](), 0, 0
    for row in rows:
        batch.append(_Read(row))
        size = sum(map(len, row.images)) if isinstance(row, SourceRow) else 0
        held, waiting = held + size, waiting + size
        full = len(chunk) + len(batch) >= CHUNK or held >= CHUNK_BYTES
        if full or waiting >= BATCH_BYTES:
            _inspect(batch, inspectors)
            chunk, batch, waiting = chunk + batch, [], 0
        if full:
            yield chunk
            chunk, held = [], 0
    _inspect(batch, inspectors)
    if chunk + batch:
        yield chunk + batch


def _inspect(reads: Sequence[_Read], inspectors: Inspectors) -> None:
    images = [data for read in reads for data in read.images]
    if not images:
        return
    batch, start = inspectors.submit(images), 0
    for read in reads:
        read.batch, read.start = batch, start
        start += len(read.images)


def _ahead(chunks: Iterator[T]) -> Iterator[T]:
    """The same, with the next one under way in another thread while this one is used."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, chunks, None)
        while (chunk := coming.result()) is not None:
            coming = reader.submit(next, chunks, None)
            yield chunk


def _add(total: Ledger, part: Ledger) -> None:
    total.taken += part.taken
    total.out += part.out
    total.duplicate += part.duplicate
    total.skipped += part.skipped
    for reason, count in part.rejected.items():
        total.rejected[reason] = total.rejected.get(reason, 0) + count


def _settings(source: AnySource, config: IngestConfig) -> dict[str, Any]:
    return source.model_dump(mode="json") | {
        "max_pixels": config.max_pixels,
        "max_image_bytes": config.max_image_bytes,
    }


def _ingest_source(source: AnySource, config: IngestConfig, workspace: Workspace, base: Path) -> Ledger:
    partition = workspace.partition(PROBLEMS, source.name)
    settings = _settings(source, config)
    record = lineage.guard(partition, settings, f"curate ingest --replace {source.name}")
    if record is not None and record["complete"]:
        ledger = Ledger(**record["ledger"])
        ledger.skipped = ledger.out
        return ledger
    adapter = open_source(source, base)
    lineage.write(partition, STAGE, settings, {"source": source.name})
    seen = _Seen.of(workspace, source.name)
    there, images_there = partition.keys(), workspace.partition(IMAGES, source.name).keys()
    workspace.partition(REJECTS, source.name).clear()
    writers = _Writers(*(Writer(workspace.partition(table, source.name)) for table in (PROBLEMS, IMAGES, REJECTS)))
    ledger = Ledger("rows")
    with Inspectors(config.max_pixels, config.max_image_bytes) as inspectors:
        for chunk in _ahead(_chunks(adapter.rows(), inspectors)):
            _take_chunk(chunk, source, config, writers, seen, there, images_there, ledger)
    ledger.check(f"{STAGE} {source.name}")
    lineage.write(partition, STAGE, settings, {"source": source.name}, ledger)
    return ledger


def _take_chunk(
    chunk: list[_Read],
    source: AnySource,
    config: IngestConfig,
    writers: _Writers,
    seen: _Seen,
    there: set[tuple[Any, ...]],
    images_there: set[tuple[Any, ...]],
    ledger: Ledger,
) -> None:
    """Sort rows into problems, duplicates and rejects, and commit them: images first, so that no hash dangles."""
    problems, images, rejects = [], dict[str, Row](), []
    reasons: Counter[str] = Counter()
    for read in chunk:
        row = read.row
        ledger.taken += 1
        try:
            if isinstance(row, BadRow):
                raise row.error
            problem, pictures = problem_of(row, source, read.looked())
            _check_new(problem, seen)
        except RowError as error:
            rejects.append(_reject(source, row.source_row, error, ledger.taken))
            if error.reason == "duplicate":
                ledger.duplicate += 1
            else:
                reasons[error.reason] += 1
            continue
        ledger.out += 1
        seen.add(problem)
        if (problem["problem_id"],) not in there:
            problems.append(problem)
        for picture in pictures:
            if picture.image_hash not in seen.images:
                seen.images.add(picture.image_hash)
                images[picture.image_hash] = _image_row(picture, problem["problem_id"])
    writers.images.commit_all(row for row in images.values() if (row["image_hash"],) not in images_there)
    writers.problems.commit_all(problems)
    writers.rejects.commit_all(rejects)
    for reason, count in reasons.items():
        ledger.rejected[reason] = ledger.rejected.get(reason, 0) + count


def looked(row: SourceRow, config: IngestConfig) -> list[Picture | RowError]:
    """All pictures of a row, inspected here."""
    limits = (config.max_pixels, config.max_image_bytes)
    return [_picture(data, look(data, *limits)) for data in row.images]


def problem_of(row: SourceRow, source: AnySource, looked: Sequence[Picture | RowError]) -> tuple[Row, list[Picture]]:
    """The problem of a source row, checked; RowError with the reason when it cannot be one."""
    question, answer = _wanted("question", row.question), _wanted("answer", row.answer)
    pictures = []
    for picture in looked:
        if isinstance(picture, RowError):
            raise picture
        pictures.append(picture)
    stated = None if isinstance(source, SyntheticSource) or row.choices else source.answer_type
    answer_type = row.answer_type or stated or infer_type(answer, row.choices)
    for each in (answer, *row.accepted):
        _check_gold(each, answer_type, row)
    hashes = [picture.image_hash for picture in pictures]
    domain = row.domain or source.domain or source.name
    problem = {
        "problem_id": digest(domain, question, list(row.choices), hashes),
        "domain": domain,
        "role": source.role,
        "source": source.name,
        "source_row": row.source_row,
        "revision": None if isinstance(source, SyntheticSource) else source.revision,
        "licence": source.licence,
        "question": question,
        "choices": list(row.choices),
        "answer": answer,
        "accepted": list(row.accepted),
        "answer_type": answer_type,
        "tolerance": row.tolerance,
        "image_hashes": hashes,
        "truth": row.truth,
    }
    return problem, pictures


def _wanted(what: str, value: str | None) -> str:
    if value is None:
        raise RowError(f"null-{what}", f"the row has no {what}")
    if not value.strip():
        raise RowError(f"empty-{what}", f"the {what} is blank")
    return value


def _check_gold(answer: str, answer_type: str, row: SourceRow) -> None:
    """A gold answer must pass its own grader."""
    verdict = grade(answer, answer, answer_type, row.choices, tolerance=row.tolerance)
    if verdict.outcome:
        return
    if answer_type == "choice":
        raise RowError("answer-not-in-choices", f'"{answer[:80]}" is not among {len(row.choices)} choices')
    raise RowError("gold-fails-own-grader", f'"{answer[:80]}" as {answer_type}: {verdict.rule}')


def _check_new(problem: Row, seen: _Seen) -> None:
    """A problem once, and each image (or text-only question) in one role only: the later row yields."""
    twin = seen.problems.get(problem["problem_id"])
    if twin is not None:
        raise RowError("duplicate", f"{problem['problem_id']} of source {twin} is the same problem")
    roles = {key: seen.image_roles.get(key) for key in problem["image_hashes"]}
    if not roles:
        roles = {"question": seen.question_roles.get(_question_key(problem))}
    for key, role in roles.items():
        if role is not None and role != problem["role"]:
            raise RowError(f"overlaps-{role}", f"{key} is in the {role} set, which was ingested first")


def _image_row(picture: Picture, problem_id: str) -> Row:
    facts = picture.facts
    return {
        "image_hash": picture.image_hash,
        "problem_id": problem_id,
        "bytes": picture.data,
        "format": facts.format,
        "width": facts.width,
        "height": facts.height,
        "perceptual_hash": facts.perceptual_hash,
        "orientation": facts.orientation,
        "has_alpha": facts.has_alpha,
        "note": facts.note,
    }


def _reject(source: AnySource, source_row: str, error: RowError, number: int) -> Row:
    return {
        "stage": STAGE,
        "source": source.name,
        # Names may repeat in messy sources; the row's number keeps the key unique.
        "source_row": f"{source_row}#{number}",
        "problem_id": None,
        "domain": source.domain,
        "reason": error.reason,
        "detail": error.detail[:500].encode("utf-8", "replace").decode(),
    }
