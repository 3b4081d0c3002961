"""What came in, domain by domain: counts, lengths, sizes, rejects, duplicates, overlaps, licences, and sample problems.

`build` reads the tables that are there, also while stages run; nothing is generated. Missing is null, never 0.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow.compute as pc

from curate.errors import UserError
from curate.runtime.frames import pl
from curate.seeds import rng
from curate.tables import lineage
from curate.tables.rows import columns_of
from curate.tables.schema import DROPS, IMAGES, PROBLEMS, REJECTS, Table
from curate.tables.store import Store

SCHEMA = "curate-prm/profile/1"


@columns_of(REJECTS)
@dataclass(frozen=True, slots=True)
class SourceReject:
    """Why a row of a source was left out."""

    source: str
    reason: str


@dataclass(frozen=True)
class Range:
    """Lowest, middle and highest of some whole numbers."""

    low: int
    median: float
    high: int

    @classmethod
    def of(cls, values: pl.Series) -> Range | None:
        """Null without values."""
        values = values.drop_nulls()
        if values.is_empty():
            return None
        return cls(int(values.min()), float(values.median()), int(values.max()))  # type: ignore[arg-type]


@dataclass(frozen=True)
class SampleProblem:
    """A problem to look at; `images` are content hashes."""

    problem_id: str
    question: str
    choices: tuple[str, ...]
    answers: tuple[str, ...]
    answer_type: str | None
    images: tuple[str, ...]


@dataclass(frozen=True)
class DomainProfile:
    """One domain in one role. Counts by reason; lengths in characters, sizes in pixels, shares in [0, 1]."""

    domain: str
    role: str
    problems: int
    sources: tuple[str, ...]
    answer_types: dict[str, int]
    choices: Range | None
    question_length: Range | None
    images: int
    without_image: int
    image_width: Range | None
    image_height: Range | None
    formats: dict[str, int]
    rejects: dict[str, int]
    duplicates: int
    dropped: dict[str, int]
    drop_share: float | None
    licences: tuple[str, ...]
    samples: tuple[SampleProblem, ...] = ()


@dataclass(frozen=True)
class Profile:
    """Everything that the table, the JSON and the page show; `elsewhere` counts rejects that no domain is known of."""

    workspace: str
    domains: tuple[DomainProfile, ...]
    elsewhere: dict[str, int] = field(default_factory=dict)
    checked: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the schema's name."""
        return {"schema": SCHEMA} | asdict(self)


def _frame(workspace: Store, table: Table, columns: Sequence[str]) -> pl.DataFrame:
    frame = pl.from_arrow(workspace.read(table, columns))
    assert isinstance(frame, pl.DataFrame)  # noqa: S101
    return frame


def build(workspace: Store, samples: int = 3) -> Profile:
    """The profile, with so many sample problems a domain. UserError when nothing was ingested."""
    problems = _frame(
        workspace,
        PROBLEMS,
        ["problem_id", "domain", "role", "source", "licence", "question", "choices", "answer", "accepted",
         "answer_type", "image_hashes"],
    )  # fmt: skip
    if problems.is_empty():
        raise UserError("The workspace has no problems; run `curate ingest` first.")
    images = _frame(workspace, IMAGES, ["image_hash", "width", "height", "format"])
    rejects, elsewhere = _rejects(workspace, problems)
    drops = _frame(workspace, DROPS, ["domain", "role", "reason"])
    domains = [
        _domain(part, images, rejects.get((str(domain), str(role)), Counter()), drops, samples)
        for (domain, role), part in sorted(problems.partition_by("domain", "role", as_dict=True).items())
    ]
    checked = tuple(sorted(partition.folder.name for partition in workspace.partitions(DROPS)))
    return Profile(workspace.root.resolve().name, tuple(domains), dict(elsewhere), checked)


def _rejects(workspace: Store, problems: pl.DataFrame) -> tuple[dict[tuple[str, str], Counter[str]], Counter[str]]:
    """Rows that ingest left out, by (domain, role) and reason; apart those whose source fed several, or none."""
    fed: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for source, domain, role in problems.select("source", "domain", "role").unique().iter_rows():
        fed[source].add((domain, role))
    for partition in workspace.partitions(PROBLEMS):
        name, config = partition.folder.name, (lineage.read(partition) or {}).get("config") or {}
        if name not in fed and config:
            fed[name].add((config.get("domain") or name, config.get("role", "train")))
    found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    elsewhere: Counter[str] = Counter()
    for row in workspace.rows(SourceReject, pc.field("stage") == "ingest"):
        places = fed.get(row.source, set())
        book = found[next(iter(places))] if len(places) == 1 else elsewhere
        book[row.reason] += 1
    return found, elsewhere


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def _domain(
    part: pl.DataFrame, images: pl.DataFrame, rejects: Counter[str], drops: pl.DataFrame, samples: int
) -> DomainProfile:
    domain, role = str(part["domain"][0]), str(part["role"][0])
    hashes = part["image_hashes"].explode().drop_nulls().unique()
    shown = images.filter(pl.col("image_hash").is_in(hashes.to_list()))
    out = drops.filter((pl.col("domain") == domain) & (pl.col("role") == role))
    counted = part["choices"].list.len()
    duplicates = rejects.pop("duplicate", 0)
    return DomainProfile(
        domain=domain,
        role=role,
        problems=len(part),
        sources=tuple(part["source"].unique().sort()),
        answer_types=_counts(part["answer_type"].fill_null("no gold")),
        choices=Range.of(counted.filter(counted > 0)),
        question_length=Range.of(part["question"].str.len_chars()),
        images=len(hashes),
        without_image=int((part["image_hashes"].list.len() == 0).sum()),
        image_width=Range.of(shown["width"]),
        image_height=Range.of(shown["height"]),
        formats=_counts(shown["format"]),
        rejects=_counts(rejects.elements()),
        duplicates=duplicates,
        dropped=_counts(out["reason"]),
        drop_share=len(out) / len(part),
        licences=tuple(part["licence"].drop_nulls().unique().sort()),
        samples=_samples(part, samples),
    )


def _samples(part: pl.DataFrame, count: int) -> tuple[SampleProblem, ...]:
    names = sorted(part["problem_id"])
    chosen = rng("profile", *names[:1]).sample(names, min(count, len(names)))
    columns = ("problem_id", "question", "choices", "answer", "accepted", "answer_type", "image_hashes")
    rows = part.filter(pl.col("problem_id").is_in(chosen)).select(columns).iter_rows()
    found = {
        name: SampleProblem(
            problem_id=name,
            question=question,
            choices=tuple(choices),
            answers=tuple(each for each in (answer, *accepted) if each is not None),
            answer_type=answer_type,
            images=tuple(images),
        )
        for name, question, choices, answer, accepted, answer_type, images in rows
    }
    return tuple(found[name] for name in chosen)
