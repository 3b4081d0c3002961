"""What of each training domain was left out, and why: rejects, duplicates, contamination, consensus. Reads tables."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from curate.stages.judge.consensus import AFTER, DISAGREED, UNJUDGED
from curate.stages.monte_carlo import defined
from curate.tables import lineage
from curate.tables.rows import columns_of
from curate.tables.schema import DROPS, EXAMPLES, PROBLEMS, REJECTS, ROLLOUTS, STEP_LABELS
from curate.tables.store import Store, among

# What counts as which column of the report; the reasons are those of `curate.stages.ingest.ingest` and
# `curate.stages.overlap`.
_DUPLICATE = ("duplicate",)
_SHOWN = ("overlaps-meta", "overlaps-test")
_CONTRADICTS = ("contradiction",)
_BY = {"dedup": "duplicates", "decontaminate": "contaminated"}
_CONSENSUS = (DISAGREED, UNJUDGED, AFTER)


@columns_of(REJECTS)
@dataclass(frozen=True, slots=True)
class RejectedRow:
    """Why a source's row was rejected."""

    source: str
    domain: str | None
    reason: str


@columns_of(DROPS)
@dataclass(frozen=True, slots=True)
class DroppedProblem:
    """Why a problem was dropped."""

    domain: str
    by: str
    reason: str


@columns_of(EXAMPLES)
@dataclass(frozen=True, slots=True)
class MaskedExample:
    """What the judge masked of an example."""

    domain: str
    values: Sequence[float | None]
    masks: Sequence[str | None]


@columns_of(REJECTS)
@dataclass(frozen=True, slots=True)
class LostExample:
    """Why a rollout became no example."""

    rollout_id: str | None
    reason: str


@columns_of(ROLLOUTS)
@dataclass(frozen=True, slots=True)
class LostRollout:
    """A rollout that became no example."""

    rollout_id: str
    domain: str
    steps: Sequence[str]


@columns_of(STEP_LABELS)
@dataclass(frozen=True, slots=True)
class LostLabel:
    """What says whether a step's label counts as one."""

    rollout_id: str
    step_index: int
    mode: str
    m: int | None
    value: float | None


@dataclass(frozen=True)
class ExclusionCounts:
    """Counts of rows of one training domain.

    `duplicates` are those that ingest and dedup left out, `contaminated` those that the meta or test set shows (ingest
    and decontaminate); a problem that both dedup and decontaminate drop is in both. `rejects` are ingest's others, and
    problems that dedup or decontaminate drops because another one like it has another gold answer.
    """

    rejects: int = 0
    duplicates: int = 0
    contaminated: int = 0


@dataclass(frozen=True)
class SourceLineage:
    """What the lineage of an ingested source says, and which training domains it fed."""

    name: str
    role: str | None
    domains: tuple[str, ...]
    defect: str | None


def sources(workspace: Store) -> list[SourceLineage]:
    """Every ingested source, by name."""
    found = []
    for partition in workspace.partitions(PROBLEMS):
        name = partition.folder.name
        config = (lineage.read(partition) or {}).get("config") or {}
        domains, roles = (sorted(each.unique().to_pylist()) for each in partition.read(["domain", "role"]).columns)
        role = roles[0] if len(roles) == 1 else config.get("role")
        fed = tuple(domains) or (config.get("domain") or name,)
        found.append(SourceLineage(name, role, fed, config.get("defect")))
    return found


def left_out(workspace: Store, fed_by: Sequence[SourceLineage]) -> dict[str | None, ExclusionCounts]:
    """Domain -> what was left out of it before any rollout; None holds the rejects that no domain can be told for."""
    counts: dict[str | None, Counter[str]] = defaultdict(Counter)
    by_name = {source.name: source for source in fed_by}
    for row in workspace.rows(RejectedRow, pc.field("stage") == "ingest"):
        source = by_name.get(row.source)
        if source is not None and source.role not in (None, "train"):
            continue
        alone = source.domains[0] if source is not None and len(source.domains) == 1 else None
        counts[row.domain or alone][_kind(row.reason)] += 1
    for drop in workspace.rows(DroppedProblem, pc.field("role") == "train"):
        counts[drop.domain]["rejects" if drop.reason in _CONTRADICTS else _BY[drop.by]] += 1
    return {domain: ExclusionCounts(**book) for domain, book in counts.items()}


def _kind(reason: str) -> str:
    return "duplicates" if reason in _DUPLICATE else "contaminated" if reason in _SHOWN else "rejects"


def consensus_kept(workspace: Store) -> dict[str, float]:
    """Share of each training domain's labelled steps that `shard.consensus` kept, in [0, 1]; empty without consensus.

    Of examples the masks say it; chains that lost every label are in `rejects`, and their labels count as lost.
    """
    config = (lineage.read(workspace.partition(EXAMPLES, "train")) or {}).get("config") or {}
    if not config.get("consensus"):
        return {}
    kept, all_of = Counter[str](), Counter[str]()
    for row in workspace.rows(MaskedExample, pc.field("role") == "train"):
        masks = [mask for value, mask in zip(row.values, row.masks, strict=True) if value is not None]
        all_of[row.domain] += len(masks)
        kept[row.domain] += masks.count(None)
    all_of.update(_lost(workspace, config["min_graded"]))
    return {domain: kept[domain] / total for domain, total in all_of.items() if total}


def _lost(workspace: Store, min_graded: int) -> Counter[str]:
    """Labelled steps by domain of the chains that consensus left nothing of."""
    gone = {
        row.rollout_id
        for row in workspace.rows(LostExample, pc.field("stage") == "shard")
        if row.reason in _CONSENSUS and row.rollout_id is not None
    }
    wanted = among("rollout_id", sorted(gone))
    chains = {row.rollout_id: row for row in workspace.rows(LostRollout, wanted)}
    lost = Counter[str]()
    for label in workspace.rows(LostLabel, wanted):
        chain = chains.get(label.rollout_id)
        if chain is not None and defined(label, label.step_index == len(chain.steps) - 1, min_graded):
            lost[chain.domain] += 1
    return lost


def defects(fed_by: Sequence[SourceLineage]) -> Mapping[str, set[str]]:
    """Training domain -> the defects that were planted in it."""
    planted = defaultdict[str, set[str]](set)
    for source in fed_by:
        if source.defect and source.role == "train":
            for domain in source.domains:
                planted[domain].add(source.defect)
    return planted
