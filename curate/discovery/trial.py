"""How many rows of a source would come in, tried with the readers and checks of `curate ingest`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from curate.errors import RowError, UserError
from curate.recipe.parsing import validate
from curate.recipe.sections import IngestConfig
from curate.recipe.source_sections import FilesSource, HubSource
from curate.seeds import digest
from curate.sources import open_source
from curate.sources.base import BadRow
from curate.stages.ingest import rows


@dataclass
class SourceTrial:
    """Rows that would come in, by type of answer, and reasons of the others with an example each."""

    taken: int = 0
    types: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    problems: set[str] = field(default_factory=set)
    """What makes the problems that would come in: question, choices, images, and the chain of one that brings it."""
    images: int = 0
    chains: int = 0
    failure: str | None = None
    """Why the source cannot be read at all."""

    @property
    def out(self) -> int:
        """How many rows would come in."""
        return sum(self.types.values())

    @property
    def share(self) -> float:
        """Share of the rows tried that would come in, from 0 to 1."""
        return self.out / self.taken if self.taken else 0.0


def tried(settings: Mapping[str, Any], base: Path, maximum: int) -> SourceTrial:
    """The first `most` rows of a source with these settings; relative paths are relative to `base`."""
    found = SourceTrial()
    try:
        # The name may still be one that a workspace has itself.
        named = {**settings, "name": "look"}
        source = (
            validate(HubSource, named, "source") if named["kind"] == "hub" else validate(FilesSource, named, "source")
        )
        limits = IngestConfig(sources=(source,))
        for row in islice(open_source(source, base).rows(), maximum):
            found.taken += 1
            try:
                if isinstance(row, BadRow):
                    raise row.error
                problem, images = rows.problem_of(row, source, rows.looked(row, limits))
            except RowError as error:
                found.rejected[error.reason] += 1
                found.examples.setdefault(error.reason, f"row {row.source_row}: {error.detail}")
                continue
            steps = list(row.chain.steps) if row.chain is not None else None
            found.problems.add(digest(problem.question, problem.choices, problem.image_hashes, steps))
            found.types[problem.answer_type or "no gold answer"] += 1
            found.images += bool(images)
            found.chains += row.chain is not None
    except UserError as error:
        found.failure = str(error).removeprefix('Source "look": ')
    return found
