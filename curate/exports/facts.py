"""What a workspace says of how an export's rows came about, fit to be shown to anybody: no path of this machine, no
secret, and nothing of the sources and stages that the export has no rows of.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import PurePath
from typing import Any, NamedTuple

import yaml

from curate.exports.used import Used
from curate.runtime import plain_yaml
from curate.tables import catalog, lineage
from curate.tables.rows import columns_of
from curate.tables.schema import COMPLETIONS, DROPS, PROBLEMS, ROLLOUTS, STEP_LABELS, Table
from curate.tables.store import Store

HIDDEN = "(left out)"
_SECRET = re.compile(
    r"(?:^|[_-])(?:key|token|secret|password|passwd|auth|authorization|headers|credentials?)$", re.IGNORECASE
)
_ADDRESS = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)


# Sections of a recipe, and commands, that nothing in an export comes from.
_NOT_EXPORTED = ("judge", "shard", "train", "score", "select", "eval", "report")
_COMMANDS = ("run", "ingest", "dedup", "decontaminate", "rollout", "label", "relabel")


@columns_of(DROPS)
@dataclass(frozen=True, slots=True)
class DroppedPlace:
    """Where a dropped problem was, and which stage dropped it."""

    domain: str
    role: str
    by: str


class LedgerLine(NamedTuple):
    """The accounts of a partition, see `curate.tables.catalog.ledger`."""

    stage: str
    table_name: str
    partition: str
    taken: int | None
    out: int | None
    duplicate: int | None
    rejected: int | None
    failed: int | None
    reasons: str | None


@dataclass(frozen=True)
class StageRecord:
    """The lineage record of a partition, as far as a card has a place for it, fit to be shown to anybody."""

    stage: str
    partition: str
    config: Mapping[str, Any]
    inputs: Mapping[str, Any]
    versions: Mapping[str, Any]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> StageRecord:
        """What may be shown of a record."""
        shown = public(record)
        return cls(**{each.name: shown[each.name] for each in fields(cls)})


@dataclass(frozen=True)
class Provenance:
    """Lineage records and accounts of what is in an export, the recipe that it came from, and the commands."""

    sources: Mapping[str, Mapping[str, Any]]
    """Source -> its section of the recipe."""
    rollouts: Mapping[str, StageRecord]
    """Partition -> its record."""
    completions: Sequence[StageRecord]
    labels: Sequence[StageRecord]
    drops: Sequence[StageRecord]
    dropped: Mapping[str, int]
    """Stage -> how many problems of the export's domains and roles it dropped."""
    ledger: Sequence[LedgerLine]
    versions: Mapping[str, Sequence[str]]
    """Package -> the versions that made any of it."""
    recipe: str | None
    commands: Sequence[str]


def gather(workspace: Store, used: Used) -> Provenance:
    """What there is of `used` in a workspace as it is."""

    def records(table: Table) -> list[StageRecord]:
        read = (lineage.read(partition) for partition in workspace.partitions(table))
        found = [StageRecord.of(each) for each in read if each]
        return [each for each in found if table is DROPS or used.has(table.name, each.partition)]

    tables = {table.name: records(table) for table in (PROBLEMS, ROLLOUTS, COMPLETIONS, STEP_LABELS, DROPS)}
    made: dict[str, set[str]] = {}
    for record in (record for group in tables.values() for record in group):
        for package, version in record.versions.items():
            made.setdefault(package, set()).add(str(version))
    lines = [LedgerLine(*line) for line in catalog.ledger(workspace).select(LedgerLine._fields).iter_rows()]
    recipe, commands = _runs(workspace, used)
    return Provenance(
        sources={
            # Of several ids the one that was read.
            record.partition: {**record.config, **{k: v for k, v in record.inputs.items() if k == "dataset"}}
            for record in tables[PROBLEMS.name]
        },
        rollouts={record.partition: record for record in tables[ROLLOUTS.name]},
        completions=tables[COMPLETIONS.name],
        labels=tables[STEP_LABELS.name],
        drops=tables[DROPS.name],
        dropped=Counter(row.by for row in workspace.rows(DroppedPlace) if (row.domain, row.role) in used.places),
        ledger=[line for line in lines if used.has(line.table_name, line.partition)],
        versions={package: sorted(versions) for package, versions in sorted(made.items())},
        recipe=recipe,
        commands=commands,
    )


def _runs(workspace: Store, used: Used) -> tuple[str | None, list[str]]:
    """(newest recipe, commands in the order of the runs, each once), as far as the export came from them."""
    recipe, commands = None, dict[str, None]()
    for folder in sorted((workspace.root / "runs").glob("*")):
        try:
            tree = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
            recipe = plain_yaml.dump(public(_part(tree, used)), allow_unicode=True)
            words = json.loads((folder / "versions.json").read_text(encoding="utf-8"))["command"]
            if len(words) > 1 and words[1] in _COMMANDS:
                commands[" ".join(map(_word, words))] = None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
            # A run that was killed while it wrote them.
            continue
    return recipe, list(commands)


def _part(tree: Mapping[str, Any], used: Used) -> dict[str, Any]:
    """A recipe with what the export came from: its sources, and the stages that made any of it."""
    left = {*_NOT_EXPORTED, *(() if used.generated else ("rollout",)), *(() if used.estimated else ("label",))}
    kept = {name: section for name, section in tree.items() if name not in left}
    names = {source for source, _, _ in used.sources}
    ingest = kept.get("ingest") or {}
    if ingest.get("sources"):
        kept["ingest"] = {**ingest, "sources": [each for each in ingest["sources"] if each.get("name") in names]}
    domains = {domain for domain, _ in used.places}
    for name in ("rollout", "label"):
        section = kept.get(name) or {}
        if section.get("domains"):
            kept[name] = {**section, "domains": [each for each in section["domains"] if each in domains]}
    return kept


def public(tree: Any, key: str = "") -> Any:
    """A tree of plain values without what is nobody else's business."""
    if tree not in (None, "", [], {}, ()) and (_SECRET.search(key) or key in ("urls", "url", "base_url")):
        return HIDDEN
    if isinstance(tree, Mapping):
        return {name: public(below, str(name)) for name, below in tree.items()}
    if isinstance(tree, list | tuple):
        return [public(below) for below in tree]
    return _path(tree) if isinstance(tree, str) else tree


def _path(text: str) -> str:
    """The last part of a path that names this machine's folders."""
    if _ADDRESS.match(text) and "@" in text:
        return HIDDEN
    return PurePath(text).name if text.startswith(("/", "~/")) and "\n" not in text else text


def _word(word: str) -> str:
    """A word of a command line."""
    name, equals, value = word.partition("=")
    if equals and (_SECRET.search(name.rpartition(".")[2]) or name.endswith((".urls", ".url", ".base_url"))):
        return f"{name}={HIDDEN}"
    if _ADDRESS.match(word):
        return HIDDEN
    return f"{name}={_path(value)}" if equals else _path(word)
