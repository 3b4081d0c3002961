"""Stage: sources in, problems, images and rejects out. What can go wrong is a row; it is kept with its reason.

Each source is a partition of `problems`, `images` and `rejects`; one that brings chains is one of `rollouts` and
`step_labels`, too. Every row of a source ends in exactly one of problems (or chains), duplicates and rejects, so the
ledger adds up. Rows are committed in chunks; the source counts as done when its lineage
record says so, and a killed ingest skips the rows that are there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from curate.errors import RowError, UserError, did_you_mean
from curate.recipe.sections import IngestConfig
from curate.runtime.reporter import Reporter
from curate.sources import open_source
from curate.sources.base import BadRow, GivenChain, Source, SourceRow
from curate.stages.ingest import rows
from curate.stages.ingest.inspectors import Batch, Inspectors
from curate.stages.ingest.known_rows import KnownChunk, KnownRows, check_role, first_keys
from curate.stages.ingest.rows import AnySource, InspectedImage
from curate.tables import lineage
from curate.tables.id_map import IdMap, NearKeys
from curate.tables.lineage import Ledger
from curate.tables.rows import ImageRow, ProblemRow, RejectRow, Row, columns_of
from curate.tables.sample_indices import FreeIndices, SampleIndices
from curate.tables.schema import IMAGES, PROBLEMS, REJECTS, ROLLOUTS, STEP_LABELS
from curate.tables.store import CommittedFiles, Partition, Store, Writer, among, read_file

STAGE = "ingest"
# What is committed at once. Images are held twice as long: while a chunk is committed, the next one is read.
CHUNK = 20_000
CHUNK_BYTES = 24 * 2**20
# What goes to an inspector at once.
BATCH_BYTES = 2**20
# A share of rejected rows that is worth a word, besides those that are no fault: what the recipe does not want, and the
# questions without a response that DreamPRM's files hold.
_MANY = 0.1
_NO_FAULT = {("dreamprm", "no-steps")}
CHAIN_TABLES = (ROLLOUTS, STEP_LABELS)
T = TypeVar("T")


@dataclass
class _Read:
    """A row as it was read, and where its images are in the batch that is being inspected."""

    row: SourceRow | BadRow
    batch: Batch | None = None
    start: int = 0

    @property
    def images(self) -> Sequence[bytes]:
        """The row's images."""
        return self.row.images if isinstance(self.row, SourceRow) else ()

    def looked(self) -> list[InspectedImage | RowError]:
        """Wait for the row's images to be inspected."""
        if self.batch is None:
            return []
        found = self.batch.found()[self.start : self.start + len(self.images)]
        return [rows.image(data, each) for data, each in zip(self.images, found, strict=True)]


def run(
    config: IngestConfig,
    workspace: Store,
    base: Path,
    reporter: Reporter,
    replace: Collection[str] = (),
) -> Ledger:
    """Ingest every source that is not done; the ledger counts source rows. `replace` names sources to start over."""
    names = [source.name for source in config.sources]
    for name in replace:
        if name not in names:
            raise UserError(f"--replace {name}: the recipe has no such source{did_you_mean(name, names)}")
    for name in names:
        held = lineage.read(workspace.partition(ROLLOUTS, name))
        if held is not None and held["stage"] != STAGE:
            raise UserError(
                f'"{name}" is the name of imported rollouts in this workspace; give the source another name.'
            )
    for name in replace:
        _clear(name, workspace)
    total = Ledger("rows")
    reporter.start(STAGE, len(config.sources), "sources")
    for source in config.sources:
        ledger = _ingest_source(source, config, workspace, base, reporter)
        _add(total, ledger)
        reporter.advance(1, source.name)
    reporter.finish()
    total.check(STAGE)
    return total


@columns_of(PROBLEMS)
@dataclass(frozen=True, slots=True)
class _ShownImages:
    """The images that a problem shows."""

    problem_id: str
    image_hashes: Sequence[str]


def _clear(name: str, workspace: Store) -> None:
    """Delete the rows of a source. Images that problems of other sources show too go over to those first.

    Those in a damaged file cannot; the source brings them again.
    """
    files = workspace.partition(IMAGES, name).sound_files()
    owned = {key for path in files for key in read_file(path, IMAGES, ["image_hash"])["image_hash"].to_pylist()}
    for problems in workspace.partitions(PROBLEMS):
        if not owned or problems.folder.name == name:
            continue
        found = problems.rows(_ShownImages)
        shown = {key: row.problem_id for row in found for key in row.image_hashes if key in owned}
        heir = workspace.partition(IMAGES, problems.folder.name)
        wanted = shown.keys() - _hashes(heir)
        owned -= shown.keys()
        if not wanted:
            continue
        chosen = among("image_hash", sorted(wanted))
        kept = CommittedFiles(files, IMAGES).rows(ImageRow, chosen)
        heir.commit_all(replace(row, problem_id=shown[row.image_hash]) for row in kept)
    for table in (PROBLEMS, IMAGES, REJECTS, *CHAIN_TABLES):
        workspace.partition(table, name).clear()


def _hashes(images: Partition) -> set[str]:
    return set(images.read(["image_hash"])["image_hash"].to_pylist())


def _chunks(read: Iterator[SourceRow | BadRow], inspectors: Inspectors) -> Iterator[list[_Read]]:
    """What is committed at once: so many rows, fewer where their images are large. Inspection begins at once."""
    chunk, batch, held, waiting = list[_Read](), list[_Read](), 0, 0
    for row in read:
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
    """The batches of an iterator, with the next one under way in another thread while this one is used."""
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


def _ingest_source(source: AnySource, config: IngestConfig, workspace: Store, base: Path, reporter: Reporter) -> Ledger:
    partition = workspace.partition(PROBLEMS, source.name)
    settings = _settings(source, config)
    record = lineage.guard(partition, settings, f"curate ingest --replace {source.name}")
    if record is not None and record["complete"]:
        ledger = Ledger(**record["ledger"])
        ledger.skipped = ledger.out
        return ledger
    adapter = open_source(source, base)
    lineage.write(partition, STAGE, settings, {"source": source.name})
    workspace.partition(REJECTS, source.name).clear()
    sink, ledger = _Sink(source, workspace, adapter), Ledger("rows")
    with Inspectors(config.max_pixels, config.max_image_bytes) as inspectors:
        for chunk in _ahead(_chunks(adapter.rows(), inspectors)):
            sink.take(chunk, ledger)
    ledger.check(f"{STAGE} {source.name}")
    for note in (*getattr(adapter, "notes", ()), *sink.notes(ledger)):
        reporter.note(note)
    inputs = {"source": source.name} | dict(getattr(adapter, "read_from", {}))
    lineage.write(partition, STAGE, settings, inputs, ledger)
    return ledger


@dataclass
class _Made:
    """What a source row became, or why it became nothing."""

    row: SourceRow | BadRow
    problem: ProblemRow | None = None
    images: Sequence[InspectedImage] = ()
    error: RowError | None = None

    @property
    def chain(self) -> GivenChain | None:
        """The chain that it brings."""
        return self.row.chain if isinstance(self.row, SourceRow) else None


@dataclass(frozen=True)
class _Chunk:
    """What is known of the rows of one chunk, and the rows that they become, by table."""

    seen: KnownChunk
    free: FreeIndices
    there: NearKeys | None
    """Rollouts of this source that an earlier run committed; none where it brings no chains."""
    out: dict[str, list[Row]]


class _Sink:
    """Sorts the rows of a source into its tables, chunk by chunk; what an earlier run committed stays as it is."""

    def __init__(self, source: AnySource, workspace: Store, adapter: Source) -> None:
        self._source, self._adapter = source, adapter
        self._seen = KnownRows(workspace, source.name)
        # In the order of commits: images first, so that no hash dangles.
        tables = (IMAGES, PROBLEMS, *(CHAIN_TABLES if source.brings_chains else ()), REJECTS)
        self._writers = {table.name: Writer(workspace.partition(table, source.name)) for table in tables}
        self._there = {name: IdMap() for name in self._writers}
        for name, there in self._there.items():
            there.add(first_keys([self._writers[name].partition]))
        self._indices = SampleIndices(workspace)
        self._first: dict[str, RejectRow] = {}

    def notes(self, ledger: Ledger) -> list[str]:
        """Why many rows are rejected, by the first of them: mostly a setting cures them all."""
        return [
            f'Source "{self._source.name}": {count:,} of {ledger.taken:,} rows are rejected as {reason}, the first is '
            f"{self._first[reason].source_row.rpartition('#')[0]}: {self._first[reason].detail}"
            for reason, count in ledger.rejected.items()
            if reason != "not-wanted" and (self._source.kind, reason) not in _NO_FAULT
            if reason in self._first and count >= _MANY * ledger.taken
        ]

    def take(self, chunk: Sequence[_Read], ledger: Ledger) -> None:
        """Count and commit these rows."""
        made = [self._make(read) for read in chunk]
        good = [(each.problem, each.chain) for each in made if each.problem is not None]
        bringing = [(problem, chain) for problem, chain in good if chain is not None]
        chains = {rows.given_id(problem.problem_id, chain) for problem, chain in bringing}
        known = _Chunk(
            seen=self._seen.near([problem for problem, _ in good], chains),
            free=self._indices.free({problem.problem_id for problem, _ in bringing}),
            there=self._there[ROLLOUTS.name].near(chains) if ROLLOUTS.name in self._there else None,
            out={name: [] for name in self._writers},
        )
        for each in made:
            ledger.taken += 1
            try:
                self._take(each, known)
            except RowError as error:
                reject = rows.reject(self._source, each.row.source_row, error, ledger.taken)
                known.out[REJECTS.name].append(reject)
                if error.reason == "duplicate":
                    ledger.duplicate += 1
                else:
                    ledger.rejected[error.reason] = ledger.rejected.get(error.reason, 0) + 1
                    self._first.setdefault(error.reason, reject)
            else:
                ledger.out += 1
        for name, writer in self._writers.items():
            key = attrgetter(writer.partition.table.key[0])
            there = self._there[name].near({key(row) for row in known.out[name]})
            writer.commit_all(row for row in known.out[name] if there.get(key(row)) is None)

    def _make(self, read: _Read) -> _Made:
        """The problem of one source row, by itself."""
        row = read.row
        if isinstance(row, BadRow):
            return _Made(row, error=row.error)
        try:
            problem, looked = rows.problem_of(row, self._source, read.looked())
        except RowError as error:
            return _Made(row, error=error)
        # A branch or a tag moves on; the commit that was read does not.
        commit = getattr(self._adapter, "read_from", {}).get("revision")
        return _Made(row, problem if commit is None else replace(problem, revision=commit), looked)

    def _take(self, made: _Made, chunk: _Chunk) -> None:
        """Beside what was seen before; RowError when the row yields to that."""
        if made.problem is None:
            raise made.error or AssertionError("neither a problem nor an error")
        problem, key, seen = made.problem, made.problem.problem_id, chunk.seen
        twin = seen.source_of(key)
        if twin is not None and seen.contradicts(problem):
            raise RowError(
                "contradiction",
                f"{key} of source {twin} is the same problem, and {problem.answer!r:.80} is not its answer",
            )
        if twin is not None and made.chain is None:
            raise RowError("duplicate", f"{key} of source {twin} is the same problem")
        check_role(problem, seen)
        if made.chain is not None:
            self._take_chain(made.chain, problem, chunk)
        if twin is None:
            seen.add(problem)
            chunk.out[PROBLEMS.name].append(problem)
        for image in made.images:
            if seen.images.get(image.image_hash) is None:
                seen.images.setdefault(image.image_hash, 0)
                chunk.out[IMAGES.name].append(rows.image_row(image, key))

    def _take_chain(self, chain: GivenChain, problem: ProblemRow, chunk: _Chunk) -> None:
        """A chain of a problem that may have others already, of this source or of another."""
        key = rows.given_id(problem.problem_id, chain)
        if chunk.seen.chains.get(key) is not None:
            raise RowError("duplicate", f"{key} is the same chain")
        chunk.seen.chains.setdefault(key, 0)
        # One that an earlier run committed keeps its index, and is passed over below.
        there = chunk.there is not None and chunk.there.get(key) is not None
        index = 0 if there else chunk.free.take(problem.problem_id)
        rollout = rows.rollout_of(chain, problem, self._source.name, index)
        chunk.out[ROLLOUTS.name].append(rollout)
        chunk.out[STEP_LABELS.name] += rows.labels_of(chain, rollout)
