"""Chains out of a benchmark's published files: one file, a folder of them, or a dataset on the hub."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curate.errors import RowError, UserError
from curate.recipe.source_sections import FilesSource, HubSource
from curate.seeds import content_hash, digest
from curate.sources import columns, files
from curate.sources.base import Numbered
from curate.sources.roots import Root, open_root
from curate.tables.lineage import Ledger
from prm.bench.suites.base import Benchmark, LabelledRollout


@dataclass(frozen=True)
class UnreadRow:
    """A row of a benchmark's file, by its number or name, that could not be read, and why."""

    part: str
    row: int | str
    reason: str
    detail: str


@dataclass(frozen=True)
class Loaded:
    """The chains of a benchmark, and where they are from.

    `ledger` counts chains: what could not be read is rejected by reason (`unread` names each), a name that was there
    before is a duplicate. `data` says what was read: name, revision and content of each part, and a fingerprint of all.
    """

    chains: list[LabelledRollout]
    ledger: Ledger
    unread: list[UnreadRow]
    data: dict[str, Any]


@dataclass
class _BenchmarkPart:
    """One file or split: its name, what identifies its content, its records, and where its image paths lead."""

    name: str
    content: str | None
    records: Iterator[Numbered]
    root: Root | None = field(default=None)


def load(
    benchmark: Benchmark, given: str, images: Path | None = None, revision: str | None = None, limit: int | None = None
) -> Loaded:
    """Read a benchmark; `limit` takes the first so many rows of each file or split.

    UserError where there is nothing at `given`, or no row of it can be read.
    """
    path, root = Path(given), _images(images)
    local = path.exists()
    if revision is not None and local:
        raise UserError("--revision is for a dataset on the hub, and this is a local path; leave it out.")
    parts = _local(benchmark, path, root) if local else _hub(benchmark, given, revision, root)
    ledger, reasons = Ledger("chains"), Counter[str]()
    chains: list[LabelledRollout] = []
    unread: list[UnreadRow] = []
    seen, contents = set[str](), dict[str, str | None]()
    for part in parts:
        contents[part.name] = part.content
        for number, record in itertools.islice(part.records, limit):
            try:
                if isinstance(record, RowError):
                    raise record
                found = list(benchmark.chains(record, number, part.root))
            except RowError as error:
                reasons[error.reason] += 1
                ledger.taken += 1
                unread.append(UnreadRow(part.name, number, error.reason, error.detail[:300]))
                continue
            ledger.taken += len(found)
            for chain in found:
                ledger.duplicate += (again := benchmark.unique and chain.name in seen)
                seen.add(chain.name)
                chains += [] if again else [chain]
    ledger.rejected, ledger.out = dict(reasons), len(chains)
    ledger.check("eval")
    if not chains:
        why = f"; of the first, {unread[0].detail}" if unread else ""
        raise UserError(f"No chain of {benchmark.title} could be read from {path.name}{why}; check the path.")
    fingerprint = digest([[chain.name, chain.question, chain.steps, chain.labels] for chain in chains])
    data = {
        "given": path.name if local else given,
        "revision": revision if not local else None,
        "limit": limit,
        "parts": contents,
        "fingerprint": fingerprint,
    }
    return Loaded(chains, ledger, unread, data)


def _images(images: Path | None) -> Root | None:
    if images is None:
        return None
    if not images.exists():
        raise UserError(f"There is no image folder or archive at {images}; check --images.")
    return open_root(images)


def _local(benchmark: Benchmark, path: Path, root: Root | None) -> Iterator[_BenchmarkPart]:
    """A file by itself, or every data file of a folder; a folder without any is one that `datasets` can load."""
    if path.is_dir():
        found = sorted(each for each in path.iterdir() if each.is_file() and files.is_read(each))
        if not found:
            yield from _hub(benchmark, str(path.resolve()), None, root)
            return
    else:
        found = [path]
    for each in found:
        source = FilesSource(kind="files", name="eval", path=each, columns=benchmark.columns, chain=benchmark.chain)
        names, records = files.read(each, wanted=columns.wanted(source))
        columns.check(source, names, each.name)
        yield _BenchmarkPart(each.name, content_hash(each.read_bytes()), records, root or open_root(each.parent))


def _hub(benchmark: Benchmark, given: str, revision: str | None, root: Root | None) -> Iterator[_BenchmarkPart]:
    from curate.sources.hub import HubReader

    for split in benchmark.splits:
        source = HubSource(
            kind="hub",
            name="eval",
            dataset=given,
            split=split,
            revision=revision,
            columns=benchmark.columns,
            chain=benchmark.chain,
        )
        hub = HubReader(source, Path())
        records = hub.records()
        yield _BenchmarkPart(split, None, records, root or hub.root)
